//! GET, PUT, POST, PATCH, DELETE and their envelopes (admin-api.md, sections 2 and 3).

use std::sync::atomic::Ordering;

use headgate_admin::Limits;
use headgate_model::settings::AdminSettings;
use headgate_store::Store as _;
use serde_json::{Value, json};

use crate::bench::{Bench, KEY, Planes, settings};

const UPSTREAM: &str = r#"{"nodes":{"10.0.0.1:80":1}}"#;

fn without_times(mut value: Value) -> Value {
    for time in ["create_time", "update_time"] {
        let time = value["value"].as_object_mut().unwrap().shift_remove(time);
        assert!(time.unwrap().as_u64().unwrap() > 1_700_000_000);
    }
    value
}

#[tokio::test]
async fn put_get_delete() {
    let bench = Bench::new();
    let path = "/apisix/admin/upstreams/a";
    let reply = bench.call("PUT", path, UPSTREAM).await;
    assert_eq!(reply.status, 201);
    assert!(reply.body.starts_with(
        r#"{"key":"\/apisix\/upstreams\/a","value":{"nodes":{"10.0.0.1:80":1},"id":"a","create_time":"#
    ));
    assert!(reply.body.ends_with("}}\n"));
    assert_eq!(reply.header("x-api-version"), Some("v3"));
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let expected =
        json!({"key": "/apisix/upstreams/a", "value": {"nodes": {"10.0.0.1:80": 1}, "id": "a"}});
    assert_eq!(without_times(reply.json()), expected);

    let created = reply.json()["value"]["create_time"].clone();
    let again = bench.call("PUT", "//apisix/admin//upstreams/a/", UPSTREAM).await;
    assert_eq!(again.status, 200);
    assert_eq!(again.json()["value"]["create_time"], created);

    let stored = bench.store.get("/upstreams/a").await.unwrap().unwrap();
    assert!(stored.modified > stored.created);
    assert_eq!(bench.planes.applied.load(Ordering::SeqCst), stored.modified);
    let reply = bench.call("GET", path, "").await;
    assert_eq!(reply.status, 200);
    let expected = json!({
        "key": "/apisix/upstreams/a",
        "value": stored.value,
        "createdIndex": stored.created,
        "modifiedIndex": stored.modified,
    });
    assert_eq!(reply.json(), expected);
    assert_eq!(
        bench.call("GET", "/apisix/admin/upstreams", "").await.json(),
        json!({"total": 1, "list": [expected]})
    );

    let gone = r#"{"deleted":"1","key":"\/apisix\/upstreams\/a"}"#;
    bench.expect("DELETE", path, "", (200, &format!("{gone}\n"))).await;
    let missing = "{\"message\":\"Key not found\"}\n";
    bench.expect("DELETE", path, "", (404, missing)).await;
    bench.expect("GET", path, "", (404, missing)).await;
    bench.expect("PATCH", path, "{}", (404, missing)).await;
    bench.expect("GET", "/apisix/admin/upstreams", "", (200, "{\"total\":0,\"list\":[]}\n")).await;
}

