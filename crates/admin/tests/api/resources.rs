//! What is particular to single kinds (admin-api.md, section 4).

use headgate_store::Store as _;
use serde_json::json;

use crate::bench::Bench;

const UPSTREAM: &str = r#"{"nodes":{"10.0.0.1:80":1}}"#;

#[tokio::test]
async fn references_must_exist() {
    let bench = Bench::new();
    let path = "/apisix/admin/stream_routes/1";
    for (body, message) in [
        (
            r#"{"upstream_id":"9"}"#,
            "failed to fetch upstream info by upstream id [9], response code: 404",
        ),
        (
            r#"{"service_id":"9"}"#,
            "failed to fetch service info by service id [9], response code: 404",
        ),
        (
            r#"{"protocol":{"name":"redis","superior_id":"9"}}"#,
            "failed to fetch stream routes[9], response code: 404",
        ),
        (
            r#"{"protocol":{"name":"redis","superior_id":"1"}}"#,
            "stream route can not set itself as superior_id",
        ),
        (r#"{"plugins":{"nope":{}}}"#, "unknown plugin [nope]"),
    ] {
        bench.refuse("PUT", path, body, (400, message)).await;
    }
    bench.put("upstreams/9", UPSTREAM).await;
    bench.put("services/9", "{}").await;
    bench.put("stream_routes/9", r#"{"protocol":{"name":"redis"}}"#).await;
    for body in [
        r#"{"upstream_id":9}"#,
        r#"{"service_id":"9"}"#,
        r#"{"protocol":{"name":"redis","superior_id":"9"}}"#,
        r#"{"plugins":{"mqtt-proxy":{"protocol_level":4}}}"#,
    ] {
        bench.put("stream_routes/1", body).await;
    }
}

#[tokio::test]
async fn used_resources_stay() {
    let bench = Bench::new();
    for (used, user, user_body, message) in [
        (
            "upstreams/1",
            "stream_routes/1",
            r#"{"upstream_id":"1"}"#,
            "can not delete this upstream, stream_route [1] is still using it now",
        ),
        (
            "upstreams/1",
            "services/1",
            r#"{"upstream_id":1}"#,
            "can not delete this upstream, service [1] is still using it now",
        ),
        (
            "services/2",
            "stream_routes/2",
            r#"{"service_id":"2"}"#,
            "can not delete this service directly, stream_route [2] is still using it now",
        ),
        (
            "stream_routes/3",
            "stream_routes/4",
            r#"{"protocol":{"name":"redis","superior_id":"3"}}"#,
            "can not delete this stream route directly, stream route [4] is still using it as \
             superior_id",
        ),
    ] {
        let body = match used.split_once('/').unwrap().0 {
            "upstreams" => UPSTREAM,
            "stream_routes" => r#"{"protocol":{"name":"redis"}}"#,
            _ => "{}",
        };
        let path = format!("/apisix/admin/{used}");
        bench.put(used, body).await;
        bench.put(user, user_body).await;
        bench.refuse("DELETE", &path, "", (400, message)).await;
        bench.refuse("DELETE", &format!("{path}?force=1"), "", (400, message)).await;
        let reply = bench.call("DELETE", &format!("{path}?force=true"), "").await;
        assert_eq!(reply.status, 200);
        assert_eq!(bench.call("DELETE", &format!("/apisix/admin/{user}"), "").await.status, 200);
    }
}

#[tokio::test]
async fn private_keys_are_encrypted_and_hidden() {
    let bench = Bench::new();
    // References to secrets pass the checks of certificates.
    let body = r#"{"sni":"a.com","cert":"$secret://vault/1/cert","key":"$secret://vault/1/key"}"#;
    let reply = bench.call("PUT", "/apisix/admin/ssl/1", body).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(reply.json()["key"], "/apisix/ssls/1");
    assert_eq!(reply.json()["value"]["key"], "$secret://vault/1/key");
    for path in ["/apisix/admin/ssls/1", "/apisix/admin/ssl/1"] {
        let value = bench.call("GET", path, "").await.json()["value"].clone();
        assert_eq!(value["cert"], "$secret://vault/1/cert");
        assert_eq!(value.get("key"), None);
    }
    let list = bench.call("GET", "/apisix/admin/ssls", "").await.json();
    assert_eq!(list["list"][0]["value"].get("key"), None);

    // Stream routes get schema checks only, so any text will do for a certificate here.
    let (cert, key) = ("c".repeat(128), format!("---{}", "k".repeat(97)));
    let body = json!({"upstream": {
        "nodes": {"10.0.0.1:80": 1},
        "tls": {"client_cert": cert, "client_key": key},
    }});
    let reply = bench.call("PUT", "/apisix/admin/stream_routes/1", &body.to_string()).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(reply.json()["value"]["upstream"]["tls"]["client_key"], "encrypted:100");
    let stored = bench.store.get("/stream_routes/1").await.unwrap().unwrap();
    assert_eq!(stored.value["upstream"]["tls"]["client_key"], "encrypted:100");
}

#[tokio::test]
async fn secrets() {
    let bench = Bench::new();
    let vault = r#"{"uri":"http://127.0.0.1:8200","prefix":"kv/apisix","token":"root"}"#;
    let path = "/apisix/admin/secrets/vault/1";
    bench
        .refuse("PUT", "/apisix/admin/secrets/nope/1", vault, (400, "invalid secret manager: nope"))
        .await;
    bench.refuse("PUT", path, r#"{"id":"1"}"#, (400, "wrong secret id")).await;
    let reply = bench.call("PUT", path, vault).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(reply.json()["key"], "/apisix/secrets/vault/1");
    assert_eq!(reply.json()["value"]["id"], "vault/1");
    assert_eq!(reply.json()["value"]["token"], "root");
    let reply = bench.call("PATCH", &format!("{path}/token"), "\"new\"").await;
    assert_eq!((reply.status.as_u16(), &reply.json()["value"]["token"]), (200, &json!("new")));
    for list in
        ["/apisix/admin/secrets", "/apisix/admin/secrets/vault", "/apisix/admin/secrets/aws"]
    {
        assert_eq!(bench.call("GET", list, "").await.json()["total"], 1, "{list}");
    }
    let gone = "{\"deleted\":\"1\",\"key\":\"\\/apisix\\/secrets\\/vault\\/1\"}\n";
    bench.expect("DELETE", path, "", (200, gone)).await;
}

#[tokio::test]
async fn plugin_metadata_has_no_times() {
    let bench = Bench::new();
    let path = "/apisix/admin/plugin_metadata/syslog";
    let created = r#"{"key":"\/apisix\/plugin_metadata\/syslog","value":{"log_format":{"host":"$host"},"id":"syslog"}}"#;
    let body = r#"{"log_format":{"host":"$host"}}"#;
    bench.expect("PUT", path, body, (201, &format!("{created}\n"))).await;
    bench.expect("PUT", path, body, (200, &format!("{created}\n"))).await;
    bench
        .refuse("PUT", "/apisix/admin/plugin_metadata/nope", "{}", (400, "invalid plugin name"))
        .await;
}

#[tokio::test]
async fn consumers_and_credentials() {
    let bench = Bench::new();
    let credential = r#"{"plugins":{"key-auth":{"key":"k"}}}"#;
    let path = "/apisix/admin/consumers/jack/credentials/1";
    bench.refuse("PUT", path, credential, (404, "consumer not found")).await;
    bench
        .refuse(
            "PUT",
            "/apisix/admin/consumers/jill",
            r#"{"username":"jack"}"#,
            (400, "wrong username"),
        )
        .await;
    let reply = bench.call("PUT", "/apisix/admin/consumers", r#"{"username":"jack"}"#).await;
    assert_eq!(
        (reply.status.as_u16(), &reply.json()["key"]),
        (201, &json!("/apisix/consumers/jack"))
    );
    assert_eq!(reply.json()["value"].get("id"), None);
    bench.put("consumers/jack", r#"{"username":"jack"}"#).await;

    let reply = bench.call("PUT", path, credential).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(reply.json()["key"], "/apisix/consumers/jack/credentials/1");
    assert_eq!(reply.json()["value"]["id"], "1");
    assert_eq!(bench.call("GET", path, "").await.status, 200);
    let list = |path: &'static str| bench.call("GET", path, "");
    assert_eq!(list("/apisix/admin/consumers/jack/credentials").await.json()["total"], 1);
    assert_eq!(list("/apisix/admin/consumers").await.json()["total"], 1);
    assert_eq!(bench.call("DELETE", "/apisix/admin/consumers/jack", "").await.status, 200);
    assert_eq!(bench.store.load().await.unwrap().values, []);
}

#[tokio::test]
async fn a_plugin_is_in_one_global_rule() {
    let bench = Bench::new();
    bench.put("global_rules/1", r#"{"plugins":{"limit-count":{}}}"#).await;
    bench.put("global_rules/1", r#"{"plugins":{"limit-count":{"count":1}}}"#).await;
    bench
        .refuse(
            "PUT",
            "/apisix/admin/global_rules/2",
            r#"{"plugins":{"limit-count":{}}}"#,
            (400, "plugin 'limit-count' already exists in global rule with id '1'"),
        )
        .await;
}

#[tokio::test]
async fn every_kind_is_stored() {
    let bench = Bench::new();
    for (path, body) in [
        ("stream_routes/1", "{}"),
        ("upstreams/1", UPSTREAM),
        ("services/1", "{}"),
        ("routes/1", r#"{"uri":"/x","upstream":{"nodes":{"10.0.0.1:80":1}}}"#),
        ("global_rules/1", r#"{"plugins":{"limit-count":{}}}"#),
        ("plugin_configs/1", r#"{"plugins":{"limit-count":{}}}"#),
        ("consumer_groups/1", r#"{"plugins":{"limit-count":{}}}"#),
        ("consumers/jack", r#"{"username":"jack"}"#),
        ("protos/1", r#"{"content":"syntax = \"proto3\";"}"#),
        ("proto/2", r#"{"content":"syntax = \"proto3\";"}"#),
    ] {
        bench.put(path, body).await;
        let path = format!("/apisix/admin/{path}");
        assert_eq!(bench.call("GET", &path, "").await.status, 200, "{path}");
    }
}
