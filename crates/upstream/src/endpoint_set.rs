//! The endpoints of an upstream at one moment, in tiers of equal priority.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use headgate_model::resource::upstream::Node;

use crate::balancer::{Balancer, BalancerDef, Member};
use crate::endpoint::{Address, Endpoint, Lease, Removal};
use crate::hash_key::KeyHash;
use crate::health::Board;
use crate::names::{self, Names, Resolved};

/// A node's address, found through [`Names`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Located {
    priority: i32,
    address: Address,
    host: Option<Arc<str>>,
    weight: u32,
    max_conns: Option<u32>,
}

/// Resolves nodes, better tiers first. Nodes without a port or a known address are left out.
pub(crate) fn locate(nodes: &[Node], names: &Names) -> Vec<Located> {
    let mut found = Vec::with_capacity(nodes.len());
    for node in nodes {
        let Node { priority, weight, max_conns, .. } = *node;
        if let Some(path) = node.host.strip_prefix("unix:") {
            let address = Address::Unix(path.into());
            found.push(Located { priority, address, host: None, weight, max_conns });
            continue;
        }
        let host = names::is_written_as_name(&node.host).then(|| Arc::from(node.host.as_str()));
        for Resolved { ip, service } in names.addresses(&node.host).iter().flat_map(|all| &**all) {
            let Some(port) = node.port.or(service.map(|service| service.port)) else { continue };
            let (mut priority, mut weight) = (priority, weight);
            if let Some(service) = service {
                priority = priority.saturating_sub(i32::from(service.priority));
                weight = weight.saturating_mul(service.weight.max(1));
            }
            let address = Address::Ip(SocketAddr::new(*ip, port));
            found.push(Located { priority, address, host: host.clone(), weight, max_conns });
        }
    }
    found.sort_by_key(|located| std::cmp::Reverse(located.priority));
    found
}

/// How a set is built.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) balancer: &'static BalancerDef,
    pub(crate) board: Arc<Board>,
    pub(crate) slow_start: Option<Duration>,
    /// Most sessions of an endpoint whose node does not say.
    pub(crate) max_conns: Option<u32>,
}

/// Endpoints of one priority and the balancer built for them.
#[derive(Debug)]
struct Tier {
    priority: i32,
    members: Vec<Member>,
    balancer: Box<dyn Balancer>,
    /// Members that stand only for their places in the balancer.
    skipped: Option<Vec<bool>>,
}

impl Tier {
    fn new(priority: i32, members: Vec<Member>, plan: &Plan) -> Self {
        let balancer = (plan.balancer.build)(&members);
        Self { priority, members, balancer, skipped: None }
    }

    fn skips(&self, index: usize) -> bool {
        let skipped = self.skipped.as_ref().and_then(|skipped| skipped.get(index));
        skipped.copied().unwrap_or(false)
    }
}

/// An endpoint as it stood when the set was built.
#[derive(Debug)]
struct Placed {
    located: Located,
    endpoint: Arc<Endpoint>,
    usable: bool,
    /// Percent of its weight.
    warmth: u32,
}

/// The endpoints of an upstream at one moment. Sessions try usable ones in order of priority,
/// then, rather than give up, the others.
#[derive(Debug, Default)]
pub struct EndpointSet {
    tiers: Vec<Tier>,
    /// How many tiers have usable endpoints.
    usable_tiers: usize,
    all: Vec<Placed>,
    repeats_sole: bool,
    is_warming: bool,
}

/// Endpoints that one session has tried already. The first needs no allocation.
#[derive(Debug, Default)]
pub struct Tried {
    first: Option<(usize, usize)>,
    /// For each tier a bit for each member, so that looking costs the same however many were tried.
    others: Vec<Vec<u64>>,
    full: bool,
}

impl Tried {
    /// Whether an endpoint was passed over because it has as many sessions as it may.
    #[must_use]
    pub const fn met_a_full_one(&self) -> bool {
        self.full
    }

    fn add(&mut self, (tier, index): (usize, usize)) {
        if self.first.is_none() {
            self.first = Some((tier, index));
            return;
        }
        if self.others.len() <= tier {
            self.others.resize(tier + 1, Vec::new());
        }
        let Some(bits) = self.others.get_mut(tier) else { return };
        let word = index / 64;
        if bits.len() <= word {
            bits.resize(word + 1, 0);
        }
        bits.iter_mut().skip(word).take(1).for_each(|bits| *bits |= 1_u64 << (index % 64));
    }

    fn has(&self, (tier, index): (usize, usize)) -> bool {
        let bits = self.others.get(tier).and_then(|bits| bits.get(index / 64));
        self.first == Some((tier, index))
            || bits.is_some_and(|bits| bits & (1_u64 << (index % 64)) != 0)
    }
}

