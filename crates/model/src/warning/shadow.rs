//! Routes that never match because an earlier one takes all of their connections.

use super::{Context, Warning};
use crate::Entry;
use crate::check::parse_network;
use crate::resource::StreamRoute;

/// Adds the first route that was created earlier and asks for no more than this one. Only routes
/// with the same SNI are compared: others are tried in different rounds.
pub(super) fn shadowed(context: Context<'_>, entry: &Entry<StreamRoute>, out: &mut Vec<Warning>) {
    let earlier = context.set.stream_routes.iter().take_while(|other| other.id != entry.id);
    let Some(other) = earlier
        .filter(|other| !is_subordinate(&other.value))
        .find(|other| covers(&other.value, &entry.value))
    else {
        return;
    };
    out.push(Warning::new(
        "route/shadowed",
        format!(
            "stream route [{}] was created earlier and matches every connection that this route \
             would match",
            other.id
        ),
        format!(
            "narrow stream route [{}] with `server_port`, `server_addr` or `remote_addr`, or \
             delete it and create it again after this one",
            other.id
        ),
    ));
}

/// Whether sessions come to the route only through another one.
pub(super) fn is_subordinate(route: &StreamRoute) -> bool {
    route.protocol.as_ref().is_some_and(|protocol| protocol.superior_id.is_some())
}

fn covers(wide: &StreamRoute, narrow: &StreamRoute) -> bool {
    let sni = |route: &StreamRoute| route.sni.as_deref().map(str::to_ascii_lowercase);
    sni(wide) == sni(narrow)
        && (wide.server_port.is_none() || wide.server_port == narrow.server_port)
        && network_covers(wide.remote_addr.as_deref(), narrow.remote_addr.as_deref())
        && network_covers(wide.server_addr.as_deref(), narrow.server_addr.as_deref())
}

fn network_covers(wide: Option<&str>, narrow: Option<&str>) -> bool {
    let Some(wide) = wide else { return true };
    match (parse_network(wide), narrow.and_then(parse_network)) {
        (Some(wide), Some(narrow)) => wide.contains(&narrow),
        _ => false,
    }
}
