//! One case for each code.

use std::path::PathBuf;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::Entry;
use crate::listen::{ListenAddr, Transport};
use crate::plugin::{Phases, PluginMeta};

static SYSLOG: PluginMeta = plugin("syslog", Phases::Log, false);
static PROMETHEUS: PluginMeta = plugin("prometheus", Phases::Log, true);
static SPLIT: PluginMeta = plugin("traffic-split", Phases::Preread, true);

const fn plugin(name: &'static str, phases: Phases, executed: bool) -> PluginMeta {
    PluginMeta {
        name,
        priority: 0,
        version: "0.1",
        default_enabled: true,
        phases,
        executed,
        schema: "{}",
        metadata_schema: None,
        check: None,
        good: &[],
        bad: &[],
    }
}

fn listener(addr: &str, transport: Transport, tls: bool) -> ListenerSpec {
    let addr = match addr.strip_prefix("unix:") {
        Some(path) => ListenAddr::Unix(PathBuf::from(path)),
        None => ListenAddr::Ip(addr.parse().unwrap()),
    };
    ListenerSpec {
        addr,
        transport,
        tls,
        tls_passthrough: false,
        alpn: Vec::new(),
        proxy_protocol: false,
        proxy_protocol_to_upstream: None,
        max_connections: None,
    }
}

fn listeners() -> Vec<ListenerSpec> {
    vec![
        listener("0.0.0.0:9100", Transport::Tcp, false),
        listener("0.0.0.0:9443", Transport::Tcp, true),
        listener("10.1.2.3:9200", Transport::Udp, false),
        listener("unix:/run/hg.sock", Transport::Tcp, false),
    ]
}

fn entry<T: DeserializeOwned>(id: &str, created: u64, value: Value) -> Arc<Entry<T>> {
    Arc::new(Entry {
        id: id.to_owned(),
        value: serde_json::from_value(value.clone()).unwrap(),
        document: crate::JsonText::new(&value),
        created,
        modified: created,
    })
}

/// A set whose objects give no warnings by themselves.
fn set() -> ResourceSet {
    let mut set = ResourceSet::default();
    set.upstreams.insert(entry("good", 1, json!({"nodes": {"127.0.0.1:1": 1}})));
    set.upstreams.insert(entry("empty", 1, json!({"nodes": {}})));
    set.services.insert(entry("good", 1, json!({"upstream_id": "good"})));
    set.services.insert(entry("none", 1, json!({})));
    set.ssls.insert(entry("1", 1, json!({"sni": "*.example.com"})));
    set.ssls.insert(entry("off", 1, json!({"sni": "off.org", "status": 0})));
    set
}

fn ask(kind: Kind, id: &str, set: &ResourceSet, listeners: &[ListenerSpec]) -> Vec<Warning> {
    let catalog = PluginCatalog { stream: vec![&SPLIT, &PROMETHEUS, &SYSLOG], http: Vec::new() };
    warnings(kind, id, set, listeners, &catalog)
}

fn codes(all: &[Warning]) -> Vec<&'static str> {
    for warning in all {
        assert!(!warning.message.is_empty() && !warning.message.ends_with('.'), "{warning:?}");
        assert!(!warning.hint.is_empty() && !warning.hint.ends_with('.'), "{warning:?}");
    }
    all.iter().map(|warning| warning.code).collect()
}

/// Codes for a route created last, which goes to a good upstream unless it says otherwise.
fn route_codes(set: &ResourceSet, route: Value) -> Vec<&'static str> {
    let mut set = set.clone();
    let mut route = route;
    if !["upstream", "upstream_id", "service_id"].iter().any(|name| route.get(name).is_some()) {
        route["upstream_id"] = json!("good");
    }
    set.stream_routes.insert(entry("new", 100, route));
    codes(&ask(Kind::StreamRoute, "new", &set, &listeners()))
}