impl EndpointSet {
    /// Endpoints that `previous` has as well are taken over with all that is known of them.
    pub(crate) fn build(located: Vec<Located>, plan: &Plan, previous: Option<&Self>) -> Self {
        let before = previous.into_iter().flat_map(|previous| &previous.all);
        let mut known: HashMap<Key, Arc<Endpoint>> =
            before.map(|placed| (key(&placed.located), Arc::clone(&placed.endpoint))).collect();
        let is_addition = !known.is_empty();
        let mut all = Vec::with_capacity(located.len());
        for located in located {
            let endpoint = known.entry(key(&located)).or_insert_with(|| {
                let (address, host) = key(&located);
                let endpoint = Endpoint::new(address, host, Arc::clone(&plan.board));
                if is_addition {
                    endpoint.begin_slowly();
                }
                Arc::new(endpoint)
            });
            let endpoint = Arc::clone(endpoint);
            endpoint.set_limit(located.max_conns.or(plan.max_conns));
            let usable = endpoint.is_usable();
            let warmth = plan.slow_start.map_or(100, |time| endpoint.warmth(time));
            all.push(Placed { located, endpoint, usable, warmth });
        }
        plan.board.set_usable(all.iter().filter(|placed| placed.usable).count());
        Self::of(all, plan)
    }

    fn of(all: Vec<Placed>, plan: &Plan) -> Self {
        let is_warming = all.iter().any(|placed| placed.warmth < 100);
        let warming = !plan.balancer.keeps_places && is_warming;
        let member = |placed: &Placed| Member {
            endpoint: Arc::clone(&placed.endpoint),
            weight: match warming {
                true => placed.located.weight.saturating_mul(placed.warmth),
                false => placed.located.weight,
            },
        };
        let none_usable = !all.iter().any(|placed| placed.usable);
        let (mut tiers, mut others) = (Vec::new(), Vec::new());
        for group in all.chunk_by(|a, b| a.located.priority == b.located.priority) {
            let priority = group.first().map_or(0, |placed| placed.located.priority);
            let usable = group.iter().filter(|placed| placed.usable).count();
            if none_usable || usable == group.len() {
                tiers.push(Tier::new(priority, group.iter().map(member).collect(), plan));
                continue;
            }
            let unusable = group.iter().filter(|placed| !placed.usable).map(member);
            others.push(Tier::new(priority, unusable.collect(), plan));
            if usable > 0 && plan.balancer.keeps_places {
                let mut tier = Tier::new(priority, group.iter().map(member).collect(), plan);
                tier.skipped = Some(group.iter().map(|placed| !placed.usable).collect());
                tiers.push(tier);
            } else if usable > 0 {
                let members = group.iter().filter(|placed| placed.usable).map(member);
                tiers.push(Tier::new(priority, members.collect(), plan));
            }
        }
        let usable_tiers = tiers.len();
        tiers.append(&mut others);
        // Most upstreams have one tier, and there are many upstreams.
        tiers.shrink_to_fit();
        let repeats_sole = plan.balancer.repeats_sole;
        Self { tiers, usable_tiers, all, repeats_sole, is_warming }
    }

    /// Marks the endpoints that `next` does not have.
    pub(crate) fn removed_by(&self, next: &Self, why: Removal) {
        let kept: HashSet<_> = next.endpoints().map(Arc::as_ptr).collect();
        let gone = self.endpoints().filter(|endpoint| !kept.contains(&Arc::as_ptr(endpoint)));
        gone.for_each(|endpoint| endpoint.remove(why));
    }

    /// Number of endpoints in all tiers.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is no endpoint at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether the same endpoint is chosen every time, whatever its health.
    #[must_use]
    pub const fn has_a_sole_one(&self) -> bool {
        self.all.len() == 1 && self.repeats_sole
    }

    /// All endpoints, better priorities first.
    pub fn endpoints(&self) -> impl ExactSizeIterator<Item = &Arc<Endpoint>> {
        self.all.iter().map(|placed| &placed.endpoint)
    }

    /// Whether an endpoint is well.
    #[must_use]
    pub fn has_a_usable_one(&self) -> bool {
        self.all.iter().any(|placed| placed.endpoint.is_usable())
    }

