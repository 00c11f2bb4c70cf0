//! limit-conn (LC).

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use headgate_testkit::client::{self, Seen};
use headgate_testkit::{Gateway, SOON, TcpPeer, UdpPeer, wait};
use serde_json::{Value, json};

use crate::{BIN, gateway, ip, route, to};

fn limit(conn: u32, burst: u32, more: Value) -> Value {
    let mut conf =
        json!({"conn": conn, "burst": burst, "default_conn_delay": 0.001, "key": "remote_addr"});
    conf.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    json!({"limit-conn": conf})
}

/// A connection that is being served, or `None` if it was closed.
pub(crate) fn hold(to: SocketAddr) -> Option<TcpStream> {
    let mut stream = client::connect(to);
    // The echo's answer tells that the session is counted and served.
    use std::io::{Read as _, Write as _};
    stream.write_all(b"?").ok()?;
    let mut byte = [0];
    matches!(stream.read(&mut byte), Ok(1)).then_some(stream)
}

pub(crate) fn held(to: SocketAddr, count: usize) -> Vec<TcpStream> {
    (0..count).filter_map(|_| hold(to)).collect()
}

#[test]
fn lc_01_02_more_than_conn_and_burst_are_closed() {
    let (gateway, node) = (gateway(), TcpPeer::echo());
    route(&gateway, &node, limit(50, 0, json!({})));
    assert_eq!(held(gateway.tcp(0), 4).len(), 4);
    route(&gateway, &node, limit(3, 2, json!({})));
    let served = held(gateway.tcp(0), 8);
    assert_eq!(served.len(), 5);
    gateway.wait_for_log("limit-conn exits with status code 503", SOON);
    gateway.wait_access(&["127.0.0.1 503 RJ"]);
}

#[test]
fn lc_03_combinations_of_variables() {
    let (gateway, node) = (gateway(), TcpPeer::echo());
    let combination = |key: &str| json!({"key_type": "var_combination", "key": key});
    route(&gateway, &node, limit(2, 0, combination("$remote_addr $server_addr")));
    assert_eq!(held(gateway.tcp(0), 4).len(), 2);
    route(&gateway, &node, limit(1, 0, combination("$remote_addr $remote_port")));
    assert_eq!(held(gateway.tcp(0), 4).len(), 4, "each connection has a port of its own");
}

#[test]
fn lc_04_without_a_value_the_address_counts() {
    let (gateway, node) = (gateway(), TcpPeer::echo());
    route(&gateway, &node, limit(1, 0, json!({"key": "ssl_server_name"})));
    let _one = hold(gateway.tcp(0)).expect("the first is served");
    assert!(hold(gateway.tcp(0)).is_none());
    gateway.wait_for_log("The value of the configured key is empty, use client IP instead", SOON);
    let from = client::connect_from(ip("127.0.0.9"), gateway.tcp(0));
    client::assert_alive(&mut { from });
}

#[test]
fn lc_05_an_ended_session_makes_room() {
    let (gateway, node) = (gateway(), TcpPeer::echo());
    route(&gateway, &node, limit(1, 0, json!({})));
    let mut long = hold(gateway.tcp(0)).expect("the first is served");
    for _ in 0..3 {
        client::assert_alive(&mut long);
        assert!(
            hold(gateway.tcp(0)).is_none(),
            "a long session counts once, and as long as it lasts"
        );
    }
    drop(long);
    wait::until_true("the place is free", SOON, || hold(gateway.tcp(0)).is_some());
    // A reset and a failed connect give it back as well.
    wait::until_true("the place is free again", SOON, || {
        hold(gateway.tcp(0)).map(client::reset).is_some()
    });
    wait::until_true("after a reset too", SOON, || hold(gateway.tcp(0)).is_some());
}

#[test]
fn lc_06_the_key_is_logged() {
    let (gateway, node) = (gateway(), TcpPeer::echo());
    route(&gateway, &node, limit(1, 0, json!({})));
    assert!(hold(gateway.tcp(0)).is_some());
    let line = gateway.wait_for_log("limit key: /apisix/stream_routes/1:", SOON);
    assert!(line.contains(":127.0.0.1"), "{line}");
    gateway.wait_for_log("limit conn: 1, burst: 0", SOON);
    let service = json!({"upstream": to(&node), "plugins": limit(1, 0, json!({}))});
    gateway.put("services/2", &service).expect(201);
    gateway.put("stream_routes/1", &json!({"service_id": 2})).ok();
    assert!(hold(gateway.tcp(0)).is_some());
    gateway.wait_for_log("limit key: /apisix/services/2:", SOON);
}

#[test]
fn lc_07_a_burst_waits() {
    let (gateway, node) = (gateway(), TcpPeer::echo());
    route(&gateway, &node, limit(1, 2, json!({"default_conn_delay": 0.2})));
    let _first = hold(gateway.tcp(0)).expect("served");
    for steps in [1, 2] {
        let begun = Instant::now();
        std::mem::forget(hold(gateway.tcp(0)).expect("served later"));
        let (least, took) = (Duration::from_millis(200 * steps), begun.elapsed());
        assert!(took >= least && took < least + SOON, "{took:?}");
    }
    assert!(hold(gateway.tcp(0)).is_none());
}

