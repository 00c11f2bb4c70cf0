//! Bandwidth: limit-rate and the throttle of fault-injection. Lower bounds of times are what the
//! rate demands; upper bounds are only there so that nothing hangs.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use headgate_testkit::certificate::Authority;
use headgate_testkit::client::{self, Seen, connect, read_to_end};
use headgate_testkit::pattern::Pattern;
use headgate_testkit::tls::{self, TlsClient};
use headgate_testkit::{Gateway, GatewayBuilder, SOON, TcpPeer, UdpPeer, wait};
use serde_json::{Value, json};

use crate::{BIN, route};

fn builder() -> GatewayBuilder {
    Gateway::builder(BIN)
        .log_level("info")
        .access_format(
            "$status $close_reason in=$bytes_received out=$bytes_sent held=$throttled_time",
        )
        .top("stream_plugins: [fault-injection, limit-rate]")
}

fn gateway() -> Gateway {
    builder().tcp(1).start()
}

fn limit(bandwidth: Value) -> Value {
    json!({"limit-rate": {"bandwidth": bandwidth}})
}

/// Sends `count` bytes, ends, and returns what the node says it got, and how long all that took.
fn upload(gateway: &Gateway, count: u64) -> (Seen, Duration) {
    let mut stream = connect(gateway.tcp(0));
    let begun = Instant::now();
    Pattern::new(1).send(&mut stream, count).expect("the gateway takes bytes");
    stream.shutdown(Shutdown::Write).expect("an end");
    (read_to_end(&mut stream), begun.elapsed())
}

fn download(gateway: &Gateway, count: u64) -> Duration {
    let mut stream = connect(gateway.tcp(0));
    let begun = Instant::now();
    let got = Pattern::new(1).receive(&mut stream, u64::MAX).expect("the right bytes");
    assert_eq!(got, count);
    begun.elapsed()
}

fn good(count: u64) -> Seen {
    Seen::Bytes(format!("{count} good").into_bytes())
}

#[test]
fn uploads_are_held_to_the_rate_and_end_in_order() {
    let (gateway, node) = (gateway(), TcpPeer::answers_at_end(1));
    route(&gateway, &node, limit(json!({"up": 200_000, "up_burst": 40_000})));
    let (seen, time) = upload(&gateway, 300_000);
    assert_eq!(seen, good(300_000));
    assert!(time >= Duration::from_millis(1250) && time < SOON, "{time:?}");
    let line = gateway.wait_access(&["200 OK in=300000 out=11 held=1."]);
    assert!(!line.contains("held=-"), "{line}");
    gateway.wait_for_log("the bandwidth limit is reached", SOON);
}

#[test]
fn downloads_are_held_to_the_rate() {
    let (gateway, node) = (gateway(), TcpPeer::source(1, 300_000));
    route(&gateway, &node, limit(json!({"down": 200_000, "down_burst": 40_000})));
    let time = download(&gateway, 300_000);
    assert!(time >= Duration::from_millis(1250) && time < SOON, "{time:?}");
}

/// Fast enough that reads are large, so that the direction is spliced after the first few.
#[test]
fn large_transfers_are_held_too() {
    let (gateway, node) = (gateway(), TcpPeer::source(1, 30_000_000));
    route(&gateway, &node, limit(json!({"down": 30_000_000, "down_burst": 3_000_000})));
    let time = download(&gateway, 30_000_000);
    assert!(time >= Duration::from_millis(900) && time < SOON * 2, "{time:?}");
    let up = TcpPeer::answers_at_end(1);
    route(&gateway, &up, limit(json!({"up": 30_000_000, "up_burst": 3_000_000})));
    let (seen, time) = upload(&gateway, 15_000_000);
    assert_eq!(seen, good(15_000_000));
    assert!(time >= Duration::from_millis(400) && time < SOON * 2, "{time:?}");
}

#[test]
fn sessions_of_a_key_share_the_rate_and_others_do_not() {
    let (gateway, node) = (gateway(), TcpPeer::source(1, 60_000));
    route(&gateway, &node, limit(json!({"down": 100_000, "down_burst": 10_000})));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| download(&gateway, 60_000));
        }
    });
    let time = begun.elapsed();
    assert!(time >= Duration::from_millis(1600) && time < SOON, "{time:?}");
    let other = client::connect_from(crate::ip("127.0.0.9"), gateway.tcp(0));
    let begun = Instant::now();
    let mut first = [0; 5000];
    (&other).read_exact(&mut first).expect("a burst of its own");
    assert!(begun.elapsed() < SOON);
    assert_eq!(Pattern::new(1).check(&first), Ok(()));
}

#[test]
fn a_dry_run_holds_nobody_up() {
    let (gateway, node) = (gateway(), TcpPeer::source(1, 500_000));
    let plugin = json!({"bandwidth": {"down": 1000, "down_burst": 1000}, "dry_run": true});
    route(&gateway, &node, json!({"limit-rate": plugin}));
    let time = download(&gateway, 500_000);
    assert!(time < SOON, "{time:?}");
    gateway.wait_for_log("dry_run=true", SOON);
    gateway.wait_access(&["200 OK in=0 out=500000 held=0.000"]);
}

