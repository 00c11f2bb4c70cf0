//! Endpoints: the addresses behind an upstream's nodes, in tiers of equal priority.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use headgate_model::resource::upstream::Node;

use crate::balancer::{self, Balancer};
use crate::names::Names;

/// Where an endpoint listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// IP address and port.
    Ip(SocketAddr),
    /// Unix stream socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// One server.
#[derive(Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: Address,
    /// Its share of the traffic.
    pub weight: u32,
}

/// Endpoints of one priority and the balancer built for them.
#[derive(Debug)]
pub struct Tier {
    priority: i32,
    endpoints: Vec<Arc<Endpoint>>,
    balancer: Box<dyn Balancer>,
}

/// The usable endpoints of an upstream at one moment; better tiers first.
#[derive(Debug, Default)]
pub struct EndpointSet {
    tiers: Vec<Tier>,
    count: usize,
}

/// Endpoints that one session has tried already.
#[derive(Debug, Default)]
pub struct Tried(Vec<(usize, usize)>);

impl EndpointSet {
    /// Resolves nodes through `names`. Nodes without a port or a known address are left out.
    #[must_use]
    pub fn build(nodes: &[Node], names: &Names) -> Self {
        let mut found: Vec<(i32, Arc<Endpoint>)> = Vec::new();
        let mut add = |node: &Node, address| {
            let endpoint = Endpoint { address, weight: node.weight };
            found.push((node.priority, Arc::new(endpoint)));
        };
        for node in nodes {
            if let Some(path) = node.host.strip_prefix("unix:") {
                add(node, Address::Unix(path.into()));
                continue;
            }
            let (Some(port), Some(addresses)) = (node.port, names.addresses(&node.host)) else {
                continue;
            };
            for ip in addresses.iter() {
                add(node, Address::Ip(SocketAddr::new(*ip, port)));
            }
        }
        found.sort_by_key(|(priority, _)| std::cmp::Reverse(*priority));
        let count = found.len();
        let mut tiers: Vec<Tier> = Vec::new();
        for group in found.chunk_by(|a, b| a.0 == b.0) {
            let endpoints: Vec<_> =
                group.iter().map(|(_, endpoint)| Arc::clone(endpoint)).collect();
            let weights: Vec<u32> = endpoints.iter().map(|endpoint| endpoint.weight).collect();
            let priority = group.first().map_or(0, |(priority, _)| *priority);
            let balancer = balancer::roundrobin::build(&weights);
            tiers.push(Tier { priority, endpoints, balancer });
        }
        Self { tiers, count }
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

    /// Chooses an endpoint that was not tried yet, from the best tier that has one. A sole
    /// endpoint is chosen every time.
    #[must_use]
    pub fn pick(&self, tried: &mut Tried) -> Option<&Arc<Endpoint>> {
        if self.count == 1 {
            return self.tiers.first()?.endpoints.first();
        }
        for (number, tier) in self.tiers.iter().enumerate() {
            let picked = if tried.0.is_empty() {
                tier.balancer.pick()
            } else {
                tier.balancer.retry(&|index| tried.0.contains(&(number, index)))
            };
            if let Some(index) = picked {
                tried.0.push((number, index));
                return tier.endpoints.get(index);
            }
            if number + 1 < self.tiers.len() {
                tracing::debug!(
                    "failed to get server from current priority {}, try next one, \
                     err: all upstream servers tried",
                    tier.priority
                );
            }
        }
        None
    }

    /// Whether both sets hold the same endpoints in the same order.
    #[must_use]
    pub fn same_endpoints(&self, other: &Self) -> bool {
        let flat = |set: &Self| -> Vec<(i32, Arc<Endpoint>)> {
            let tiers = set.tiers.iter();
            tiers
                .flat_map(|tier| tier.endpoints.iter().map(|e| (tier.priority, Arc::clone(e))))
                .collect()
        };
        flat(self) == flat(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: &str, port: u16, weight: u32, priority: i32) -> Node {
        Node { host: host.into(), port: Some(port), weight, priority }
    }

    fn picks(set: &EndpointSet) -> Vec<String> {
        let mut tried = Tried::default();
        let mut picks = Vec::new();
        while let Some(endpoint) = set.pick(&mut tried) {
            picks.push(endpoint.address.to_string());
        }
        picks
    }

    #[test]
    fn better_tiers_come_first_and_nothing_twice() {
        let nodes = [node("10.0.0.3", 3, 1, -1), node("10.0.0.1", 1, 1, 5), node("::1", 2, 1, 0)];
        let set = EndpointSet::build(&nodes, &Names::default());
        assert_eq!(picks(&set), ["10.0.0.1:1", "[::1]:2", "10.0.0.3:3"]);
    }

    #[test]
    fn a_name_stands_for_all_its_addresses() {
        let names = Names::default();
        let nodes = [node("db", 1, 1, 0)];
        assert!(EndpointSet::build(&nodes, &names).is_empty());
        names.set("db", vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()]);
        assert_eq!(EndpointSet::build(&nodes, &names).len(), 2);
    }

    #[test]
    fn a_sole_endpoint_is_tried_again() {
        let set = EndpointSet::build(&[node("127.0.0.1", 1, 1, 0)], &Names::default());
        let mut tried = Tried::default();
        assert!(set.pick(&mut tried).is_some());
        assert!(set.pick(&mut tried).is_some());
    }
}