/// Whether the gateway closes it within 100 ms.
fn is_closed(stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    let kind = stream.peek(&mut [0]).map_err(|error| error.kind());
    !matches!(kind, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

#[test]
fn who_waits_is_counted_and_who_leaves_meanwhile_is_not() {
    let (gateway, node) = (gateway(), TcpPeer::echo());
    route(&gateway, &node, limit(1, 1, json!({"default_conn_delay": 60})));
    let _first = hold(gateway.tcp(0)).expect("served");
    // One of two may wait, whichever core is faster; the other is refused.
    let mut two = vec![client::connect(gateway.tcp(0)), client::connect(gateway.tcp(0))];
    let refused = wait::until("one of two is refused", SOON, || two.iter().position(is_closed));
    let _ = two.remove(refused);
    assert!(!is_closed(&two[0]), "the other one waits");
    client::reset(two.remove(0));
    // Somebody else can wait now: the connection is not closed.
    wait::until_true("the place of the one who left", SOON, || {
        let stream = client::connect(gateway.tcp(0));
        let waits = !is_closed(&stream);
        client::reset(stream);
        waits
    });
    assert_eq!(node.accepted(), 1);
}

#[test]
fn a_changed_configuration_counts_anew_and_all_cores_count_together() {
    let gateway = Gateway::builder(BIN).tcp(1).start();
    let node = TcpPeer::echo();
    route(&gateway, &node, limit(4, 0, json!({})));
    let old = held(gateway.tcp(0), 8);
    assert_eq!(old.len(), 4, "the connections are on two cores");
    route(&gateway, &node, limit(5, 0, json!({})));
    assert_eq!(held(gateway.tcp(0), 8).len(), 5);
    // Another change of the route leaves the limit alone.
    let kept = held(gateway.tcp(0), 8);
    let body = json!({"name": "x", "upstream": to(&node), "plugins": limit(5, 0, json!({}))});
    gateway.put("stream_routes/1", &body).expect(200);
    assert!(kept.len() + held(gateway.tcp(0), 8).len() <= 5);
    drop(old);
}

#[test]
fn rules_and_references() {
    let gateway = Gateway::builder(BIN).tcp(1).env("HEADGATE_TEST_KEY", "server_port").start();
    let node = TcpPeer::echo();
    route(&gateway, &node, limit(1, 0, json!({"key": "$env://HEADGATE_TEST_KEY"})));
    let _one = hold(gateway.tcp(0)).expect("served");
    let other = client::connect_from(ip("127.0.0.9"), gateway.tcp(0));
    assert_eq!(client::read_to_end(&mut { other }), Seen::Closed, "the port is the key");
    let rules = json!([{"conn": 2, "burst": 0, "key": "$remote_addr"}, {"conn": 3, "burst": 0, "key": "all"}]);
    route(&gateway, &node, json!({"limit-conn": {"default_conn_delay": 1, "rules": rules}}));
    let two = held(gateway.tcp(0), 4);
    assert_eq!(two.len(), 2);
}

#[test]
fn udp_flows_count_until_they_are_idle() {
    let gateway = Gateway::builder(BIN).udp(1).access_format("$status $close_reason").start();
    let node = UdpPeer::echo();
    let upstream =
        json!({"nodes": {node.node(): 1}, "timeout": {"connect": 1, "send": 0.3, "read": 0.3}});
    let body = json!({"upstream": upstream, "plugins": limit(1, 0, json!({}))});
    gateway.put("stream_routes/1", &body).expect(201);
    let (one, two) = (client::udp(gateway.udp(0)), client::udp(gateway.udp(0)));
    assert_eq!(client::ask(&one, b"a"), b"a");
    two.send(b"b").expect("sending");
    gateway.wait_access(&["503 RJ"]);
    gateway.wait_access(&["200 IT"]);
    assert_eq!(client::ask(&two, b"c"), b"c");
}

#[test]
fn wrong_configurations_are_refused() {
    let gateway = gateway();
    let intro = "failed to check the configuration of stream plugin [limit-conn]: ";
    for (conf, part) in [
        (json!({}), "property \"conn\" is required"),
        (json!({"conn": 1}), "property \"burst\" is required"),
        (
            json!({"conn": 0, "burst": 0, "default_conn_delay": 1, "key": "a"}),
            "property \"conn\" validation failed: expected 0 to be greater than 0",
        ),
        (
            json!({"conn": "x", "burst": 0, "default_conn_delay": 1, "key": "a"}),
            "conn must resolve to an integer, not to \"x\"",
        ),
    ] {
        let body = json!({"plugins": {"limit-conn": conf}});
        let message = gateway.put("stream_routes/1", &body).expect(400).error_msg();
        assert_eq!(message, format!("{intro}{part}"));
    }
}
