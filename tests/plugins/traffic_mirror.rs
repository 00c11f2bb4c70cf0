//! traffic-mirror with mirrors that are fine, slow, dead, rude, and over TLS.

use std::io::Write as _;
use std::net::Shutdown;

use headgate_testkit::certificate::Authority;
use headgate_testkit::client::{self, Seen, connect, read_to_end};
use headgate_testkit::pattern::Pattern;
use headgate_testkit::{Gateway, GatewayBuilder, Port, SOON, TcpPeer, UdpPeer, tls, wait};
use serde_json::{Value, json};

use crate::{BIN, route};

fn builder() -> GatewayBuilder {
    Gateway::builder(BIN)
        .log_level("info")
        .access_format("$status $close_reason in=$bytes_received out=$bytes_sent")
        .top("stream_plugins: [mqtt-proxy, traffic-mirror]")
        .metrics()
}

fn to(node: &str) -> Value {
    json!({"traffic-mirror": {"upstream": {"nodes": {node: 1}}}})
}

fn copies(gateway: &Gateway, result: &str) -> f64 {
    let sample = format!("headgate_mirror_copies_total{{result=\"{result}\"}}");
    gateway.scrape().get(&sample).unwrap_or_default()
}

fn bytes(gateway: &Gateway, result: &str) -> f64 {
    let sample = format!("headgate_mirror_bytes_total{{result=\"{result}\"}}");
    gateway.scrape().get(&sample).unwrap_or_default()
}

/// Sends bytes of pattern 1 through the gateway to a node that counts good ones.
fn upload(gateway: &Gateway, count: u64) {
    let mut stream = connect(gateway.tcp(0));
    Pattern::new(1).send(&mut stream, count).expect("the gateway takes bytes");
    stream.shutdown(Shutdown::Write).expect("an end");
    assert_eq!(read_to_end(&mut stream), Seen::Bytes(format!("{count} good").into_bytes()));
}

#[test]
fn a_mirror_gets_what_clients_send_and_its_answers_go_nowhere() {
    let gateway = builder().tcp(1).start();
    let (node, mirror) = (TcpPeer::answers_at_end(1), TcpPeer::echo());
    route(&gateway, &node, to(&mirror.node()));
    upload(&gateway, 200_000);
    assert_eq!(mirror.wait_end(), "eof", "the end is copied too");
    assert_eq!(mirror.received(), 200_000);
    wait::until_true("the copy ends", SOON, || copies(&gateway, "complete") == 1.0);
    assert_eq!((bytes(&gateway, "sent"), bytes(&gateway, "dropped")), (200_000.0, 0.0));
    // What the node sends is not copied; a session without a byte has a copy without one.
    let source = TcpPeer::source(2, 100_000);
    route(&gateway, &source, to(&mirror.node()));
    let mut stream = connect(gateway.tcp(0));
    assert_eq!(Pattern::new(2).receive(&mut stream, u64::MAX).expect("bytes"), 100_000);
    drop(stream);
    wait::until_true("the copy ends", SOON, || copies(&gateway, "complete") == 2.0);
    assert_eq!(mirror.received(), 200_000);
}

#[test]
fn the_copy_is_byte_exact() {
    let gateway = builder().tcp(1).start();
    let (node, mirror) = (TcpPeer::answers_at_end(1), TcpPeer::answers_at_end(1));
    let plugin = json!({"upstream": {"nodes": {mirror.node(): 1}}, "buffer": 67_108_864});
    route(&gateway, &node, json!({"traffic-mirror": plugin}));
    // Large reads, which without a mirror would be spliced.
    upload(&gateway, 20_000_000);
    assert_eq!(mirror.wait_end(), "eof");
    wait::until_true("the copy ends", SOON, || copies(&gateway, "complete") == 1.0);
    assert_eq!(mirror.received(), 20_000_000);
}

#[test]
fn what_a_plugin_read_before_is_copied() {
    let gateway = builder().tcp(1).start();
    let (node, mirror) = (TcpPeer::sink(), TcpPeer::sink());
    let mut plugins = to(&mirror.node());
    plugins["mqtt-proxy"] = json!({"protocol_level": 4});
    route(&gateway, &node, plugins);
    let mut stream = connect(gateway.tcp(0));
    stream.write_all(b"\x10\x0f\0\x04MQTT\x04\x02\0\x3c\0\x03abc+rest").expect("a CONNECT");
    drop(stream);
    assert_eq!((node.wait_end(), mirror.wait_end()), ("eof".into(), "eof".into()));
    assert_eq!((node.received(), mirror.received()), (22, 22));
}

