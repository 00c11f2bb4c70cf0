//! The control API (admin-api.md, section 7) and its extensions.

use std::sync::Arc;

use headgate_admin::Limits;
use headgate_model::resource::{StreamRoute, Upstream};
use headgate_model::{Entry, Problem, ResourceSet};
use serde_json::json;

use crate::bench::{Bench, Planes, settings};

fn planes() -> Planes {
    let document = json!({
        "id": "1",
        "nodes": {"db.local:5432": 1},
        "tls": {"client_cert": "c", "client_key": "secret"},
    });
    let mut resources = ResourceSet::default();
    resources.upstreams.insert(Arc::new(Entry {
        id: "1".to_owned(),
        value: serde_json::from_value::<Upstream>(document.clone()).unwrap(),
        document: document.into(),
        created: 3,
        modified: 4,
    }));
    Planes {
        resources: Arc::new(resources),
        problems: vec![Problem::error("route/plugin", "stream_routes/1", "no plugin x").help("y")],
        ..Planes::default()
    }
}

#[tokio::test]
async fn answers() {
    let bench = Bench::with(settings(), planes(), Limits::default());
    for (method, path, status, body) in [
        ("POST", "/v1/gc", 200, ""),
        ("PUT", "/v1/plugins/reload", 200, "done"),
        ("GET", "/v1/healthcheck", 200, "[]\n"),
        ("GET", "/v1/counters", 200, "{\"tcp_accepted\":3,\"closed_NR\":1}\n"),
        (
            "GET",
            "/v1/healthcheck/upstreams",
            404,
            "{\"error_msg\":\"missing src id for src type upstreams\"}\n",
        ),
        (
            "GET",
            "/v1/healthcheck/upstreams/1",
            404,
            "{\"error_msg\":\"no checker for upstreams[1]\"}\n",
        ),
        (
            "GET",
            "/v1/healthcheck/stream_routes/9",
            404,
            "{\"error_msg\":\"stream_routes[9] not found\"}\n",
        ),
        ("GET", "/v1/healthcheck/x/9", 400, "{\"error_msg\":\"invalid src type x\"}\n"),
        ("GET", "/v1/routes", 200, "[]\n"),
        ("GET", "/v1/services", 200, "[]\n"),
        ("GET", "/v1/stream_routes", 200, "[]\n"),
        ("GET", "/v1/plugin_metadatas", 200, "[]\n"),
        ("GET", "/v1/route/x", 404, "route[x] not found"),
        ("GET", "/v1/service/x", 404, "service[x] not found"),
        ("GET", "/v1/upstream/x", 404, "upstream[x] not found"),
        ("GET", "/v1/stream_route/x", 404, "stream_route[x] not found"),
        ("GET", "/v1/plugin_metadata/x", 404, "plugin metadata[x] not found"),
        (
            "GET",
            "/v1/history?limit=0",
            400,
            "{\"error_msg\":\"limit must be between 1 and 1000\"}\n",
        ),
    ] {
        let reply = bench.control(method, path).await;
        assert_eq!((reply.status.as_u16(), reply.body.as_str()), (status, body), "{method} {path}");
    }
    for (method, path) in
        [("GET", "/"), ("GET", "/v1/gc"), ("GET", "/v1/nope"), ("GET", "/v1/a/b/c")]
    {
        let reply = bench.control(method, path).await;
        assert_eq!(reply.status, 404);
        assert_eq!(reply.header("content-type"), Some("text/html"), "{path}");
    }
}

#[tokio::test]
async fn upstreams_show_what_runs() {
    let bench = Bench::with(settings(), planes(), Limits::default());
    let one = bench.control("GET", "/v1/upstream/1").await.json();
    assert_eq!(bench.control("GET", "/v1/upstreams").await.json(), json!([one]));
    assert_eq!(one["key"], "/apisix/upstreams/1");
    assert_eq!((&one["createdIndex"], &one["modifiedIndex"]), (&json!(3), &json!(4)));
    assert_eq!(one["has_domain"], true);
    assert_eq!(
        one["value"]["nodes"],
        json!([{"host": "db.local", "port": 5432, "weight": 1, "priority": 0}])
    );
    assert_eq!(one["value"]["tls"]["client_key"], "***");
    assert_eq!(one["value"]["hash_on"], "vars");
}

