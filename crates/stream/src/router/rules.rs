//! Finds the first of many rules by hash probes.
//!
//! Rules are grouped by *shape*: which fields they look at and how long their prefixes are. Within
//! a shape a rule is a key in a hash table, so a lookup masks the facts once for each shape. Real
//! configurations have a handful of shapes; the number of rules does not matter.

use std::net::IpAddr;

use foldhash::HashMap;
use ipnet::IpNet;

use super::{Facts, Predicates};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Prefix {
    is_v6: bool,
    length: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    alpn: bool,
    port: bool,
    server: Option<Prefix>,
    remote: Option<Prefix>,
}

/// Protocol, port, server network and client network, 0 where the shape does not look.
type Masked = (u16, u16, u128, u128);

/// Application protocols that routes ask for, by name. They are numbered from 1, so that rules
/// compare numbers.
#[derive(Debug, Default)]
pub(super) struct Protocols(HashMap<Vec<u8>, u16>);

impl Protocols {
    fn number(&mut self, name: &str) -> u16 {
        let next = u16::try_from(self.0.len() + 1).unwrap_or(u16::MAX);
        *self.0.entry(name.as_bytes().to_vec()).or_insert(next)
    }

    /// Numbers of those among `offered` that any route asks for.
    pub(super) fn among(&self, offered: &[Vec<u8>]) -> Vec<u16> {
        if self.0.is_empty() {
            return Vec::new();
        }
        offered.iter().filter_map(|name| self.0.get(name).copied()).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[derive(Debug)]
struct Group {
    shape: Shape,
    first: u32,
    table: HashMap<Masked, u32>,
}

/// Rules of one class of routes.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// In the order of their first rule, so that a search can stop early.
    groups: Vec<Group>,
}

impl Rules {
    /// Adds a rule; numbers must grow.
    pub(super) fn add(&mut self, number: u32, rule: &Predicates, protocols: &mut Protocols) {
        let prefix =
            |net: IpNet| Prefix { is_v6: matches!(net, IpNet::V6(_)), length: net.prefix_len() };
        let shape = Shape {
            alpn: !rule.alpn.is_empty(),
            port: rule.port.is_some(),
            server: rule.server.map(prefix),
            remote: rule.remote.map(prefix),
        };
        let bits = |net: Option<IpNet>| net.map_or(0, |net| ip_bits(net.network()));
        let key =
            |protocol| (protocol, rule.port.unwrap_or(0), bits(rule.server), bits(rule.remote));
        let known = self.groups.iter().position(|group| group.shape == shape);
        let index = known.unwrap_or_else(|| {
            self.groups.push(Group { shape, first: number, table: HashMap::default() });
            self.groups.len() - 1
        });
        if let Some(group) = self.groups.get_mut(index) {
            // An equal later rule never wins.
            if rule.alpn.is_empty() {
                group.table.entry(key(0)).or_insert(number);
            }
            for name in &rule.alpn {
                group.table.entry(key(protocols.number(name))).or_insert(number);
            }
        }
    }

    /// The lowest number whose rule holds; `offered` are the protocols of the client.
    pub(super) fn find(&self, facts: &Facts<'_>, offered: &[u16]) -> Option<u32> {
        let mut best: Option<u32> = None;
        for group in &self.groups {
            if best.is_some_and(|best| best < group.first) {
                break;
            }
            let found = group.shape.mask(facts).and_then(|key| group.find(key, offered));
            if let Some(number) = found {
                best = Some(best.map_or(number, |best| best.min(number)));
            }
        }
        best
    }
}

impl Group {
    fn find(&self, (_, port, server, remote): Masked, offered: &[u16]) -> Option<u32> {
        let find = |protocol| self.table.get(&(protocol, port, server, remote)).copied();
        match self.shape.alpn {
            true => offered.iter().filter_map(|protocol| find(*protocol)).min(),
            false => find(0),
        }
    }
}

impl Shape {
    /// The facts as this shape sees them; `None` when a field it looks at is missing or of the
    /// other address family.
    fn mask(&self, facts: &Facts<'_>) -> Option<Masked> {
        let port = match self.port {
            true => facts.server?.port(),
            false => 0,
        };
        let server = match self.server {
            Some(prefix) => prefix.mask(facts.server?.ip())?,
            None => 0,
        };
        let remote = match self.remote {
            Some(prefix) => prefix.mask(facts.client?)?,
            None => 0,
        };
        Some((0, port, server, remote))
    }
}

impl Prefix {
    fn mask(self, ip: IpAddr) -> Option<u128> {
        if ip.is_ipv6() != self.is_v6 {
            return None;
        }
        let width = if self.is_v6 { 128 } else { 32 };
        let drop = width - u32::from(self.length);
        let bits = ip_bits(ip);
        Some(bits.checked_shr(drop).unwrap_or(0).checked_shl(drop).unwrap_or(0))
    }
}

fn ip_bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}