#[test]
fn routes() {
    let none: [&str; 0] = [];
    let disabled = json!({"syslog": {"_meta": {"disable": true}}});
    let rows = [
        (json!({}), &none[..]),
        (json!({"server_port": 9100}), &[]),
        (json!({"server_port": 9101}), &["listener/port"]),
        (json!({"server_addr": "127.0.0.1"}), &[]),
        (json!({"server_addr": "::1"}), &["listener/address"]),
        (json!({"server_addr": "10.1.2.0/24", "server_port": 9200}), &[]),
        (json!({"server_addr": "10.1.2.4", "server_port": 9200}), &["listener/address"]),
        (json!({"sni": "A.example.com", "server_port": 9443}), &[]),
        (json!({"sni": "a.example.com", "server_port": 9100}), &["listener/tls"]),
        (json!({"sni": "a.example.org"}), &["sni/certificate"]),
        (json!({"sni": "off.org"}), &["sni/certificate"]),
        (json!({"snis": ["a.example.com", "b.example.org"]}), &["sni/certificate"]),
        (json!({"snis": ["*", "off.org"]}), &[]),
        (json!({"alpn": ["h2"], "server_port": 9100}), &["listener/tls"]),
        (json!({"sni": "off.org", "tls_passthrough": true}), &["listener/passthrough"]),
        (json!({"service_id": "good"}), &[]),
        (json!({"service_id": "good", "upstream_id": "good"}), &["route/service-ignored"]),
        (json!({"service_id": "gone"}), &["route/missing-service"]),
        (json!({"service_id": "none"}), &["route/no-upstream"]),
        (json!({"upstream_id": "gone"}), &["route/missing-upstream"]),
        (json!({"upstream_id": "empty"}), &["upstream/no-nodes"]),
        (json!({"upstream": {"nodes": {"a": 1}}}), &["upstream/no-port"]),
        (json!({"service_id": "none", "plugins": {"traffic-split": {}}}), &[]),
        (json!({"plugins": {"prometheus": {}}}), &[]),
        (json!({"plugins": {"syslog": {}}}), &["plugin/not-executed"]),
        (json!({"plugins": disabled}), &[]),
        (json!({"plugins": {"cors": {}}}), &["plugin/unknown"]),
        (
            json!({"plugins": {"prometheus": {"_meta": {"pre_function": "return"}}}}),
            &["plugin/pre-function"],
        ),
        (
            json!({"plugins": {"prometheus": {"_meta": {"filter": [["a", "=", "b"]]}}}}),
            &["plugin/filter"],
        ),
        (json!({"plugins": {"prometheus": {"_meta": {"filter": [["a", "==", "b"]]}}}}), &[]),
        (json!({"protocol": {"name": "redis"}}), &["route/protocol"]),
        // A subordinate route is never matched, so no listener has to reach it.
        (
            json!({"server_port": 1, "protocol": {"name": "redis", "superior_id": "x"}}),
            &["route/protocol"],
        ),
    ];
    for (route, expected) in rows {
        assert_eq!(route_codes(&set(), route.clone()), expected, "{route}");
    }
}

#[test]
fn a_route_without_any_upstream_says_so() {
    let mut set = set();
    set.stream_routes.insert(entry("1", 1, json!({})));
    assert_eq!(codes(&ask(Kind::StreamRoute, "1", &set, &listeners())), ["route/no-upstream"]);
}

#[test]
fn without_listeners_nothing_arrives() {
    let mut set = set();
    set.stream_routes.insert(entry("1", 1, json!({"upstream_id": "good", "server_port": 1})));
    assert_eq!(codes(&ask(Kind::StreamRoute, "1", &set, &[])), ["listener/none"]);
}

#[test]
fn messages_name_the_listeners() {
    let mut set = set();
    set.stream_routes.insert(entry("1", 1, json!({"upstream_id": "good", "server_port": 1})));
    let all = ask(Kind::StreamRoute, "1", &set, &listeners());
    assert!(all[0].hint.contains("tcp://0.0.0.0:9100, tls://0.0.0.0:9443"), "{}", all[0].hint);
    assert!(all[0].message.contains("port 1"), "{}", all[0].message);
    let many: Vec<_> = (1000..1010)
        .map(|port| listener(&format!("0.0.0.0:{port}"), Transport::Tcp, false))
        .collect();
    let all = ask(Kind::StreamRoute, "1", &set, &many);
    assert!(all[0].hint.ends_with("and 2 more"), "{}", all[0].hint);
}

