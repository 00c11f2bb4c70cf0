use super::*;
use crate::router::Facts;
use serde_json::{Value, json};

fn entry<T: serde::de::DeserializeOwned>(id: &str, created: u64, json: Value) -> Arc<Entry<T>> {
    Arc::new(Entry {
        id: id.to_owned(),
        value: serde_json::from_value(json.clone()).unwrap(),
        document: json.into(),
        created,
        modified: created,
    })
}

fn compiler() -> Compiler {
    Compiler::new(Arc::default(), Arc::default())
}

fn only(snapshot: &Snapshot) -> Arc<Route> {
    Arc::clone(snapshot.routes.find(&Facts::default()).unwrap())
}

fn key(route: &Route) -> &str {
    match &route.target {
        Target::Upstream(upstream) => upstream.key(),
        Target::Broken { message, .. } => message,
    }
}

fn nodes() -> Value {
    json!({"nodes": {"127.0.0.1:1": 1}})
}

#[test]
fn order_of_upstreams() {
    let mut set = ResourceSet::default();
    set.upstreams.insert(entry("u", 1, nodes()));
    set.services.insert(entry("s", 2, json!({"upstream": nodes()})));
    set.services.insert(entry("by-id", 3, json!({"upstream_id": "u"})));
    let cases = [
        (json!({"upstream_id": "u", "service_id": "s"}), "upstreams/u"),
        (json!({"upstream_id": "u", "upstream": nodes()}), "upstreams/u"),
        (json!({"upstream": nodes(), "service_id": "s"}), "stream_routes/1"),
        (json!({"service_id": "s"}), "services/s"),
        (json!({"service_id": "by-id"}), "upstreams/u"),
        (json!({"service_id": "x"}), "failed to fetch service configuration by id: x"),
        (json!({"upstream_id": "x"}), "failed to find upstream by id: x"),
        (json!({}), "failed to set upstream: missing upstream configuration in Route or Service"),
    ];
    for (route, expected) in cases {
        set.stream_routes.insert(entry("1", 4, route));
        let (snapshot, problems) = compiler().compile(&set);
        assert_eq!(key(&only(&snapshot)), expected);
        assert_eq!(problems.len(), usize::from(expected.starts_with("failed")));
    }
}

#[test]
fn an_unknown_balancer_breaks_only_its_routes() {
    let mut set = ResourceSet::default();
    let upstream = json!({"type": "fastest", "nodes": {"127.0.0.1:1": 1}});
    set.stream_routes.insert(entry("1", 1, json!({"upstream": upstream})));
    set.stream_routes.insert(entry("2", 2, json!({"upstream": nodes()})));
    let (snapshot, problems) = compiler().compile(&set);
    assert_eq!(key(&only(&snapshot)), "invalid balancer type: fastest");
    assert_eq!(problems.len(), 1);
    set.stream_routes.remove("1");
    let (snapshot, problems) = compiler().compile(&set);
    assert_eq!((key(&only(&snapshot)), problems.len()), ("stream_routes/2", 0));
}

#[test]
fn only_hashing_by_it_asks_for_the_server_address() {
    for (name, expected) in [("remote_addr", false), ("server_addr", true)] {
        let mut set = ResourceSet::default();
        let upstream = json!({"type": "chash", "key": name, "nodes": {"127.0.0.1:1": 1}});
        set.stream_routes.insert(entry("1", 1, json!({"upstream": upstream})));
        assert_eq!(compiler().compile(&set).0.wants_server, expected);
    }
}

#[test]
fn unchanged_parts_are_reused() {
    let mut set = ResourceSet::default();
    let mut compiler = compiler();
    set.upstreams.insert(entry("u", 1, nodes()));
    set.stream_routes.insert(entry("1", 2, json!({"upstream_id": "u"})));
    let first = only(&compiler.compile(&set).0);
    set.stream_routes.insert(entry("2", 3, json!({"upstream_id": "u"})));
    let second = only(&compiler.compile(&set).0);
    assert!(Arc::ptr_eq(&first, &second));
    set.upstreams.insert(entry("u", 4, nodes()));
    let third = only(&compiler.compile(&set).0);
    assert!(!Arc::ptr_eq(&second, &third), "a changed upstream is a new one");
    set.stream_routes.remove("1");
    set.stream_routes.remove("2");
    compiler.compile(&set);
    assert_eq!((compiler.upstreams.len(), compiler.routes.len()), (0, 0));
}

#[test]
fn whatever_a_route_depends_on_makes_it_new() {
    let mut set = ResourceSet::default();
    let mut compiler = compiler();
    set.upstreams.insert(entry("u", 1, nodes()));
    set.services.insert(entry("s", 2, json!({"upstream_id": "u"})));
    set.stream_routes.insert(entry("1", 3, json!({"service_id": "s"})));
    let first = only(&compiler.compile(&set).0);
    assert!(Arc::ptr_eq(&first, &only(&compiler.compile(&set).0)));
    set.upstreams.insert(entry("u", 4, nodes()));
    let second = only(&compiler.compile(&set).0);
    assert!(!Arc::ptr_eq(&first, &second), "the upstream behind the service changed");
    set.services.insert(entry("s", 5, json!({"upstream": nodes()})));
    assert_eq!(key(&only(&compiler.compile(&set).0)), "services/s");
    set.services.insert(entry("s", 6, json!({"upstream_id": "u"})));
    set.upstreams.remove("u");
    let broken = only(&compiler.compile(&set).0);
    assert_eq!(key(&broken), "failed to find upstream by id: u");
    set.upstreams.insert(entry("u", 7, nodes()));
    assert_eq!(key(&only(&compiler.compile(&set).0)), "upstreams/u");
}

#[test]
fn subordinates_never_match() {
    let mut set = ResourceSet::default();
    let protocol = json!({"protocol": {"name": "redis", "superior_id": "1"}});
    set.stream_routes.insert(entry("2", 1, protocol));
    assert!(compiler().compile(&set).0.routes.is_empty());
}
