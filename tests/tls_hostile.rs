//! What strangers may send to a TLS listener.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::net::{Shutdown, TcpStream};

use headgate_testkit::certificate::Authority;
use headgate_testkit::client::{self, Seen};
use headgate_testkit::proof::Scenario;
use headgate_testkit::tls::{self, TlsClient};
use headgate_testkit::{Gateway, SOON, TcpPeer, proc};
use serde_json::json;

const BIN: &str = env!("CARGO_BIN_EXE_headgate");
const TLS: &str = "addr: \"127.0.0.1:{port}\"\ntls: true";
/// The alert `decode_error`, fatal.
const DECODE_ERROR: &[u8] = &[21, 3, 3, 0, 2, 2, 50];

fn simple(node: &TcpPeer) -> Gateway {
    let gateway = Gateway::builder(BIN).tcp_entry(TLS).start();
    let own = Authority::new("root").server(&["a.test"]);
    let ssl = json!({"cert": own.cert, "key": own.key, "sni": "a.test"});
    gateway.put("ssls/1", &ssl).expect(201);
    gateway.put("stream_routes/1", &json!({"upstream": {"nodes": {node.node(): 1}}})).expect(201);
    gateway
}

fn answer_to(gateway: &Gateway, bytes: &[u8]) -> Seen {
    let mut stream = client::connect(gateway.tcp(0));
    client::send(&mut stream, bytes);
    let _ = stream.shutdown(Shutdown::Write);
    client::read_to_end(&mut stream)
}

#[test]
fn broken_hellos() {
    let node = TcpPeer::echo();
    let gateway = simple(&node);
    let (_, hello) = TlsClient::default().hello("a.test");
    let decode_error = Seen::Bytes(DECODE_ERROR.to_vec());
    // A server name with a space in it.
    let mut spaced = hello.clone();
    let at = hello.windows(6).position(|part| part == b"a.test").expect("the name");
    spaced[at + 1] = b' ';
    assert_eq!(answer_to(&gateway, &spaced), decode_error);
    gateway.wait_for_log("malformed ClientHello: illegal characters in the server name", SOON);
    // A record of an illegal length, another message, another record inside.
    for bytes in [&[22, 3, 1, 0x50, 0, 1][..], &[22, 3, 1, 0, 4, 2, 0, 0, 0]] {
        assert_eq!(answer_to(&gateway, bytes), decode_error);
    }
    // Cut inside, or nothing at all.
    assert_eq!(answer_to(&gateway, &hello[..100]), Seen::Closed);
    gateway.wait_for_log("the connection ended inside the ClientHello", SOON);
    assert_eq!(answer_to(&gateway, b""), Seen::Closed);
    gateway.wait_for_log("the connection ended without a ClientHello", SOON);
    gateway.wait_access(&["status=500 reason=TF"]);
    // Endless.
    let mut endless = vec![22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff];
    endless.resize(5 + 0x4000, 0);
    let mut record = vec![22, 3, 1, 0x40, 0];
    record.resize(5 + 0x4000, 0);
    for _ in 0..4 {
        endless.extend_from_slice(&record);
    }
    let _ = answer_to(&gateway, &endless);
    gateway.wait_for_log("ClientHello longer than 65536 bytes", SOON);
    // After all that it serves.
    let mut stream = TlsClient::default().connect(gateway.tcp(0), "a.test").expect("a handshake");
    assert_eq!(tls::echo(&mut stream, b"still there").expect("an echo"), b"still there");
}

#[test]
fn rubbish_inside_an_established_connection() {
    let node = TcpPeer::echo();
    let gateway = simple(&node);
    let mut stream = TlsClient::default().connect(gateway.tcp(0), "a.test").expect("a handshake");
    assert_eq!(tls::echo(&mut stream, b"x").expect("an echo"), b"x");
    client::send(&mut stream.sock, &[23, 3, 3, 0, 32]);
    client::send(&mut stream.sock, &[7; 32]);
    assert!(tls::echo(&mut stream, b"y").is_err());
    gateway.wait_for_log("TLS connection broken", SOON);
    gateway.wait_access(&["reason=CR"]);
}

#[test]
fn two_thousand_slow_handshakes_hold_little_memory() {
    Scenario {
        name: "two_thousand_slow_handshakes_hold_little_memory",
        fault: "2,000 clients that send half a ClientHello and then nothing",
        promise: "less than 8 KiB each; a client in a hurry is served beside them",
    }
    .prove(slow_handshakes);
}

fn slow_handshakes() -> String {
    const CLIENTS: usize = 2000;
    let node = TcpPeer::echo();
    let gateway = simple(&node);
    let (_, hello) = TlsClient::default().hello("a.test");
    let id = gateway.id();
    drop(TlsClient::default().connect(gateway.tcp(0), "a.test").expect("a handshake"));
    let before = proc::resident(id);
    let slow: Vec<TcpStream> = (0..CLIENTS)
        .map(|_| {
            let mut stream = client::connect(gateway.tcp(0));
            client::send(&mut stream, &hello[..hello.len() / 2]);
            stream
        })
        .collect();
    // Somebody in a hurry is served in the meantime.
    let mut stream = TlsClient::default().connect(gateway.tcp(0), "a.test").expect("a handshake");
    assert_eq!(tls::echo(&mut stream, b"hello").expect("an echo"), b"hello");
    let each = proc::resident(id).saturating_sub(before) / CLIENTS as u64;
    assert!(each < 8 * 1024, "{each} bytes for each slow handshake");
    drop(slow);
    format!("{CLIENTS} clients, {each} bytes each")
}
