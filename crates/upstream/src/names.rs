//! Addresses of host names, as last resolved. The control side fills the table; the data path
//! never waits for it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, PoisonError, RwLock};

/// A server that a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resolved {
    /// Its address.
    pub ip: IpAddr,
    /// What a service record (RFC 2782) says of it.
    pub service: Option<Service>,
}

/// A service record, as far as it concerns the choice of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    /// The port, unless the node has one.
    pub port: u16,
    /// Lower ones come first.
    pub priority: u16,
    /// Share among those of the same priority.
    pub weight: u32,
}

/// The last good addresses of every name in use.
#[derive(Debug, Default)]
pub struct Names {
    known: RwLock<HashMap<String, Arc<[Resolved]>>>,
}

impl Names {
    /// What `host` stands for: itself if it is an address, `localhost`, or what was resolved last.
    #[must_use]
    pub fn addresses(&self, host: &str) -> Option<Arc<[Resolved]>> {
        let alone = |ip| Arc::new([Resolved { ip, service: None }]) as _;
        if let Some(ip) = literal(host) {
            return Some(alone(ip));
        }
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(addresses) = known.get(host) {
            return Some(Arc::clone(addresses));
        }
        host.eq_ignore_ascii_case("localhost").then(|| alone(Ipv4Addr::LOCALHOST.into()))
    }

    /// Whether `host` was resolved before.
    #[must_use]
    pub fn is_known(&self, host: &str) -> bool {
        self.known.read().unwrap_or_else(PoisonError::into_inner).contains_key(host)
    }

    /// Stores fresh addresses; `true` if they differ from the last ones.
    pub fn set(&self, host: &str, addresses: Vec<IpAddr>) -> bool {
        let plain = |ip| Resolved { ip, service: None };
        self.set_services(host, addresses.into_iter().map(plain).collect())
    }

    /// As [`Names::set`], with what service records say.
    pub fn set_services(&self, host: &str, mut addresses: Vec<Resolved>) -> bool {
        addresses.sort_unstable();
        addresses.dedup();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.get(host).is_some_and(|old| **old == *addresses) {
            return false;
        }
        known.insert(host.to_owned(), addresses.into());
        true
    }

    /// Forgets names that nobody uses.
    pub fn keep(&self, in_use: impl Fn(&str) -> bool) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|name, _| in_use(name));
    }
}

fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Whether `host` must be resolved.
#[must_use]
pub fn is_name(host: &str) -> bool {
    literal(host).is_none() && !host.starts_with("unix:") && !host.eq_ignore_ascii_case("localhost")
}

/// Whether `host` names a service (RFC 2782), `_postgres._tcp.example.com`.
#[must_use]
pub fn is_service(host: &str) -> bool {
    let mut labels = host.split('.');
    let labels = (labels.next().unwrap_or_default(), labels.next().unwrap_or_default());
    labels.0.len() > 1 && labels.0.starts_with('_') && matches!(labels.1, "_tcp" | "_udp" | "_tls")
}

/// Whether `host` is written as a name, resolved or not (`localhost` is never asked for).
pub(crate) fn is_written_as_name(host: &str) -> bool {
    literal(host).is_none() && !host.starts_with("unix:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_need_no_table() {
        let names = Names::default();
        assert_eq!(names.addresses("[::1]").unwrap()[0].ip, "::1".parse::<IpAddr>().unwrap());
        assert!(names.addresses("db.example").is_none());
        assert!(names.set("db.example", vec![[10, 0, 0, 2].into(), [10, 0, 0, 1].into()]));
        assert!(!names.set("db.example", vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()]));
        assert_eq!(names.addresses("db.example").unwrap().len(), 2);
        names.keep(|_| false);
        assert!(!names.is_known("db.example"));
    }
}
