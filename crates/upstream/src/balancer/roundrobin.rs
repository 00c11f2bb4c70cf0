//! Smooth weighted round robin.
//!
//! The order is worked out once per endpoint set: one round in which every endpoint stands as
//! often as its weight says, spread evenly. A shared position walks through it, so proportions
//! are exact over all cores together and a pick is one atomic addition.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Balancer, BalancerDef, shares};
use crate::hash_key::KeyHash;

pub(super) const DEF: BalancerDef = BalancerDef {
    name: "roundrobin",
    build: |members| {
        Box::new(Round::new(&members.iter().map(|member| member.weight).collect::<Vec<_>>()))
    },
    repeats_sole: true,
    keeps_places: false,
    hashes: false,
};

/// Longest round. Larger weights are scaled down to it, which bends proportions by less than
/// one part in a thousand.
const LONGEST_ROUND: u64 = 8192;

/// A weighted round that many take turns in.
#[derive(Debug)]
pub struct Round {
    round: Box<[u32]>,
    next: AtomicUsize,
}

impl Round {
    /// A round in which every index stands as often as its weight says, spread evenly. Weight 0
    /// gets no turn unless all weights are 0.
    #[must_use]
    pub fn new(weights: &[u32]) -> Self {
        Self { round: round(weights).into(), next: AtomicUsize::new(0) }
    }

    /// Whose turn it is; `None` if there is nobody.
    pub fn turn(&self) -> Option<usize> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed).checked_rem(self.round.len())?;
        self.round.get(turn).map(|index| *index as usize)
    }
}

impl Balancer for Round {
    fn pick(&self, _: KeyHash) -> Option<usize> {
        self.turn()
    }

    fn retry(&self, _: KeyHash, tried: &dyn Fn(usize) -> bool) -> Option<usize> {
        let start = self.next.load(Ordering::Relaxed).checked_rem(self.round.len())?;
        let (before, after) = self.round.split_at(start);
        after.iter().chain(before).map(|index| *index as usize).find(|index| !tried(*index))
    }
}

fn round(weights: &[u32]) -> Vec<u32> {
    let shares = shares(weights, LONGEST_ROUND);
    let total: i64 = shares.iter().sum::<u64>() as i64;
    // Smooth weighted order: everybody gains its share, the richest is chosen and pays the total.
    let mut credit = vec![0_i64; shares.len()];
    (0..total)
        .filter_map(|_| {
            credit.iter_mut().zip(&shares).for_each(|(credit, share)| *credit += *share as i64);
            let (richest, _) = credit
                .iter()
                .enumerate()
                .filter(|(index, _)| shares.get(*index).is_some_and(|share| *share > 0))
                .max_by_key(|(index, credit)| (**credit, std::cmp::Reverse(*index)))?;
            *credit.get_mut(richest)? -= total;
            u32::try_from(richest).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spreads_heavy_endpoints() {
        assert_eq!(round(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(round(&[300, 100]), [0, 0, 1, 0]);
        assert_eq!(round(&[0, 0]), [0, 1]);
        assert_eq!(round(&[1, 0]), [0]);
        assert!(round(&[]).is_empty());
    }

    #[test]
    fn a_retry_takes_nobodys_turn() {
        let balancer = Round::new(&[1, 1]);
        let mut first = Vec::new();
        for _ in 0..4 {
            let picked = balancer.pick(KeyHash::default()).unwrap();
            first.push(picked);
            assert_eq!(
                balancer.retry(KeyHash::default(), &|index| index == picked),
                Some(1 - picked)
            );
        }
        assert_eq!(first, [0, 1, 0, 1], "a dead endpoint is not the first choice every time");
    }

    proptest! {
        #[test]
        fn proportions_are_exact(weights in prop::collection::vec(0_u32..40, 1..12)) {
            let balancer = Round::new(&weights);
            let total: u32 = weights.iter().sum();
            let mut counts = vec![0; weights.len()];
            for _ in 0..total {
                counts[balancer.pick(KeyHash::default()).unwrap()] += 1;
            }
            if total > 0 {
                prop_assert_eq!(counts, weights);
            }
        }

        #[test]
        fn never_a_tried_one(weights in prop::collection::vec(1_u32..9, 1..12)) {
            let balancer = Round::new(&weights);
            let mut tried = vec![false; weights.len()];
            tried[balancer.pick(KeyHash::default()).unwrap()] = true;
            while let Some(index) = balancer.retry(KeyHash::default(), &|index| tried[index]) {
                prop_assert!(!tried[index]);
                tried[index] = true;
            }
            prop_assert!(tried.iter().all(|tried| *tried));
        }

        #[test]
        fn huge_weights_stay_bounded(weights in prop::collection::vec(any::<u32>(), 1..20)) {
            prop_assert!(round(&weights).len() as u64 <= LONGEST_ROUND + 20);
        }
    }
}