#[tokio::test]
async fn ids() {
    let bench = Bench::new();
    for (method, path, body, message) in [
        ("PUT", "upstreams/1", "", "missing configurations"),
        ("POST", "upstreams", "", "missing configurations"),
        ("PUT", "upstreams/1", "null", "missing configurations"),
        ("PUT", "upstreams", "{}", "missing upstream id"),
        ("PUT", "stream_routes", "{}", "missing stream route id"),
        ("PUT", "upstreams/1", r#"{"id":"2"}"#, "wrong upstream id"),
        ("PUT", "upstreams/1", r#"{"id":2}"#, "wrong upstream id"),
        ("POST", "upstreams/1", "{}", "wrong upstream id, do not need it"),
        ("POST", "stream_routes", r#"{"id":1}"#, "wrong stream route id, do not need it"),
        ("PATCH", "upstreams", "{}", "missing upstream id"),
        ("PATCH", "upstreams/1", "", "missing new configuration"),
        ("DELETE", "upstreams", "", "missing upstream id"),
        ("DELETE", "plugin_configs", "", "missing plugin config id"),
        ("PUT", "upstreams/1", r#"{"create_time":1}"#, "the property is forbidden:  create_time"),
        ("POST", "upstreams", r#"{"update_time":1}"#, "the property is forbidden:  update_time"),
        (
            "PUT",
            "stream_routes/1",
            r#"{"upstream":{"create_time":1}}"#,
            "the property is forbidden:  upstream.create_time",
        ),
        (
            "PUT",
            "stream_routes/1",
            r#"{"plugins":{"create_time":1}}"#,
            "the property is forbidden:  plugins.create_time",
        ),
        (
            "PUT",
            "upstreams/1",
            "\"text\"",
            "invalid configuration: wrong type: expected object, got string",
        ),
        ("PUT", "secrets", "{}", "missing secret id"),
        ("PUT", "secrets/vault", "{}", "missing secret id"),
        ("PATCH", "secrets/vault", "{}", "no secret id"),
        ("DELETE", "secrets/vault", "", "missing secret id"),
        ("PUT", "plugin_metadata", "{}", "missing plugin name"),
    ] {
        bench.refuse(method, &format!("/apisix/admin/{path}"), body, (400, message)).await;
    }
    assert_eq!(bench.store.load().await.unwrap().values, []);

    for id in ["*invalid", "a b", &"x".repeat(65)] {
        let path = format!("/apisix/admin/stream_routes/{}", id.replace(' ', "%20"));
        let reply = bench.call("PUT", &path, "{}").await;
        assert_eq!(reply.status, 400, "{id}");
        let message = reply.json()["error_msg"].as_str().unwrap().to_owned();
        let start = "invalid configuration: property \"id\" validation failed: ";
        assert!(message.starts_with(start), "{message}");
    }
    for id in ["a_b-c.D9", &"x".repeat(64)] {
        bench.put(&format!("stream_routes/{id}"), "{}").await;
    }

    // The body's id is kept as it was sent; an id in the URI is a string.
    let body = r#"{"id":7,"nodes":{"10.0.0.1:80":1}}"#;
    let reply = bench.call("PUT", "/apisix/admin/upstreams", body).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["value"]["id"]), (201, &json!(7)));
    assert_eq!(reply.json()["key"], "/apisix/upstreams/7");
    let reply = bench.call("PUT", "/apisix/admin/upstreams/7", body).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["value"]["id"]), (200, &json!("7")));
}

#[tokio::test]
async fn post_takes_a_revision_as_id() {
    let bench = Bench::new();
    let reply = bench.call("POST", "/apisix/admin/stream_routes", r#"{"server_port":9100}"#).await;
    assert_eq!(reply.status, 201);
    let id = reply.json()["value"]["id"].as_str().unwrap().to_owned();
    assert_eq!(id.len(), 20);
    assert!(id.bytes().all(|byte| byte.is_ascii_digit()));
    assert_eq!(reply.json()["key"], format!("/apisix/stream_routes/{id}"));
    let second = bench.call("POST", "/apisix/admin/stream_routes", "{}").await;
    assert!(second.json()["value"]["id"].as_str().unwrap() > id.as_str());
    let path = format!("/apisix/admin/stream_routes/{id}");
    assert_eq!(bench.call("DELETE", &path, "").await.status, 200);
}

#[tokio::test]
async fn patch() {
    let bench = Bench::new();
    let path = "/apisix/admin/upstreams/1";
    bench.put("upstreams/1", r#"{"nodes":{"10.0.0.1:80":1},"labels":{"a":"1","b":"2"}}"#).await;
    let created = bench.call("GET", path, "").await.json()["value"]["create_time"].clone();

    let body = r#"{"labels":{"b":null,"c":"3"},"retries":2,"update_time":1700000001}"#;
    let reply = bench.call("PATCH", path, body).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let value = &reply.json()["value"];
    assert_eq!(value["labels"], json!({"a": "1", "c": "3"}));
    assert_eq!(
        (&value["retries"], &value["update_time"], &value["create_time"]),
        (&json!(2), &json!(1_700_000_001), &created)
    );

    let reply = bench.call("PATCH", &format!("{path}/nodes"), r#"{"10.0.0.2:80":3}"#).await;
    assert_eq!(reply.json()["value"]["nodes"], json!({"10.0.0.2:80": 3}));
    assert!(reply.json()["value"]["update_time"].as_u64().unwrap() > 1_700_000_001);
    let reply = bench.call("PATCH", &format!("{path}/timeout/send"), "1").await;
    assert_eq!(reply.status, 400, "{reply:?}");
    let reply = bench.call("PATCH", &format!("{path}/labels/x"), "\"y\"").await;
    assert_eq!(reply.json()["value"]["labels"]["x"], "y");
    for (path, body, message) in [
        ("upstreams/1/retries/x", "1", "invalid sub-path: /retries"),
        ("upstreams/1", "[1]", "invalid configuration"),
        ("upstreams/1", "1", "invalid configuration"),
        ("upstreams/1", r#"{"id":"2"}"#, "wrong upstream id"),
        ("upstreams/1/id", "\"2\"", "wrong upstream id"),
    ] {
        bench.refuse("PATCH", &format!("/apisix/admin/{path}"), body, (400, message)).await;
    }
    let reply = bench.call("PATCH", path, r#"{"retries":"x"}"#).await;
    assert_eq!(reply.status, 400);
}

#[tokio::test]
async fn only_patch_takes_a_sub_path() {
    let bench = Bench::new();
    bench.put("upstreams/1", UPSTREAM).await;
    bench.put("consumers", r#"{"username":"jack"}"#).await;
    bench.put("consumers/jack/credentials/1", r#"{"plugins":{"key-auth":{"key":"k"}}}"#).await;
    let vault = r#"{"uri":"http://127.0.0.1:8200","prefix":"kv","token":"t"}"#;
    bench.put("secrets/vault/1", vault).await;
    for method in ["GET", "PUT", "DELETE"] {
        for (path, message) in [
            ("upstreams/1/nodes", "invalid sub-path: /nodes"),
            ("upstreams/1/nodes/a", "invalid sub-path: /nodes/a"),
            ("upstreams/a%2Fb", "invalid sub-path: /b"),
            // Else the consumer would be deleted.
            ("consumers/jack/credential/1", "invalid sub-path: /credential/1"),
            ("consumers/jack/credentials/1/plugins", "invalid sub-path: /plugins"),
            ("secrets/vault/1/token", "invalid sub-path: /token"),
        ] {
            let body = if method == "PUT" { "{}" } else { "" };
            bench.refuse(method, &format!("/apisix/admin/{path}"), body, (400, message)).await;
        }
    }
    let message = "invalid sub-path: /x";
    bench.refuse("POST", "/apisix/admin/upstreams/1/x", UPSTREAM, (400, message)).await;
    // What means something goes on to do so.
    for path in ["upstreams/1", "consumers/jack", "consumers/jack/credentials/1", "secrets/vault/1"]
    {
        assert_eq!(bench.call("GET", &format!("/apisix/admin/{path}"), "").await.status, 200);
    }
    let path = "/apisix/admin/secrets/vault/1/token";
    assert_eq!(bench.call("PATCH", path, "\"new\"").await.status, 200);
}

#[tokio::test]
async fn if_match() {
    let bench = Bench::new();
    let path = "/apisix/admin/upstreams/1";
    bench.put("upstreams/1", UPSTREAM).await;
    let modified = bench.store.get("/upstreams/1").await.unwrap().unwrap().modified;
    let right = modified.to_string();
    let quoted = format!("\"{right}\"");
    let call = async |method: &str, path: &str, header: &str| {
        let headers = [("x-api-key", KEY), ("if-match", header)];
        bench.call_with(method, path, UPSTREAM, &headers).await
    };
    for method in ["PUT", "PATCH", "DELETE"] {
        let reply = call(method, path, "99").await;
        assert_eq!(reply.status, 412);
        assert_eq!(
            reply.body,
            format!("{{\"error_msg\":\"If-Match does not match modifiedIndex {right}\"}}\n")
        );
        let reply = call(method, "/apisix/admin/upstreams/none", "*").await;
        assert_eq!(reply.status, 412);
        let reply = call(method, path, "abc").await;
        assert_eq!(reply.status, 400);
        assert_eq!(
            reply.json()["error_msg"],
            "invalid header If-Match: should be a modifiedIndex or *"
        );
    }
    assert_eq!(call("PUT", path, &quoted).await.status, 200);
    assert_eq!(call("PUT", path, &right).await.status, 412);
    assert_eq!(call("PATCH", path, "*").await.status, 200);
    let modified = bench.store.get("/upstreams/1").await.unwrap().unwrap().modified;
    assert_eq!(call("DELETE", path, &modified.to_string()).await.status, 200);
    assert_eq!(call("GET", "/apisix/admin/upstreams", "abc").await.status, 200);
}

#[tokio::test]
async fn v2() {
    let settings = AdminSettings { v3: false, ..settings() };
    let bench = Bench::with(settings, Planes::default(), Limits::default());
    let path = "/apisix/admin/upstreams/1";
    let reply = bench.call("PUT", path, UPSTREAM).await;
    assert_eq!((reply.status.as_u16(), reply.header("x-api-version")), (201, Some("v2")));
    assert_eq!(reply.json()["action"], "set");
    assert_eq!(reply.json()["node"]["key"], "/apisix/upstreams/1");
    assert_eq!(reply.json()["node"]["value"]["id"], "1");
    let reply = bench.call("POST", "/apisix/admin/upstreams", UPSTREAM).await;
    assert_eq!(reply.json()["action"], "create");
    let id = reply.json()["node"]["value"]["id"].as_str().unwrap().to_owned();
    assert_eq!(
        bench.call("DELETE", &format!("/apisix/admin/upstreams/{id}"), "").await.status,
        200
    );
    let reply = bench.call("PATCH", path, "{}").await;
    assert_eq!(reply.json()["action"], "compareAndSwap");

    let stored = bench.store.get("/upstreams/1").await.unwrap().unwrap();
    let value = &stored.value;
    assert_eq!(
        bench.call("GET", path, "").await.json(),
        json!({"action": "get", "node": {"key": "/apisix/upstreams/1", "value": value}})
    );
    let node = json!({
        "key": "/apisix/upstreams/1",
        "value": value,
        "createdIndex": stored.created,
        "modifiedIndex": stored.modified,
    });
    // Nothing is filtered or paged.
    assert_eq!(
        bench.call("GET", "/apisix/admin/upstreams?page=9&page_size=1&name=x", "").await.json(),
        json!({
            "action": "get",
            "node": {"key": "/apisix/upstreams", "dir": true, "nodes": [node]},
        })
    );
    let gone = r#"{"action":"delete","deleted":"1","key":"\/apisix\/upstreams\/1","node":{}}"#;
    bench.expect("DELETE", path, "", (200, &format!("{gone}\n"))).await;
}

#[tokio::test]
async fn lists() {
    let bench = Bench::new();
    for id in ["c", "a", "b"] {
        let body = format!(r#"{{"nodes":{{"10.0.0.1:80":1}},"name":"up-{id}"}}"#);
        bench.put(&format!("upstreams/{id}"), &body).await;
    }
    let ids = async |query: &str| {
        let reply = bench.call("GET", &format!("/apisix/admin/upstreams{query}"), "").await;
        let reply = reply.json();
        let ids = reply["list"].as_array().into_iter().flatten();
        let ids: Vec<_> = ids.map(|node| node["value"]["id"].as_str().unwrap()).collect();
        format!("{}:{}", reply["total"], ids.concat())
    };
    for (query, expected) in [
        ("", "3:abc"),
        ("?page=1&page_size=10", "3:cab"),
        ("?name=up-[ab]", "2:ab"),
        ("?name=up-[ab]&page=1&page_size=10", "2:ab"),
    ] {
        assert_eq!(ids(query).await, expected, "{query}");
    }
    let path = "/apisix/admin/upstreams";
    bench
        .expect(
            "GET",
            &format!("{path}?page=1&page_size=5"),
            "",
            (400, "page_size must be between 10 and 500"),
        )
        .await;
    bench
        .expect(
            "GET",
            &format!("{path}?page=2&page_size=10"),
            "",
            (200, "{\"total\":3,\"list\":{}}\n"),
        )
        .await;
    bench
        .refuse(
            "GET",
            &format!("{path}?name=("),
            "",
            (400, "invalid argument name: bad regular expression"),
        )
        .await;
}

#[tokio::test]
async fn a_time_to_live_reaches_the_store() {
    let bench = Bench::new();
    let reply = bench.call("PUT", "/apisix/admin/upstreams/1?ttl=1", UPSTREAM).await;
    assert_eq!(reply.status, 201);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    // The store notices at the latest with the next write.
    while bench.call("GET", "/apisix/admin/upstreams/1", "").await.status != 404 {
        assert!(std::time::Instant::now() < deadline, "the limit of one second did not end it");
        bench.call("PUT", "/apisix/admin/upstreams/2", UPSTREAM).await;
    }
}

#[tokio::test]
async fn writes_are_in_the_history_with_their_author() {
    let bench = Bench::new();
    bench.put("upstreams/1", UPSTREAM).await;
    let entries = bench.store.history(Some("/upstreams/1"), 10).await.unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].author, "admin");
}
