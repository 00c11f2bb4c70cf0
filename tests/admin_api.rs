//! The Admin API from outside: statuses and bodies, table by table.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use headgate_testkit::client;
use headgate_testkit::gateway::{ADMIN_KEY, VIEWER_KEY};
use headgate_testkit::http::{self, Response};
use headgate_testkit::{Gateway, GatewayBuilder, SOON, TcpPeer};
use serde_json::{Value, json};

const BIN: &str = env!("CARGO_BIN_EXE_headgate");
const CERT: &str = include_str!("fixtures/tls/cert.pem");
const KEY: &str = include_str!("fixtures/tls/key.pem");
const EC_CERT: &str = include_str!("fixtures/tls/ec-cert.pem");
const EC_KEY: &str = include_str!("fixtures/tls/ec-key.pem");
const MAX_BODY: usize = 1_572_864;

fn gateway() -> Gateway {
    builder().start()
}

fn builder() -> GatewayBuilder {
    Gateway::builder(BIN).tcp(1).workers(1)
}

fn nodes() -> Value {
    json!({"type": "roundrobin", "nodes": {"127.0.0.1:1980": 1}})
}

// ---- request pipeline

#[test]
fn who_may_connect() {
    let gateway = gateway();
    let from = |address: &str| {
        let mut stream = client::connect_from(address.parse().expect("ip"), gateway.admin());
        let request = format!(
            "GET /apisix/admin/stream_routes HTTP/1.1\r\nHost: x\r\nX-API-KEY: {ADMIN_KEY}\r\n\
             Connection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("sent");
        http::parse(&http::read_answer(&mut stream, SOON), false).expect("an answer")
    };
    let _ = from("127.0.0.77").expect(200);
    let denied = from("127.0.1.1").expect(403);
    assert!(denied.body.contains("<html>"), "{}", denied.body);
    assert_eq!(denied.header("access-control-allow-origin"), None);
    // A list of one's own.
    let other = builder().admin("allow_admin:\n  - 127.9.0.0/16").start();
    let _ = other.get("stream_routes").expect(403);
}

#[test]
fn answers_name_the_server() {
    let hidden = builder().apisix("enable_server_tokens: false").start();
    assert_eq!(hidden.get("stream_routes").header("server"), Some("APISIX"));
    let shown = gateway();
    let server = shown.get("stream_routes").header("server").expect("a header").to_owned();
    assert!(server.starts_with("APISIX/"), "{server}");
}

#[test]
fn cors() {
    let gateway = gateway();
    let options = gateway.request_with("OPTIONS", "/anything/at/all", &[], None).expect(200);
    for (name, value) in [
        ("access-control-allow-origin", "*"),
        ("access-control-allow-methods", "POST, GET, PUT, OPTIONS, DELETE, PATCH"),
        ("access-control-max-age", "3600"),
        ("access-control-allow-headers", "*"),
        ("access-control-allow-credentials", "true"),
        ("content-length", "0"),
        ("content-type", "text/plain"),
    ] {
        assert_eq!(options.header(name), Some(value), "{name}");
    }
    for answer in
        [gateway.get("stream_routes"), gateway.request_with("GET", "stream_routes", &[], None)]
    {
        for (name, value) in [
            ("access-control-allow-origin", "*"),
            ("access-control-allow-credentials", "true"),
            ("access-control-expose-headers", "*"),
            ("access-control-max-age", "3600"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{name}");
        }
    }
    let off = builder().admin("enable_admin_cors: false").start();
    let _ = off.request_with("OPTIONS", "stream_routes", &[], None).expect(404);
    assert_eq!(off.get("stream_routes").header("access-control-allow-origin"), None);
}

#[test]
fn paths_and_methods_that_lead_nowhere() {
    let gateway = gateway();
    let head = gateway.request_with("HEAD", "/apisix/admin", &[], None).expect(200);
    assert_eq!(head.body, "");
    // Before authentication, and as a page.
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/apisix"),
        ("GET", "/apisix/admin"),
        ("GET", "/apisix/other/stream_routes"),
        ("PUT", "/apisix/admin/schema/validate/stream_routes"),
    ] {
        let answer = gateway.request_with(method, path, &[], None);
        assert!(matches!(answer.status, 401 | 404), "{method} {path}: {}", answer.status);
        if path != "/apisix/admin/schema/validate/stream_routes" {
            assert_eq!(answer.status, 404, "{method} {path}");
            assert!(answer.body.contains("<html>"), "{method} {path}: {}", answer.body);
        }
    }
    assert_eq!(gateway.request_with("HEAD", "stream_routes", &[], None).status, 404);
}

#[test]
fn authentication() {
    let gateway = gateway();
    let failure = |description: &str| json!({"error_msg": "failed to check token", "description": description});
    let none = gateway.request_with("GET", "stream_routes", &[], None).expect(401);
    assert_eq!(none.json(), failure("missing apikey"));
    assert_eq!(none.header("x-api-version"), None);
    assert_eq!(none.header("content-type"), Some("application/json"));
    let wrong =
        gateway.request_with("GET", "stream_routes", &[("X-API-KEY", "nope")], None).expect(401);
    assert_eq!(wrong.json(), failure("wrong apikey"));
    let viewer = [("X-API-KEY", VIEWER_KEY)];
    let _ = gateway.request_with("GET", "stream_routes", &viewer, None).expect(200);
    for method in ["PUT", "POST", "DELETE", "PATCH"] {
        let answer = gateway.request_with(method, "upstreams/1", &viewer, Some("{}")).expect(401);
        assert_eq!(answer.json(), failure("invalid method for role viewer"), "{method}");
    }
    // Three places for a key, in this order; the first that is there decides.
    let cookie = format!("a=b; x_api_key={ADMIN_KEY}; c=d");
    let _ = gateway.request_with("GET", "stream_routes", &[("Cookie", &cookie)], None).expect(200);
    let by_query = format!("stream_routes?api_key={ADMIN_KEY}");
    let _ = gateway.request_with("GET", &by_query, &[("X-API-KEY", "nope")], None).expect(200);
    let both = [("X-API-KEY", "nope"), ("Cookie", &*cookie)];
    let _ = gateway.request_with("GET", "stream_routes", &both, None).expect(401);
    let _ = gateway
        .request_with("GET", "stream_routes?api_key=nope", &[("X-API-KEY", ADMIN_KEY)], None)
        .expect(401);
    // Not a prefix, not another case, not with something behind it.
    for near in [&ADMIN_KEY[..10], &ADMIN_KEY.to_uppercase(), &format!("{ADMIN_KEY}x"), ""] {
        let _ =
            gateway.request_with("GET", "stream_routes", &[("X-API-KEY", near)], None).expect(401);
    }
}

#[test]
fn authentication_may_be_switched_off() {
    for yaml in ["admin_key_required: false", "admin_key: ~"] {
        let open = builder().admin(yaml).start();
        let answer = open.request_with("PUT", "upstreams/1", &[], Some(&nodes().to_string()));
        let _ = answer.expect(201);
    }
}

#[test]
fn the_order_of_dispatch() {
    let gateway = gateway();
    gateway.get("nonsense").refused(404, "Unsupported resource type: nonsense");
    gateway.get("nonsense/1").refused(404, "Unsupported resource type: nonsense");
    for resource in ["schema", "plugins"] {
        for method in ["POST", "PATCH", "DELETE"] {
            gateway.request(method, &format!("{resource}/x"), Some("{}")).refused(404, "not found");
        }
    }
    for (body, text) in [
        ("nope", "Expected value but found invalid token at character 1"),
        ("{nope}", "Expected object key string but found invalid token at character 2"),
    ] {
        let answer = gateway.request("PUT", "stream_routes/1", Some(body)).expect(400);
        assert_eq!(
            answer.json(),
            json!({"error_msg": format!("invalid request body: {text}"), "req_body": body})
        );
    }
    // Whatever else is wrong with it: 400, the reason, and the body as it was.
    for body in [
        "{\"a\":",
        "[1,2",
        "\"abc",
        "{\"a\":1}x",
        "{'a':1}",
        "nul",
        "{\"a\":01}",
        "\u{0}",
        "{\"a\":\"\n\"}",
    ] {
        let answer = gateway.request("PUT", "stream_routes/1", Some(body)).expect(400);
        assert!(
            answer.error_msg().starts_with("invalid request body: "),
            "{body:?}: {}",
            answer.body
        );
        assert_eq!(answer.json()["req_body"], body, "{body:?}");
    }
    for method in ["GET", "PUT", "DELETE"] {
        let path = "stream_routes/1?ttl=soon";
        gateway
            .request(method, path, None)
            .refused(400, "invalid argument ttl: should be a number");
    }
    let version = gateway.get("stream_routes");
    assert_eq!(version.header("x-api-version"), Some("v3"));
    assert_eq!(version.header("content-type"), Some("application/json"));
}

#[test]
fn methods_that_a_resource_does_not_have() {
    let gateway = gateway();
    for (path, method, kind) in [
        ("stream_routes/1", "PATCH", "stream route"),
        ("plugin_metadata/syslog", "POST", "plugin_metadata"),
        ("plugin_metadata/syslog", "PATCH", "plugin_metadata"),
        ("secrets/vault/1", "POST", "secret"),
        ("global_rules", "POST", "global rule"),
        ("plugin_configs", "POST", "plugin config"),
        ("consumers", "POST", "consumer"),
        ("consumers/jo", "PATCH", "consumer"),
        ("consumer_groups", "POST", "consumer group"),
        ("consumers/jo/credentials/1", "POST", "credential"),
        ("consumers/jo/credentials/1", "PATCH", "credential"),
        ("protos/1", "PATCH", "proto"),
    ] {
        gateway
            .request(method, path, Some("{}"))
            .refused(405, &format!("not supported `{method}` method for {kind}"));
    }
}

#[test]
fn slashes_and_the_alias_ssl() {
    let gateway = gateway();
    gateway.put("//apisix//admin///stream_routes/1", &json!({})).expect(201);
    gateway.get("/apisix/admin/stream_routes/1/").expect(200);
    gateway.get("/apisix/admin/stream_routes/").expect(200);
    gateway.get("//apisix/admin/stream_routes//1").expect(200);
    let body = json!({"sni": "a.test", "cert": CERT, "key": KEY});
    let made = gateway.put("ssl/1", &body).expect(201).json();
    assert_eq!(made["key"], "/apisix/ssls/1");
    gateway.get("ssls/1").expect(200);
    gateway.get("ssl").expect(200);
    gateway.delete("ssl/1").expect(200);
    gateway.get("ssls/1").expect(404);
}

// ---- bodies

#[test]
fn a_body_that_is_too_large_is_refused_before_it_is_read() {
    let gateway = gateway();
    // Only the header is sent: an answer shows that nobody waits for the body.
    let size = MAX_BODY + 1;
    let head = format!(
        "PUT /apisix/admin/stream_routes/1 HTTP/1.1\r\nHost: x\r\nX-API-KEY: {ADMIN_KEY}\r\n\
         Content-Length: {size}\r\n\r\n"
    );
    let answer = http::raw(gateway.admin(), head.as_bytes(), SOON).expect("reachable");
    let answer = http::parse(&answer, false).expect("an answer");
    answer.refused(
        400,
        &format!(
            "invalid request body: request size {size} is greater than the maximum size {MAX_BODY} allowed"
        ),
    );
    // A client that sends it all gets the same answer.
    let large = format!("{{\"desc\":\"{}\"}}", "x".repeat(2 << 20));
    let _ = gateway.request("PUT", "stream_routes/1", Some(&large)).expect(400);
    // Exactly the limit is allowed: here the schema complains, not the size.
    let filling = MAX_BODY - "{\"desc\":\"\"}".len();
    let full = format!("{{\"desc\":\"{}\"}}", "x".repeat(filling));
    assert_eq!(full.len(), MAX_BODY);
    let answer = gateway.request("PUT", "stream_routes/1", Some(&full)).expect(400);
    assert!(answer.error_msg().contains("string too long"), "{}", answer.body);
}

#[test]
fn chunked_bodies_have_the_same_limit() {
    let gateway = gateway();
    let send = |body: &[u8]| {
        let mut request = format!(
            "PUT /apisix/admin/upstreams/c HTTP/1.1\r\nHost: x\r\nX-API-KEY: {ADMIN_KEY}\r\n\
             Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        )
        .into_bytes();
        for chunk in body.chunks(10_000) {
            request.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            request.extend_from_slice(chunk);
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"0\r\n\r\n");
        let answer = http::raw(gateway.admin(), &request, SOON).expect("reachable");
        http::parse(&answer, false).expect("an answer")
    };
    let _ = send(nodes().to_string().as_bytes()).expect(201);
    let large = send(format!("{{\"desc\":\"{}\"}}", "x".repeat(3 << 20)).as_bytes()).expect(400);
    assert!(large.error_msg().contains("greater than the maximum size 1572864"), "{}", large.body);
}

#[test]
fn deep_and_wide_json() {
    let gateway = gateway();
    for deep in [
        format!("{{\"labels\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000)),
        "[".repeat(1_000_000),
        "{\"a\":".repeat(200_000),
    ] {
        let answer = gateway.request("PUT", "stream_routes/1", Some(&deep)).expect(400);
        assert!(answer.error_msg().starts_with("invalid request body: "), "{:.200}", answer.body);
    }
    // Wide is fine as long as it fits.
    let mut wide = serde_json::Map::new();
    for n in 0..20_000 {
        wide.insert(format!("10.{}.{}.{}:80", n / 62_500, n / 250 % 250, n % 250), json!(1));
    }
    gateway.put("upstreams/wide", &json!({"nodes": wide})).expect(201);
    let back = gateway.get("upstreams/wide").json();
    assert_eq!(back["value"]["nodes"].as_object().expect("an object").len(), 20_000);
}

#[test]
fn a_slow_body_arrives_and_disturbs_nobody() {
    let gateway = gateway();
    let body = nodes().to_string();
    let mut slow = client::connect(gateway.admin());
    let head = format!(
        "PUT /apisix/admin/upstreams/slow HTTP/1.1\r\nHost: x\r\nX-API-KEY: {ADMIN_KEY}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    slow.write_all(head.as_bytes()).expect("sent");
    for (n, byte) in body.bytes().enumerate() {
        slow.write_all(&[byte]).expect("sent");
        if n % 10 == 0 {
            // Others are served while it trickles in.
            gateway.put("upstreams/quick", &nodes()).ok();
        }
    }
    let answer = http::parse(&http::read_answer(&mut slow, SOON), false).expect("an answer");
    let _ = answer.expect(201);
    // One that never finishes holds up neither readers nor writers.
    let mut never = client::connect(gateway.admin());
    never.write_all(head.as_bytes()).expect("sent");
    never.write_all(b"{").expect("sent");
    let began = Instant::now();
    gateway.put("upstreams/quick", &nodes()).expect(200);
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn what_is_not_http_is_answered_or_closed_and_harms_nobody() {
    let gateway = gateway();
    let huge_header = format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "x".repeat(2 << 20));
    let many_headers = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(100_000));
    let long_path = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(1 << 20));
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"\r\n\r\n\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"PUT /apisix/admin/upstreams/1 HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"PUT /apisix/admin/upstreams/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"PUT /apisix/admin/upstreams/1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        huge_header.as_bytes(),
        many_headers.as_bytes(),
        long_path.as_bytes(),
    ] {
        let answer = http::raw(gateway.admin(), bytes, Duration::from_secs(2)).expect("reachable");
        if !answer.is_empty() {
            let parsed = http::parse(&answer, false).expect("HTTP, when there is an answer");
            assert!(parsed.status >= 400, "{} for {:.60?}", parsed.status, bytes);
        }
    }
    gateway.get("upstreams").expect(200);
}

#[test]
fn one_connection_serves_many_requests() {
    let gateway = gateway();
    let mut stream = client::connect(gateway.admin());
    for n in 0..50 {
        let request = format!(
            "GET /apisix/admin/upstreams HTTP/1.1\r\nHost: x\r\nX-API-KEY: {ADMIN_KEY}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        let complete = loop {
            let count = stream.read(&mut buffer).expect("an answer");
            assert!(count > 0, "closed after {n} requests");
            answer.extend_from_slice(&buffer[..count]);
            if let Ok(response) = http::parse(&answer, false) {
                break response;
            }
        };
        let _ = complete.expect(200);
    }
}

// ---- verbs

#[test]
fn ad_01_02_put_get_and_delete() {
    let gateway = gateway();
    let body = json!({"server_port": 9100, "upstream": {"type": "roundrobin", "nodes": {"10.0.0.5:5432": 1}}});
    let made = gateway.put("stream_routes/db", &body).expect(201);
    assert!(made.body.ends_with("}\n"), "{:?}", made.body);
    assert!(made.body.contains("\"key\":\"\\/apisix\\/stream_routes\\/db\""), "{}", made.body);
    let value = made.json()["value"].clone();
    let created = value["create_time"].as_u64().expect("a time");
    assert_eq!(value["update_time"], created);
    assert_eq!(value["id"], "db");
    // Exactly what was sent, the id and the times; no defaults of the schema.
    let mut expected = body;
    let members = expected.as_object_mut().expect("an object");
    members.insert("id".into(), json!("db"));
    members.insert("create_time".into(), json!(created));
    members.insert("update_time".into(), json!(created));
    assert_eq!(value, expected);

    let got = gateway.get("stream_routes/db").expect(200).json();
    assert_eq!(got["value"], expected);
    assert_eq!(got["key"], "/apisix/stream_routes/db");
    assert!(got["createdIndex"].is_u64() && got["modifiedIndex"] == got["createdIndex"], "{got}");

    let again = gateway.put("stream_routes/db", &json!({"desc": "new"})).expect(200).json();
    assert_eq!(again["value"]["create_time"], created);
    assert_eq!(again["value"].get("server_port"), None, "PUT replaces");
    let later = gateway.get("stream_routes/db").expect(200).json();
    assert_eq!(later["createdIndex"], got["createdIndex"]);
    assert!(later["modifiedIndex"].as_u64() > got["modifiedIndex"].as_u64());

    let gone = gateway.delete("stream_routes/db").expect(200).json();
    assert_eq!(gone, json!({"deleted": "1", "key": "/apisix/stream_routes/db"}));
    for answer in [gateway.delete("stream_routes/db"), gateway.get("stream_routes/db")] {
        assert_eq!(answer.expect(404).json(), json!({"message": "Key not found"}));
    }
    gateway.request("DELETE", "stream_routes", None).refused(400, "missing stream route id");
}

#[test]
fn ad_03_post_makes_an_id() {
    let gateway = gateway();
    let made = gateway.post("stream_routes", &json!({})).expect(201).json();
    let id = made["value"]["id"].as_str().expect("an id").to_owned();
    assert!(id.len() == 20 && id.bytes().all(|byte| byte.is_ascii_digit()), "{id}");
    assert_eq!(made["key"], format!("/apisix/stream_routes/{id}"));
    let other = gateway.post("stream_routes", &json!({})).expect(201).json();
    assert!(other["value"]["id"].as_str() > Some(&id), "ids grow");
    gateway.get(&format!("stream_routes/{id}")).expect(200);
    gateway.delete(&format!("stream_routes/{id}")).expect(200);
    for (path, body) in [("stream_routes/1", json!({})), ("stream_routes", json!({"id": "1"}))] {
        gateway.post(path, &body).refused(400, "wrong stream route id, do not need it");
    }
}

#[test]
fn ad_04_ids() {
    let gateway = gateway();
    for good in ["a", "A-b_c.9", "0", &"x".repeat(64)] {
        gateway.put(&format!("stream_routes/{good}"), &json!({})).expect(201);
    }
    for bad in ["*invalid", "a%20b", &"x".repeat(65)] {
        let answer = gateway.put(&format!("stream_routes/{bad}"), &json!({}));
        assert_eq!(answer.status, 400, "{bad}: {}", answer.body);
    }
    // A slash, encoded or not, ends the id, and what follows has no meaning.
    for (method, body) in
        [("PUT", Some("{}")), ("POST", Some("{}")), ("GET", None), ("DELETE", None)]
    {
        for path in ["stream_routes/a%2Fb", "stream_routes/a/b"] {
            gateway.request(method, path, body).refused(400, "invalid sub-path: /b");
        }
    }
    gateway.get("stream_routes/a").expect(200);
    gateway.request("PUT", "stream_routes/1", None).refused(400, "missing configurations");
    gateway.put("stream_routes", &json!({})).refused(400, "missing stream route id");
    gateway.put("stream_routes/1", &json!({"id": "2"})).refused(400, "wrong stream route id");
    gateway.put("stream_routes/1", &json!({"id": 1})).expect(201);
    let made = gateway.put("stream_routes", &json!({"id": 17})).expect(201).json();
    assert_eq!(made["value"]["id"], 17);
    assert_eq!(made["key"], "/apisix/stream_routes/17");
}

#[test]
fn times_may_not_be_written() {
    let gateway = gateway();
    for name in ["create_time", "update_time"] {
        gateway
            .put("stream_routes/1", &json!({name: 1_700_000_000}))
            .refused(400, &format!("the property is forbidden:  {name}"));
        gateway
            .put("stream_routes/1", &json!({"upstream": {"nodes": {}, name: 1}}))
            .refused(400, &format!("the property is forbidden:  upstream.{name}"));
    }
}

#[test]
fn schema_messages_have_the_references_wording() {
    let gateway = gateway();
    for (body, message) in [
        (
            json!({"server_port": "9100"}),
            "property \"server_port\" validation failed: wrong type: expected integer, got string",
        ),
        (
            json!({"server_port": 0}),
            "property \"server_port\" validation failed: expected 0 to be at least 1",
        ),
        (
            json!({"server_port": 65_536}),
            "property \"server_port\" validation failed: expected 65536 to be at most 65535",
        ),
        (
            json!({"name": ""}),
            "property \"name\" validation failed: string too short, expected at least 1, got 0",
        ),
        (
            json!({"desc": "é".repeat(257)}),
            "property \"desc\" validation failed: string too long, expected at most 256, got 257",
        ),
        (json!({"labels": []}), ""),
        (
            json!({"labels": {"a": 1}}),
            "property \"labels\" validation failed: failed to validate a (matching \".*\"): wrong type: expected string, got number",
        ),
        (
            json!({"sni": "a b"}),
            // The pattern as the schema has it.
            "property \"sni\" validation failed: failed to match pattern \"^\\*$|^\\*?[0-9a-zA-Z-._\\[\\]:]+$\" with \"a b\"",
        ),
        (
            json!({"upstream": {}}),
            "property \"upstream\" validation failed: value should match only one schema, but matches none",
        ),
        (
            json!({"upstream": {"nodes": {"a:1": -1}}}),
            "property \"upstream\" validation failed: property \"nodes\" validation failed: object matches none of the required",
        ),
        (json!({"upstream": {"nodes": {}, "timeout": {"connect": 1}}}), ""),
        (
            json!({"plugins": 1}),
            "property \"plugins\" validation failed: wrong type: expected object, got number",
        ),
    ] {
        let answer = gateway.put("stream_routes/1", &body);
        if message.is_empty() {
            // Undefined which of several is named first, or allowed (`{}` and `[]` are the same).
            assert!(matches!(answer.status, 200 | 201 | 400), "{body}");
            continue;
        }
        answer.refused(400, &format!("invalid configuration: {message}"));
    }
    let answer = gateway.request("PUT", "stream_routes/1", Some("[1]")).expect(400);
    assert!(!answer.error_msg().is_empty());
    gateway.request("PUT", "stream_routes/1", Some("\"text\"")).expect(400);
}

#[test]
fn references_must_exist() {
    let gateway = gateway();
    for (path, body, message) in [
        (
            "stream_routes/1",
            json!({"upstream_id": "x"}),
            "failed to fetch upstream info by upstream id [x], response code: 404",
        ),
        (
            "stream_routes/1",
            json!({"service_id": "y"}),
            "failed to fetch service info by service id [y], response code: 404",
        ),
        (
            "services/1",
            json!({"upstream_id": 5}),
            "failed to fetch upstream info by upstream id [5], response code: 404",
        ),
        (
            "routes/1",
            json!({"uri": "/", "upstream_id": "x"}),
            "failed to fetch upstream info by upstream id [x], response code: 404",
        ),
        (
            "routes/1",
            json!({"uri": "/", "service_id": "x"}),
            "failed to fetch service info by service id [x], response code: 404",
        ),
        (
            "upstreams/1",
            json!({"nodes": {}, "tls": {"client_cert_id": "z"}}),
            "failed to fetch ssl info by ssl id [z], response code: 404",
        ),
    ] {
        gateway.put(path, &body).refused(400, message);
    }
    gateway.put("ssls/z", &json!({"sni": "a.test", "cert": CERT, "key": KEY})).expect(201);
    gateway
        .put("upstreams/1", &json!({"nodes": {}, "tls": {"client_cert_id": "z"}}))
        .refused(400, "failed to fetch ssl info by ssl id [z], wrong ssl type");
}

#[test]
fn ad_05_plugins_and_protocols() {
    let gateway = gateway();
    gateway
        .put("stream_routes/1", &json!({"plugins": {"nope": {}}}))
        .refused(400, "unknown plugin [nope]");
    let both = json!({"plugins": {"ip-restriction": {"whitelist": ["10.0.0.1"], "blacklist": ["10.0.0.2"]}}});
    let answer = gateway.put("stream_routes/1", &both).expect(400);
    assert!(
        answer
            .error_msg()
            .starts_with("failed to check the configuration of stream plugin [ip-restriction]: "),
        "{}",
        answer.body
    );
    gateway
        .put("stream_routes/1", &json!({"plugins": {"limit-conn": 5}}))
        .refused(400, "invalid plugin conf 5 for plugin [limit-conn]");
    gateway
        .put("stream_routes/1", &json!({"protocol": {"name": "redis"}}))
        .refused(400, "unknown protocol [redis]");
    let good = json!({"plugins": {"ip-restriction": {"whitelist": ["10.0.0.1"]}}});
    gateway.put("stream_routes/1", &good).expect(201);
}

#[test]
fn ad_07_superior_routes() {
    let gateway =
        builder().top("xrpc:\n  protocols:\n    - name: redis\n    - name: dubbo").start();
    gateway.put("stream_routes/top", &json!({"protocol": {"name": "redis"}})).expect(201);
    let below =
        |name: &str, superior: &str| json!({"protocol": {"name": name, "superior_id": superior}});
    gateway
        .put("stream_routes/a", &below("redis", "none"))
        .refused(400, "failed to fetch stream routes[none], response code: 404");
    gateway
        .put("stream_routes/a", &below("redis", "a"))
        .refused(400, "stream route can not set itself as superior_id");
    gateway.put("stream_routes/a", &below("dubbo", "top")).refused(
        400,
        "protocol mismatch: subordinate protocol [dubbo] does not match superior protocol [redis]",
    );
    gateway.put("stream_routes/a", &below("redis", "top")).expect(201);
    gateway.delete("stream_routes/top").refused(
        400,
        "can not delete this stream route directly, stream route [a] is still using it as superior_id",
    );
    gateway.delete("stream_routes/top?force=true").expect(200);
}

#[test]
fn what_is_used_is_not_deleted_unless_forced() {
    let gateway = gateway();
    gateway.put("upstreams/u", &nodes()).expect(201);
    gateway.put("services/s", &json!({"upstream_id": "u"})).expect(201);
    gateway
        .delete("upstreams/u")
        .refused(400, "can not delete this upstream, service [s] is still using it now");
    gateway.put("routes/r", &json!({"uri": "/", "upstream_id": "u"})).expect(201);
    gateway
        .delete("upstreams/u")
        .refused(400, "can not delete this upstream, route [r] is still using it now");
    gateway.delete("routes/r").expect(200);
    gateway.put("routes/r", &json!({"uri": "/", "service_id": "s"})).expect(201);
    gateway
        .delete("services/s")
        .refused(400, "can not delete this service directly, route [r] is still using it now");
    gateway.delete("routes/r").expect(200);
    gateway.put("stream_routes/t", &json!({"service_id": "s"})).expect(201);
    gateway.delete("services/s").refused(
        400,
        "can not delete this service directly, stream_route [t] is still using it now",
    );
    for word in ["false", "1", "yes", ""] {
        gateway.delete(&format!("services/s?force={word}")).expect(400);
    }
    gateway.delete("services/s?force=true").expect(200);
    gateway.delete("stream_routes/t").expect(200);
    gateway.delete("upstreams/u").expect(200);
}

#[test]
fn a_certificate_that_a_stream_route_needs_is_not_deleted_unless_forced() {
    let gateway = gateway();
    let client = json!({"type": "client", "cert": CERT, "key": KEY});
    gateway.put("ssls/c", &client).expect(201);
    let upstream =
        json!({"nodes": {"127.0.0.1:1": 1}, "scheme": "tls", "tls": {"client_cert_id": "c"}});
    gateway.put("stream_routes/1", &json!({"upstream": upstream})).expect(201);
    let refused = gateway.delete("ssls/c").expect(400);
    assert!(refused.error_msg().contains("stream_route [1]"), "{}", refused.body);
    gateway.delete("ssls/c?force=true").expect(200);
}

#[test]
fn a_ttl_is_accepted_as_a_number() {
    let gateway = gateway();
    gateway.put("upstreams/1?ttl=3600", &nodes()).expect(201);
    gateway.get("upstreams/1").expect(200);
}

#[test]
fn a_ttl_ends_the_object() {
    let gateway = gateway();
    gateway.put("upstreams/short?ttl=1", &nodes()).expect(201);
    gateway.put("upstreams/kept?ttl=1", &nodes()).expect(201);
    // A write without ttl takes it away.
    gateway.put("upstreams/kept", &nodes()).expect(200);
    headgate_testkit::wait::until_true("the object is gone", SOON, || {
        gateway.get("upstreams/short").status == 404
    });
    gateway.get("upstreams/kept").expect(200);
}

// ---- PATCH

#[test]
fn patch_merges() {
    let gateway = gateway();
    let body = json!({
        "name": "old", "desc": "kept", "retries": 2,
        "nodes": {"127.0.0.1:1": 1, "127.0.0.1:2": 1},
        "labels": {"a": "1", "b": "2"}
    });
    gateway.put("upstreams/1", &body).expect(201);
    let change = json!({"name": "new", "retries": null, "labels": {"b": null, "c": "3"}, "nodes": {"127.0.0.1:2": 5}});
    let patched = gateway.patch("upstreams/1", &change).expect(200).json();
    assert_eq!(patched["key"], "/apisix/upstreams/1");
    let value = &patched["value"];
    assert_eq!(value["name"], "new");
    assert_eq!(value["desc"], "kept");
    assert_eq!(value.get("retries"), None);
    assert_eq!(value["labels"], json!({"a": "1", "c": "3"}));
    assert_eq!(value["nodes"], json!({"127.0.0.1:1": 1, "127.0.0.1:2": 5}));
    // Arrays are replaced.
    let list = json!([{"host": "a.test", "port": 1, "weight": 1}]);
    let value = gateway.patch("upstreams/1", &json!({"nodes": list})).expect(200).json();
    assert_eq!(value["value"]["nodes"], list);
    // The result is checked as a whole.
    let bad = gateway.patch("upstreams/1", &json!({"retries": -1})).expect(400);
    assert_eq!(
        bad.error_msg(),
        "invalid configuration: property \"retries\" validation failed: expected -1 to be at least 0"
    );
    let times = gateway.patch("upstreams/1", &json!({"update_time": 17})).expect(200).json();
    assert_eq!(times["value"]["update_time"], 17);
}

#[test]
fn patch_with_a_sub_path() {
    let gateway = gateway();
    gateway.put("upstreams/1", &nodes()).expect(201);
    let set = |path: &str, body: Value| gateway.patch(&format!("upstreams/1/{path}"), &body);
    let value = set("nodes", json!({"127.0.0.1:9": 9})).expect(200).json();
    assert_eq!(value["value"]["nodes"], json!({"127.0.0.1:9": 9}));
    let value = set("labels/env", json!("test")).expect(200).json();
    assert_eq!(value["value"]["labels"], json!({"env": "test"}));
    let value = set("desc", json!("a text")).expect(200).json();
    assert_eq!(value["value"]["desc"], "a text");
    set("desc/deeper", json!(1)).refused(400, "invalid sub-path: /desc");
    set("nodes/127.0.0.1:9", json!("many")).expect(400);
    let kept = gateway.get("upstreams/1").json();
    assert_eq!(
        kept["value"]["nodes"],
        json!({"127.0.0.1:9": 9}),
        "a refused change changes nothing"
    );
}

#[test]
fn patch_errors() {
    let gateway = gateway();
    gateway.put("upstreams/1", &nodes()).expect(201);
    assert_eq!(
        gateway.patch("upstreams/none", &json!({})).expect(404).json(),
        json!({"message": "Key not found"})
    );
    gateway.patch("upstreams", &json!({})).refused(400, "missing upstream id");
    gateway.request("PATCH", "upstreams/1", None).refused(400, "missing new configuration");
    gateway.request("PATCH", "upstreams/1", Some("5")).refused(400, "invalid configuration");
}

// ---- envelopes and lists

#[test]
fn lists() {
    let gateway = gateway();
    let empty = gateway.get("stream_routes").expect(200);
    assert_eq!(empty.json(), json!({"total": 0, "list": []}));
    for id in ["10", "2", "1", "a"] {
        gateway.put(&format!("stream_routes/{id}"), &json!({})).expect(201);
    }
    let all = gateway.get("stream_routes").expect(200).json();
    assert_eq!(all["total"], 4);
    assert_eq!(ids(&all), ["1", "10", "2", "a"], "in the order of keys");
    let first = &all["list"][0];
    assert_eq!(first["key"], "/apisix/stream_routes/1");
    assert!(first["createdIndex"].is_u64() && first["modifiedIndex"].is_u64(), "{first}");
}

fn ids(list: &Value) -> Vec<String> {
    list["list"]
        .as_array()
        .unwrap_or_else(|| panic!("no list in {list}"))
        .iter()
        .map(|item| item["value"]["id"].as_str().expect("an id").to_owned())
        .collect()
}

#[test]
fn paging() {
    let gateway = gateway();
    // Ids against the order of creation.
    for n in (0..25).rev() {
        gateway.put(&format!("stream_routes/r{n:02}"), &json!({})).expect(201);
    }
    let page = |query: &str| gateway.get(&format!("stream_routes?{query}"));
    let one = page("page=1&page_size=10").expect(200).json();
    assert_eq!(one["total"], 25);
    assert_eq!(ids(&one), (15..25).rev().map(|n| format!("r{n}")).collect::<Vec<_>>());
    let three = page("page=3&page_size=10").expect(200).json();
    assert_eq!(ids(&three), ["r04", "r03", "r02", "r01", "r00"]);
    assert_eq!(ids(&page("page=0&page_size=10").json()).len(), 10);
    assert_eq!(page("page=4&page_size=10").expect(200).json()["list"], json!({}));
    for size in ["9", "501", "0", "-1"] {
        let refused = page(&format!("page=1&page_size={size}")).expect(400);
        assert_eq!(refused.body, "page_size must be between 10 and 500");
    }
    for off in ["page=1", "page_size=10", "page=x&page_size=10"] {
        assert_eq!(ids(&page(off).expect(200).json()).len(), 25, "{off}");
    }
}

#[test]
fn filters() {
    let gateway = gateway();
    gateway.put("upstreams/u", &nodes()).expect(201);
    gateway.put("services/s", &nodes_service()).expect(201);
    for (id, body) in [
        ("1", json!({"name": "alpha", "labels": {"env": "x"}, "upstream_id": "u"})),
        ("2", json!({"name": "beta", "labels": {"env": "y", "tier": "z"}, "service_id": "s"})),
        ("3", json!({"name": "alphabet", "upstream_id": "u", "service_id": "s"})),
        ("4", json!({})),
    ] {
        gateway.put(&format!("stream_routes/{id}"), &body).expect(201);
    }
    for (query, expected) in [
        ("name=alpha", vec!["1", "3"]),
        ("name=%5Ealpha%24", vec!["1"]),
        ("name=b", vec!["2", "3"]),
        ("label=env", vec!["1", "2"]),
        ("label=tier", vec!["2"]),
        ("label=x", vec![]),
        ("name=alpha&label=env", vec!["1"]),
        ("filter=upstream_id%3Du", vec!["1", "3"]),
        ("filter=service_id%3Ds%26upstream_id%3Du", vec!["3"]),
        ("filter=upstream_id%3Dnone", vec![]),
    ] {
        let answer = gateway.get(&format!("stream_routes?{query}")).expect(200).json();
        assert_eq!(ids(&answer), expected, "{query}");
        assert_eq!(answer["total"], expected.len(), "{query}");
    }
}

fn nodes_service() -> Value {
    json!({"upstream": nodes()})
}

#[test]
fn the_v2_envelopes() {
    let gateway = builder().admin("admin_api_version: v2").start();
    let made = gateway.put("stream_routes/1", &json!({})).expect(201);
    assert_eq!(made.header("x-api-version"), Some("v2"));
    let made = made.json();
    assert_eq!(
        (&made["action"], &made["node"]["key"]),
        (&json!("set"), &json!("/apisix/stream_routes/1"))
    );
    assert_eq!(made["node"]["value"]["id"], "1");
    let got = gateway.get("stream_routes/1").expect(200).json();
    assert_eq!(got["action"], "get");
    assert_eq!(got["node"]["value"]["id"], "1");
    assert_eq!(got["node"].get("createdIndex"), None);
    let posted = gateway.post("upstreams", &nodes()).expect(201).json();
    assert_eq!(posted["action"], "create");
    let id = posted["node"]["value"]["id"].as_str().expect("an id").to_owned();
    let patched =
        gateway.patch(&format!("upstreams/{id}"), &json!({"desc": "x"})).expect(200).json();
    assert_eq!(patched["action"], "compareAndSwap");
    let list = gateway.get("stream_routes").expect(200).json();
    assert_eq!((&list["action"], &list["node"]["dir"]), (&json!("get"), &json!(true)));
    assert_eq!(list["node"]["key"], "/apisix/stream_routes");
    assert!(list["node"]["nodes"][0]["createdIndex"].is_u64(), "{list}");
    let gone = gateway.delete("stream_routes/1").expect(200).json();
    assert_eq!(gone["action"], "delete");
    assert_eq!(gone["deleted"], "1");
    assert_eq!(gone["key"], "/apisix/stream_routes/1");
}

// ---- other resources

#[test]
fn every_resource_can_be_written_and_read() {
    let gateway = gateway();
    for (path, body) in [
        ("upstreams/1", nodes()),
        ("services/1", nodes_service()),
        ("routes/1", json!({"uri": "/x", "upstream": nodes()})),
        ("stream_routes/1", json!({"upstream": nodes()})),
        ("ssls/1", json!({"sni": "a.test", "cert": CERT, "key": KEY})),
        ("global_rules/1", json!({"plugins": {"prometheus": {}}})),
        ("plugin_configs/1", json!({"plugins": {}})),
        ("consumer_groups/1", json!({"plugins": {}})),
        ("protos/1", json!({"content": "syntax = \"proto3\";"})),
        (
            "secrets/vault/1",
            json!({"uri": "http://127.0.0.1:8200", "prefix": "kv/apisix", "token": "t"}),
        ),
        ("plugin_metadata/syslog", json!({"log_format": {"host": "$host"}})),
        ("consumers/jo", json!({"username": "jo"})),
        ("consumers/jo/credentials/one", json!({"plugins": {"key-auth": {"key": "k"}}})),
    ] {
        let made = gateway.put(path, &body).expect(201);
        let again = gateway.put(path, &body).expect(200);
        assert_eq!(made.json()["key"], again.json()["key"], "{path}");
        let got = gateway.get(path).expect(200).json();
        assert_eq!(got["key"], made.json()["key"], "{path}");
        let collection = path.split('/').next().expect("a segment");
        assert!(gateway.get(collection).expect(200).json()["total"].as_u64() >= Some(1), "{path}");
    }
    gateway.delete("consumers/jo/credentials/one").expect(200);
    for path in
        ["consumers/jo", "plugin_metadata/syslog", "secrets/vault/1", "protos/1", "global_rules/1"]
    {
        gateway.delete(path).expect(200);
        gateway.get(path).expect(404);
    }
}

#[test]
fn upstream_checks() {
    let gateway = gateway();
    for (body, message) in [
        (
            json!({"nodes": [{"host": "::1", "port": 80, "weight": 1}]}),
            "invalid configuration: IPv6 address must be enclosed with '[' and ']'",
        ),
        (json!({"nodes": {"127.0.0.1:70000": 1}}), "invalid port 70000"),
        (json!({"nodes": {}, "type": "chash"}), "missing key"),
        (
            json!({"nodes": {}, "pass_host": "rewrite"}),
            "`upstream_host` can't be empty when `pass_host` is `rewrite`",
        ),
        (
            json!({"nodes": {}, "tls": {"client_cert": "x".repeat(200), "client_key": "y".repeat(200)}}),
            "failed to parse cert: PEM_read_bio_X509_AUX() failed",
        ),
        (
            json!({"nodes": {}, "checks": {"passive": {}}}),
            "invalid configuration: property \"checks\" validation failed: object matches none of the required: [\"active\"] or [\"active\",\"passive\"]",
        ),
        (
            json!({"nodes": {}, "service_name": "x", "discovery_type": "dns"}),
            "invalid configuration: value should match only one schema, but matches both schemas 1 and 2",
        ),
        (
            json!({"nodes": {}, "typo": 1}),
            "invalid configuration: additional properties forbidden, found typo",
        ),
    ] {
        gateway.put("upstreams/1", &body).refused(400, message);
    }
    // The upstream inside a stream route gets only the checks of the schema.
    let inline = json!({"upstream": {"nodes": {}, "type": "chash"}});
    gateway.put("stream_routes/1", &inline).expect(201);
}

#[test]
fn certificates() {
    let gateway = gateway();
    let put = |body: Value| gateway.put("ssls/1", &body);
    put(json!({"cert": CERT, "key": KEY}))
        .refused(400, "invalid configuration: then clause did not match");
    put(json!({"type": "client", "cert": CERT}))
        .refused(400, "invalid configuration: else clause did not match");
    put(json!({"sni": "a.test", "cert": "x".repeat(200), "key": KEY}))
        .refused(400, "failed to parse cert: PEM_read_bio_X509_AUX() failed");
    put(json!({"sni": "a.test", "cert": CERT, "key": format!("---{}", "x".repeat(200))}))
        .refused(400, "failed to parse key: PEM_read_bio_PrivateKey() failed");
    put(json!({"sni": "a.test", "cert": CERT, "key": "x".repeat(200)}))
        .refused(400, "failed to decrypt previous encrypted key");
    put(json!({"sni": "a.test", "cert": CERT, "key": KEY, "certs": [EC_CERT]}))
        .refused(400, "mismatched number of certs and keys");
    put(json!({"sni": "a.test", "cert": CERT, "key": KEY, "certs": ["y".repeat(200)], "keys": [EC_KEY]}))
        .refused(400, "failed to handle cert-key pair[1]: failed to parse cert: PEM_read_bio_X509_AUX() failed");
    put(json!({"sni": "a.test", "cert": CERT, "key": KEY, "client": {"ca": "z".repeat(200)}}))
        .refused(
            400,
            "failed to validate client_cert: failed to parse cert: PEM_read_bio_X509_AUX() failed",
        );

    let body = json!({"snis": ["a.test", "*.a.test"], "cert": CERT, "key": KEY, "certs": [EC_CERT], "keys": [EC_KEY]});
    let made = put(body).expect(201).json();
    let stored = made["value"]["key"].as_str().expect("the encrypted key");
    assert!(!stored.contains("PRIVATE KEY") && !stored.is_empty());
    let got = gateway.get("ssls/1").expect(200).json();
    assert_eq!((got["value"].get("key"), got["value"].get("keys")), (None, None));
    assert_eq!(got["value"]["cert"], CERT);
    let list = gateway.get("ssls").expect(200).json();
    assert_eq!(list["list"][0]["value"].get("key"), None);
    // What was encrypted can be sent back.
    put(json!({"sni": "a.test", "cert": CERT, "key": stored})).expect(200);
    let patched = gateway.patch("ssls/1/key", &json!(KEY)).expect(200);
    assert!(!patched.body.contains("PRIVATE KEY"), "{}", patched.body);
    // On disk, too.
    for entry in std::fs::read_dir(gateway.data()).expect("the data folder") {
        let bytes = std::fs::read(entry.expect("an entry").path()).unwrap_or_default();
        let needle = KEY.lines().nth(5).expect("a line").as_bytes();
        assert!(
            !bytes.windows(needle.len()).any(|window| window == needle),
            "a key in clear on disk"
        );
    }
}

#[test]
fn ad_08_keys_of_upstreams_are_encrypted() {
    let gateway = gateway();
    let tls = json!({"client_cert": CERT, "client_key": KEY});
    gateway.put("upstreams/1", &json!({"nodes": {}, "tls": tls})).expect(201);
    gateway.put("stream_routes/1", &json!({"upstream": {"nodes": {}, "tls": tls}})).expect(201);
    for (path, pointer) in [
        ("upstreams/1", "/value/tls/client_key"),
        ("stream_routes/1", "/value/upstream/tls/client_key"),
    ] {
        let got = gateway.get(path).expect(200).json();
        let key = got.pointer(pointer).and_then(Value::as_str).expect("a key");
        assert!(!key.contains("PRIVATE"), "{path}");
    }
}

#[test]
fn secrets_and_metadata() {
    let gateway = gateway();
    let vault = json!({"uri": "http://127.0.0.1:8200", "prefix": "kv", "token": "t"});
    let made = gateway.put("secrets/vault/a", &vault).expect(201).json();
    assert_eq!(
        (&made["value"]["id"], &made["key"]),
        (&json!("vault/a"), &json!("/apisix/secrets/vault/a"))
    );
    gateway.put("secrets/nope/a", &vault).refused(400, "invalid secret manager: nope");
    gateway.request("DELETE", "secrets", None).refused(400, "missing secret id");
    gateway.request("PATCH", "secrets", Some("{}")).refused(400, "no secret id");
    assert_eq!(gateway.get("secrets/vault").expect(200).json()["total"], 1);
    let value = gateway.patch("secrets/vault/a/token", &json!("new")).expect(200).json();
    assert_eq!(value["value"]["token"], "new");
    let made = gateway
        .put("plugin_metadata/syslog", &json!({"log_format": {"h": "$host"}}))
        .expect(201)
        .json();
    assert_eq!(made["value"], json!({"log_format": {"h": "$host"}, "id": "syslog"}));
    gateway.put("plugin_metadata/no-such-plugin", &json!({})).refused(400, "invalid plugin name");
    gateway.put("plugin_metadata", &json!({})).refused(400, "missing plugin name");
}

#[test]
fn consumers_take_their_id_from_the_body() {
    let gateway = gateway();
    gateway.put("consumers", &json!({"username": "jo"})).expect(201);
    gateway.put("consumers", &json!({"username": "jo", "desc": "x"})).expect(200);
    gateway.get("consumers/jo").expect(200);
    gateway.put("consumers", &json!({})).expect(400);
    gateway.put("consumers/jo/credentials/c", &json!({"plugins": {}})).expect(201);
    gateway.delete("consumers/jo").expect(200);
    gateway.get("consumers/jo/credentials/c").expect(404);
}

// ---- plugins, schemas, validation

#[test]
fn plugins_and_schemas() {
    let gateway = gateway();
    let list = gateway.get("plugins/list?subsystem=stream").expect(200);
    assert_eq!(list.header("x-api-version"), None);
    assert_eq!(
        list.json(),
        json!(["ip-restriction", "limit-conn", "mqtt-proxy", "traffic-split", "syslog"])
    );
    assert!(
        gateway.get("plugins/list").expect(200).json().as_array().is_some_and(|l| l.len() > 20)
    );
    let bad = gateway.get("plugins/list?subsystem=x").expect(400);
    assert_eq!(bad.body, "invalid subsystem passed");
    let schema = gateway.get("plugins/limit-conn?subsystem=stream").expect(200).json();
    assert!(schema["properties"]["_meta"].is_object(), "{schema}");
    gateway.get("plugins/nope").refused(404, "plugin not found in subsystem http");
    gateway.get("plugins/limit-conn?subsystem=x").refused(400, "unsupported subsystem: x");
    gateway.get("plugins").refused(404, "plugin not found in subsystem http");
    let all = gateway.get("plugins?all=true&subsystem=stream").expect(200).json();
    assert_eq!(all["ip-restriction"]["priority"], 3000);
    for name in
        ["route", "service", "upstream", "ssl", "stream_route", "id_schema", "consumer", "proto"]
    {
        assert!(gateway.get(&format!("schema/{name}")).expect(200).json().is_object(), "{name}");
    }
    gateway.get("schema/nope").refused(400, "not found schema: nope");
    gateway.get("schema/plugins/limit-conn").expect(200);
    let done = gateway.request("PUT", "plugins/reload", None).expect(200);
    assert_eq!(done.body, "done");
    gateway
        .request("GET", "plugins/reload", None)
        .refused(405, "please use PUT method to reload the plugins, GET method is not allowed.");
}

#[test]
fn validation_without_storing() {
    let gateway = gateway();
    let check =
        |resource: &str, body: &Value| gateway.post(&format!("schema/validate/{resource}"), body);
    assert_eq!(check("stream_routes", &json!({"server_port": 1})).expect(200).body, "");
    check("stream_routes", &json!({"server_port": 0}))
        .refused(400, "property \"server_port\" validation failed: expected 0 to be at least 1");
    // The schema only: references are not looked up.
    let _ = check("stream_routes", &json!({"upstream_id": "none"})).expect(200);
    check("nope", &json!({})).refused(404, "Unsupported resource type: nope");
    gateway.get("stream_routes").expect(200);
    assert_eq!(gateway.get("stream_routes").json()["total"], 0);

    let whole = json!({"stream_routes": [{"id": "a", "server_port": 1}], "upstreams": [{"id": "u", "nodes": {}}]});
    assert_eq!(gateway.post("configs/validate", &whole).expect(200).json(), json!({}));
    let broken = json!({"stream_routes": [{"id": "a", "server_port": 0}, {"id": "b", "x": 1}], "upstreams": [{"id": "u"}]});
    let answer = gateway.post("configs/validate", &broken).expect(400).json();
    assert_eq!(answer["error_msg"], "Configuration validation failed");
    let errors = answer["errors"].as_array().expect("a list");
    assert_eq!(errors.len(), 3, "{answer}");
    let of_b = errors.iter().find(|error| error["resource_id"] == "b").expect("an error of b");
    assert_eq!(
        *of_b,
        json!({"resource_type": "stream_routes", "resource_id": "b", "index": 1,
               "error": "invalid configuration: additional properties forbidden, found x"})
    );
    gateway
        .post("configs/validate", &json!({"stream_routes": [{"id": "a"}, {"id": "a"}]}))
        .expect(400);
}

// ---- what headgate adds

#[test]
fn if_match_detects_a_lost_race() {
    let gateway = gateway();
    gateway.put("upstreams/1", &nodes()).expect(201);
    let index = |path: &str| gateway.get(path).json()["modifiedIndex"].as_u64().expect("a number");
    let send = |method: &str, path: &str, matched: &str, body: Option<&str>| {
        let headers = [("X-API-KEY", ADMIN_KEY), ("If-Match", matched)];
        gateway.request_with(method, path, &headers, body)
    };
    let body = nodes().to_string();
    let seen = index("upstreams/1");
    let _ = send("PUT", "upstreams/1", &seen.to_string(), Some(&body)).expect(200);
    for method in ["PUT", "PATCH", "DELETE"] {
        let lost = send(method, "upstreams/1", &seen.to_string(), Some(&body)).expect(412);
        assert!(!lost.error_msg().is_empty(), "{method}");
    }
    let seen = index("upstreams/1");
    let _ =
        send("PATCH", "upstreams/1", &format!("\"{seen}\""), Some("{\"desc\":\"x\"}")).expect(200);
    let _ = send("PUT", "upstreams/none", "5", Some(&body)).expect(412);
    let seen = index("upstreams/1");
    let _ = send("DELETE", "upstreams/1", &seen.to_string(), None).expect(200);
}

#[test]
fn of_two_racing_writers_with_if_match_one_wins() {
    let gateway = gateway();
    gateway.put("upstreams/1", &nodes()).expect(201);
    for _ in 0..10 {
        let seen = gateway.get("upstreams/1").json()["modifiedIndex"].to_string();
        let admin = gateway.admin();
        let racers: Vec<_> = (0..4)
            .map(|n| {
                let seen = seen.clone();
                std::thread::spawn(move || {
                    let body = json!({"nodes": {}, "desc": n.to_string()}).to_string();
                    let headers = [("X-API-KEY", ADMIN_KEY), ("If-Match", &*seen)];
                    http::request(
                        admin,
                        "PUT",
                        "/apisix/admin/upstreams/1",
                        &headers,
                        Some(body.as_bytes()),
                        SOON,
                    )
                    .expect("an answer")
                    .status
                })
            })
            .collect();
        let mut statuses: Vec<u16> =
            racers.into_iter().map(|racer| racer.join().expect("no panic")).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 412, 412, 412]);
    }
}

