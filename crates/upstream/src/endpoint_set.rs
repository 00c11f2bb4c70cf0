//! The endpoints of an upstream at one moment, in tiers of equal priority.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use headgate_model::resource::upstream::Node;

use crate::balancer::{Balancer, BalancerDef, Member};
use crate::endpoint::{Address, Endpoint, Lease};
use crate::hash_key::KeyHash;
use crate::names::Names;

/// A node's address, found through [`Names`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Located {
    priority: i32,
    address: Address,
    weight: u32,
}

/// Resolves nodes, better tiers first. Nodes without a port or a known address are left out.
pub(crate) fn locate(nodes: &[Node], names: &Names) -> Vec<Located> {
    let mut found = Vec::with_capacity(nodes.len());
    for node in nodes {
        let mut add = |address| {
            found.push(Located { priority: node.priority, address, weight: node.weight });
        };
        if let Some(path) = node.host.strip_prefix("unix:") {
            add(Address::Unix(path.into()));
            continue;
        }
        let (Some(port), Some(addresses)) = (node.port, names.addresses(&node.host)) else {
            continue;
        };
        addresses.iter().for_each(|ip| add(Address::Ip(SocketAddr::new(*ip, port))));
    }
    found.sort_by_key(|located| std::cmp::Reverse(located.priority));
    found
}

/// Endpoints of one priority and the balancer built for them.
#[derive(Debug)]
struct Tier {
    priority: i32,
    members: Vec<Member>,
    balancer: Box<dyn Balancer>,
}

/// The usable endpoints of an upstream at one moment; better tiers first.
#[derive(Debug, Default)]
pub struct EndpointSet {
    tiers: Vec<Tier>,
    count: usize,
    repeats_sole: bool,
}

/// Endpoints that one session has tried already. The first needs no allocation.
#[derive(Debug, Default)]
pub struct Tried {
    first: Option<(usize, usize)>,
    others: Vec<(usize, usize)>,
}

impl Tried {
    fn add(&mut self, place: (usize, usize)) {
        match self.first {
            None => self.first = Some(place),
            Some(_) => self.others.push(place),
        }
    }

    fn has(&self, place: (usize, usize)) -> bool {
        self.first == Some(place) || self.others.contains(&place)
    }
}

impl EndpointSet {
    /// Endpoints whose address `previous` has as well are taken over with their counts.
    pub(crate) fn build(
        located: &[Located],
        balancer: &BalancerDef,
        previous: Option<&Self>,
    ) -> Self {
        let members = previous.into_iter().flat_map(Self::members);
        let mut known: HashMap<&Address, Arc<Endpoint>> = members
            .map(|(_, member)| (&member.endpoint.address, Arc::clone(&member.endpoint)))
            .collect();
        let mut tiers = Vec::new();
        for group in located.chunk_by(|a, b| a.priority == b.priority) {
            let members: Vec<Member> = group
                .iter()
                .map(|Located { address, weight, .. }| Member {
                    endpoint: Arc::clone(
                        known
                            .entry(address)
                            .or_insert_with(|| Arc::new(Endpoint::new(address.clone()))),
                    ),
                    weight: *weight,
                })
                .collect();
            let priority = group.first().map_or(0, |located| located.priority);
            let balancer = (balancer.build)(&members);
            tiers.push(Tier { priority, members, balancer });
        }
        Self { tiers, count: located.len(), repeats_sole: balancer.repeats_sole }
    }

    /// Number of endpoints in all tiers.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no endpoint at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Chooses an endpoint that was not tried yet, from the best tier that has one. With most
    /// balancers a sole endpoint is chosen every time.
    #[must_use]
    pub fn pick(&self, key: KeyHash, tried: &mut Tried) -> Option<Lease> {
        if self.count == 1 && self.repeats_sole {
            return self.tiers.first()?.members.first().map(|sole| Lease::of(&sole.endpoint));
        }
        for (number, tier) in self.tiers.iter().enumerate() {
            let picked = match tried.first {
                None => tier.balancer.pick(key),
                Some(_) => tier.balancer.retry(key, &|index| tried.has((number, index))),
            };
            if let Some(index) = picked {
                tried.add((number, index));
                return tier.members.get(index).map(|member| Lease::of(&member.endpoint));
            }
            if number + 1 < self.tiers.len() {
                tracing::info!(
                    "failed to get server from current priority {}, try next one, \
                     err: all upstream servers tried",
                    tier.priority
                );
            }
        }
        None
    }

