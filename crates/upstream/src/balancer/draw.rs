//! Drawing members by weight at a cost that does not grow with their number (alias method,
//! M. D. Vose, "A linear algorithm for generating random numbers with a given distribution").

/// Members with their chances.
#[derive(Debug)]
pub(super) struct Draw {
    places: Vec<Place>,
}

/// An equal share of the chances, of at most two members.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Chance of `member` within the place, as a part of 2^32.
    chance: u32,
    member: u32,
    other: u32,
}

impl Draw {
    /// Members of weight 0 are never drawn unless all are.
    pub(super) fn new(weights: &[u32]) -> Self {
        let all_zero = weights.iter().all(|weight| *weight == 0);
        let members: Vec<(u32, u64)> = (0_u32..)
            .zip(weights)
            .map(|(member, weight)| (member, u64::from(*weight) + u64::from(all_zero)))
            .filter(|(_, weight)| *weight > 0)
            .collect();
        let total: u64 = members.iter().map(|(_, weight)| weight).sum();
        let count = members.len() as u64;
        // Each member's weight in units of which a place holds `total`.
        let (mut small, mut large): (Vec<_>, Vec<_>) = members
            .into_iter()
            .map(|(member, weight)| (member, u128::from(weight) * u128::from(count)))
            .partition(|(_, part)| *part < u128::from(total));
        let mut places = Vec::with_capacity(count as usize);
        while let Some((member, part)) = small.pop() {
            let Some((other, rest)) = large.pop() else {
                places.push(Place { chance: u32::MAX, member, other: member });
                continue;
            };
            let chance = (part << 32) / u128::from(total);
            places.push(Place { chance: chance as u32, member, other });
            let rest = rest + part - u128::from(total);
            if rest < u128::from(total) { &mut small } else { &mut large }.push((other, rest));
        }
        places.extend(large.into_iter().map(|(member, _)| Place {
            chance: u32::MAX,
            member,
            other: member,
        }));
        Self { places }
    }

    /// A member.
    fn one(&self) -> Option<usize> {
        let random = fastrand::u64(..);
        let place = self.places.get(self.place((random >> 32) as u32))?;
        let member = if random as u32 <= place.chance { place.member } else { place.other };
        Some(member as usize)
    }

    /// Two members, different ones unless there is only one.
    pub(super) fn two(&self) -> Option<(usize, usize)> {
        let one = self.one()?;
        for _ in 0..3 {
            let other = self.one()?;
            if other != one {
                return Some((one, other));
            }
        }
        // One has nearly all the weight: any other will do. Each place has a member of its own.
        let place = self.place(fastrand::u32(..));
        let (before, after) = self.places.split_at(place);
        let mut members = after.iter().chain(before).map(|place| place.member as usize);
        Some((one, members.find(|member| *member != one).unwrap_or(one)))
    }

    fn place(&self, random: u32) -> usize {
        ((u64::from(random) * self.places.len() as u64) >> 32) as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn chances_are_those_of_the_weights(weights in prop::collection::vec(0_u32..9, 1..20)) {
            let draw = Draw::new(&weights);
            let total: u32 = weights.iter().sum();
            let mut chances = vec![0.0; weights.len()];
            for place in &draw.places {
                let chance = f64::from(place.chance) / f64::from(u32::MAX);
                chances[place.member as usize] += chance;
                chances[place.other as usize] += 1.0 - chance;
            }
            for (chance, weight) in chances.iter().zip(&weights) {
                let expected = match total {
                    0 => 1.0 / weights.len() as f64,
                    total => f64::from(*weight) / f64::from(total),
                };
                let chance = chance / draw.places.len() as f64;
                prop_assert!((chance - expected).abs() < 1e-6, "{chance} {expected}");
            }
        }

        #[test]
        fn two_differ_where_they_can(weights in prop::collection::vec(any::<u32>(), 1..6)) {
            let draw = Draw::new(&weights);
            let drawn = weights.iter().filter(|weight| **weight > 0).count();
            let most = if drawn == 0 { weights.len() } else { drawn };
            for _ in 0..50 {
                let (one, other) = draw.two().unwrap();
                prop_assert_eq!(one == other, most == 1);
            }
        }
    }
}
