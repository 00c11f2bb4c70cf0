//! Fewest sessions for the weight. Sessions of all cores count, from the pick to their end.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Balancer, BalancerDef, Member};
use crate::hash_key::KeyHash;

pub(super) const DEF: BalancerDef = BalancerDef {
    name: "least_conn",
    build,
    repeats_sole: false,
    keeps_places: false,
    hashes: false,
};

/// Members compared for one pick. Up to this many the choice is exact; of more, it is the best of
/// so many neighbours, a window that moves on with every pick, so that a pick stays cheap.
const COMPARED: usize = 32;

fn build(members: &[Member]) -> Box<dyn Balancer> {
    let numbered = members.iter().cloned().enumerate();
    // Weight 0 is an infinite score: picked when nothing else is left.
    let (weighted, others) = numbered.partition(|(_, member)| member.weight > 0);
    Box::new(LeastConn { groups: [Group::of(weighted), Group::of(others)] })
}

#[derive(Debug)]
struct LeastConn {
    groups: [Group; 2],
}

/// Members of which one is as good as another.
#[derive(Debug)]
struct Group {
    members: Vec<(usize, Member)>,
    /// Where the comparison begins; ties go to the first, so they go round.
    start: AtomicUsize,
}

impl Balancer for LeastConn {
    fn pick(&self, _: KeyHash) -> Option<usize> {
        self.groups.iter().find_map(|group| {
            let place = group.least(|_| false)?;
            group.start.store(place + 1, Ordering::Relaxed);
            group.index(place)
        })
    }

    fn retry(&self, _: KeyHash, tried: &dyn Fn(usize) -> bool) -> Option<usize> {
        self.groups.iter().find_map(|group| group.index(group.least(tried)?))
    }
}

impl Group {
    const fn of(members: Vec<(usize, Member)>) -> Self {
        Self { members, start: AtomicUsize::new(0) }
    }

    fn index(&self, place: usize) -> Option<usize> {
        self.members.get(place).map(|(index, _)| *index)
    }

    /// The place with the lowest (1 + sessions) / weight.
    fn least(&self, tried: impl Fn(usize) -> bool) -> Option<usize> {
        let start = self.start.load(Ordering::Relaxed).checked_rem(self.members.len())?;
        let (before, after) = self.members.split_at(start);
        let mut best = None;
        let mut left = COMPARED;
        let places = (start..).zip(after).chain((0..).zip(before));
        for (place, (index, member)) in places {
            if tried(*index) {
                continue;
            }
            let load = 1 + u64::from(member.endpoint.active());
            let weight = u64::from(member.weight).max(1);
            // Cross-multiplied, so that nothing is rounded.
            if best.is_none_or(|(least, its_weight, _)| load * its_weight < least * weight) {
                best = Some((load, weight, place));
            }
            left -= 1;
            if left == 0 {
                break;
            }
        }
        best.map(|(.., place)| place)
    }
}
