//! Whether any listener can take the connections that a route wants.

use ipnet::IpNet;

use super::{Context, Warning};
use crate::check::parse_network;
use crate::listen::{ListenAddr, ListenerSpec, Transport};
use crate::resource::StreamRoute;

/// Adds what keeps every listener from feeding this route.
pub(super) fn reachable(context: Context<'_>, route: &StreamRoute, out: &mut Vec<Warning>) {
    let all = context.listeners;
    if all.is_empty() {
        out.push(Warning::new(
            "listener/none",
            "the gateway has no stream listener, so no connection reaches this route",
            "set `apisix.stream_proxy.tcp` or `.udp` and a `proxy_mode` with `stream` in config.yaml",
        ));
        return;
    }
    let on_port: Vec<_> =
        all.iter().filter(|one| route.server_port.is_none_or(|p| one.port() == Some(p))).collect();
    if on_port.is_empty() {
        let port = route.server_port.unwrap_or_default();
        out.push(Warning::new(
            "listener/port",
            format!("no listener on port {port}, so no connection reaches this route"),
            format!(
                "add {port} to `apisix.stream_proxy` in config.yaml and reload, or set \
                 `server_port` to one of these listeners: {}",
                listed(all)
            ),
        ));
        return;
    }
    let network = route.server_addr.as_deref().and_then(parse_network);
    let on_address: Vec<_> = on_port
        .iter()
        .filter(|one| network.is_none_or(|network| can_have(one, network)))
        .copied()
        .collect();
    if on_address.is_empty() {
        let address = route.server_addr.as_deref().unwrap_or_default();
        out.push(Warning::new(
            "listener/address",
            format!("no listener can have the address {address}, so this route never matches"),
            format!("set `server_addr` to an address of these listeners: {}", listed(on_port)),
        ));
        return;
    }
    let is_tcp = |one: &&&ListenerSpec| one.transport == Transport::Tcp;
    if route.tls_passthrough && !on_address.iter().filter(is_tcp).any(|one| one.tls_passthrough) {
        out.push(Warning::new(
            "listener/passthrough",
            "`tls_passthrough` needs a listener that reads ClientHellos and none of those takes \
             this route's connections",
            format!(
                "set `tls_passthrough: true` on one of these listeners: {}",
                listed(on_address)
            ),
        ));
        return;
    }
    let field = match (route.names().next(), route.alpn.first()) {
        (Some(name), _) => format!("sni `{name}`"),
        (None, Some(protocol)) => format!("alpn `{protocol}`"),
        (None, None) => return,
    };
    if !on_address.iter().filter(is_tcp).any(|one| one.reads_tls()) {
        out.push(Warning::new(
            "listener/tls",
            format!(
                "names and protocols are compared on TLS listeners only and none takes this \
                 route's connections, so {field} never matches"
            ),
            format!(
                "set `tls: true` or `tls_passthrough: true` on one of these listeners: {}",
                listed(on_address)
            ),
        ));
    }
}

/// Whether the local address of a connection to this listener can lie in the network. A wildcard
/// address of one family takes connections of that family only.
fn can_have(listener: &ListenerSpec, network: IpNet) -> bool {
    match &listener.addr {
        ListenAddr::Unix(_) => false,
        ListenAddr::Ip(addr) if addr.ip().is_unspecified() => {
            addr.is_ipv4() == network.addr().is_ipv4()
        }
        ListenAddr::Ip(addr) => network.contains(&addr.ip()),
    }
}

/// Enough listeners to recognise the right one.
fn listed<'a>(listeners: impl IntoIterator<Item = &'a ListenerSpec>) -> String {
    const SHOWN: usize = 8;
    let all: Vec<_> = listeners.into_iter().map(ToString::to_string).collect();
    let shown: Vec<_> = all.iter().take(SHOWN).map(String::as_str).collect();
    match all.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
