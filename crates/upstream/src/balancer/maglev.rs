//! Consistent hashing by a lookup table (D. E. Eisenbud et al., "Maglev: A fast and reliable
//! software network load balancer", NSDI 2016, section 3.4): more even than `chash` and one memory
//! access for a pick; when members come or go a few keys of the others move too. An extension.

use super::{Balancer, BalancerDef, Member, shares};
use crate::hash_key::KeyHash;

pub(super) const DEF: BalancerDef =
    BalancerDef { name: "maglev", build, repeats_sole: true, keeps_places: false, hashes: true };

/// Entries of the table: a prime, at least a hundred for each member. With more members than the
/// last one is good for, shares are less even.
const SIZES: [usize; 2] = [65_537, 655_373];

fn build(members: &[Member]) -> Box<dyn Balancer> {
    let ids: Vec<String> = members.iter().map(|it| it.endpoint.address.to_string()).collect();
    let weights: Vec<u32> = members.iter().map(|member| member.weight).collect();
    Box::new(Maglev { table: table(&ids, &weights) })
}

#[derive(Debug)]
struct Maglev {
    table: Vec<u32>,
}

impl Maglev {
    fn place(&self, KeyHash(key): KeyHash) -> usize {
        (mix(u64::from(key)) % self.table.len().max(1) as u64) as usize
    }
}

impl Balancer for Maglev {
    fn pick(&self, key: KeyHash) -> Option<usize> {
        self.table.get(self.place(key)).map(|index| *index as usize)
    }

    /// Walks on from the place of the key.
    fn retry(&self, key: KeyHash, tried: &dyn Fn(usize) -> bool) -> Option<usize> {
        let (before, after) = self.table.split_at_checked(self.place(key))?;
        after.iter().chain(before).map(|index| *index as usize).find(|index| !tried(*index))
    }
}

/// Every member walks through the table in an order of its own and takes the next free entry;
/// a member of half the weight takes every second turn.
fn table(ids: &[String], weights: &[u32]) -> Vec<u32> {
    let size = SIZES.into_iter().find(|size| *size >= ids.len() * 100).unwrap_or(SIZES[1]);
    let shares = shares(weights, size as u64);
    let most = shares.iter().copied().max().unwrap_or(1).max(1);
    let mut walkers: Vec<Walker<'_>> = (0_u32..)
        .zip(ids.iter().zip(&shares))
        .filter(|(_, (_, share))| **share > 0)
        .map(|(index, (id, share))| Walker::new(index, id, *share, size as u64))
        .collect();
    // In an order that does not depend on how the nodes are listed.
    walkers.sort_by_key(|walker| (walker.order, walker.id));
    let mut table = vec![u32::MAX; size];
    let mut left = if walkers.is_empty() { 0 } else { size };
    while left > 0 {
        for walker in &mut walkers {
            walker.credit += walker.share;
            if walker.credit < most {
                continue;
            }
            walker.credit -= most;
            while let Some(entry) = table.get_mut(walker.step()) {
                if *entry == u32::MAX {
                    *entry = walker.index;
                    left -= 1;
                    break;
                }
            }
            if left == 0 {
                break;
            }
        }
    }
    table
}

struct Walker<'a> {
    index: u32,
    id: &'a str,
    order: u64,
    share: u64,
    credit: u64,
    at: u64,
    skip: u64,
    size: u64,
}

impl<'a> Walker<'a> {
    fn new(index: u32, id: &'a str, share: u64, size: u64) -> Self {
        // FNV-1a, then mixed, for three numbers that have nothing to do with each other.
        let hash = id.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
        });
        let (order, at, skip) = (mix(hash), mix(hash ^ 1), mix(hash ^ 2));
        let (at, skip) = (at % size, skip % (size - 1) + 1);
        Self { index, id, order, share, credit: 0, at, skip, size }
    }

    /// The next place of its walk, which comes to all of them: `size` is a prime.
    fn step(&mut self) -> usize {
        let at = self.at;
        self.at = (self.at + self.skip) % self.size;
        at as usize
    }
}

/// The finaliser of SplitMix64 (G. L. Steele et al., 2014).
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("10.{}.{}.1:80", n / 250, n % 250)).collect()
    }

    fn counts(table: &[u32], members: usize) -> Vec<f64> {
        let mut counts = vec![0.0; members];
        table.iter().for_each(|index| counts[*index as usize] += 1.0);
        counts
    }

    #[test]
    fn sizes_are_primes() {
        for size in SIZES {
            assert!((2..=(size as f64).sqrt() as usize).all(|divisor| size % divisor != 0));
        }
    }

    #[test]
    fn shares_are_even_and_by_weight() {
        let even = table(&ids(100), &[1; 100]);
        let fair = even.len() as f64 / 100.0;
        assert!(counts(&even, 100).iter().all(|count| (count / fair - 1.0).abs() < 0.01));
        let counts = counts(&table(&ids(3), &[1, 2, 5]), 3);
        let part = 65_537.0 / 8.0;
        for (count, weight) in counts.iter().zip([1.0, 2.0, 5.0]) {
            assert!((count / (part * weight) - 1.0).abs() < 0.02, "{counts:?}");
        }
    }

    #[test]
    fn weight_zero_has_no_entry_unless_all_have_it() {
        assert_eq!(counts(&table(&ids(3), &[1, 0, 1]), 3)[1], 0.0);
        assert!(counts(&table(&ids(2), &[0, 0]), 2).iter().all(|count| *count > 30_000.0));
        assert!(table(&[], &[]).iter().all(|index| *index == u32::MAX));
    }

    #[test]
    fn the_order_of_nodes_does_not_matter() {
        let ids = ids(20);
        let mut reversed = ids.clone();
        reversed.reverse();
        let (one, other) = (table(&ids, &[1; 20]), table(&reversed, &[1; 20]));
        assert!(one.iter().zip(&other).all(|(a, b)| *a == 19 - *b));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn few_keys_of_the_others_move(count in 4_usize..40, gone in any::<prop::sample::Index>()) {
            let ids = ids(count);
            let gone = gone.index(count);
            let before = table(&ids, &vec![1; count]);
            let mut weights = vec![1; count];
            weights[gone] = 0;
            let after = table(&ids, &weights);
            let moved = before.iter().zip(&after).filter(|(a, b)| **a != gone as u32 && a != b);
            let share = moved.count() as f64 / before.len() as f64;
            prop_assert!(share < 0.06, "{share} of the keys moved without need");
        }
    }
}
