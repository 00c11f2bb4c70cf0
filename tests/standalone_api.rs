//! API-driven standalone: `/apisix/admin/configs` (`spec/admin-api.md`, section 6).
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use headgate_testkit::client::reach;
use headgate_testkit::gateway::{ADMIN_KEY, VIEWER_KEY};
use headgate_testkit::http::Response;
use headgate_testkit::{Gateway, TcpPeer};
use serde_json::{Value, json};

const BIN: &str = env!("CARGO_BIN_EXE_headgate");
const CONFIGS: &str = "/apisix/admin/configs";

fn start() -> Gateway {
    let role = "role: traditional\nrole_traditional:\n  config_provider: yaml";
    Gateway::builder(BIN).tcp(1).role(role).start()
}

fn put(gateway: &Gateway, digest: &str, body: &Value) -> Response {
    put_text(gateway, digest, "application/json", &body.to_string())
}

fn put_text(gateway: &Gateway, digest: &str, kind: &str, body: &str) -> Response {
    let headers = [("X-API-KEY", ADMIN_KEY), ("Content-Type", kind), ("X-Digest", digest)];
    let headers = if digest.is_empty() { &headers[..2] } else { &headers[..] };
    gateway.request_with("PUT", CONFIGS, headers, Some(body))
}

fn routes(node: &TcpPeer) -> Value {
    json!([{"id": "1", "upstream": {"nodes": {node.node(): 1}}}])
}

#[test]
fn a_document_is_replaced_as_a_whole() {
    let nodes = [TcpPeer::named("a"), TcpPeer::named("b")];
    let gateway = start();
    let empty = gateway.get(CONFIGS).expect(200);
    assert_eq!(empty.header("x-digest"), None);
    assert_eq!(empty.json()["stream_routes_conf_version"], 0);
    assert_eq!(empty.json().get("stream_routes"), None);

    let done = put(&gateway, "d1", &json!({"stream_routes": routes(&nodes[0])})).expect(202);
    assert_eq!(done.body, "");
    assert_eq!(done.header("x-digest"), Some("d1"));
    assert!(done.header("x-last-modified").is_some());
    assert_eq!(reach(gateway.tcp(0)).as_deref(), Some("a"));
    put(&gateway, "d1", &json!({"stream_routes": "not even looked at"})).expect(204);

    let shown = gateway.get(CONFIGS).expect(200).json();
    assert_eq!(shown["stream_routes"], routes(&nodes[0]));
    assert_eq!(shown["stream_routes_conf_version"], 1);
    assert_eq!(shown["upstreams_conf_version"], 1);
    assert_eq!(shown["X-Digest"], "d1");

    // An equal version keeps the list, a greater one replaces it, a lesser one is refused.
    let versioned = |version: i64, node: &TcpPeer| json!({"stream_routes": routes(node), "stream_routes_conf_version": version});
    put(&gateway, "d2", &versioned(1, &nodes[1])).expect(202);
    assert_eq!(reach(gateway.tcp(0)).as_deref(), Some("a"));
    put(&gateway, "d3", &versioned(100, &nodes[1])).expect(202);
    assert_eq!(reach(gateway.tcp(0)).as_deref(), Some("b"));
    put(&gateway, "d4", &versioned(99, &nodes[0]))
        .refused(400, "stream_routes_conf_version must be greater than or equal to (100)");
    let head = gateway.request("HEAD", CONFIGS, None).expect(200);
    assert_eq!((head.header("x-digest"), head.body.as_str()), (Some("d3"), ""));
    // What is absent is removed.
    put(&gateway, "d5", &json!({})).expect(202);
    assert_eq!(reach(gateway.tcp(0)), None);
}