#[test]
fn shadowed_routes() {
    let rows = [
        (json!({}), json!({}), true),
        (json!({}), json!({"server_port": 9100}), true),
        (json!({"server_port": 9100}), json!({}), false),
        (json!({"server_port": 9100}), json!({"server_port": 9443}), false),
        (json!({"remote_addr": "10.0.0.0/8"}), json!({"remote_addr": "10.1.0.0/16"}), true),
        (json!({"remote_addr": "10.1.0.0/16"}), json!({"remote_addr": "10.0.0.0/8"}), false),
        (json!({"remote_addr": "10.0.0.0/8"}), json!({}), false),
        (json!({"server_addr": "127.0.0.1"}), json!({"server_addr": "127.0.0.1"}), true),
        (json!({"server_addr": "127.0.0.1"}), json!({"server_addr": "127.0.0.2"}), false),
        (json!({"remote_addr": "10.1.2.3/32"}), json!({"remote_addr": "10.1.2.3"}), true),
        (json!({"remote_addr": "10.1.2.3"}), json!({"remote_addr": "10.1.2.3/32"}), true),
        (json!({"remote_addr": "10.1.2.3"}), json!({"remote_addr": "10.1.2.0/24"}), false),
        (json!({"remote_addr": "::/0"}), json!({"remote_addr": "10.1.2.3"}), false),
        (json!({"remote_addr": "::1"}), json!({"remote_addr": "0:0::1"}), true),
        (json!({}), json!({"sni": "a.example.com"}), false),
        (json!({"sni": "A.example.com"}), json!({"sni": "a.example.com"}), true),
        (json!({"sni": "*.example.com"}), json!({"sni": "a.example.com"}), false),
        (json!({"protocol": {"name": "redis", "superior_id": "x"}}), json!({}), false),
    ];
    for (earlier, later, expected) in rows {
        let mut set = set();
        set.stream_routes.insert(entry("z-first", 1, earlier.clone()));
        let found = route_codes(&set, later.clone()).contains(&"route/shadowed");
        assert_eq!(found, expected, "{earlier} {later}");
    }
    let mut set = set();
    set.stream_routes.insert(entry("z-first", 1, json!({})));
    set.stream_routes.insert(entry("a-second", 2, json!({"upstream_id": "good"})));
    let all = ask(Kind::StreamRoute, "a-second", &set, &listeners());
    assert!(all[0].message.contains("stream route [z-first]"), "{}", all[0].message);
    let first = ask(Kind::StreamRoute, "z-first", &set, &listeners());
    assert_eq!(codes(&first), ["route/no-upstream"]);
}

#[test]
fn upstreams_and_services() {
    let none: [&str; 0] = [];
    let rows = [
        (json!({"nodes": {"a:1": 1}}), &none[..]),
        (json!({"nodes": {"a:1": 0, "b:1": 1}, "type": "roundrobin", "scheme": "tcp"}), &[]),
        (json!({"nodes": [{"host": "unix:/run/a", "weight": 1}]}), &[]),
        (json!({"nodes": []}), &["upstream/no-nodes"]),
        (json!({"nodes": {"a:1": 0}}), &["upstream/zero-weight"]),
        (json!({"nodes": {"a": 1, "b:1": 1}}), &["upstream/no-port"]),
        (json!({"nodes": {"a:1": 1}, "type": "chash", "key": "remote_addr"}), &[]),
        (json!({"nodes": {"a:1": 1}, "type": "least_conn"}), &[]),
        (json!({"nodes": {"a:1": 1}, "type": "ewma"}), &[]),
        (json!({"nodes": {"a:1": 1}, "type": "fastest"}), &["upstream/balancer"]),
        (json!({"nodes": {"a:1": 1}, "on_unhealthy": "keep"}), &[]),
        (json!({"nodes": {"a:1": 1}, "on_unhealthy": "close"}), &["upstream/checks"]),
        (json!({"nodes": {"a:1": 1}, "type": "maglev", "slow_start": 9}), &[]),
        (json!({"nodes": {"a:1": 1}, "type": "chash", "slow_start": 9}), &["upstream/slow-start"]),
        (
            json!({"nodes": {"a:1": 1}, "checks": {"active": {}}}),
            &["upstream/checks", "upstream/checks"],
        ),
        (
            json!({"nodes": {"a:1": 1}, "checks": {"active": {"type": "tcp", "healthy": {}}}}),
            &["upstream/checks"],
        ),
        (
            json!({"nodes": {"a:1": 1}, "checks": {"active": {"type": "tcp", "unhealthy": {}}}}),
            &["upstream/checks"],
        ),
        (
            json!({"nodes": {"a:1": 1}, "checks": {"active": {
                "type": "redis", "send": "x", "healthy": {}, "unhealthy": {}
            }}}),
            &["upstream/checks"],
        ),
        (
            json!({"nodes": {"a:1": 1}, "checks": {"active": {
                "type": "tcp", "send": "x", "healthy": {}, "unhealthy": {}
            }}}),
            &[],
        ),
        (json!({"service_name": "a", "discovery_type": "dns"}), &["upstream/discovery"]),
        (json!({"nodes": {"a:1": 1}, "scheme": "tls", "tls": {"verify": true}}), &[]),
        (json!({"nodes": {"a:1": 1}, "tls": {"verify": true}}), &["upstream/tls"]),
    ];
    for (upstream, expected) in rows {
        let mut set = set();
        set.upstreams.insert(entry("1", 1, upstream.clone()));
        set.services.insert(entry("1", 1, json!({"upstream": upstream.clone()})));
        assert_eq!(codes(&ask(Kind::Upstream, "1", &set, &[])), expected, "{upstream}");
        assert_eq!(codes(&ask(Kind::Service, "1", &set, &[])), expected, "{upstream}");
    }
    let mut set = set();
    let service = json!({"upstream_id": "empty", "plugins": {"syslog": {}}});
    set.services.insert(entry("1", 1, service));
    let found = ask(Kind::Service, "1", &set, &[]);
    assert_eq!(codes(&found), ["upstream/no-nodes", "plugin/not-executed"]);
}