#[test]
fn a_dead_mirror_is_not_missed() {
    let gateway = builder().tcp(1).start();
    let (node, nobody) = (TcpPeer::answers_at_end(1), Port::take());
    route(&gateway, &node, to(&nobody.local().to_string()));
    upload(&gateway, 300_000);
    wait::until_true("the copy ends", SOON, || copies(&gateway, "unreachable") == 1.0);
    gateway.wait_for_log("the mirror cannot be reached; the session goes on without it", SOON);
    wait::until_true("drops are counted", SOON, || bytes(&gateway, "dropped") == 300_000.0);
    gateway.wait_access(&["200 OK in=300000"]);
}

#[test]
fn a_rude_mirror_is_not_missed() {
    let gateway = builder().tcp(1).start();
    let (node, mirror) = (TcpPeer::answers_at_end(1), TcpPeer::resetter(b"hello", 1000));
    route(&gateway, &node, to(&mirror.node()));
    let mut stream = connect(gateway.tcp(0));
    let mut pattern = Pattern::new(1);
    pattern.send(&mut stream, 5000).expect("the gateway takes bytes");
    wait::until_true("the copy ends", SOON, || copies(&gateway, "broken") == 1.0);
    pattern.send(&mut stream, 500_000).expect("the gateway takes bytes");
    stream.shutdown(Shutdown::Write).expect("an end");
    assert_eq!(read_to_end(&mut stream), Seen::Bytes(b"505000 good".to_vec()));
    gateway.wait_for_log("the mirror ended the connection", SOON);
}

#[test]
fn a_slow_mirror_slows_nobody_down() {
    let gateway = builder().tcp(1).start();
    let (node, mirror) = (TcpPeer::answers_at_end(1), TcpPeer::stalled_reader(1));
    route(&gateway, &node, to(&mirror.node()));
    // More than its buffer and the kernel's take.
    upload(&gateway, 40_000_000);
    wait::until_true("the copy ends", SOON, || copies(&gateway, "behind") == 1.0);
    gateway.wait_for_log("the mirror does not keep up", SOON);
    let (sent, dropped) = (bytes(&gateway, "sent"), bytes(&gateway, "dropped"));
    assert_eq!(sent + dropped, 40_000_000.0, "{sent} sent, {dropped} dropped");
    mirror.release();
    assert_eq!(mirror.wait_end(), "reset", "a copy with a hole does not end in order");
}

#[test]
fn a_mirror_over_tls() {
    let gateway = builder().tcp(1).start();
    let certificate = Authority::new("root").server(&["mirror.test"]);
    let (node, mirror) = (TcpPeer::answers_at_end(1), tls::naming_node(&certificate, None));
    let upstream = json!({"scheme": "tls", "nodes": {mirror.node(): 1}});
    route(&gateway, &node, json!({"traffic-mirror": {"upstream": upstream}}));
    upload(&gateway, 1_000);
    wait::until_true("the mirror is reached", SOON, || mirror.accepted() == 1);
    wait::until_true("the copy ends", SOON, || {
        copies(&gateway, "complete") + copies(&gateway, "broken") >= 1.0
    });
    assert_eq!(bytes(&gateway, "sent"), 1000.0);
}

#[test]
fn an_upstream_that_is_gone_ends_no_session() {
    let gateway = builder().tcp(1).start();
    let node = TcpPeer::answers_at_end(1);
    let body = json!({"upstream": crate::to(&node), "plugins": {"traffic-mirror": {"upstream_id": "none"}}});
    gateway.put("stream_routes/1", &body).ok();
    upload(&gateway, 1000);
    gateway.wait_for_log("a session is not mirrored: failed to fetch upstream info", SOON);
    let mirror = TcpPeer::sink();
    gateway.put("upstreams/none", &crate::to(&mirror)).ok();
    wait::until_true("its upstream is there", SOON, || {
        upload(&gateway, 1000);
        mirror.received() > 0
    });
}

#[test]
fn datagrams_are_copied() {
    let gateway = builder().udp(1).start();
    let (node, mirror) = (UdpPeer::named("node"), UdpPeer::named("mirror"));
    let body = json!({"upstream": {"nodes": {node.node(): 1}}, "plugins": to(&mirror.node())});
    gateway.put("stream_routes/1", &body).ok();
    let socket = client::udp(gateway.udp(0));
    for text in ["one", "two", "three"] {
        let answer = client::ask(&socket, text.as_bytes());
        assert_eq!(String::from_utf8_lossy(&answer), format!("node:{text}"));
    }
    wait::until_true("the mirror got them", SOON, || mirror.received() == 3);
    assert_eq!(mirror.sources().len(), 1);
    // A dead one is not missed.
    let nobody = Port::take();
    let body = json!({"upstream": {"nodes": {node.node(): 1}}, "plugins": to(&nobody.local().to_string())});
    gateway.put("stream_routes/1", &body).ok();
    let socket = client::udp(gateway.udp(0));
    for _ in 0..5 {
        assert_eq!(client::ask(&socket, b"x"), b"node:x");
    }
    wait::until_true("drops are counted", SOON, || bytes(&gateway, "dropped") >= 1.0);
}
