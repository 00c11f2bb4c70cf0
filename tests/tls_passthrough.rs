//! TLS relayed as it is, by the name in its ClientHello; and listeners that do both.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::io::Write as _;

use headgate_testkit::certificate::Authority;
use headgate_testkit::client::{self, Seen};
use headgate_testkit::tls::{self, TLS12, TLS13, TlsClient};
use headgate_testkit::{Gateway, GatewayBuilder, SOON, TcpPeer};
use serde_json::{Value, json};

const BIN: &str = env!("CARGO_BIN_EXE_headgate");
const FORMAT: &str = "status=$status reason=$close_reason in=$bytes_received out=$bytes_sent \
    route=$route_id sni=$ssl_server_name protocol=$ssl_protocol";
const THROUGH: &str = "addr: \"127.0.0.1:{port}\"\ntls_passthrough: true";
const MIXED: &str = "addr: \"127.0.0.1:{port}\"\ntls: true\ntls_passthrough: true";
const TLS: &str = "addr: \"127.0.0.1:{port}\"\ntls: true";

fn gateway() -> GatewayBuilder {
    Gateway::builder(BIN).access_format(FORMAT)
}

fn route(node: &TcpPeer, more: Value) -> Value {
    let mut route = json!({"upstream": {"nodes": {node.node(): 1}}});
    let more = more.as_object().cloned().unwrap_or_default();
    route.as_object_mut().expect("an object").extend(more);
    route
}