#[test]
fn warnings_about_what_cannot_take_effect() {
    let gateway = gateway();
    let port = gateway.tcp_port(0);
    let codes = |answer: &Response| -> Vec<String> {
        answer
            .warnings()
            .iter()
            .map(|warning| {
                for part in ["message", "hint"] {
                    let text = warning[part].as_str().unwrap_or_default();
                    assert!(!text.is_empty(), "{part} in {warning}");
                }
                warning["code"].as_str().expect("a code").to_owned()
            })
            .collect()
    };
    // Nothing to say about what is fine.
    let fine = json!({"server_port": port, "remote_addr": "10.0.0.1", "upstream": nodes()});
    let answer = gateway.put("stream_routes/fine", &fine).expect(201);
    assert_eq!(answer.json().get("warnings"), None, "{}", answer.body);

    let cases = [
        (
            "no listener on that port",
            json!({"server_port": 1, "upstream": nodes()}),
            "listener/port",
        ),
        (
            "an SNI but no TLS listener",
            json!({"sni": "a.test", "upstream": nodes()}),
            "listener/tls",
        ),
        (
            "no certificate for the SNI",
            json!({"sni": "b.test", "upstream": nodes()}),
            "sni/certificate",
        ),
        ("no upstream at all", json!({"server_port": port}), "route/no-upstream"),
    ];
    for (name, body, code) in cases {
        let answer = gateway.put("stream_routes/warned", &body).ok();
        assert!(codes(&answer).contains(&code.to_owned()), "{name}: {}", answer.body);
        assert_eq!(answer.json()["key"], "/apisix/stream_routes/warned");
        gateway.delete("stream_routes/warned").expect(200);
    }
    let empty = gateway.put("upstreams/empty", &json!({"nodes": {}})).expect(201);
    assert!(!codes(&empty).is_empty(), "{}", empty.body);

    // Everything after a route that takes all is in its shadow.
    gateway.put("stream_routes/all", &json!({"upstream": nodes()})).expect(201);
    let later = gateway
        .post("stream_routes", &json!({"server_port": port, "upstream": nodes()}))
        .expect(201);
    assert!(codes(&later).contains(&"route/shadowed".to_owned()), "{}", later.body);
    assert!(later.body.contains("all"), "the route that casts it is named: {}", later.body);
    // Reading never warns.
    assert_eq!(gateway.get("stream_routes/all").json().get("warnings"), None);
}

