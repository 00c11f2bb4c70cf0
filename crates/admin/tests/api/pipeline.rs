//! What happens to every request before a resource is looked at (admin-api.md, sections 1 and 8).

use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::http::Request;
use headgate_admin::{Limits, status_api};

use crate::bench::{Bench, KEY, Planes, VIEWER_KEY, ask, settings};

#[tokio::test]
async fn strangers_get_a_page() {
    let bench = Bench::new();
    for (method, path) in
        [("GET", "/apisix/admin/routes"), ("OPTIONS", "/"), ("HEAD", "/apisix/admin")]
    {
        let reply = bench.call_from("10.0.0.1:1", method, path, "", &[("x-api-key", KEY)]).await;
        assert_eq!(reply.status, 403);
        assert_eq!(reply.header("content-type"), Some("text/html"));
        assert!(method == "HEAD" || reply.body.contains("<h1>403 Forbidden</h1>"));
        assert_eq!(reply.header("access-control-allow-origin"), None);
    }
    let everyone = Bench::with(
        headgate_model::settings::AdminSettings { allow: None, ..settings() },
        Planes::default(),
        Limits::default(),
    );
    let reply = everyone.call_from("10.0.0.1:1", "HEAD", "/apisix/admin", "", &[]).await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn cors() {
    let bench = Bench::new();
    let reply = bench.call_with("OPTIONS", "/anything", "", &[]).await;
    assert_eq!((reply.status.as_u16(), reply.body.as_str()), (200, ""));
    for (name, value) in [
        ("access-control-allow-origin", "*"),
        ("access-control-allow-methods", "POST, GET, PUT, OPTIONS, DELETE, PATCH"),
        ("access-control-max-age", "3600"),
        ("access-control-allow-headers", "*"),
        ("access-control-allow-credentials", "true"),
        ("content-length", "0"),
        ("content-type", "text/plain"),
    ] {
        assert_eq!(reply.header(name), Some(value));
    }
    let reply = bench.call_with("GET", "/apisix/admin/routes", "", &[]).await;
    assert_eq!(reply.status, 401);
    for (name, value) in [
        ("access-control-allow-origin", "*"),
        ("access-control-allow-credentials", "true"),
        ("access-control-expose-headers", "*"),
        ("access-control-max-age", "3600"),
        ("content-type", "application/json"),
        ("server", "APISIX/3.17.0"),
    ] {
        assert_eq!(reply.header(name), Some(value));
    }
    let without =
        headgate_model::settings::AdminSettings { cors: false, server_tokens: false, ..settings() };
    let bench = Bench::with(without, Planes::default(), Limits::default());
    let reply = bench.call_with("OPTIONS", "/apisix/admin/routes", "", &[]).await;
    assert_eq!(reply.status, 404);
    assert_eq!(reply.header("content-type"), Some("text/html"));
    assert_eq!(reply.header("access-control-allow-origin"), None);
    assert_eq!(reply.header("server"), Some("APISIX"));
}

#[tokio::test]
async fn pages_come_before_keys() {
    let bench = Bench::new();
    let reply = bench.call_with("HEAD", "/apisix/admin", "", &[]).await;
    assert_eq!((reply.status.as_u16(), reply.body.as_str()), (200, ""));
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/apisix/admin"),
        ("HEAD", "/apisix/admin/routes"),
        ("TRACE", "/apisix/admin/routes"),
        ("GET", "/apisix/prometheus/metrics"),
    ] {
        let reply = bench.call_with(method, path, "", &[]).await;
        assert_eq!(reply.status, 404, "{method} {path}");
        assert_eq!(reply.header("content-type"), Some("text/html"));
        assert!(method == "HEAD" || reply.body.contains("404 Not Found"));
    }
}

#[tokio::test]
async fn keys_and_roles() {
    let bench = Bench::new();
    let path = "/apisix/admin/routes";
    let refusal = |why: &str| {
        (401, format!("{{\"error_msg\":\"failed to check token\",\"description\":\"{why}\"}}\n"))
    };
    let cases = [
        (vec![], "", "GET", refusal("missing apikey")),
        (vec![("x-api-key", "nope")], "", "GET", refusal("wrong apikey")),
        (vec![("x-api-key", KEY)], "?api_key=nope", "GET", refusal("wrong apikey")),
        (vec![("cookie", "x_api_key=nope")], "", "GET", refusal("wrong apikey")),
        (vec![("x-api-key", VIEWER_KEY)], "/1", "PUT", refusal("invalid method for role viewer")),
        (
            vec![("x-api-key", VIEWER_KEY)],
            "",
            "GET",
            (200, "{\"total\":0,\"list\":[]}\n".to_owned()),
        ),
    ];
    for (headers, suffix, method, (status, body)) in cases {
        let reply = bench.call_with(method, &format!("{path}{suffix}"), "", &headers).await;
        assert_eq!((reply.status.as_u16(), reply.body), (status, body));
        assert_eq!(reply.headers.contains_key("x-api-version"), status != 401);
    }
    for headers in [vec![("x-api-key", KEY)], vec![("cookie", &*format!("a=1; x_api_key={KEY}"))]] {
        assert_eq!(bench.call_with("GET", path, "", &headers).await.status, 200);
    }
    let reply = bench.call_with("GET", &format!("{path}?api_key={KEY}"), "", &[]).await;
    assert_eq!(reply.status, 200);

    let open = headgate_model::settings::AdminSettings { keys: None, ..settings() };
    let bench = Bench::with(open, Planes::default(), Limits::default());
    assert_eq!(bench.call_with("GET", path, "", &[]).await.status, 200);
}

