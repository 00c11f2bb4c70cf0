//! Routes that lead back to a listener of headgate whose connections they take again.

use std::net::{IpAddr, Ipv4Addr};

use super::{Context, Warning, shadow};
use crate::Entry;
use crate::check::parse_network;
use crate::listen::{ListenAddr, ListenerSpec};
use crate::resource::upstream::Node;
use crate::resource::{StreamRoute, Upstream};

pub(super) const CODE: &str = "route/circle";

/// Adds the first node that is such a listener. Only addresses that surely are our own count: one
/// that a listener has, and those of loopback where a listener has all.
pub(super) fn circle(context: Context<'_>, entry: &Entry<StreamRoute>, out: &mut Vec<Warning>) {
    let Some(upstream) = upstream_of(context, &entry.value) else { return };
    let own = |node| Some((node, leads_back(context, entry, upstream, node)?));
    let mut found = upstream.nodes.iter().filter_map(own);
    let Some((node, listener)) = found.next() else { return };
    let node = match node.port {
        Some(port) => format!("{}:{port}", node.host),
        None => node.host.clone(),
    };
    out.push(Warning::new(
        CODE,
        format!(
            "node `{node}` of stream route [{}] is the gateway's own listener {listener}, whose \
             connections this route takes: each would go round until all places are used up",
            entry.id
        ),
        "write the address of the server, or set `server_port` to the port of another listener",
    ));
}

/// The listener that `node` is, if its connections are the route's.
fn leads_back<'a>(
    context: Context<'a>,
    entry: &Entry<StreamRoute>,
    upstream: &Upstream,
    node: &Node,
) -> Option<&'a ListenerSpec> {
    let is_tls = upstream.scheme.as_deref() == Some("tls");
    let understood = |one: &&ListenerSpec| {
        // What we send there is TLS, or begins with a PROXY header, or not.
        one.tls == is_tls && one.proxy_protocol == one.proxy_protocol_to_upstream.is_some()
    };
    context.listeners.iter().filter(understood).find(|one| {
        let Some(ip) = own_address(one, node) else { return false };
        let routes = context.set.stream_routes.iter();
        let mut earlier = routes.take_while(|other| other.id != entry.id);
        takes(&entry.value, one, ip) && !earlier.any(|other| takes(&other.value, one, ip))
    })
}

/// Whether the route takes every connection to this listener that we make from our address `ip`;
/// `None`: over a Unix socket.
fn takes(route: &StreamRoute, listener: &ListenerSpec, ip: Option<IpAddr>) -> bool {
    let within = |text: &Option<String>| match (text, ip) {
        (None, _) => true,
        (Some(text), Some(ip)) => parse_network(text).is_some_and(|network| network.contains(&ip)),
        (Some(_), None) => false,
    };
    !shadow::is_subordinate(route)
        && route.names().next().is_none()
        && route.alpn.is_empty()
        && route.server_port.is_none_or(|port| listener.port() == Some(port))
        && within(&route.server_addr)
        && within(&route.remote_addr)
}

/// The address of `node` if it is this listener.
fn own_address(listener: &ListenerSpec, node: &Node) -> Option<Option<IpAddr>> {
    let addr = match &listener.addr {
        ListenAddr::Ip(addr) => addr,
        ListenAddr::Unix(path) => {
            let node = node.host.strip_prefix("unix:")?;
            return (path.as_os_str() == node).then_some(None);
        }
    };
    let ip = match node.host.trim_start_matches('[').trim_end_matches(']') {
        "localhost" => IpAddr::from(Ipv4Addr::LOCALHOST),
        host => host.parse().ok()?,
    };
    let all = addr.ip().is_unspecified() && addr.is_ipv4() == ip.is_ipv4() && ip.is_loopback();
    (node.port == Some(addr.port()) && (all || addr.ip() == ip)).then_some(Some(ip))
}

/// Where the route's connections go, unless a plugin decides otherwise.
fn upstream_of<'a>(context: Context<'a>, route: &'a StreamRoute) -> Option<&'a Upstream> {
    let by_id = |id: &String| context.set.upstreams.get(id).map(|entry| &entry.value);
    if let Some(id) = &route.upstream_id {
        return by_id(id);
    }
    let service = route.service_id.as_deref().and_then(|id| context.set.services.get(id));
    let of_service = || {
        let service = &service?.value;
        service.upstream.as_ref().or_else(|| service.upstream_id.as_ref().and_then(by_id))
    };
    route.upstream.as_ref().or_else(of_service)
}
