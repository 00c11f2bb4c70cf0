//! Consistent hashing: the same key finds the same endpoint, and few keys move when endpoints
//! come or go. Places equal those of the reference (`spec/upstream.md`, section 4).

use super::{Balancer, BalancerDef, Member, shares};
use crate::crc32;
use crate::hash_key::KeyHash;

pub(super) const DEF: BalancerDef =
    BalancerDef { name: "chash", build, repeats_sole: true, keeps_places: true, hashes: true };

/// Points of an endpoint for each unit of its share.
const POINTS: u64 = 160;
/// Most points of a ring, 16 MiB. Larger weights are scaled down to it; places then differ from
/// those of the reference.
const MOST_POINTS: u64 = 1 << 21;

fn build(members: &[Member]) -> Box<dyn Balancer> {
    let weights: Vec<u32> = members.iter().map(|member| member.weight).collect();
    let ids = members.iter().map(|member| member.endpoint.address.to_string());
    Box::new(Chash::new(ring(ids, &weights)))
}

#[derive(Debug)]
struct Chash {
    /// Points in ascending order, and the member that each belongs to.
    ring: Vec<(u32, u32)>,
    /// For each range of keys, those with the same upper bits, where to begin looking: points are
    /// spread evenly, so that there is about one for each range.
    starts: Vec<u32>,
    /// How many lower bits the keys of a range differ in.
    shift: u32,
}

impl Chash {
    fn new(ring: Vec<(u32, u32)>) -> Self {
        let bits = ring.len().next_power_of_two().trailing_zeros();
        let shift = 32 - bits;
        let mut starts = Vec::with_capacity(1 << bits);
        let mut at = 0;
        for range in 0..1_u64 << bits {
            let first = range << shift;
            while ring.get(at).is_some_and(|(hash, _)| u64::from(*hash) < first) {
                at += 1;
            }
            starts.push(at as u32);
        }
        Self { ring, starts, shift }
    }

    /// The first point that is not before the key.
    fn start(&self, key: u32) -> usize {
        let range = u64::from(key) >> self.shift;
        let start = self.starts.get(range as usize).map_or(0, |start| *start as usize);
        let later = self.ring.get(start..).unwrap_or_default();
        start + later.iter().take_while(|(hash, _)| *hash < key).count()
    }
}

impl Balancer for Chash {
    fn pick(&self, KeyHash(key): KeyHash) -> Option<usize> {
        let point = self.ring.get(self.start(key)).or_else(|| self.ring.first());
        point.map(|(_, index)| *index as usize)
    }

    /// Walks on from the place of the key. Endpoints of weight 0 have no point.
    fn retry(&self, KeyHash(key): KeyHash, tried: &dyn Fn(usize) -> bool) -> Option<usize> {
        let (before, after) = self.ring.split_at_checked(self.start(key))?;
        after.iter().chain(before).map(|(_, index)| *index as usize).find(|index| !tried(*index))
    }
}

fn ring(ids: impl Iterator<Item = String>, weights: &[u32]) -> Vec<(u32, u32)> {
    let shares = shares(weights, MOST_POINTS / POINTS);
    let mut ring = Vec::with_capacity((shares.iter().sum::<u64>() * POINTS) as usize);
    for ((index, id), share) in (0_u32..).zip(ids).zip(shares) {
        let base = crc32::update(crc32::START, id.replace(':', "\0").as_bytes());
        let mut hash = 0_u32;
        for _ in 0..share * POINTS {
            hash = !crc32::update(base, &hash.to_le_bytes());
            ring.push((hash, index));
        }
    }
    ring.sort_unstable();
    ring
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const IDS: [&str; 3] = ["10.9.0.1:7001", "10.9.0.2:7001", "10.9.0.3:7001"];

    fn over(ids: &[&str], weights: &[u32]) -> Chash {
        Chash::new(ring(ids.iter().map(|id| (*id).to_owned()), weights))
    }

    #[test]
    fn points_of_the_reference() {
        let alone = ring([IDS[0].to_owned()].into_iter(), &[1]);
        assert_eq!(alone.len(), 160);
        for hash in [0x57af_1cbe, 0x63ae_1b72, 0x62d5_99bd] {
            assert!(alone.contains(&(hash, 0)), "{hash:x}");
        }
        let all = over(&IDS, &[1, 1, 2]);
        assert_eq!(all.ring.len(), 640);
        assert_eq!(all.ring[..3], [(0x0039_5346, 1), (0x0089_8a39, 2), (0x0193_aef7, 0)]);
        assert_eq!(over(&IDS, &[5, 5, 10]).ring, all.ring, "only the ratio of weights counts");
    }

    #[test]
    fn places_of_the_reference() {
        let chash = over(&IDS, &[1, 1, 2]);
        for (key, crc, order) in [
            ("a", 0xe8b7_be43, [3, 2, 1]),
            ("client-1", 0xf08c_e266, [1, 3, 2]),
            ("client-2", 0x6985_b3dc, [1, 2, 3]),
            ("client-3", 0x1e82_834a, [2, 3, 1]),
            ("198.51.100.7", 0x934d_e5fd, [3, 2, 1]),
            ("203.0.113.9", 0xbb0e_5871, [3, 2, 1]),
        ] {
            let key = KeyHash::of(key.as_bytes());
            assert_eq!(key, KeyHash(crc));
            let mut tried = Vec::new();
            while let Some(index) = chash.retry(key, &|index| tried.contains(&index)) {
                tried.push(index);
            }
            assert_eq!(chash.pick(key), tried.first().copied());
            assert_eq!(tried, order.map(|number| number - 1));
        }
    }

    #[test]
    fn weight_zero_has_no_points_unless_all_have_it() {
        let reached = |weights: &[u32]| {
            let chash = over(&IDS, weights);
            (0..1000_u32)
                .filter_map(|key| chash.pick(KeyHash::of(&key.to_be_bytes())))
                .collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(reached(&[1, 0, 1]), [0, 2].into());
        assert_eq!(reached(&[0, 0, 0]), [0, 1, 2].into());
    }

    proptest! {
        #[test]
        fn a_place_is_found_as_by_search(
            mut hashes in prop::collection::vec(prop_oneof![any::<u32>(), 0..9_u32, u32::MAX - 9..], 0..40),
            keys in prop::collection::vec(prop_oneof![any::<u32>(), 0..9_u32, u32::MAX - 9..], 1..40),
        ) {
            hashes.sort_unstable();
            let ring = hashes.iter().map(|hash| (*hash, 0)).collect();
            let chash = Chash::new(ring);
            for key in keys.into_iter().chain(hashes.iter().copied()) {
                prop_assert_eq!(chash.start(key), hashes.partition_point(|hash| *hash < key));
            }
        }

        #[test]
        fn a_new_endpoint_only_takes(count in 1_usize..12) {
            let ids: Vec<String> = (0..=count).map(|n| format!("192.0.2.{n}:80")).collect();
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            let before = over(&ids[..count], &vec![1; count]);
            let after = over(&ids, &vec![1; count + 1]);
            let mut moved = 0;
            for key in 0..2000_u32 {
                let key = KeyHash::of(&key.to_be_bytes());
                let now = after.pick(key);
                if now != before.pick(key) {
                    prop_assert_eq!(now, Some(count), "a key moved between old endpoints");
                    moved += 1;
                }
            }
            let fair = 2000 / (count + 1);
            prop_assert!(moved > fair / 2 && moved < fair * 2, "{} of 2000, fair is {}", moved, fair);
        }
    }
}
