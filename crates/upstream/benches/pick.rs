//! What choosing an endpoint costs a session, lease included: `cargo bench -p headgate-upstream`.
//! The budget is 200 ns at 1,000 nodes for every balancer; with two processes of the machine busy
//! look at the column `fastest`.

#![allow(clippy::expect_used, missing_docs, reason = "a bench reports a failed step by a panic")]

use std::sync::Arc;

use headgate_model::resource::Upstream as Resource;
use headgate_upstream::{KeyHash, Lease, Names, Tried, Upstream};
use serde_json::{Map, json};

fn main() {
    divan::main();
}

const BALANCERS: [&str; 6] = ["roundrobin", "chash", "least_conn", "ewma", "random", "maglev"];

fn upstream(kind: &str, nodes: usize) -> Arc<Upstream> {
    let nodes: Map<_, _> = (0..nodes)
        .map(|n| (format!("10.{}.{}.1:80", n / 250, n % 250), json!(n % 3 + 1)))
        .collect();
    let resource = json!({"type": kind, "key": "remote_addr", "nodes": nodes});
    let resource: Resource = serde_json::from_value(resource).expect("an upstream");
    Upstream::new("upstreams/1".into(), 1, &resource, &Names::default(), |_| Some(0), None, None)
        .expect("a known balancer")
}

/// As a session does it: the set of the moment, its key, the endpoint, and the end.
#[divan::bench(args = BALANCERS, consts = [3, 1000])]
fn pick<const NODES: usize>(bencher: divan::Bencher, kind: &str) {
    let upstream = upstream(kind, NODES);
    // Sessions that are open, so that loads differ.
    let held: Vec<_> = (0..NODES * 2).filter_map(|n| session(&upstream, n as u32)).collect();
    let mut number = 0_u32;
    bencher.bench_local(|| {
        number = number.wrapping_add(0x9E37_79B9);
        session(&upstream, number)
    });
    drop(held);
}

fn session(upstream: &Upstream, number: u32) -> Option<Lease> {
    let endpoints = upstream.endpoints();
    let key = KeyHash::of(&number.to_le_bytes());
    endpoints.pick(key, &mut Tried::default())
}

/// A retry: the first endpoint has failed.
#[divan::bench(args = BALANCERS, consts = [1000])]
fn retry<const NODES: usize>(bencher: divan::Bencher, kind: &str) {
    let upstream = upstream(kind, NODES);
    let mut number = 0_u32;
    bencher.bench_local(|| {
        number = number.wrapping_add(0x9E37_79B9);
        let (endpoints, key) = (upstream.endpoints(), KeyHash::of(&number.to_le_bytes()));
        let mut tried = Tried::default();
        let first = endpoints.pick(key, &mut tried);
        (first, endpoints.pick(key, &mut tried))
    });
}

/// Building the set anew, as it is when the health of a node changes; on the control side.
#[divan::bench(args = BALANCERS, consts = [1000])]
fn build<const NODES: usize>(bencher: divan::Bencher, kind: &str) {
    bencher.bench_local(|| upstream(kind, NODES));
}
