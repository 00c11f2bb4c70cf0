//! The door: order, `_meta`, merge, refusals (PL), with ip-restriction as its example (IP).

use std::io::Read as _;
use std::time::Duration;

use headgate_testkit::certificate::Authority;
use headgate_testkit::client::{self, reach, reach_from};
use headgate_testkit::tls::{self, TlsClient};
use headgate_testkit::{Gateway, SOON, TcpPeer, UdpPeer, wait};
use serde_json::{Value, json};

use crate::{BIN, gateway, ip, route, to};

#[test]
fn ip_01_a_blacklisted_client_is_closed_without_bytes() {
    let (gateway, node) = (gateway(), TcpPeer::named("a"));
    route(&gateway, &node, json!({"ip-restriction": {"blacklist": ["127.0.0.0/24", "::1"]}}));
    assert_eq!(reach(gateway.tcp(0)), None);
    gateway.wait_for_log("ip-restriction exits with status code 403", SOON);
    gateway.wait_access(&["127.0.0.1 403 RJ"]);
    assert_eq!(reach_from(ip("127.0.1.1"), gateway.tcp(0)), Some("a".into()));
    assert_eq!(node.accepted(), 1, "a refused client costs no connection");
}

#[test]
fn ip_02_a_whitelist_lets_in() {
    let (gateway, node) = (gateway(), TcpPeer::named("a"));
    let conf = json!({"whitelist": ["127.0.0.9", "10.0.0.0/8"], "response_code": 404});
    route(&gateway, &node, json!({"ip-restriction": conf}));
    assert_eq!(reach_from(ip("127.0.0.9"), gateway.tcp(0)), Some("a".into()));
    assert_eq!(reach(gateway.tcp(0)), None);
    gateway.wait_for_log("ip-restriction exits with status code 404", SOON);
    gateway.wait_access(&["127.0.0.1 404 RJ"]);
}

#[test]
fn ip_03_wrong_lists_are_refused() {
    let gateway = gateway();
    for (conf, part) in [
        (json!({}), "value should match only one schema, but matches none"),
        (
            json!({"whitelist": ["1.1.1.1"], "blacklist": ["1.1.1.1"]}),
            "value should match only one schema, but matches both schemas 1 and 2",
        ),
        (json!({"whitelist": ["::/129"]}), "invalid ip address: ::/129"),
    ] {
        let body = json!({"plugins": {"ip-restriction": conf}});
        let message = gateway.put("stream_routes/1", &body).expect(400).error_msg();
        let intro = "failed to check the configuration of stream plugin [ip-restriction]: ";
        assert_eq!(message, format!("{intro}{part}"));
    }
}

#[test]
fn ip_restriction_holds_for_datagrams() {
    let gateway = Gateway::builder(BIN).udp(1).access_format("$status $close_reason").start();
    let node = UdpPeer::echo();
    let plugins = json!({"ip-restriction": {"blacklist": ["127.0.0.1"]}});
    let body = json!({"upstream": {"nodes": {node.node(): 1}}, "plugins": plugins});
    gateway.put("stream_routes/1", &body).expect(201);
    let socket = client::udp(gateway.udp(0));
    socket.send(b"x").expect("sending");
    gateway.wait_access(&["403 RJ"]);
    assert_eq!(node.received(), 0);
    gateway.put("stream_routes/1", &json!({"upstream": {"nodes": {node.node(): 1}}})).expect(200);
    assert_eq!(client::ask(&socket, b"y"), b"y", "the next datagram is judged anew");
}

#[test]
fn pl_02_disabled_and_filtered_plugins_are_skipped() {
    let (gateway, node) = (gateway(), TcpPeer::named("a"));
    let with_meta =
        |meta: Value| json!({"ip-restriction": {"blacklist": ["127.0.0.1"], "_meta": meta}});
    route(&gateway, &node, with_meta(json!({"disable": true})));
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
    let other = json!([["server_port", "==", gateway.tcp_port(0) + 1]]);
    route(&gateway, &node, with_meta(json!({"filter": other})));
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
    let this = json!([["server_port", "==", gateway.tcp_port(0)]]);
    route(&gateway, &node, with_meta(json!({"filter": this})));
    assert_eq!(reach(gateway.tcp(0)), None);
    let broken = with_meta(json!({"filter": [["server_port", "="]]}));
    let body = json!({"upstream": to(&node), "plugins": broken});
    let warnings = gateway.put("stream_routes/1", &body).ok().warnings();
    assert_eq!(warnings[0]["code"], "plugin/filter", "{warnings:?}");
    assert_eq!(reach(gateway.tcp(0)), None, "a plugin with a broken filter runs");
    gateway.wait_for_log("failed to get the 'vars' expression: rule too short", SOON);
}