    /// Whether it holds exactly these endpoints in this order.
    pub(crate) fn holds(&self, located: &[Located]) -> bool {
        self.count == located.len()
            && self.members().zip(located).all(|((priority, member), located)| {
                priority == located.priority
                    && member.weight == located.weight
                    && member.endpoint.address == located.address
            })
    }

    fn members(&self) -> impl Iterator<Item = (i32, &Member)> {
        self.tiers.iter().flat_map(|tier| tier.members.iter().map(|member| (tier.priority, member)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer;

    fn node(host: &str, port: u16, weight: u32, priority: i32) -> Node {
        Node { host: host.into(), port: Some(port), weight, priority }
    }

    fn set(kind: &str, nodes: &[Node], names: &Names) -> EndpointSet {
        EndpointSet::build(&locate(nodes, names), balancer::find(kind).unwrap(), None)
    }

    fn picks(set: &EndpointSet) -> Vec<String> {
        let mut tried = Tried::default();
        let mut picks = Vec::new();
        while let Some(lease) = set.pick(KeyHash::default(), &mut tried) {
            picks.push(lease.endpoint().address.to_string());
        }
        picks
    }

    #[test]
    fn better_tiers_come_first_and_nothing_twice() {
        let nodes = [node("10.0.0.3", 3, 1, -1), node("10.0.0.1", 1, 1, 5), node("::1", 2, 1, 0)];
        for def in balancer::BUILTIN {
            let set = set(def.name, &nodes, &Names::default());
            assert_eq!(picks(&set), ["10.0.0.1:1", "[::1]:2", "10.0.0.3:3"]);
        }
    }

    #[test]
    fn a_name_stands_for_all_its_addresses() {
        let names = Names::default();
        let nodes = [node("db", 1, 1, 0)];
        assert!(set("roundrobin", &nodes, &names).is_empty());
        names.set("db", vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()]);
        assert_eq!(set("roundrobin", &nodes, &names).len(), 2);
    }

    #[test]
    fn a_sole_endpoint_is_tried_again_unless_sessions_are_counted() {
        for def in balancer::BUILTIN {
            let set = set(def.name, &[node("127.0.0.1", 1, 1, 0)], &Names::default());
            let mut tried = Tried::default();
            assert!(set.pick(KeyHash::default(), &mut tried).is_some());
            let again = set.pick(KeyHash::default(), &mut tried).is_some();
            assert_eq!(again, def.name != "least_conn", "{}", def.name);
        }
    }

    #[test]
    fn counts_survive_a_rebuild_and_return_to_zero() {
        let def = balancer::find("least_conn").unwrap();
        let names = Names::default();
        let old =
            set("least_conn", &[node("10.0.0.1", 1, 1, 0), node("10.0.0.2", 1, 1, 0)], &names);
        let lease = old.pick(KeyHash::default(), &mut Tried::default()).unwrap();
        assert_eq!(lease.endpoint().address.to_string(), "10.0.0.1:1");
        let nodes = [node("10.0.0.1", 1, 2, 3), node("10.0.0.3", 1, 1, 3)];
        let new = EndpointSet::build(&locate(&nodes, &names), def, Some(&old));
        let counts = |set: &EndpointSet| -> Vec<u32> {
            set.members().map(|(_, member)| member.endpoint.active()).collect()
        };
        assert_eq!((counts(&old), counts(&new)), (vec![1, 0], vec![1, 0]));
        drop(lease);
        assert_eq!((counts(&old), counts(&new)), (vec![0, 0], vec![0, 0]));
    }

    #[test]
    fn a_set_knows_what_it_holds() {
        let names = Names::default();
        let nodes = [node("10.0.0.1", 1, 1, 0), node("10.0.0.2", 1, 1, 0)];
        let set = set("roundrobin", &nodes, &names);
        assert!(set.holds(&locate(&nodes, &names)));
        for changed in
            [node("10.0.0.2", 1, 2, 0), node("10.0.0.2", 2, 1, 0), node("10.0.0.2", 1, 1, 1)]
        {
            assert!(!set.holds(&locate(&[nodes[0].clone(), changed], &names)));
        }
        assert!(!set.holds(&locate(&nodes[..1], &names)));
    }
}