#[tokio::test]
async fn health_of_what_has_checks() {
    let mut resources = ResourceSet::default();
    let document = json!({"upstream": {
        "nodes": {"127.0.0.1:9101": 1}, "checks": {"active": {"type": "tcp"}}
    }});
    resources.stream_routes.insert(Arc::new(Entry {
        id: "1".to_owned(),
        value: serde_json::from_value::<StreamRoute>(document.clone()).unwrap(),
        document: document.into(),
        created: 1,
        modified: 1,
    }));
    let document = json!({"nodes": {}, "checks": {"active": {}}});
    resources.upstreams.insert(Arc::new(Entry {
        id: "u".to_owned(),
        value: serde_json::from_value::<Upstream>(document.clone()).unwrap(),
        document: document.into(),
        created: 2,
        modified: 2,
    }));
    let planes = Planes { resources: Arc::new(resources), ..Planes::default() };
    let bench = Bench::with(settings(), planes, Limits::default());
    let one = json!({
        "name": "/apisix/stream_routes/1",
        "type": "tcp",
        "nodes": [{
            "ip": "127.0.0.1", "port": 9101, "hostname": "127.0.0.1", "status": "unhealthy",
            "counter": {"success": 0, "http_failure": 0, "tcp_failure": 2, "timeout_failure": 0}
        }]
    });
    assert_eq!(bench.control("GET", "/v1/healthcheck/stream_routes/1").await.json(), one);
    let idle = json!({"name": "/apisix/upstreams/u", "type": "http", "nodes": []});
    assert_eq!(bench.control("GET", "/v1/healthcheck").await.json(), json!([one, idle]));
    let page = bench.control_accepting("/v1/healthcheck", "text/html,*/*").await;
    assert_eq!(page.header("content-type"), Some("text/html"));
    assert!(page.body.contains("<title>APISIX upstream check status</title>"));
    assert!(
        page.body.contains(
            "<tr bgcolor=\"#FF0000\"><td>1</td><td>/apisix/stream_routes/1</td><td>tcp</td>\
         <td>127.0.0.1:9101</td><td>unhealthy</td><td>0</td><td>2</td><td>0</td><td>0</td></tr>"
        ),
        "{}",
        page.body
    );
}

#[tokio::test]
async fn schemas_and_problems() {
    let bench = Bench::with(settings(), planes(), Limits::default());
    let schema = bench.control("GET", "/v1/schema").await.json();
    assert!(schema["main"]["stream_route"].is_object());
    assert!(schema["plugins"]["key-auth"]["schema"].is_object());
    assert_eq!(schema["stream_plugins"]["mqtt-proxy"]["priority"], 1000);
    assert_eq!(
        bench.control("GET", "/v1/problems").await.json(),
        json!([{
            "severity": "error",
            "code": "route/plugin",
            "subject": "stream_routes/1",
            "message": "no plugin x",
            "help": "y",
            "place": null,
        }])
    );
}

#[tokio::test]
async fn history_hides_secrets() {
    let bench = Bench::new();
    let vault = r#"{"uri":"http://127.0.0.1:8200","prefix":"kv/apisix","token":"root"}"#;
    bench.put("secrets/vault/1", vault).await;
    bench.put("upstreams/1", r#"{"nodes":{"10.0.0.1:80":1}}"#).await;
    bench.call("DELETE", "/apisix/admin/upstreams/1", "").await;

    let all = bench.control("GET", "/v1/history").await.json();
    let keys: Vec<_> =
        all.as_array().unwrap().iter().map(|entry| entry["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["/apisix/upstreams/1", "/apisix/upstreams/1", "/apisix/secrets/vault/1"]);
    assert_eq!((&all[0]["value"], &all[0]["author"]), (&json!(null), &json!("admin")));
    assert_eq!(all[1]["value"]["id"], "1");
    assert!(all[1]["revision"].as_u64() < all[0]["revision"].as_u64());
    assert!(all[1]["time_ms"].as_u64().unwrap() > 1_700_000_000_000);
    assert_eq!(
        (&all[2]["value"]["token"], &all[2]["value"]["id"]),
        (&json!("***"), &json!("vault/1"))
    );
    for key in ["/apisix/upstreams/1", "/upstreams/1"] {
        let path = format!("/v1/history?key={key}&limit=1");
        let some = bench.control("GET", &path).await.json();
        assert_eq!(some.as_array().unwrap().len(), 1);
        assert_eq!(some[0], all[0]);
    }
    assert!(!bench.control("GET", "/v1/history").await.body.contains("root"));
}

#[tokio::test]
async fn metadata_comes_from_the_store() {
    let bench = Bench::new();
    bench.put("plugin_metadata/syslog", r#"{"log_format":{"host":"$host"}}"#).await;
    let value = json!({"log_format": {"host": "$host"}, "id": "syslog"});
    assert_eq!(bench.control("GET", "/v1/plugin_metadata/syslog").await.json(), value);
    assert_eq!(bench.control("GET", "/v1/plugin_metadatas").await.json(), json!([value]));
}
