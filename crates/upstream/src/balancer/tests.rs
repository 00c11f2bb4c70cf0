//! What every balancer must do, and how those that count sessions share.

use std::collections::BTreeSet;

use headgate_model::resource::upstream::{BALANCERS, Node};
use proptest::prelude::*;

use super::*;
use crate::endpoint::Lease;
use crate::endpoint_set::{EndpointSet, Plan, Tried, locate};
use crate::health::Board;
use crate::names::Names;

fn board() -> Arc<Board> {
    Arc::new(Board::new("upstreams/1".to_owned()))
}

fn members(weights: &[u32]) -> Vec<Member> {
    let address = |number: usize| crate::Address::Ip(([10, 0, 0, number as u8], 80).into());
    weights
        .iter()
        .enumerate()
        .map(|(number, weight)| Member {
            endpoint: Arc::new(Endpoint::new(address(number), None, board())),
            weight: *weight,
        })
        .collect()
}

/// Begins a session; the index of its endpoint, and its lease.
fn begin(balancer: &dyn Balancer, members: &[Member], key: u32) -> (usize, Lease) {
    let index = balancer.pick(KeyHash::of(&key.to_be_bytes())).unwrap();
    (index, Lease::of(&members[index].endpoint))
}

fn counts(members: &[Member]) -> Vec<u32> {
    members.iter().map(|member| member.endpoint.active()).collect()
}

#[test]
fn names_are_those_of_the_model() {
    assert_eq!(BUILTIN.iter().map(|def| def.name).collect::<Vec<_>>(), BALANCERS);
}

#[test]
fn least_conn_prefers_the_heavier_and_follows_the_load() {
    let members = members(&[1, 3, 0]);
    let balancer = (find("least_conn").unwrap().build)(&members);
    for _ in 0..5 {
        assert_eq!(begin(&*balancer, &members, 0).0, 1, "nothing is held");
    }
    let held: Vec<_> = (0..8).map(|_| begin(&*balancer, &members, 0)).collect();
    assert_eq!(counts(&members), [2, 6, 0]);
    drop(held);
    assert_eq!(counts(&members), [0, 0, 0]);
    assert_eq!(balancer.retry(KeyHash::default(), &|index| index == 1), Some(0));
    assert_eq!(balancer.retry(KeyHash::default(), &|index| index < 2), Some(2), "weight 0 is last");
    assert_eq!(balancer.retry(KeyHash::default(), &|_| true), None);
}

#[test]
fn least_conn_ties_go_round() {
    let members = members(&[1, 1, 1]);
    let balancer = (find("least_conn").unwrap().build)(&members);
    let picks: Vec<_> = (0..6).map(|_| begin(&*balancer, &members, 0).0).collect();
    assert_eq!(picks, [0, 1, 2, 0, 1, 2]);
    let (busy, _lease) = begin(&*balancer, &members, 0);
    let picks: Vec<_> = (0..4).map(|_| begin(&*balancer, &members, 0).0).collect();
    assert_eq!((busy, picks), (0, vec![1, 2, 1, 2]));
}

#[test]
fn least_conn_over_many_endpoints() {
    let members = members(&[1; 200]);
    let balancer = (find("least_conn").unwrap().build)(&members);
    let held: Vec<_> = (0..600).map(|_| begin(&*balancer, &members, 0)).collect();
    assert_eq!(counts(&members), [3; 200]);
    drop(held);
}

#[test]
fn ewma_avoids_slow_and_refusing_endpoints() {
    use std::time::Duration;
    let members = members(&[1, 1, 1]);
    let balancer = (find("ewma").unwrap().build)(&members);
    members[0].endpoint.connect_cost.record(Duration::from_millis(300), false);
    members[1].endpoint.connect_cost.record(Duration::from_micros(300), false);
    members[2].endpoint.connect_cost.record(Duration::from_micros(10), true);
    let mut picked = [0; 3];
    for _ in 0..300 {
        picked[begin(&*balancer, &members, 0).0] += 1;
    }
    assert_eq!(picked[0], 0, "the slowest loses every comparison");
    assert!(picked[1] > picked[2], "{picked:?}");
}

