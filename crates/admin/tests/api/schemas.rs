//! Plugin lists, schemas, and checks without storing (admin-api.md, sections 5 and 6).

use serde_json::json;

use crate::bench::{Bench, KEY};

#[tokio::test]
async fn plugin_lists() {
    let bench = Bench::new();
    let path = "/apisix/admin/plugins/list";
    bench.expect("GET", path, "", (200, "[\"limit-count\",\"key-auth\"]\n")).await;
    let stream = format!("{path}?subsystem=stream");
    bench.expect("GET", &stream, "", (200, "[\"mqtt-proxy\"]\n")).await;
    bench
        .expect("GET", &format!("{path}?subsystem=x"), "", (400, "invalid subsystem passed"))
        .await;
    assert_eq!(bench.call("GET", path, "").await.header("x-api-version"), None);
}

#[tokio::test]
async fn reload() {
    let bench = Bench::new();
    let path = "/apisix/admin/plugins/reload";
    bench.expect("PUT", path, "", (200, "done")).await;
    for method in ["GET", "POST", "DELETE", "PATCH"] {
        let message =
            format!("please use PUT method to reload the plugins, {method} method is not allowed.");
        bench.refuse(method, path, "", (405, &message)).await;
        assert_eq!(bench.call_with(method, path, "", &[]).await.status, 401);
    }
}

#[tokio::test]
async fn plugin_schemas() {
    let bench = Bench::new();
    let admin = "/apisix/admin";
    for (path, status, message) in [
        ("/plugins", 404, "plugin not found in subsystem http"),
        ("/plugins/mqtt-proxy", 404, "plugin not found in subsystem http"),
        ("/plugins/nope?subsystem=stream", 404, "plugin not found in subsystem stream"),
        ("/plugins/mqtt-proxy?subsystem=x", 400, "unsupported subsystem: x"),
        ("/plugins/mqtt-proxy?subsystem=stream&schema_type=consumer", 400, "not found schema"),
        ("/schema/nope", 400, "not found schema: nope"),
        ("/schema/plugins/nope", 404, "plugin not found in subsystem http"),
    ] {
        bench.refuse("GET", &format!("{admin}{path}"), "", (status, message)).await;
    }
    for path in ["plugins/mqtt-proxy", "schema/plugins/mqtt-proxy"] {
        let path = format!("{admin}/{path}?subsystem=stream");
        let schema = bench.call("GET", &path, "").await.json();
        assert_eq!(schema["properties"]["protocol_level"]["type"], "integer");
        assert_eq!(schema["$comment"], "this is a mark for our injected plugin schema");
        assert!(schema["properties"]["_meta"].is_object());
    }
    let schema = bench.call("GET", "/apisix/admin/plugins/key-auth", "").await.json();
    assert_eq!(schema["type"], "object");
    assert!(schema["properties"]["_meta"].is_object(), "{schema}");
    let all = bench.call("GET", "/apisix/admin/plugins?all=true&subsystem=stream", "").await.json();
    assert_eq!(all["mqtt-proxy"]["priority"], 1000);
    assert_eq!(all["mqtt-proxy"]["version"], 0.1);
    assert!(all["mqtt-proxy"]["schema"].is_object());
    for name in ["stream_route", "upstream", "ssl", "service", "id_schema", "plugins"] {
        let reply = bench.call("GET", &format!("{admin}/schema/{name}"), "").await;
        assert_eq!(reply.status, 200, "{name}");
        assert_eq!(reply.header("x-api-version"), Some("v3"));
    }
}

#[tokio::test]
async fn schema_validate() {
    let bench = Bench::new();
    let path = "/apisix/admin/schema/validate";
    let good = r#"{"server_port":9100,"upstream_id":"missing"}"#;
    bench.expect("POST", &format!("{path}/stream_routes"), good, (200, "")).await;
    bench
        .refuse(
            "POST",
            &format!("{path}/stream_routes"),
            r#"{"server_port":0}"#,
            (400, "property \"server_port\" validation failed: expected 0 to be at least 1"),
        )
        .await;
    bench
        .refuse("POST", &format!("{path}/nope"), "{}", (404, "Unsupported resource type: nope"))
        .await;
    let reply = bench.call("POST", &format!("{path}/upstreams"), "nope").await;
    assert_eq!(
        reply.json(),
        json!({
            "error_msg":
                "invalid request body: Expected value but found invalid token at character 1",
            "req_body": "nope",
        })
    );
    assert_eq!(reply.header("x-api-version"), None);
}

