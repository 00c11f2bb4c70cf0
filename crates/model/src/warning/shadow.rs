//! Routes that never match because an earlier one takes all of their connections.

use ipnet::IpNet;

use super::{Context, Warning};
use crate::Entry;
use crate::check::parse_network;
use crate::resource::StreamRoute;

/// Adds the first route that was created earlier and asks for no more than this one. Only routes
/// with the same SNI are compared: others are tried in different rounds.
pub(super) fn shadowed(context: Context<'_>, entry: &Entry<StreamRoute>, out: &mut Vec<Warning>) {
    let narrow = Narrow::of(&entry.value);
    let earlier = context.set.stream_routes.iter().take_while(|other| other.id != entry.id);
    let Some(other) = earlier
        .filter(|other| !is_subordinate(&other.value))
        .find(|other| narrow.is_covered_by(&other.value))
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

/// What a route asks for, read once: it is compared with every route created earlier, of which there
/// may be many thousands.
struct Narrow<'a> {
    route: &'a StreamRoute,
    remote: Networks<'a>,
    server: Networks<'a>,
}

/// A `remote_addr` or `server_addr` as written and as understood.
struct Networks<'a> {
    text: Option<&'a str>,
    network: Option<IpNet>,
}

impl<'a> Narrow<'a> {
    fn of(route: &'a StreamRoute) -> Self {
        let read = |text: &'a Option<String>| {
            let text = text.as_deref();
            Networks { text, network: text.and_then(parse_network) }
        };
        Self { route, remote: read(&route.remote_addr), server: read(&route.server_addr) }
    }

    /// The cheap comparisons come first.
    fn is_covered_by(&self, wide: &StreamRoute) -> bool {
        (wide.server_port.is_none() || wide.server_port == self.route.server_port)
            && same_names(wide, self.route)
            && (wide.alpn.is_empty() || wide.alpn == self.route.alpn)
            && self.remote.are_covered_by(wide.remote_addr.as_deref())
            && self.server.are_covered_by(wide.server_addr.as_deref())
    }
}

impl Networks<'_> {
    fn are_covered_by(&self, wide: Option<&str>) -> bool {
        let Some(wide) = wide else { return true };
        let Some(narrow) = self.network else { return false };
        if self.text == Some(wide) {
            return true;
        }
        // Nearly all are single addresses, which cover nothing but themselves.
        if wide.as_bytes().contains(&b'/') {
            return parse_network(wide).is_some_and(|wide| wide.contains(&narrow));
        }
        narrow.prefix_len() == narrow.max_prefix_len() && wide.parse() == Ok(narrow.addr())
    }
}

/// Whether every name of `narrow` is one of `wide`. Routes without names are compared with such.
fn same_names(wide: &StreamRoute, narrow: &StreamRoute) -> bool {
    if narrow.names().next().is_none() {
        return wide.names().next().is_none();
    }
    narrow.names().all(|name| wide.names().any(|other| other.eq_ignore_ascii_case(name)))
}