#[test]
fn random_shares_load_by_weight() {
    let members = members(&[3, 1, 4]);
    let balancer = (find("random").unwrap().build)(&members);
    let held: Vec<_> = (0..800).map(|_| begin(&*balancer, &members, 0)).collect();
    let counts = counts(&members);
    for (count, weight) in counts.iter().zip([3, 1, 4]) {
        assert!(count.abs_diff(weight * 100) < 25, "{counts:?}");
    }
    drop(held);
}

#[test]
fn ewma_shares_load_by_weight() {
    let members = members(&[3, 1]);
    let balancer = (find("ewma").unwrap().build)(&members);
    let held: Vec<_> = (0..400).map(|_| begin(&*balancer, &members, 0)).collect();
    let counts = counts(&members);
    assert!((295..=305).contains(&counts[0]), "{counts:?}");
    drop(held);
}

proptest! {
    #[test]
    fn shares_stay_bounded(weights in prop::collection::vec(any::<u32>(), 1..20), limit in 1_u64..9999) {
        let shares = shares(&weights, limit);
        prop_assert!(shares.iter().sum::<u64>() <= limit.max(1) + weights.len() as u64);
        for (share, weight) in shares.iter().zip(&weights) {
            prop_assert!(*share > 0 || *weight == 0);
        }
    }

    #[test]
    fn all_are_reached(weights in prop::collection::vec(1_u32..4, 1..8)) {
        for def in BUILTIN {
            let members = members(&weights);
            let balancer = (def.build)(&members);
            let held: Vec<_> = (0..2000).map(|key| begin(&*balancer, &members, key)).collect();
            let reached: BTreeSet<_> = held.iter().map(|(index, _)| *index).collect();
            prop_assert_eq!(reached.len(), weights.len(), "{}", def.name);
        }
    }

    #[test]
    fn weight_zero_is_not_the_first_choice(weights in prop::collection::vec(0_u32..3, 1..8)) {
        prop_assume!(weights.iter().any(|weight| *weight > 0));
        for def in BUILTIN {
            let members = members(&weights);
            let balancer = (def.build)(&members);
            for key in 0..50 {
                let (index, _lease) = begin(&*balancer, &members, key);
                prop_assert!(weights[index] > 0, "{}", def.name);
            }
        }
    }

    #[test]
    fn never_a_tried_one(weights in prop::collection::vec(0_u32..5, 1..12), key: u32) {
        for def in BUILTIN {
            let members = members(&weights);
            let balancer = (def.build)(&members);
            let key = KeyHash::of(&key.to_be_bytes());
            let mut tried = vec![false; weights.len()];
            tried[balancer.pick(key).unwrap()] = true;
            while let Some(index) = balancer.retry(key, &|index| tried[index]) {
                prop_assert!(!tried[index], "{}", def.name);
                tried[index] = true;
            }
            let all_zero = weights.iter().all(|weight| *weight == 0);
            for (tried, weight) in tried.iter().zip(&weights) {
                prop_assert!(*tried || (*weight == 0 && !all_zero), "{}", def.name);
            }
        }
    }

    #[test]
    fn leases_return_to_zero_over_retries_and_rebuilds(
        steps in prop::collection::vec((0_u8..4, any::<u8>()), 1..80)
    ) {
        let names = Names::default();
        let node = |last: u8, weight| Node {
            host: format!("10.0.0.{last}"), port: Some(1), weight, priority: i32::from(last % 2), max_conns: None,
        };
        for def in BUILTIN {
            let nodes = |count: u8| locate(&(1..=count).map(|n| node(n, 1)).collect::<Vec<_>>(), &names);
            let plan = Plan { balancer: def, board: board(), slow_start: None, max_conns: None };
            let mut set = EndpointSet::build(nodes(4), &plan, None);
            let first = set.pick(KeyHash::default(), &mut Tried::default());
            let watched = Arc::clone(first.as_ref().unwrap().endpoint());
            let mut held = vec![first];
            for (step, value) in &steps {
                match step {
                    0 => set = EndpointSet::build(nodes(value % 6 + 1), &plan, Some(&set)),
                    1 => drop(held.pop()),
                    _ => {
                        let mut tried = Tried::default();
                        for _ in 0..=value % 3 {
                            let lease = set.pick(KeyHash::of(&[*value]), &mut tried);
                            held.push(lease);
                        }
                    }
                }
            }
            drop(held);
            prop_assert_eq!(watched.active(), 0, "{}", def.name);
        }
    }
}