#[tokio::test]
async fn configs_validate() {
    let bench = Bench::new();
    let path = "/apisix/admin/configs/validate";
    let good = json!({
        "stream_routes": [{"id": "1", "upstream_id": "not-here", "modifiedIndex": 3}],
        "upstreams": [{"id": 1, "nodes": {"10.0.0.1:80": 1}, "create_time": 1, "update_time": 2}],
        "consumers": [{"username": "jack"}, {"id": "jack/credentials/1", "plugins": {"key-auth": {}}}],
        "secrets": [{"id": "vault/1", "uri": "http://127.0.0.1", "prefix": "a", "token": "b"}],
        "plugin_metadata": [{"id": "syslog", "log_format": {}}],
        "routes_conf_version": 5,
        "unknown": 1,
    });
    bench.expect("POST", path, &good.to_string(), (200, "{}\n")).await;
    bench.expect("POST", path, "{}", (200, "{}\n")).await;
    let bad = json!({
        "routes_conf_version": "5",
        "upstreams": {"a": 1},
        "stream_routes": [
            {"id": "a", "server_port": 0},
            {"id": "b"},
            {"id": "b"},
            7,
            {"id": "c", "plugins": {"nope": {}}},
        ],
        "consumers": [{"username": "x"}, {"username": "x"}],
        "secrets": [{"id": "1"}],
    });
    let reply = bench.call("POST", path, &bad.to_string()).await;
    assert_eq!(reply.status, 400);
    assert_eq!(reply.header("x-api-version"), None);
    assert_eq!(
        reply.json(),
        json!({
            "error_msg": "Configuration validation failed",
            "errors": [
                {
                    "resource_type": "routes",
                    "error": "routes_conf_version must be a number, got string",
                },
                {
                    "resource_type": "upstreams",
                    "error": "wrong type: expected array, got table",
                },
                {
                    "resource_type": "consumers", "resource_id": "x", "index": 1,
                    "error": "found duplicate username x in consumers",
                },
                {
                    "resource_type": "stream_routes", "resource_id": "a", "index": 0,
                    "error": "invalid configuration: property \"server_port\" validation failed: \
                              expected 0 to be at least 1",
                },
                {
                    "resource_type": "stream_routes", "resource_id": "b", "index": 2,
                    "error": "found duplicate id b in stream_routes",
                },
                {
                    "resource_type": "stream_routes", "index": 3,
                    "error": "invalid configuration: wrong type: expected object, got number",
                },
                {
                    "resource_type": "stream_routes", "resource_id": "c", "index": 4,
                    "error": "unknown plugin [nope]",
                },
                {
                    "resource_type": "secrets", "resource_id": "1", "index": 0,
                    "error": "invalid secret id: 1",
                },
            ],
        })
    );
    let yaml = [("x-api-key", KEY), ("content-type", "application/yaml; charset=utf-8")];
    let text = "stream_routes:\n  - id: a\n    server_port: 9100\n";
    let reply = bench.call_with("POST", path, text, &yaml).await;
    assert_eq!((reply.status.as_u16(), reply.body.as_str()), (200, "{}\n"));
    let reply = bench.call_with("POST", path, "a: [", &yaml).await;
    assert_eq!(
        reply.json(),
        json!({"error_msg": "invalid request body: invalid yaml request body"})
    );
    bench.refuse("POST", path, "", (400, "invalid request body: empty request body")).await;
    bench
        .refuse(
            "POST",
            path,
            "nope",
            (400, "invalid request body: Expected value but found invalid token at character 1"),
        )
        .await;
}
