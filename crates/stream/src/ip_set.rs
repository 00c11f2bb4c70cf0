//! A set of IP networks that answers "is this address in it" for sets of any size.
//!
//! Networks are kept as disjoint, sorted ranges: overlapping and adjacent ones are merged when the
//! set is built, so a question is one binary search over memory that lies together. That is 17
//! steps for 100,000 networks; a trie takes as many and follows a pointer in each.
//!
//! A network may have an end. Networks never overlap but by lying in one another, so every address
//! has one end too: the latest of the networks around it. Ranges carry it, and a question compares
//! it with the clock: nothing has to be rebuilt when time passes.

use std::net::IpAddr;

use ipnet::IpNet;

/// Sets up to this size are searched from the front.
const LINEAR: usize = 16;

/// The end of a network that has none.
const FOREVER: u64 = u64::MAX;

/// A set of IP networks of both families.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IpSet {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

/// Disjoint ranges in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Ranges<T> {
    /// First and last address.
    spans: Vec<(T, T)>,
    /// When each ends, in Unix seconds; empty when none does.
    ends: Vec<u64>,
}

impl IpSet {
    /// The set of all addresses in `networks`. IPv4 networks in IPv6 spelling (`::ffff:10.0.0.0/104`)
    /// are IPv4 networks.
    #[must_use]
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        Self::timed(networks.into_iter().map(|network| (network, None)))
    }

    /// The same of networks of which some end, at a moment in Unix seconds.
    #[must_use]
    pub fn timed(networks: impl IntoIterator<Item = (IpNet, Option<u64>)>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (network, end) in networks {
            let end = end.unwrap_or(FOREVER);
            match network {
                IpNet::V4(net) => v4.push((net.network().into(), net.broadcast().into(), end)),
                IpNet::V6(net) => match net.network().to_ipv4_mapped() {
                    Some(first) if net.prefix_len() >= 96 => {
                        let size = u32::MAX.checked_shr(u32::from(net.prefix_len()) - 96);
                        let first = u32::from(first);
                        v4.push((first, first | size.unwrap_or(0), end));
                    }
                    _ => v6.push((net.network().into(), net.broadcast().into(), end)),
                },
            }
        }
        Self {
            v4: Ranges::new(v4, |at| at.checked_add(1), |at| at.checked_sub(1)),
            v6: Ranges::new(v6, |at| at.checked_add(1), |at| at.checked_sub(1)),
        }
    }

    /// Whether `ip` is in the set, whatever the time.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.end_of(ip).is_some()
    }

    /// Whether `ip` is in a network of the set that has not ended; `now` tells the time in Unix
    /// seconds, and is asked only if it matters.
    #[must_use]
    pub fn contains_at(&self, ip: IpAddr, now: impl FnOnce() -> u64) -> bool {
        self.end_of(ip).is_some_and(|end| end == FOREVER || end > now())
    }

    /// The end of the networks around `ip`, in its canonical form.
    fn end_of(&self, ip: IpAddr) -> Option<u64> {
        match ip.to_canonical() {
            IpAddr::V4(ip) => self.v4.end_of(ip.into()),
            IpAddr::V6(ip) => self.v6.end_of(ip.into()),
        }
    }

    /// Number of disjoint ranges.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.v4.spans.len() + self.v6.spans.len()
    }

    /// Whether no address is in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Ord + Copy> Ranges<T> {
    /// Ranges of networks that are disjoint or lie in one another, each with its end.
    fn new(
        mut networks: Vec<(T, T, u64)>,
        next: impl Fn(T) -> Option<T>,
        before: impl Fn(T) -> Option<T>,
    ) -> Self {
        // The larger of two that begin together comes first: it is around the other.
        networks.sort_unstable_by(|a, b| (a.0, b.1, b.2).cmp(&(b.0, a.1, a.2)));
        let mut made = Builder { ranges: Self { spans: Vec::new(), ends: Vec::new() }, next };
        // The networks around the present one: last address, and the latest end so far.
        let mut around: Vec<(T, u64)> = Vec::new();
        // The first address that is not in a range yet; none behind the last address there is.
        let mut from = None;
        for (first, last, end) in networks {
            while let Some((outer, end)) = around.pop_if(|(outer, _)| *outer < first) {
                from = made.close(from, outer, end);
            }
            let end = match around.last() {
                Some((_, outer)) => {
                    if let Some(gap) = before(first) {
                        made.close(from, gap, *outer);
                    }
                    end.max(*outer)
                }
                None => end,
            };
            from = Some(first);
            around.push((last, end));
        }
        while let Some((outer, end)) = around.pop() {
            from = made.close(from, outer, end);
        }
        made.finish()
    }

    fn end_of(&self, ip: T) -> Option<u64> {
        let at = if self.spans.len() < LINEAR {
            self.spans.iter().position(|(first, last)| *first <= ip && ip <= *last)?
        } else {
            let at = self.spans.partition_point(|(first, _)| *first <= ip).checked_sub(1)?;
            self.spans.get(at).filter(|(_, last)| ip <= *last).map(|_| at)?
        };
        Some(self.ends.get(at).copied().unwrap_or(FOREVER))
    }
}