/// 300 bytes a second: a pause of 50 milliseconds for every 15 bytes.
#[test]
fn resets_get_through_while_a_session_is_held_up() {
    let (gateway, node) = (gateway(), TcpPeer::sink());
    route(&gateway, &node, limit(json!({"up": 300, "up_burst": 0})));
    let mut stream = connect(gateway.tcp(0));
    stream.write_all(&[1; 50_000]).expect("buffers take it");
    wait::until_true("some bytes arrive", SOON, || node.received() >= 30);
    client::reset(stream);
    assert_eq!(node.wait_end(), "reset");
    assert!(node.received() < 50_000);
    gateway.wait_access(&["200 CR"]);

    let node = TcpPeer::resetter(b"", 20);
    route(&gateway, &node, limit(json!({"up": 300, "up_burst": 0})));
    let mut stream = connect(gateway.tcp(0));
    stream.write_all(&[1; 50_000]).expect("buffers take it");
    assert_eq!(read_to_end(&mut stream), Seen::Closed);
    gateway.wait_access(&["200 UR"]);
}

/// A byte a second, and half a second of silence allowed.
#[test]
fn whoever_is_held_up_is_not_idle() {
    let (gateway, node) = (gateway(), TcpPeer::sink());
    let upstream =
        json!({"nodes": {node.node(): 1}, "timeout": {"connect": 5, "send": 0.5, "read": 0.5}});
    let plugins = limit(json!({"up": 1, "up_burst": 1}));
    let body = json!({"upstream": upstream, "plugins": plugins});
    gateway.put("stream_routes/1", &body).ok();
    let mut stream = connect(gateway.tcp(0));
    stream.write_all(b"abc").expect("buffers take it");
    wait::until_true("all bytes arrive", SOON, || node.received() == 3);
    gateway.wait_access(&["200 IT in=3"]);
}

#[test]
fn terminated_tls_is_held_too() {
    let tls = "addr: \"127.0.0.1:{port}\"\ntls: true";
    let (gateway, node) = (builder().tcp_entry(tls).start(), TcpPeer::echo());
    let certificate = Authority::new("root").server(&["a.test"]);
    let ssl = json!({"cert": certificate.cert, "key": certificate.key, "snis": ["a.test"]});
    gateway.put("ssls/1", &ssl).expect(201);
    route(&gateway, &node, limit(json!({"up": 100_000, "up_burst": 20_000})));
    let mut stream = TlsClient::default().connect(gateway.tcp(0), "a.test").expect("a handshake");
    let begun = Instant::now();
    let bytes = Pattern::new(3).take(30_000);
    for _ in 0..3 {
        assert_eq!(tls::echo(&mut stream, &bytes).expect("an echo"), bytes);
    }
    let time = begun.elapsed();
    assert!(time >= Duration::from_millis(500) && time < SOON, "{time:?}");
}

#[test]
fn datagrams_over_the_rate_are_dropped_and_counted() {
    let gateway = builder().udp(1).metrics().start();
    let node = UdpPeer::echo();
    let body = json!({"upstream": {"nodes": {node.node(): 1}},
        "plugins": limit(json!({"up": 100, "up_burst": 1000}))});
    gateway.put("stream_routes/1", &body).ok();
    let socket = client::udp(gateway.udp(0));
    for number in 0..50_u8 {
        socket.send(&[number; 100]).expect("a datagram");
    }
    for number in 0..10 {
        assert_eq!(client::receive(&socket), [number; 100]);
    }
    // Not in a burst: by the time that all are through, a few more may have passed.
    let dropped = || {
        let sample = "headgate_udp_datagrams_dropped_total{cause=\"over_rate\"}";
        gateway.scrape().get(sample).unwrap_or_default()
    };
    wait::until_true("drops are counted", SOON, || dropped() >= 20.0);
    assert!((node.received() as f64) + dropped() <= 50.0);
    // Answers are held to their rate, too.
    let (before, many) = (dropped(), UdpPeer::multi(30));
    let body = json!({"upstream": {"nodes": {many.node(): 1}},
        "plugins": limit(json!({"down": 100, "down_burst": 1000}))});
    gateway.put("stream_routes/1", &body).ok();
    let socket = client::udp(gateway.udp(0));
    socket.send(&[b'x'; 98]).expect("a datagram");
    for number in 0..9 {
        assert!(client::receive(&socket).starts_with(format!("{number}:x").as_bytes()));
    }
    wait::until_true("drops are counted", SOON, || dropped() >= before + 15.0);
}

#[test]
fn a_fault_makes_sessions_slow() {
    let gateway = builder().tcp(1).metrics().start();
    let node = TcpPeer::source(1, 60_000);
    let throttle = json!({"down": 100_000});
    route(&gateway, &node, json!({"fault-injection": {"throttle": throttle}}));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| assert!(download(&gateway, 60_000) >= Duration::from_millis(500)));
        }
    });
    assert!(begun.elapsed() < SOON, "each has a rate of its own");
    gateway.wait_for_log("a fault is injected", SOON);
    let held = "headgate_throttled_seconds_total{direction=\"down\"}";
    assert!(gateway.scrape().get(held).unwrap_or_default() >= 0.8);
}
