//! Upstreams that reach no server, and what this version does not do for them.

use super::Warning;
use crate::resource::Upstream;
use crate::resource::upstream::BALANCERS;

/// Adds all warnings for an upstream; `name` says which one, e.g. `upstream [1]`.
pub(super) fn upstream(upstream: &Upstream, name: &str, out: &mut Vec<Warning>) {
    nodes(upstream, name, out);
    if let Some(balancer) = upstream.balancer.as_deref().filter(|kind| !BALANCERS.contains(kind)) {
        out.push(Warning::new(
            "upstream/balancer",
            format!("there is no balancer `{balancer}`, so connections to {name} are closed"),
            format!("set `type` to one of `{}`", BALANCERS.join("`, `")),
        ));
    }
    if upstream.checks.is_some() {
        out.push(Warning::new(
            "upstream/checks",
            format!("health checks are not executed in this version; all nodes of {name} count as healthy"),
            "remove `checks`, or watch the nodes by other means",
        ));
    }
    if upstream.discovery_type.is_some() {
        out.push(Warning::new(
            "upstream/discovery",
            format!("service discovery is not executed in this version; connections to {name} are closed"),
            "list the servers in `nodes`",
        ));
    }
    if upstream.scheme.as_deref() == Some("tls") {
        out.push(Warning::new(
            "upstream/tls",
            format!(
                "`scheme: tls` is not executed in this version; connections to {name} are closed"
            ),
            "set `scheme` to `tcp` if the servers take plain TCP",
        ));
    }
}

/// Adds only what keeps connections from reaching any node.
pub(super) fn nodes(upstream: &Upstream, name: &str, out: &mut Vec<Warning>) {
    if upstream.discovery_type.is_some() {
        return;
    }
    let nodes = &upstream.nodes;
    if nodes.is_empty() {
        out.push(Warning::new(
            "upstream/no-nodes",
            format!("{name} has no nodes, so connections to it are closed"),
            "add a server to `nodes`, e.g. `{\"127.0.0.1:1980\": 1}`",
        ));
    } else if nodes.iter().all(|node| node.weight == 0) {
        out.push(Warning::new(
            "upstream/zero-weight",
            format!(
                "all nodes of {name} have weight 0, so they take turns as if they had equal weights"
            ),
            "give the nodes that shall serve a `weight` above 0",
        ));
    }
    for node in nodes.iter().filter(|node| node.port.is_none() && !node.host.starts_with("unix:")) {
        let host = &node.host;
        out.push(Warning::new(
            "upstream/no-port",
            format!("node `{host}` of {name} has no port, so it cannot be connected to"),
            format!("write it as `{host}:<port>`, or set `port` beside `host`"),
        ));
    }
}
