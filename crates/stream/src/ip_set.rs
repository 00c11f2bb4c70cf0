//! A set of IP networks that answers "is this address in it" for sets of any size.
//!
//! Networks are kept as disjoint, sorted ranges: overlapping and adjacent ones are merged when the
//! set is built, so a question is one binary search over memory that lies together. That is 17
//! steps for 100,000 networks; a trie takes as many and follows a pointer in each.

use std::net::IpAddr;

use ipnet::IpNet;

/// Sets up to this size are searched from the front.
const LINEAR: usize = 16;

/// A set of IP networks of both families.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IpSet {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl IpSet {
    /// The set of all addresses in `networks`. IPv4 networks in IPv6 spelling (`::ffff:10.0.0.0/104`)
    /// are IPv4 networks.
    #[must_use]
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match network {
                IpNet::V4(net) => v4.push((net.network().into(), net.broadcast().into())),
                IpNet::V6(net) => match net.network().to_ipv4_mapped() {
                    Some(first) if net.prefix_len() >= 96 => {
                        let size = u32::MAX.checked_shr(u32::from(net.prefix_len()) - 96);
                        let first = u32::from(first);
                        v4.push((first, first | size.unwrap_or(0)));
                    }
                    _ => v6.push((net.network().into(), net.broadcast().into())),
                },
            }
        }
        Self { v4: merged(v4, |end| end.checked_add(1)), v6: merged(v6, |end| end.checked_add(1)) }
    }

    /// Whether `ip`, in its canonical form, is in the set.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => contains(&self.v4, ip.into()),
            IpAddr::V6(ip) => contains(&self.v6, ip.into()),
        }
    }

    /// Number of disjoint ranges.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether no address is in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn merged<T: Ord + Copy>(mut ranges: Vec<(T, T)>, next: impl Fn(T) -> Option<T>) -> Vec<(T, T)> {
    ranges.sort_unstable();
    let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if next(before.1).is_none_or(|next| first <= next) => {
                before.1 = before.1.max(last);
            }
            _ => merged.push((first, last)),
        }
    }
    merged.shrink_to_fit();
    merged
}

fn contains<T: Ord + Copy>(ranges: &[(T, T)], ip: T) -> bool {
    if ranges.len() < LINEAR {
        return ranges.iter().any(|(first, last)| *first <= ip && ip <= *last);
    }
    let after = ranges.partition_point(|(first, _)| *first <= ip);
    after.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|(_, last)| ip <= *last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(networks: &[&str]) -> IpSet {
        IpSet::new(networks.iter().map(|text| headgate_model::check::parse_network(text).unwrap()))
    }

    #[test]
    fn networks_merge() {
        assert_eq!(set(&["10.0.0.0/9", "10.128.0.0/9", "10.1.2.3"]), set(&["10.0.0.0/8"]));
        assert_eq!(set(&["0.0.0.0/0", "::/0"]).len(), 2);
        assert_eq!(set(&["::ffff:10.0.0.0/104"]), set(&["10.0.0.0/8"]));
        assert!(set(&["0.0.0.0/0", "1.1.1.1"]).contains("255.255.255.255".parse().unwrap()));
    }

    #[test]
    fn families_are_apart() {
        let set = set(&["127.0.0.1", "fe80::/10"]);
        assert!(set.contains("::ffff:127.0.0.1".parse().unwrap()));
        assert!(set.contains("fe80::1".parse().unwrap()));
        assert!(!set.contains("::1".parse().unwrap()));
        assert!(!IpSet::default().contains("::1".parse().unwrap()));
    }

    fn network() -> impl Strategy<Value = IpNet> {
        // Few distinct bits, so that networks overlap and hit.
        let v4 = (any::<u32>(), 0_u8..=32)
            .prop_map(|(ip, len)| IpNet::new(IpAddr::V4((ip & 0x0303_00ff).into()), len).unwrap());
        let v6 = (any::<u128>(), 0_u8..=128).prop_map(|(ip, len)| {
            IpNet::new(IpAddr::V6((ip & 0x3_0000_0000_0000_0000_0000_0000_00ff).into()), len)
                .unwrap()
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn like_a_list(
            networks in prop::collection::vec(network(), 0..60),
            ips in prop::collection::vec(network(), 1..20),
        ) {
            let set = IpSet::new(networks.iter().copied());
            for ip in ips {
                for ip in [ip.addr(), ip.network(), ip.broadcast()] {
                    let mapped = |ip: IpAddr| ip.to_canonical() == ip;
                    prop_assume!(mapped(ip));
                    let expected = networks.iter().any(|network| network.contains(&ip));
                    prop_assert_eq!(set.contains(ip), expected, "{}", ip);
                }
            }
        }
    }
}
