//! Fast to connect, and not busy: two endpoints are drawn by weight, and the one with the lower
//! cost is taken. The cost is the peak-sensitive moving average of its connect time, times its
//! sessions, over its weight. The reference accepts this balancer and cannot run it for streams.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::draw::Draw;
use super::{Balancer, BalancerDef, Member};
use crate::clock;
use crate::hash_key::KeyHash;

pub(super) const DEF: BalancerDef =
    BalancerDef { name: "ewma", build, repeats_sole: true, keeps_places: false, hashes: false };

/// A measurement fades to 1/e in this time, so that a slow endpoint is tried again.
const FADES_IN: f32 = 5_000.0;
/// Microseconds. Below the least differences are noise; beyond the most an endpoint is avoided
/// long enough.
const LEAST: f32 = 100.0;
const MOST: f32 = 10_000_000.0;
/// A refused connection is quick, and must not look fast.
const FAILED: Duration = Duration::from_millis(100);

/// How long connecting to an endpoint takes.
#[derive(Debug, Default)]
pub(crate) struct ConnectCost {
    /// Microseconds as `f32` and the time of the last measurement, milliseconds, in one word.
    latest: AtomicU64,
    /// Somebody chooses by it. Else cores need not write it, each to what the others read.
    is_watched: AtomicBool,
}

impl ConnectCost {
    fn watch(&self) {
        self.is_watched.store(true, Ordering::Relaxed);
    }

    pub(crate) fn record(&self, took: Duration, failed: bool) {
        if !self.is_watched.load(Ordering::Relaxed) {
            return;
        }
        let took = if failed { took.max(FAILED) } else { took };
        let (now, micros) = (now(), (took.as_secs_f32() * 1e6).min(MOST));
        let (old, at) = unpack(self.latest.load(Ordering::Relaxed));
        let keep = (-age(now, at) / FADES_IN).exp();
        // A peak counts at once, improvement little by little.
        let cost = if micros > old * keep { micros } else { old * keep + micros * (1.0 - keep) };
        // Of two measurements at the same moment one may get lost.
        self.latest.store(u64::from(cost.to_bits()) << 32 | u64::from(now), Ordering::Relaxed);
    }

    fn at(&self, now: u32) -> f32 {
        let (cost, at) = unpack(self.latest.load(Ordering::Relaxed));
        (cost * (-age(now, at) / FADES_IN).exp()).max(LEAST)
    }
}

const fn unpack(word: u64) -> (f32, u32) {
    (f32::from_bits((word >> 32) as u32), word as u32)
}

fn age(now: u32, at: u32) -> f32 {
    now.wrapping_sub(at) as f32
}

fn now() -> u32 {
    clock::now_ms() as u32
}

fn build(members: &[Member]) -> Box<dyn Balancer> {
    members.iter().for_each(|member| member.endpoint.connect_cost.watch());
    let weights: Vec<u32> = members.iter().map(|member| member.weight).collect();
    Box::new(Ewma { draw: Draw::new(&weights), members: members.to_vec() })
}

#[derive(Debug)]
struct Ewma {
    draw: Draw,
    members: Vec<Member>,
}

impl Ewma {
    fn score(&self, index: usize, now: u32) -> f32 {
        let Some(member) = self.members.get(index) else { return f32::INFINITY };
        let sessions = (1 + member.endpoint.active()) as f32;
        // Weight 0 is only drawn where all have it.
        member.endpoint.connect_cost.at(now) * sessions / member.weight.max(1) as f32
    }
}

impl Balancer for Ewma {
    fn pick(&self, _: KeyHash) -> Option<usize> {
        let (one, other) = self.draw.two()?;
        let now = now();
        Some(if self.score(other, now) < self.score(one, now) { other } else { one })
    }

    /// Endpoints of weight 0 are left out unless all are.
    fn retry(&self, _: KeyHash, tried: &dyn Fn(usize) -> bool) -> Option<usize> {
        let now = now();
        let all_zero = self.members.iter().all(|member| member.weight == 0);
        let open = self
            .members
            .iter()
            .enumerate()
            .filter(|(index, member)| !tried(*index) && (all_zero || member.weight > 0));
        let scores = open.map(|(index, _)| (index, self.score(index, now)));
        scores.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(index, _)| index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_count_at_once_and_fade() {
        let cost = ConnectCost::default();
        cost.watch();
        assert_eq!(cost.at(now()), LEAST);
        cost.record(Duration::from_millis(50), false);
        let peak = cost.at(now());
        assert!(peak > 45_000.0, "{peak}");
        cost.record(Duration::from_micros(200), false);
        assert!(cost.at(now()) > 45_000.0, "one good measurement proves little");
        let later = cost.at(now() + 5_000);
        assert!(later < peak * 0.4 && later > peak * 0.3, "{later}");
        assert_eq!(cost.at(now() + 60_000), LEAST);
    }

    #[test]
    fn a_refusal_is_not_fast() {
        let cost = ConnectCost::default();
        cost.watch();
        cost.record(Duration::from_micros(20), true);
        assert!(cost.at(now()) > 90_000.0);
        cost.record(Duration::from_secs(3600), true);
        assert!(cost.at(now()) <= MOST);
    }
}