#[tokio::test]
async fn order_of_refusals() {
    let bench = Bench::new();
    let admin = "/apisix/admin";
    for (method, path, body, status, message) in [
        ("GET", "/nope", "", 404, "Unsupported resource type: nope"),
        ("GET", "/credentials", "", 404, "Unsupported resource type: credentials"),
        ("GET", "/configs", "", 404, "Unsupported resource type: configs"),
        ("PUT", "/schema/route", "", 404, "not found"),
        ("DELETE", "/plugins/x", "", 404, "not found"),
        ("PUT", "/plugins/list", "", 404, "not found"),
        ("GET", "/routes?ttl=soon", "", 400, "invalid argument ttl: should be a number"),
        (
            "PUT",
            "/upstreams/1?ttl=0",
            "{}",
            400,
            "invalid argument ttl: should be between 1 and 9000000000",
        ),
        ("PATCH", "/stream_routes/1", "{}", 405, "not supported `PATCH` method for stream route"),
        ("POST", "/secrets/vault", "{}", 405, "not supported `POST` method for secret"),
        ("POST", "/plugin_metadata", "{}", 405, "not supported `POST` method for plugin_metadata"),
        (
            "PATCH",
            "/consumers/a/credentials/1",
            "{}",
            405,
            "not supported `PATCH` method for credential",
        ),
        ("PATCH", "/consumers/jack", "{}", 405, "not supported `PATCH` method for consumer"),
        ("PATCH", "/proto/1", "{}", 405, "not supported `PATCH` method for proto"),
        ("POST", "/global_rules", "{}", 405, "not supported `POST` method for global rule"),
        ("POST", "/plugin_configs", "{}", 405, "not supported `POST` method for plugin config"),
        ("POST", "/consumer_groups", "{}", 405, "not supported `POST` method for consumer group"),
    ] {
        bench.refuse(method, &format!("{admin}{path}"), body, (status, message)).await;
    }
    // A body comes before the argument ttl and the verb, after the resource.
    let reply = bench.call("PATCH", "/apisix/admin/stream_routes/1?ttl=x", "{nope}").await;
    assert_eq!(reply.status, 400);
    assert_eq!(
        reply.body,
        "{\"error_msg\":\"invalid request body: Expected object key string but found invalid \
         token at character 2\",\"req_body\":\"{nope}\"}\n"
    );
    assert_eq!(reply.header("x-api-version"), Some("v3"));
    bench
        .refuse("PUT", "/apisix/admin/nope/1", "{nope}", (404, "Unsupported resource type: nope"))
        .await;

    bench.planes.stream.store(false, Ordering::SeqCst);
    let disabled = (400, "stream mode is disabled, can not add stream routes");
    bench.refuse("GET", "/apisix/admin/stream_routes", "", disabled).await;
    bench.refuse("PUT", "/apisix/admin/stream_routes/1", "{nope}", disabled).await;
    assert_eq!(bench.call("GET", "/apisix/admin/upstreams", "").await.status, 200);
}

#[tokio::test]
async fn large_bodies() {
    let bench = Bench::new();
    let big = format!("{{\"desc\":\"{}\"}}", "x".repeat(1_572_864));
    let message = format!(
        "invalid request body: request size {} is greater than the maximum size 1572864 allowed",
        big.len()
    );
    bench.refuse("PUT", "/apisix/admin/upstreams/1", &big, (400, &message)).await;
    bench.refuse("POST", "/apisix/admin/schema/validate/upstreams", &big, (400, &message)).await;
    let announced = [("x-api-key", KEY), ("content-length", "1572865")];
    let reply = bench.call_with("PUT", "/apisix/admin/upstreams/1", "", &announced).await;
    assert_eq!(reply.status, 400);
    assert!(reply.body.contains("request size 1572865 is greater"));
}

#[tokio::test]
async fn status_server() {
    let bench = Bench::new();
    let router = status_api::router(bench.planes.clone());
    let get = |path: &str| Request::get(path).body(Body::empty()).unwrap();
    for (path, status, body) in [
        ("/status", 200, "{\"status\":\"ok\"}"),
        ("/statusx", 200, "{\"status\":\"ok\"}"),
        ("/status/ready", 200, "{\"status\":\"ok\"}"),
    ] {
        let reply = ask(&router, get(path)).await;
        assert_eq!((reply.status.as_u16(), reply.body.as_str()), (status, body), "{path}");
    }
    assert_eq!(ask(&router, get("/")).await.status, 404);
    bench.planes.ready.store(false, Ordering::SeqCst);
    let reply = ask(&router, get("/status/ready")).await;
    assert_eq!(reply.status, 503);
    assert_eq!(reply.body, "{\"status\":\"error\",\"error\":\"not yet\"}");
    assert_eq!(ask(&router, get("/status")).await.status, 200);
}