/// What the node behind a name says first, in TLS.
fn first_line(client: &TlsClient, gateway: &Gateway, name: &str) -> Result<String, String> {
    let mut stream = client.connect(gateway.tcp(0), name)?;
    stream.conn.send_close_notify();
    stream.flush().map_err(|error| error.to_string())?;
    let (bytes, _) = tls::read_to_end(&mut stream);
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

#[test]
fn names_choose_among_nodes_that_have_their_own_certificates() {
    let authority = Authority::new("root");
    let (one, two) = (authority.server(&["one.test"]), authority.server(&["two.test"]));
    let (node1, node2) = (tls::naming_node(&one, None), tls::naming_node(&two, None));
    let gateway = gateway().tcp_entry(THROUGH).start();
    gateway.put("stream_routes/1", &route(&node1, json!({"sni": "one.test"}))).expect(201);
    gateway.put("stream_routes/2", &route(&node2, json!({"sni": "*.two.test"}))).expect(201);
    for versions in [&[&TLS12][..], &[&TLS13]] {
        let client = TlsClient::with_versions(versions);
        let stream = client.connect(gateway.tcp(0), "One.test").expect("a handshake");
        assert_eq!(tls::shown(&stream), tls::der(&one), "the node's own certificate");
        drop(stream);
        assert_eq!(first_line(&client, &gateway, "a.b.two.test").as_deref(), Ok("a.b.two.test"));
    }
    gateway.wait_access(&["reason=OK", "route=2 sni=a.b.two.test protocol=-"]);
    assert!(first_line(&TlsClient::default(), &gateway, "other.test").is_err());
    gateway.wait_access(&["status=404 reason=NR", "sni=other.test"]);
    let mut plain = client::connect(gateway.tcp(0));
    client::send(&mut plain, b"SSH-2.0-client\r\n");
    assert_eq!(client::read_to_end(&mut plain), Seen::Closed);
    gateway.wait_for_log("plain bytes on a TLS listener: SSH, not TLS", SOON);
}

#[test]
fn a_mixed_listener_lets_the_route_decide() {
    let authority = Authority::new("root");
    let through = tls::naming_node(&authority.server(&["through.test"]), None);
    let ended = TcpPeer::named("plain node");
    let gateway = gateway().tcp_entry(MIXED).start();
    let own = authority.server(&["ended.test"]);
    let ssl = json!({"cert": own.cert, "key": own.key, "sni": "ended.test"});
    gateway.put("ssls/1", &ssl).expect(201);
    let raw = route(&through, json!({"sni": "through.test", "tls_passthrough": true}));
    gateway.put("stream_routes/1", &raw).expect(201);
    gateway.put("stream_routes/2", &route(&ended, json!({"sni": "ended.test"}))).expect(201);
    let client = TlsClient::default();
    assert_eq!(first_line(&client, &gateway, "through.test").as_deref(), Ok("through.test"));
    assert_eq!(first_line(&client, &gateway, "ended.test").as_deref(), Ok("plain node"));
    let error = first_line(&client, &gateway, "unknown.test").expect_err("no certificate");
    assert!(error.contains("InternalError"), "{error}");
}

#[test]
fn protocols_choose_too() {
    let (a, b) = (TcpPeer::named("mqtt"), TcpPeer::named("rest"));
    let authority = Authority::new("root");
    let gateway = gateway().tcp_entry(TLS).start();
    let own = authority.server(&["a.test"]);
    let ssl = json!({"cert": own.cert, "key": own.key, "sni": "a.test"});
    gateway.put("ssls/1", &ssl).expect(201);
    let named = json!({"sni": "a.test", "alpn": ["mqtt", "x-mqtt"]});
    gateway.put("stream_routes/1", &route(&a, named)).expect(201);
    gateway.put("stream_routes/2", &route(&b, json!({"sni": "a.test"}))).expect(201);
    let client = TlsClient::default();
    assert_eq!(first_line(&client, &gateway, "a.test").as_deref(), Ok("rest"));
    let client = client.offering(&["h2", "x-mqtt"]);
    assert_eq!(first_line(&client, &gateway, "a.test").as_deref(), Ok("mqtt"));
}

#[test]
fn a_route_that_must_not_be_opened_is_not() {
    let node = TcpPeer::named("a");
    let authority = Authority::new("root");
    let gateway = gateway().tcp_entry(TLS).start();
    let own = authority.server(&["a.test"]);
    let ssl = json!({"cert": own.cert, "key": own.key, "sni": "a.test"});
    gateway.put("ssls/1", &ssl).expect(201);
    let through = route(&node, json!({"sni": "a.test", "tls_passthrough": true}));
    let warnings = gateway.put("stream_routes/1", &through).ok().warnings();
    assert!(warnings.iter().any(|it| it["code"] == "listener/passthrough"), "{warnings:?}");
    assert_eq!(first_line(&TlsClient::default(), &gateway, "a.test").as_deref(), Ok(""));
    gateway.wait_access(&["status=503 reason=NP", "route=1"]);
    assert_eq!(node.accepted(), 0);
    let both = json!({"sni": "a.test", "snis": ["b.test"]});
    gateway.put("stream_routes/2", &route(&node, both)).expect(400);
}

#[test]
fn a_hello_may_come_byte_by_byte() {
    let authority = Authority::new("root");
    let own = authority.server(&["a.test"]);
    let node = tls::naming_node(&own, None);
    let gateway = gateway().tcp_entry(THROUGH).tcp_entry(TLS).start();
    let ssl = json!({"cert": own.cert, "key": own.key, "sni": "a.test"});
    gateway.put("ssls/1", &ssl).expect(201);
    let name = json!({"sni": "a.test"});
    let mut through = route(&node, name);
    through["upstream"]["scheme"] = json!("tls");
    for (listener, scheme) in [(0, "tcp"), (1, "tls")] {
        through["upstream"]["scheme"] = json!(scheme);
        gateway.put("stream_routes/1", &through).ok();
        let (tls, hello) = TlsClient::default().hello("a.test");
        let mut socket = client::connect(gateway.tcp(listener));
        for byte in &hello {
            client::send(&mut socket, &[*byte]);
        }
        let mut stream = TlsClient::finish(tls, socket).expect("a handshake");
        stream.conn.send_close_notify();
        stream.flush().expect("close_notify");
        assert_eq!(tls::read_to_end(&mut stream).0, b"a.test\n", "{listener}");
    }
}

#[test]
fn tls_on_a_plain_listener_is_named() {
    let node = TcpPeer::named("a");
    let gateway = gateway().tcp(1).start();
    gateway.put("stream_routes/1", &route(&node, json!({"sni": "a.test"}))).expect(201);
    assert!(TlsClient::default().connect(gateway.tcp(0), "a.test").is_err());
    gateway.wait_for_log("TLS on a listener without TLS", SOON);
    gateway.wait_access(&["status=404 reason=XT"]);
    // Others do not wait longer than a moment.
    let mut silent = client::connect(gateway.tcp(0));
    assert_eq!(client::read_to_end(&mut silent), Seen::Closed);
    gateway.wait_access(&["status=404 reason=NR"]);
}
