//! Plugins, with real peers where there are any.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

mod bandwidth;
mod door;
mod geo_restriction;
mod ip_set;
mod limit_conn;
mod limit_conn_cluster_tls;
mod limit_conn_redis;
mod more;
mod mqtt_proxy;
mod traffic_mirror;
mod traffic_split;

use headgate_testkit::{Gateway, TcpPeer};
use serde_json::{Value, json};

const BIN: &str = env!("CARGO_BIN_EXE_headgate");

/// A gateway with one listener, everything in its log, and an access log that tells how sessions
/// ended.
fn gateway() -> Gateway {
    Gateway::builder(BIN)
        .tcp(1)
        .log_level("info")
        .access_format("$remote_addr $status $close_reason")
        .start()
}

/// An upstream with one node.
fn to(node: &TcpPeer) -> Value {
    json!({"nodes": {node.node(): 1}})
}

/// Makes `plugins` those of route 1, which leads to `node`.
#[track_caller]
fn route(gateway: &Gateway, node: &TcpPeer, plugins: Value) {
    let body = json!({"upstream": to(node), "plugins": plugins});
    let answer = gateway.put("stream_routes/1", &body).ok();
    assert_eq!(answer.warnings(), Vec::<Value>::new());
}

fn ip(text: &str) -> std::net::IpAddr {
    text.parse().expect("an address")
}
