//! TLS on listeners and to upstreams: the conformance list's SN, TL, MT and UT parts, and what
//! only headgate does.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::io::{Read as _, Write as _};
use std::net::Shutdown;

use headgate_testkit::certificate::{Authority, Certificate};
use headgate_testkit::client::{self, Seen};
use headgate_testkit::tls::{self, TLS12, TLS13, TlsClient};
use headgate_testkit::{Gateway, GatewayBuilder, SOON, TcpPeer};
use serde_json::{Value, json};

const BIN: &str = env!("CARGO_BIN_EXE_headgate");
const FORMAT: &str = "status=$status reason=$close_reason in=$bytes_received out=$bytes_sent \
    route=$route_id sni=$ssl_server_name protocol=$ssl_protocol cipher=$ssl_cipher \
    reused=$ssl_session_reused verify=$ssl_client_verify subject=$ssl_client_s_dn \
    upstream=$upstream_addr";
const TLS: &str = "addr: \"127.0.0.1:{port}\"\ntls: true";

fn gateway() -> GatewayBuilder {
    Gateway::builder(BIN).access_format(FORMAT)
}

fn ssl(certificate: &Certificate, names: &[&str]) -> Value {
    json!({"cert": certificate.cert, "key": certificate.key, "snis": names})
}

fn to(node: &TcpPeer) -> Value {
    json!({"upstream": {"nodes": {node.node(): 1}}})
}

fn with(mut object: Value, more: Value) -> Value {
    let more = more.as_object().cloned().unwrap_or_default();
    object.as_object_mut().expect("an object").extend(more);
    object
}

/// One TLS listener with a certificate for `a.test` and a route to an echo node.
fn simple(node: &TcpPeer) -> (Gateway, Authority) {
    let authority = Authority::new("root");
    let gateway = gateway().tcp_entry(TLS).start();
    let certificate = authority.server(&["a.test"]);
    gateway.put("ssls/1", &ssl(&certificate, &["a.test"])).expect(201);
    gateway.put("stream_routes/1", &to(node)).expect(201);
    (gateway, authority)
}