#[test]
fn warnings_can_be_switched_off() {
    let gateway = builder().admin("warnings: false").start();
    let answer = gateway.put("stream_routes/1", &json!({"server_port": 1})).expect(201);
    assert_eq!(answer.json().get("warnings"), None);
}

#[test]
fn the_embedded_stores_prefix_is_the_configured_one() {
    // Naming an etcd host would select etcd; the prefix alone does not.
    let gateway = builder().deployment("etcd:\n  prefix: /gate").start();
    let made = gateway.put("stream_routes/1", &json!({})).expect(201).json();
    assert_eq!(made["key"], "/gate/stream_routes/1");
}

#[test]
fn nothing_an_admin_client_does_disturbs_the_traffic() {
    let gateway = builder().start();
    let node = TcpPeer::echo();
    gateway.put("stream_routes/1", &json!({"upstream": {"nodes": {node.node(): 1}}})).expect(201);
    let mut open = client::connect(gateway.tcp(0));
    // Not `[]`: to the reference's language that is the empty object, a route without upstream.
    for body in ["{", "[1]", "{\"upstream\":5}", &"x".repeat(MAX_BODY + 5)] {
        gateway.request("PUT", "stream_routes/1", Some(body)).expect(400);
        client::assert_alive(&mut open);
        client::assert_alive(&mut client::connect(gateway.tcp(0)));
    }
}

#[test]
fn unicode_and_escapes_come_back_as_they_went() {
    let gateway = gateway();
    let desc = "ünï©ode ✓ \u{1F600} \"quoted\" back\\slash /slash\\/ tab\t newline\n nul-free";
    gateway.put("stream_routes/1", &json!({"desc": desc, "name": "名前"})).expect(201);
    let got = gateway.get("stream_routes/1").expect(200);
    assert_eq!(got.json()["value"]["desc"], desc);
    assert_eq!(got.json()["value"]["name"], "名前");
    // Numbers keep their kind and size.
    let labels = json!({"nodes": [{"host": "127.0.0.1", "port": 1, "weight": 1, "metadata": {"big": 9_007_199_254_740_993_u64, "float": 1.5, "deep": [[{}], null]}}]});
    gateway.put("upstreams/n", &labels).expect(201);
    assert_eq!(gateway.get("upstreams/n").json()["value"]["nodes"], labels["nodes"]);
}
