//! The power of two choices: two members are drawn by weight, and the one with fewer sessions for
//! its weight is taken. Nearly as even as `least_conn`, at a cost that does not grow with the
//! number of members, and without all going for the same one. An extension.

use std::cmp::Ordering;

use super::draw::Draw;
use super::{Balancer, BalancerDef, Member};
use crate::hash_key::KeyHash;

pub(super) const DEF: BalancerDef =
    BalancerDef { name: "random", build, repeats_sole: true, keeps_places: false, hashes: false };

fn build(members: &[Member]) -> Box<dyn Balancer> {
    let weights: Vec<u32> = members.iter().map(|member| member.weight).collect();
    Box::new(Random { draw: Draw::new(&weights), members: members.to_vec() })
}

#[derive(Debug)]
struct Random {
    draw: Draw,
    members: Vec<Member>,
}

impl Random {
    /// Sessions and weight; weight 0 counts as 1, as it is only drawn where all have it.
    fn load(&self, index: usize) -> Option<(u64, u64)> {
        let member = self.members.get(index)?;
        Some((1 + u64::from(member.endpoint.active()), u64::from(member.weight.max(1))))
    }
}

/// Cross-multiplied, so that nothing is rounded.
fn compare((load, weight): (u64, u64), (other_load, other_weight): (u64, u64)) -> Ordering {
    (load * other_weight).cmp(&(other_load * weight))
}

impl Balancer for Random {
    fn pick(&self, _: KeyHash) -> Option<usize> {
        let (one, other) = self.draw.two()?;
        let is_better = compare(self.load(other)?, self.load(one)?).is_lt();
        Some(if is_better { other } else { one })
    }

    fn retry(&self, _: KeyHash, tried: &dyn Fn(usize) -> bool) -> Option<usize> {
        let all_zero = self.members.iter().all(|member| member.weight == 0);
        let may = |index: &usize| {
            !tried(*index)
                && (all_zero || self.members.get(*index).is_some_and(|member| member.weight > 0))
        };
        let open = (0..self.members.len()).filter(may);
        let loads = open.filter_map(|index| Some((index, self.load(index)?)));
        loads.min_by(|a, b| compare(a.1, b.1)).map(|(index, _)| index)
    }
}
