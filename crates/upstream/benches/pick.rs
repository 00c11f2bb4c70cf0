//! What choosing an endpoint costs a session, lease included: `cargo bench -p headgate-upstream`.
//! The budget is 200 ns at 1,000 nodes for every balancer.

#![allow(clippy::expect_used, missing_docs, reason = "a bench reports a failed step by a panic")]

use std::sync::Arc;

use headgate_model::resource::Upstream as Resource;
use headgate_upstream::{KeyHash, Names, Tried, Upstream};
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

#[divan::bench(args = BALANCERS, consts = [3, 1000])]
fn pick<const NODES: usize>(bencher: divan::Bencher, kind: &str) {
    let upstream = upstream(kind, NODES);
    let endpoints = upstream.endpoints();
    // Sessions of the past, so that loads differ.
    let held: Vec<_> = (0..NODES * 2)
        .filter_map(|n| endpoints.pick(KeyHash::of(&n.to_le_bytes()), &mut Tried::default()))
        .collect();
    let mut number = 0_u32;
    bencher.bench_local(|| {
        number = number.wrapping_add(0x9E37_79B9);
        let key = KeyHash::of(&number.to_le_bytes());
        endpoints.pick(key, &mut Tried::default())
    });
    drop(held);
}
