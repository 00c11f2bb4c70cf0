//! What balancers promise, for upstreams of any kind: shares, priorities, and keys that stay.

use headgate_model::resource::Upstream as Resource;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::health::Event;
use crate::{Lease, Names, Tried, Upstream};

const PICKS: u32 = 10_000;

/// Checks that one event decides.
fn checks() -> Value {
    json!({"active": {
        "type": "tcp",
        "healthy": {"interval": 1, "successes": 1}, "unhealthy": {"interval": 1, "tcp_failures": 1}
    }})
}

/// Nodes 10.0.0.1 and so on, each with weight and priority.
fn upstream(kind: &str, nodes: &[(u32, i32)]) -> Arc<Upstream> {
    let node = |(number, (weight, priority)): (usize, &(u32, i32))| {
        json!({
            "host": format!("10.0.0.{}", number + 1), "port": 80,
            "weight": weight, "priority": priority
        })
    };
    let nodes: Vec<_> = nodes.iter().enumerate().map(node).collect();
    let resource = json!({
        "type": kind, "key": "remote_addr", "nodes": nodes, "checks": checks()
    });
    let resource: Resource = serde_json::from_value(resource).unwrap();
    let key = "upstreams/1".to_owned();
    let upstream =
        Upstream::new(key, 1, &resource, &Names::default(), |_| Some(0), None, None).unwrap();
    upstream.plan.board.set_live(true);
    upstream
}

/// Which node it is, from 0.
fn number(endpoint: &Endpoint) -> usize {
    match &endpoint.address {
        crate::Address::Ip(address) => match address.ip() {
            std::net::IpAddr::V4(ip) => usize::from(ip.octets()[3]) - 1,
            std::net::IpAddr::V6(_) => panic!("{address}"),
        },
        crate::Address::Unix(path) => panic!("{path:?}"),
    }
}

fn pick(upstream: &Upstream, key: u32) -> Lease {
    upstream.endpoints().pick(KeyHash::of(&key.to_be_bytes()), &mut Tried::default()).unwrap()
}

/// All nodes in the order in which one session tries them.
fn order(upstream: &Upstream, key: u32) -> Vec<usize> {
    let (set, mut tried) = (upstream.endpoints(), Tried::default());
    let next = || set.pick(KeyHash::of(&key.to_be_bytes()), &mut tried);
    std::iter::from_fn(next).map(|lease| number(lease.endpoint())).collect()
}

/// Marks nodes as down.
fn fail(upstream: &Upstream, down: &[bool]) {
    for endpoint in upstream.endpoints().endpoints() {
        if down.get(number(endpoint)) == Some(&true) {
            endpoint.note_probe(Event::TcpFailure);
        }
    }
    upstream.follow_health();
}

fn assert_shares(counts: &[u32], weights: &[u32], kind: &str) {
    let total: u32 = weights.iter().sum();
    for (count, weight) in counts.iter().zip(weights) {
        let expected = f64::from(PICKS) * f64::from(*weight) / f64::from(total);
        // Two percent, and a few: a round that is not complete, a node that is rarely drawn.
        let slack = expected * 0.02 + 15.0;
        let off = (f64::from(*count) - expected).abs();
        assert!(off <= slack, "{kind}: {count} instead of {expected} ({counts:?}, {weights:?})");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Sessions that last, so that balancers which go by load see it.
    #[test]
    fn ten_thousand_sessions_are_shared_by_weight(
        weights in prop::collection::vec(1_u32..60, 2..12)
    ) {
        for kind in ["roundrobin", "least_conn", "ewma", "random"] {
            let nodes: Vec<_> = weights.iter().map(|weight| (*weight, 0)).collect();
            let upstream = upstream(kind, &nodes);
            let held: Vec<_> = (0..PICKS).map(|key| pick(&upstream, key)).collect();
            let mut counts = vec![0; weights.len()];
            held.iter().for_each(|lease| counts[number(lease.endpoint())] += 1);
            assert_shares(&counts, &weights, kind);
        }
    }

    /// Sessions that end at once.
    #[test]
    fn rounds_are_exact_without_load(weights in prop::collection::vec(1_u32..60, 2..12)) {
        let nodes: Vec<_> = weights.iter().map(|weight| (*weight, 0)).collect();
        let upstream = upstream("roundrobin", &nodes);
        let mut counts = vec![0; weights.len()];
        for key in 0..PICKS {
            counts[number(pick(&upstream, key).endpoint())] += 1;
        }
        assert_shares(&counts, &weights, "roundrobin");
    }

    /// Better priorities first, the well ones of all priorities before any other, nobody twice,
    /// nobody left out.
    #[test]
    fn priorities_and_health_decide_the_order(
        nodes in prop::collection::vec((1_u32..9, -2_i32..3, any::<bool>()), 2..12), key: u32
    ) {
        for def in BUILTIN {
            let weighted: Vec<_> = nodes.iter().map(|(weight, priority, _)| (*weight, *priority)).collect();
            let down: Vec<_> = nodes.iter().map(|(.., down)| *down).collect();
            let upstream = upstream(def.name, &weighted);
            fail(&upstream, &down);
            let order = order(&upstream, key);
            let mut all = order.clone();
            all.sort_unstable();
            prop_assert_eq!(all, (0..nodes.len()).collect::<Vec<_>>(), "{}", def.name);
            // If none is well, all count as well.
            let ignored = down.iter().all(|down| *down);
            let rank = |node: &usize| (!ignored && down[*node], -nodes[*node].1);
            prop_assert!(order.is_sorted_by_key(rank), "{}: {:?} of {:?}", def.name, order, nodes);
        }
    }

    /// Keys are where they were once all nodes are well again. With chash the keys of nodes that are
    /// well do not move either when others fail, or are taken out.
    #[test]
    fn keys_stay_where_their_node_is(
        weights in prop::collection::vec(1_u32..4, 3..9),
        down in prop::collection::vec(any::<bool>(), 9),
    ) {
        let nodes: Vec<_> = weights.iter().map(|weight| (*weight, 0)).collect();
        let down = &down[..weights.len()];
        prop_assume!(!down.iter().all(|down| *down));
        for kind in ["chash", "maglev"] {
            let upstream = upstream(kind, &nodes);
            let place = |key| number(pick(&upstream, key).endpoint());
            let before: Vec<_> = (0..500).map(place).collect();
            fail(&upstream, down);
            for (key, before) in (0..).zip(&before) {
                let now = place(key);
                prop_assert!(!down[now], "{kind}");
                // Those who do not keep places may move a few keys of others as well.
                let may_move = down[*before] || !find(kind).unwrap().keeps_places;
                prop_assert!(may_move || now == *before, "{kind}: {key} moved from {before} to {now}");
            }
            for endpoint in upstream.endpoints().endpoints() {
                endpoint.note_probe(Event::Success);
            }
            upstream.follow_health();
            prop_assert_eq!((0..500).map(place).collect::<Vec<_>>(), before, "{}", kind);
        }
        // Two of weight 1 keep the unit that points are dealt out by.
        let mut more = nodes;
        more.extend([(1, 0), (1, 0)]);
        let (with, without) = (upstream("chash", &more), {
            let mut fewer = more.clone();
            fewer[0].0 = 0;
            upstream("chash", &fewer)
        });
        for key in 0..500 {
            let before = number(pick(&with, key).endpoint());
            let now = number(pick(&without, key).endpoint());
            prop_assert!(before == 0 || now == before, "key {key} moved");
        }
    }
}
