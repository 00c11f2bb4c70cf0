//! The bound on all connections together (`headgate.limits.connections`).

use std::net::TcpStream;
use std::time::Duration;

use headgate_testkit::client::{Seen, assert_alive, connect, read_to_end};
use headgate_testkit::{Gateway, SOON, TcpPeer, wait};
use serde_json::{Value, json};

use super::{BIN, answers};

fn with_four(when_full: &str, node: &TcpPeer) -> Gateway {
    let limits = format!("headgate:\n  limits:\n    connections: 4\n    when_full: {when_full}");
    let gateway = Gateway::builder(BIN).tcp(2).workers(2).control().top(&limits).start();
    gateway.put("stream_routes/1", &json!({"upstream": {"nodes": {node.node(): 1}}})).expect(201);
    gateway
}

/// Four connections on two listeners, all served.
fn fill(gateway: &Gateway) -> Vec<TcpStream> {
    let mut served: Vec<_> = (0..4).map(|n| connect(gateway.tcp(n % 2))).collect();
    served.iter_mut().for_each(assert_alive);
    served
}

#[test]
fn beyond_all_connections_clients_are_refused() {
    let node = TcpPeer::echo();
    let gateway = with_four("refuse", &node);
    let mut served = fill(&gateway);
    for n in 0..2 {
        let mut more = connect(gateway.tcp(n));
        assert_ne!(read_to_end(&mut more), Seen::Bytes(Vec::new()));
    }
    gateway.wait_access(&["reason=GL", "status=503"]);
    gateway.wait_for_log("all connections are taken (headgate.limits.connections)", SOON);
    let counters = gateway.control("/v1/counters", &[]).expect(200).json();
    assert_eq!(counters["closed_GL"], 2);
    assert_eq!(node.accepted(), 4);
    drop(served.pop());
    let again = wait::try_until(SOON, || {
        let mut stream = connect(gateway.tcp(0));
        answers(&mut stream, Duration::from_secs(5)).then_some(())
    });
    assert!(again.is_some(), "log:\n{}", gateway.log().text());
    served.iter_mut().for_each(assert_alive);
}

#[test]
fn beyond_all_connections_clients_wait() {
    let node = TcpPeer::echo();
    let gateway = with_four("wait", &node);
    let mut served = fill(&gateway);
    let mut waiting = connect(gateway.tcp(1));
    gateway.wait_for_log("there are 4 connections (headgate.limits.connections)", SOON);
    assert_eq!(node.accepted(), 4);
    let paused = |counters: &Value| counters["accept_paused"].as_u64().expect("a number");
    assert!(paused(&gateway.control("/v1/counters", &[]).expect(200).json()) > 0);
    served.iter_mut().for_each(assert_alive);
    drop(served.pop());
    assert_alive(&mut waiting);
    assert_eq!(node.accepted(), 5);
}