#[test]
fn certificates() {
    let mut set = set();
    set.ssls.insert(entry("ca", 1, json!({"type": "client"})));
    let none: [&str; 0] = [];
    assert_eq!(codes(&ask(Kind::Ssl, "1", &set, &listeners())), none);
    assert_eq!(codes(&ask(Kind::Ssl, "off", &set, &listeners())), ["ssl/disabled"]);
    assert_eq!(codes(&ask(Kind::Ssl, "1", &set, &[])), ["listener/tls"]);
    assert_eq!(codes(&ask(Kind::Ssl, "ca", &set, &[])), none);
}

#[test]
fn kinds_of_the_http_plane() {
    let set = ResourceSet::default();
    for kind in Kind::ALL {
        let expected: &[&str] = match kind {
            Kind::GlobalRule
            | Kind::PluginConfig
            | Kind::Consumer
            | Kind::ConsumerGroup
            | Kind::Credential
            | Kind::Proto
            | Kind::Route => &["kind/not-executed"],
            _ => &[],
        };
        assert_eq!(codes(&ask(kind, "1", &set, &[])), expected, "{kind}");
    }
}

#[test]
fn routes_that_lead_back_to_themselves() {
    let to = |node: &str| json!({"upstream": {"nodes": {(node): 1}}});
    let with = |node: &str, name: &str, value: Value| {
        let mut route = to(node);
        route[name] = value;
        route
    };
    let none: [&str; 0] = [];
    let rows = [
        (to("127.0.0.1:9100"), &["route/circle"][..]),
        (with("localhost:9100", "server_port", json!(9100)), &["route/circle"]),
        (to("10.1.2.3:9200"), &["route/circle"]),
        (json!({"upstream": {"nodes": {"unix:/run/hg.sock": 1}}}), &["route/circle"]),
        // Another listener, on the way to another route.
        (with("127.0.0.1:9100", "server_port", json!(9443)), &none),
        // Another machine; a port of ours that nobody listens on there.
        (to("192.0.2.1:9100"), &none),
        (to("127.0.0.1:9200"), &none),
        (to("[::1]:9100"), &none),
        // Plain bytes to a TLS listener go nowhere, TLS does.
        (to("127.0.0.1:9443"), &none),
        (json!({"upstream": {"nodes": {"127.0.0.1:9443": 1}, "scheme": "tls"}}), &["route/circle"]),
        // Clients that we are not.
        (with("127.0.0.1:9100", "remote_addr", json!("10.0.0.0/8")), &none),
        (with("127.0.0.1:9100", "remote_addr", json!("127.0.0.0/8")), &["route/circle"]),
    ];
    for (route, expected) in rows {
        assert_eq!(route_codes(&set(), route.clone()), expected, "{route}");
    }
    // An earlier route takes the connections, and sends them on.
    let mut set = set();
    set.stream_routes.insert(entry("old", 1, json!({"server_port": 9100, "upstream_id": "good"})));
    assert_eq!(route_codes(&set, to("127.0.0.1:9100")), none);
    // Whoever writes the upstream is told, too.
    set.upstreams.insert(entry("good", 1, json!({"nodes": {"127.0.0.1:9100": 1}})));
    let told = ask(Kind::Upstream, "good", &set, &listeners());
    assert_eq!(codes(&told), ["route/circle"]);
    assert!(told[0].message.contains("node `127.0.0.1:9100` of stream route [old]"), "{told:?}");
    assert!(told[0].message.contains("0.0.0.0:9100"), "{told:?}");
}

#[test]
fn the_reference_page_lists_every_code() {
    let page = include_str!("../../../../docs/reference/warnings.md");
    let sources = [
        include_str!("../warning.rs"),
        include_str!("circle.rs"),
        include_str!("listener.rs"),
        include_str!("plugin.rs"),
        include_str!("route.rs"),
        include_str!("secret.rs"),
        include_str!("shadow.rs"),
        include_str!("sni.rs"),
        include_str!("upstream.rs"),
    ];
    let areas = ["kind/", "listener/", "plugin/", "route/", "secret/", "sni/", "ssl/", "upstream/"];
    let mut count = 0;
    for code in sources.iter().flat_map(|source| source.split('"')) {
        let known = areas.iter().any(|area| code.starts_with(area));
        if known && code.bytes().all(|byte| byte.is_ascii_lowercase() || b"/-".contains(&byte)) {
            assert!(page.contains(&format!("`{code}`")), "{code} is not in warnings.md");
            count += 1;
        }
    }
    assert!(count > 15);
}
