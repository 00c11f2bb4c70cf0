//! Upstreams that reach no server, and what this version does not do for them.

use super::Warning;
use crate::resource::Upstream;
use crate::resource::checks::{Checks, ProbeKind};
use crate::resource::upstream::{BALANCERS, OnUnhealthy};

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
    match &upstream.checks {
        Some(it) => checks(it, name, out),
        None if upstream.on_unhealthy != OnUnhealthy::default() => out.push(Warning::new(
            "upstream/checks",
            format!(
                "`on_unhealthy` of {name} has no effect: without `checks` no node is unhealthy"
            ),
            "add `checks`, or remove `on_unhealthy`",
        )),
        None => {}
    }
    if upstream.balancer.as_deref() == Some("chash")
        && upstream.slow_start.is_some_and(|seconds| seconds > 0.0)
    {
        out.push(Warning::new(
            "upstream/slow-start",
            format!("`slow_start` of {name} has no effect: the places of `chash` must not move"),
            "remove it, or set `type` to `maglev`",
        ));
    }
    if upstream.discovery_type.is_some() {
        out.push(Warning::new(
            "upstream/discovery",
            format!("service discovery is not executed in this version; connections to {name} are closed"),
            "list the servers in `nodes`",
        ));
    }
    if upstream.scheme.as_deref() != Some("tls")
        && let Some(tls) = upstream.tls.as_ref()
        && (tls.verify || tls.client_cert.is_some() || tls.client_cert_id.is_some())
    {
        out.push(Warning::new(
            "upstream/tls",
            format!("`tls` of {name} has no effect: connections to it are plain TCP"),
            "set `scheme` to `tls`, or remove `tls`",
        ));
    }
}

/// Adds what health checks will not do.
fn checks(checks: &Checks, name: &str, out: &mut Vec<Warning>) {
    let active = &checks.active;
    let mut warn = |message: String, hint: &str| {
        out.push(Warning::new("upstream/checks", message, hint));
    };
    match (active.healthy.interval.is_zero(), active.unhealthy.interval.is_zero()) {
        (true, true) => warn(
            format!(
                "no node of {name} is probed: `checks.active` has neither `healthy` nor `unhealthy`"
            ),
            "add `\"healthy\": {}` and `\"unhealthy\": {}`; their defaults probe every second",
        ),
        (false, true) => warn(
            format!(
                "an unhealthy node of {name} never recovers: `checks.active` has no `unhealthy`"
            ),
            "add `\"unhealthy\": {}`; its default probes every second",
        ),
        (true, false) => warn(
            format!(
                "healthy nodes of {name} are not probed: `checks.active` has no `healthy`, so only \
                 failed sessions make a node unhealthy"
            ),
            "add `\"healthy\": {}` if that is not meant; its default probes every second",
        ),
        (false, false) => {}
    }
    if !active.kind_is_written {
        warn(
            format!("nodes of {name} are probed by HTTP: `checks.active.type` is not set"),
            "set `type` to `tcp` if the nodes do not speak HTTP, or to `http` if they do",
        );
    }
    let converses = matches!(active.kind, ProbeKind::Tcp | ProbeKind::Udp);
    if !converses && (active.send.is_some() || active.expect.is_some()) {
        warn(
            format!(
                "`send` and `expect` of {name} have no effect: only tcp and udp probes have them"
            ),
            "remove them, or set `type` to `tcp` or `udp`",
        );
    }
    if active.headers.iter().any(|line| line.contains(['\r', '\n', '\0'])) {
        warn(
            format!("a line of `req_headers` of {name} is left out: it has a line break in it"),
            "write each header as an item of its own",
        );
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
    // A service (`_db._tcp.test`) brings its ports along.
    let brings_port = |host: &str| host.starts_with("unix:") || host.starts_with('_');
    for node in nodes.iter().filter(|node| node.port.is_none() && !brings_port(&node.host)) {
        let host = &node.host;
        out.push(Warning::new(
            "upstream/no-port",
            format!("node `{host}` of {name} has no port, so it cannot be connected to"),
            how_to_write(host),
        ));
    }
}

/// How a node is written of which no port could be read.
fn how_to_write(host: &str) -> String {
    match host.split_once(':') {
        None => format!("write it as `{host}:<port>`, or set `port` beside `host`"),
        Some(_) if host.starts_with('[') => {
            format!("write it as `{host}:<port>`, or set `port` beside `host`")
        }
        Some((name, rest)) if !rest.contains(':') => {
            format!("write it as `{name}:<port>`, with a port from 1 to 65535")
        }
        Some(_) => {
            format!("write an IPv6 address in brackets: `[{host}]:<port>`, or `[2001:db8::1]:80`")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_a_port_is_told_how_to_be_written() {
        for (host, expected) in [
            ("db.test", "`db.test:<port>`"),
            ("[::1]", "`[::1]:<port>`"),
            ("10.0.0.1:99999", "`10.0.0.1:<port>`, with a port from 1 to 65535"),
            ("::1:8080", "in brackets"),
        ] {
            assert!(how_to_write(host).contains(expected), "{host}: {}", how_to_write(host));
        }
    }
}