struct Builder<T, N> {
    ranges: Ranges<T>,
    next: N,
}

impl<T: Ord + Copy, N: Fn(T) -> Option<T>> Builder<T, N> {
    /// Adds `from..=last` unless it is empty, and says what comes behind it.
    fn close(&mut self, from: Option<T>, last: T, end: u64) -> Option<T> {
        let first = from.filter(|first| *first <= last);
        let Some(first) = first else { return from };
        match (self.ranges.spans.last_mut(), self.ranges.ends.last()) {
            (Some(before), Some(known))
                if *known == end && (self.next)(before.1) == Some(first) =>
            {
                before.1 = last;
            }
            _ => {
                self.ranges.spans.push((first, last));
                self.ranges.ends.push(end);
            }
        }
        (self.next)(last)
    }

    fn finish(self) -> Ranges<T> {
        let mut ranges = self.ranges;
        if ranges.ends.iter().all(|end| *end == FOREVER) {
            ranges.ends = Vec::new();
        }
        ranges.spans.shrink_to_fit();
        ranges.ends.shrink_to_fit();
        ranges
    }
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

    #[test]
    fn the_latest_end_around_an_address_counts() {
        let net = |text: &str| headgate_model::check::parse_network(text).unwrap();
        let set = IpSet::timed([
            (net("10.0.0.0/8"), Some(100)),
            (net("10.1.0.0/16"), None),
            (net("10.2.0.0/16"), Some(50)),
            (net("0.0.0.0/0"), Some(10)),
        ]);
        let at = |ip: &str, now| set.contains_at(ip.parse().unwrap(), || now);
        assert!(at("10.1.2.3", 1000), "it has no end");
        assert!(at("10.2.0.1", 99) && !at("10.2.0.1", 100), "the outer one lasts longer");
        assert!(at("10.255.255.255", 99) && at("255.255.255.255", 9));
        assert!(!at("11.0.0.0", 10) && !at("::1", 0));
        assert!(set.contains("11.0.0.0".parse().unwrap()), "whatever the time");
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
        fn like_a_list_with_ends(
            networks in prop::collection::vec((network(), prop::option::of(1_u64..4)), 0..60),
            ips in prop::collection::vec(network(), 1..20),
            now in 0_u64..5,
        ) {
            let set = IpSet::timed(networks.iter().copied());
            for ip in ips {
                for ip in [ip.addr(), ip.network(), ip.broadcast()] {
                    prop_assume!(ip.to_canonical() == ip);
                    let expected = networks.iter().any(|(network, end)| {
                        network.contains(&ip) && end.is_none_or(|end| end > now)
                    });
                    prop_assert_eq!(set.contains_at(ip, || now), expected, "{}", ip);
                }
            }
        }

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