#[test]
fn what_is_wrong_is_refused_and_changes_nothing() {
    let node = TcpPeer::named("a");
    let gateway = start();
    put(&gateway, "good", &json!({"stream_routes": routes(&node)})).expect(202);
    let bad = |body: Value| put(&gateway, "bad", &body);
    put(&gateway, "", &json!({})).refused(400, "missing digest header");
    put_text(&gateway, "x", "application/json", "")
        .refused(400, "invalid request body: empty request body");
    let broken = put_text(&gateway, "x", "application/json", "{").expect(400);
    assert!(broken.error_msg().starts_with("invalid request body: "), "{broken:?}");
    put_text(&gateway, "x", "application/yaml", "a: [")
        .refused(400, "invalid request body: invalid yaml request body");
    bad(json!({"routes_conf_version": "1"})).refused(400, "routes_conf_version must be a number");
    bad(json!({"stream_routes": [{"id": "r1"}, {"id": "r1"}]}))
        .refused(400, "found duplicate id r1 in stream_routes");
    bad(json!({"stream_routes": [{"id": "1", "plugins": {"nope": {}}}]}))
        .refused(400, "unknown plugin [nope]");
    bad(json!({"secrets": [{"id": "1"}]})).refused(400, "invalid secret id: 1");
    // References are not checked.
    put(&gateway, "ok", &json!({"stream_routes": [{"id": "1", "upstream_id": "none"}]}))
        .expect(202);
    put(&gateway, "good", &json!({"stream_routes": routes(&node)})).expect(202);
    assert_eq!(reach(gateway.tcp(0)).as_deref(), Some("a"));
}

#[test]
fn yaml_both_ways_and_indexes() {
    let nodes = [TcpPeer::named("a"), TcpPeer::named("b")];
    let gateway = start();
    let yaml = |node: &TcpPeer, index: u32| {
        format!(
            "stream_routes:\n  - id: 1\n    modifiedIndex: {index}\n    upstream: {{nodes: {{\"{}\": 1}}}}\n",
            node.node()
        )
    };
    put_text(&gateway, "1", "application/yaml", &yaml(&nodes[0], 7)).expect(202);
    // The same index: the object is left alone, whatever it says now.
    put_text(&gateway, "2", "application/yaml", &yaml(&nodes[1], 7)).expect(202);
    assert_eq!(reach(gateway.tcp(0)).as_deref(), Some("a"));
    put_text(&gateway, "3", "application/yaml", &yaml(&nodes[1], 8)).expect(202);
    assert_eq!(reach(gateway.tcp(0)).as_deref(), Some("b"));
    let headers = [("X-API-KEY", ADMIN_KEY), ("Accept", "application/yaml")];
    let shown = gateway.request_with("GET", CONFIGS, &headers, None).expect(200);
    assert_eq!(shown.header("content-type"), Some("application/yaml"));
    let text = shown.body;
    assert!(text.starts_with("routes_conf_version: 3\n"), "{text}");
    assert!(text.contains("\nstream_routes:\n  - id: 1\n    modifiedIndex: 8\n"), "{text}");
    // And it is taken back as it is.
    put_text(&gateway, "4", "application/yaml", &text).expect(202);
}

#[test]
fn nothing_else_is_there_and_keys_are_asked_for() {
    let gateway = start();
    for path in ["stream_routes", "stream_routes/1", "plugins/list", "schema/route"] {
        assert_eq!(gateway.get(path).status, 404, "{path}");
    }
    gateway.request("POST", CONFIGS, Some("{}")).expect(404);
    let checked = gateway.request("POST", "configs/validate", Some("{\"stream_routes\": [1]}"));
    assert_eq!(checked.expect(400).error_msg(), "Configuration validation failed");
    assert_eq!(gateway.get(CONFIGS).header("x-api-version"), None);
    let none = gateway.request_with("GET", CONFIGS, &[], None);
    assert_eq!(none.expect(401).json()["description"], "missing apikey");
    let viewer = [("X-API-KEY", VIEWER_KEY), ("X-Digest", "x")];
    gateway.request_with("PUT", CONFIGS, &viewer, Some("{}")).expect(401);
    gateway.request_with("GET", CONFIGS, &viewer[..1], None).expect(200);
}