    /// Chooses an endpoint that was not tried yet, from the best tier that has one. With most
    /// balancers a sole endpoint is chosen every time.
    #[must_use]
    pub fn pick(&self, key: KeyHash, tried: &mut Tried) -> Option<Lease> {
        if self.has_a_sole_one() {
            let lease = Lease::take(&self.all.first()?.endpoint);
            tried.full = lease.is_none();
            return lease;
        }
        for (number, tier) in self.tiers.iter().enumerate() {
            let next = |tried: &Tried| match tried.first {
                None if tier.skipped.is_none() => tier.balancer.pick(key),
                _ => tier
                    .balancer
                    .retry(key, &|index| tier.skips(index) || tried.has((number, index))),
            };
            let mut full = 0;
            while let Some(index) = next(tried) {
                tried.add((number, index));
                let lease = tier.members.get(index).map(|member| Lease::take(&member.endpoint));
                let Some(None) = lease else { return lease.flatten() };
                tried.full = true;
                full += 1;
                if full == MANY && !tier.members.iter().any(|member| member.endpoint.has_room()) {
                    break; // asking a thousand of them one by one would take long
                }
            }
            if number + 1 == self.usable_tiers && number + 1 < self.tiers.len() {
                tracing::info!("no healthy server is left to try, so unhealthy ones are tried");
            } else if number + 1 < self.tiers.len() {
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
        self.all.len() == located.len()
            && self.all.iter().zip(located).all(|(placed, located)| placed.located == *located)
    }

    /// Where its endpoints are, to build it anew.
    pub(crate) fn located(&self) -> Vec<Located> {
        self.all.iter().map(|placed| placed.located.clone()).collect()
    }

    /// Whether it was built for endpoints as they are now.
    pub(crate) fn is_current(&self, slow_start: Option<Duration>) -> bool {
        self.all.iter().all(|placed| {
            placed.usable == placed.endpoint.is_usable()
                && slow_start.is_none_or(|time| placed.warmth == placed.endpoint.warmth(time))
        })
    }

    /// Whether an endpoint is on its way to its full weight.
    pub(crate) const fn is_warming(&self) -> bool {
        self.is_warming
    }

    /// How many endpoints counted as usable when it was built.
    pub(crate) fn usable(&self) -> usize {
        self.all.iter().filter(|placed| placed.usable).count()
    }
}

/// After so many full endpoints a session looks whether any has room.
const MANY: usize = 8;

/// What makes an endpoint the same one.
type Key = (Address, Option<Arc<str>>);

fn key(located: &Located) -> Key {
    (located.address.clone(), located.host.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer;

    fn node(host: &str, port: u16, weight: u32, priority: i32) -> Node {
        Node { host: host.into(), port: Some(port), weight, priority, max_conns: None }
    }

    fn plan(kind: &str) -> Plan {
        let board = Arc::new(Board::new("upstreams/1".to_owned()));
        Plan { balancer: balancer::find(kind).unwrap(), board, slow_start: None, max_conns: None }
    }

    fn set(kind: &str, nodes: &[Node], names: &Names) -> EndpointSet {
        EndpointSet::build(locate(nodes, names), &plan(kind), None)
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
    fn a_service_brings_ports_weights_and_priorities() {
        use crate::names::Service;
        let names = Names::default();
        let resolved = |last, port, priority, weight| Resolved {
            ip: [10, 0, 0, last].into(),
            service: Some(Service { port, priority, weight }),
        };
        let services = vec![resolved(1, 81, 10, 2), resolved(2, 82, 10, 0), resolved(3, 83, 1, 1)];
        names.set_services("_db._tcp.test", services);
        let mut node = node("_db._tcp.test", 0, 3, 5);
        node.port = None;
        let found = locate(std::slice::from_ref(&node), &names);
        let found: Vec<_> =
            found.iter().map(|it| (it.address.to_string(), it.priority, it.weight)).collect();
        let expected = [("10.0.0.3:83", 4, 3), ("10.0.0.1:81", -5, 6), ("10.0.0.2:82", -5, 3)];
        assert_eq!(
            found,
            expected.map(|(address, priority, weight)| (address.into(), priority, weight))
        );
        node.port = Some(99);
        assert!(locate(&[node], &names).iter().all(|it| it.address.to_string().ends_with(":99")));
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
        let names = Names::default();
        let old =
            set("least_conn", &[node("10.0.0.1", 1, 1, 0), node("10.0.0.2", 1, 1, 0)], &names);
        let lease = old.pick(KeyHash::default(), &mut Tried::default()).unwrap();
        assert_eq!(lease.endpoint().address.to_string(), "10.0.0.1:1");
        let nodes = [node("10.0.0.1", 1, 2, 3), node("10.0.0.3", 1, 1, 3)];
        let new = EndpointSet::build(locate(&nodes, &names), &plan("least_conn"), Some(&old));
        let counts = |set: &EndpointSet| -> Vec<u32> {
            set.endpoints().map(|endpoint| endpoint.active()).collect()
        };
        assert_eq!((counts(&old), counts(&new)), (vec![1, 0], vec![1, 0]));
        drop(lease);
        assert_eq!((counts(&old), counts(&new)), (vec![0, 0], vec![0, 0]));
    }

    #[test]
    fn full_endpoints_are_passed_over_however_many_there_are() {
        for def in balancer::BUILTIN {
            let node = |number: u16| {
                let mut node = node("10.0.0.1", number + 1, 1, 0);
                node.max_conns = Some(1);
                node
            };
            let nodes: Vec<_> = (0..200).map(node).collect();
            let set = set(def.name, &nodes, &Names::default());
            let pick = |key: u32| {
                let mut tried = Tried::default();
                (set.pick(KeyHash::of(&key.to_le_bytes()), &mut tried), tried.met_a_full_one())
            };
            let mut held: Vec<_> = (0..200).map(|key| pick(key).0.unwrap()).collect();
            assert!(matches!(pick(7), (None, true)), "{}", def.name);
            drop(held.pop());
            assert!(pick(7).0.is_some(), "{}: the one that has room is found", def.name);
        }
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