fn reach(gateway: &Gateway, name: &str) -> Result<String, String> {
    let mut stream = TlsClient::default().connect(gateway.tcp(0), name)?;
    let (bytes, end) = tls::read_to_end(&mut stream);
    end.map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

#[test]
fn tl_01_decrypted_bytes_reach_the_node_and_come_back() {
    let node = TcpPeer::echo();
    let (gateway, _) = simple(&node);
    for versions in [&[&TLS12][..], &[&TLS13]] {
        let client = TlsClient::with_versions(versions);
        let mut stream = client.connect(gateway.tcp(0), "a.test").expect("a handshake");
        assert_eq!(tls::echo(&mut stream, b"hello").expect("an echo"), b"hello");
        let big: Vec<u8> = (0..3_000_000_u32).map(|it| (it % 251) as u8).collect();
        let mut sent = stream.sock.try_clone().expect("a copy");
        drop(sent.flush());
        for part in big.chunks(100_000) {
            assert_eq!(tls::echo(&mut stream, part).expect("an echo"), part);
        }
        stream.conn.send_close_notify();
        stream.flush().expect("close_notify");
        let (rest, end) = tls::read_to_end(&mut stream);
        assert!(rest.is_empty() && end.is_ok(), "an orderly end: {end:?}");
        drop(stream);
        gateway.wait_access(&["reason=OK in=3000005 out=3000005 route=1 sni=a.test"]);
    }
    gateway.wait_access(&["protocol=TLSv1.2 cipher=ECDHE-ECDSA-"]);
    gateway.wait_access(&["protocol=TLSv1.3 cipher=TLS_AES_"]);
}

#[test]
fn tl_02_tl_03_no_certificate_means_alert_80() {
    let node = TcpPeer::named("a");
    let (gateway, _) = simple(&node);
    let error = TlsClient::default().connect(gateway.tcp(0), "b.test").expect_err("no certificate");
    assert!(error.contains("InternalError"), "{error}");
    gateway.wait_for_log("failed to match any SSL certificate by SNI: b.test", SOON);
    gateway.wait_access(&["status=500 reason=NC"]);
    let error = TlsClient::default().without_sni().connect(gateway.tcp(0), "a.test");
    assert!(error.expect_err("no SNI").contains("InternalError"));
    gateway.wait_for_log(
        "failed to find SNI: please check if the client requests via IP or uses an outdated protocol",
        SOON,
    );
    assert_eq!(node.accepted(), 0);
}

#[test]
fn tl_06_tl_07_status_and_rotation() {
    let node = TcpPeer::named("a");
    let (gateway, authority) = simple(&node);
    let second = authority.server(&["a.test"]);
    gateway.put("ssls/1", &ssl(&second, &["a.test"])).expect(200);
    let stream = TlsClient::default().connect(gateway.tcp(0), "a.test").expect("a handshake");
    assert_eq!(tls::shown(&stream), tls::der(&second), "the new certificate is live at once");
    gateway.put("ssls/1", &with(ssl(&second, &["a.test"]), json!({"status": 0}))).expect(200);
    assert!(reach(&gateway, "a.test").expect_err("disabled").contains("InternalError"));
}

#[test]
fn tl_08_rsa_and_ecdsa_clients_each_get_theirs() {
    let node = TcpPeer::named("a");
    let (gateway, authority) = simple(&node);
    let (rsa, ecdsa) = (authority.rsa_server(&["a.test"]), authority.server(&["a.test"]));
    let both = with(ssl(&rsa, &["a.test"]), json!({"certs": [ecdsa.cert], "keys": [ecdsa.key]}));
    gateway.put("ssls/1", &both).expect(200);
    let Some(openssl) = headgate_testkit::process::need("openssl", "openssl") else { return };
    for (arguments, expected) in [
        (&["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"][..], "ECDHE-RSA-"),
        (&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"], "ECDHE-ECDSA-"),
        (&["-tls1_3", "-sigalgs", "RSA-PSS+SHA256"], "signature type: RSA-PSS"),
        (&["-tls1_3", "-sigalgs", "ECDSA+SHA256"], "signature type: ECDSA"),
    ] {
        let mut command = std::process::Command::new(&openssl);
        command.args(["s_client", "-brief", "-servername", "a.test", "-connect"]);
        command.arg(gateway.tcp(0).to_string()).args(arguments);
        let done = headgate_testkit::process::run(&mut command, SOON);
        let output = done.output();
        let lower = output.to_lowercase();
        assert!(lower.contains(&expected.to_lowercase()), "{arguments:?}:\n{output}");
    }
}

#[test]
fn tl_09_protocols_per_certificate() {
    let node = TcpPeer::named("a");
    let (gateway, authority) = simple(&node);
    let certificate = authority.server(&["b.test"]);
    let only = with(ssl(&certificate, &["b.test"]), json!({"ssl_protocols": ["TLSv1.3"]}));
    gateway.put("ssls/2", &only).expect(201);
    let old = TlsClient::with_versions(&[&TLS12]);
    let error = old.connect(gateway.tcp(0), "b.test").expect_err("TLS 1.2");
    assert!(error.contains("ProtocolVersion"), "{error}");
    assert!(old.connect(gateway.tcp(0), "a.test").is_ok(), "other names are not concerned");
    assert!(TlsClient::default().connect(gateway.tcp(0), "b.test").is_ok());
    let none = with(ssl(&certificate, &["b.test"]), json!({"ssl_protocols": ["TLSv1.1"]}));
    gateway.put("ssls/2", &none).expect(200);
    assert!(TlsClient::default().connect(gateway.tcp(0), "b.test").is_err());
    gateway.wait_for_log("failed to set ssl protocols", SOON);
}

#[test]
fn sn_routes_by_name() {
    let (one, two, rest) = (TcpPeer::named("1"), TcpPeer::named("2"), TcpPeer::named("rest"));
    let authority = Authority::new("root");
    let gateway = gateway().tcp_entry(TLS).tcp(1).start();
    gateway.put("ssls/any", &ssl(&authority.server(&["any"]), &["*"])).expect(201);
    gateway.put("stream_routes/1", &with(to(&one), json!({"sni": "A.zone.test"}))).expect(201);
    gateway.put("stream_routes/2", &with(to(&two), json!({"sni": "*.zone.test"}))).expect(201);
    gateway.put("stream_routes/3", &to(&rest)).expect(201);
    for (name, expected) in [
        ("a.zone.test", "1"),
        ("A.ZONE.test", "1"),
        ("b.zone.test", "2"),
        ("p.q.zone.test", "2"),
        ("other.test", "rest"),
    ] {
        assert_eq!(reach(&gateway, name).as_deref(), Ok(expected), "{name}");
    }
    assert_eq!(client::reach(gateway.tcp(1)).as_deref(), Some("rest"), "plain TCP has no name");
    gateway
        .put("stream_routes/1", &with(to(&one), json!({"snis": ["c.test", "d.test"]})))
        .expect(200);
    assert_eq!(reach(&gateway, "d.test").as_deref(), Ok("1"));
    assert_eq!(reach(&gateway, "a.zone.test").as_deref(), Ok("2"));
}

#[test]
fn sn_08_fallback_name() {
    let node = TcpPeer::named("a");
    let authority = Authority::new("root");
    let gateway = gateway().tcp_entry(TLS).apisix("ssl:\n  fallback_sni: A.test").start();
    gateway.put("ssls/1", &ssl(&authority.server(&["a.test"]), &["a.test"])).expect(201);
    gateway.put("stream_routes/1", &with(to(&node), json!({"sni": "a.test"}))).expect(201);
    let nameless = TlsClient::default().without_sni();
    let mut stream = nameless.connect(gateway.tcp(0), "x").expect("a handshake");
    assert_eq!(tls::read_to_end(&mut stream).0, b"a\n");
}

#[test]
fn half_close_and_truncation_are_passed_on() {
    let node = TcpPeer::new(|mut conversation| {
        conversation.drain();
        let _ = conversation.stream.write_all(b"answer after the end");
    });
    let (gateway, _) = simple(&node);
    let mut stream = TlsClient::default().connect(gateway.tcp(0), "a.test").expect("a handshake");
    stream.write_all(b"question").expect("bytes");
    stream.conn.send_close_notify();
    stream.flush().expect("close_notify");
    let (bytes, end) = tls::read_to_end(&mut stream);
    assert_eq!(bytes, b"answer after the end");
    assert!(end.is_ok(), "close_notify comes after it: {end:?}");
    drop(stream);
    gateway.wait_access(&["reason=OK in=8 out=20"]);
    // The same without close_notify: the node still answers, and the log tells.
    let mut stream = TlsClient::default().connect(gateway.tcp(0), "a.test").expect("a handshake");
    stream.write_all(b"cut").expect("bytes");
    stream.sock.shutdown(Shutdown::Write).expect("FIN");
    assert_eq!(tls::read_to_end(&mut stream).0, b"answer after the end");
    drop(stream);
    gateway.wait_access(&["status=200 reason=TR in=3 out=20"]);
}

#[test]
fn resets_are_passed_on() {
    let node = TcpPeer::echo();
    let (gateway, _) = simple(&node);
    let mut stream = TlsClient::default().connect(gateway.tcp(0), "a.test").expect("a handshake");
    assert_eq!(tls::echo(&mut stream, b"x").expect("an echo"), b"x");
    client::reset(stream.sock);
    gateway.wait_access(&["reason=CR"]);
}

#[test]
fn plain_bytes_on_a_tls_port_are_named() {
    let node = TcpPeer::named("a");
    let (gateway, _) = simple(&node);
    let mut stream = client::connect(gateway.tcp(0));
    client::send(&mut stream, b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(client::read_to_end(&mut stream), Seen::Closed);
    gateway.wait_for_log("plain bytes on a TLS listener: HTTP, not TLS", SOON);
    gateway.wait_access(&["status=400 reason=NT"]);
}

#[test]
fn ut_01_ut_02_ut_03_names_towards_the_upstream() {
    let authority = Authority::new("nobody knows");
    let node = tls::naming_node(&authority.server(&["whatever"]), None);
    let gateway = gateway().tcp_entry(TLS).tcp(1).start();
    gateway.put("ssls/1", &ssl(&authority.server(&["a.test"]), &["a.test"])).expect(201);
    let route = json!({"upstream": {"nodes": {node.node(): 1}, "scheme": "tls"}});
    gateway.put("stream_routes/1", &route).expect(201);
    let mut stream = client::connect(gateway.tcp(1));
    stream.shutdown(Shutdown::Write).expect("FIN");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("bytes");
    assert_eq!(text, "apisix_backend\n");
    let mut stream = TlsClient::default().connect(gateway.tcp(0), "a.test").expect("a handshake");
    stream.conn.send_close_notify();
    stream.flush().expect("close_notify");
    let (bytes, end) = tls::read_to_end(&mut stream);
    assert_eq!((bytes.as_slice(), end.is_ok()), (&b"a.test\n"[..], true));
}

/// The fingerprint says what the client offers: the same for the same client, whether TLS ends here
/// or at the node, and another one for one that speaks TLS 1.2 only.
#[test]
fn clients_have_fingerprints() {
    let authority = Authority::new("root");
    let (echo, behind) = (TcpPeer::echo(), tls::naming_node(&authority.server(&["b.test"]), None));
    let entry = "addr: \"127.0.0.1:{port}\"\ntls: true\ntls_passthrough: true";
    let gateway = Gateway::builder(BIN)
        .tcp_entry(entry)
        .access_format("$route_id ja4=$ja4 name=$server_name")
        .start();
    gateway.put("ssls/1", &ssl(&authority.server(&["a.test"]), &["a.test"])).expect(201);
    gateway.put("stream_routes/1", &with(to(&echo), json!({"sni": "a.test"}))).expect(201);
    let passed = json!({"sni": "b.test", "tls_passthrough": true});
    gateway.put("stream_routes/2", &with(to(&behind), passed)).expect(201);
    let fingerprint = |client: &TlsClient, name: &str, start: &str| {
        drop(client.connect(gateway.tcp(0), name).expect("a handshake"));
        let line = gateway.wait_access(&[start, &format!("name={name}")]);
        let ja4 = line.split("ja4=").nth(1).and_then(|rest| rest.split(' ').next());
        ja4.expect("a fingerprint").to_owned()
    };
    let (new, old) = (TlsClient::default(), TlsClient::with_versions(&[&TLS12]));
    let here = fingerprint(&new, "a.test", "1 ja4=t13d");
    assert_eq!(here, fingerprint(&new, "b.test", "2 ja4=t13d"));
    let parts: Vec<_> = here.split('_').map(str::len).collect();
    assert_eq!(parts, [10, 12, 12], "{here}");
    assert_ne!(here, fingerprint(&old, "a.test", "1 ja4=t12d"));
}