#[test]
fn a_refused_client_is_told_if_meta_says_so() {
    let (gateway, node) = (gateway(), TcpPeer::named("a"));
    let meta = json!({"error_response": {"reason": "not you"}});
    let plugins = json!({"ip-restriction": {"blacklist": ["127.0.0.1"], "_meta": meta}});
    route(&gateway, &node, plugins);
    let mut stream = client::connect(gateway.tcp(0));
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an orderly end");
    assert_eq!(answer, r#"{"reason":"not you"}"#);
}

#[test]
fn a_refused_tls_client_is_told_in_its_own_tls() {
    let entry = "addr: \"127.0.0.1:{port}\"\ntls: true";
    let gateway = Gateway::builder(BIN).tcp_entry(entry).access_format("$status $close_reason");
    let (gateway, node) = (gateway.start(), TcpPeer::echo());
    let certificate = Authority::new("root").server(&["a.test"]);
    let ssl = json!({"cert": certificate.cert, "key": certificate.key, "snis": ["a.test"]});
    gateway.put("ssls/1", &ssl).expect(201);
    let meta = json!({
        "error_response": "not you",
        "filter": [["ssl_server_name", "==", "a.test"]],
    });
    let plugins = json!({"ip-restriction": {"blacklist": ["127.0.0.1"], "_meta": meta}});
    route(&gateway, &node, plugins);
    let mut stream = TlsClient::default().connect(gateway.tcp(0), "a.test").expect("TLS");
    let (bytes, end) = tls::read_to_end(&mut stream);
    assert_eq!(String::from_utf8_lossy(&bytes), "not you");
    assert!(end.is_ok(), "{end:?}");
    gateway.wait_access(&["403 RJ"]);
    // The filter knows the server name: another plugin decides by it, over decrypted bytes.
    route(&gateway, &node, json!({"mqtt-proxy": {"protocol_level": 4}}));
    let mut stream = TlsClient::default().connect(gateway.tcp(0), "a.test").expect("TLS");
    let packet = b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03abc";
    assert_eq!(tls::echo(&mut stream, packet).expect("the echo"), packet);
}

#[test]
fn a_service_lends_its_plugins_by_name() {
    let (gateway, node) = (gateway(), TcpPeer::named("a"));
    let deny = json!({"ip-restriction": {"blacklist": ["127.0.0.1"]}});
    let allow = json!({"ip-restriction": {"whitelist": ["127.0.0.1"]}});
    let service = json!({"upstream": to(&node), "plugins": deny});
    gateway.put("services/1", &service).expect(201);
    gateway.put("stream_routes/1", &json!({"service_id": "1"})).expect(201);
    assert_eq!(reach(gateway.tcp(0)), None);
    gateway.put("stream_routes/1", &json!({"service_id": "1", "plugins": allow})).expect(200);
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()), "the route's own wins whole");
    gateway.put("stream_routes/1", &json!({"service_id": "1"})).expect(200);
    assert_eq!(reach(gateway.tcp(0)), None);
    gateway.put("services/1", &json!({"upstream": to(&node)})).expect(200);
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()), "a change of the service counts");
    // The service is not consulted at all when the route names an upstream object.
    gateway.put("services/1", &service).expect(200);
    gateway.put("upstreams/1", &to(&node)).expect(201);
    let body = json!({"service_id": "1", "upstream_id": "1"});
    gateway.put("stream_routes/1", &body).expect(200);
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
}

#[test]
fn sessions_keep_their_plugins_and_new_ones_get_new_ones() {
    let (gateway, node) = (gateway(), TcpPeer::echo());
    route(&gateway, &node, json!({}));
    let mut old = client::connect(gateway.tcp(0));
    client::assert_alive(&mut old);
    route(&gateway, &node, json!({"ip-restriction": {"blacklist": ["127.0.0.1"]}}));
    assert_eq!(reach(gateway.tcp(0)), None);
    wait::stays_true("the old session", Duration::from_millis(50), || {
        client::echo(&mut old, b"still") == b"still"
    });
}
