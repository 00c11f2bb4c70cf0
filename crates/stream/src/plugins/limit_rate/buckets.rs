//! Token buckets by key, for the whole process.
//!
//! A bucket is one moment: that at which it will be full again (the generic cell rate algorithm). A
//! full bucket is as good as none, so what is full is forgotten when a shard grows.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const SHARDS: usize = 64;
/// Most keys of a shard; a million in all. Peers choose keys, and must not choose our memory.
const MOST: usize = 16 * 1024;

/// Tokens per second, and how many may be saved up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rate {
    /// Time in which one token comes.
    interval: Duration,
    /// Time in which as many come as may be saved up beyond the first.
    tolerance: Duration,
}

impl Rate {
    pub(super) fn new(per_second: f64, burst: u64) -> Self {
        let interval = Duration::try_from_secs_f64(1.0 / per_second).unwrap_or(Duration::MAX);
        let burst = u32::try_from(burst).unwrap_or(u32::MAX);
        Self { interval, tolerance: interval.saturating_mul(burst) }
    }
}

#[derive(Default)]
struct Shard {
    /// When each bucket is full.
    full_at: HashMap<Box<[u8]>, Instant>,
    /// Forget full ones when there are so many.
    sweep_at: usize,
}

/// The buckets of a process.
pub(super) struct Buckets {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
}

impl Default for Buckets {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new() }
    }
}

impl Buckets {
    /// Takes a token of the bucket at `key`, if there is one.
    pub(super) fn take(&self, key: &[u8], rate: Rate, now: Instant) -> bool {
        let index = self.hasher.hash_one(key) as usize % SHARDS;
        let Some(shard) = self.shards.get(index) else { return true };
        shard.lock().unwrap_or_else(PoisonError::into_inner).take(key, rate, now)
    }
}

impl Shard {
    fn take(&mut self, key: &[u8], rate: Rate, now: Instant) -> bool {
        if let Some(full_at) = self.full_at.get_mut(key) {
            let begun = (*full_at).max(now);
            if begun.duration_since(now) > rate.tolerance {
                return false;
            }
            *full_at = begun.checked_add(rate.interval).unwrap_or(begun);
            return true;
        }
        if self.full_at.len() >= self.sweep_at.max(64) {
            self.full_at.retain(|_, full_at| *full_at > now);
            self.sweep_at = self.full_at.len() * 2;
        }
        // Beyond the bound new keys pass: each of them is within its rate as far as is known.
        if self.full_at.len() < MOST {
            let full_at = now.checked_add(rate.interval).unwrap_or(now);
            self.full_at.insert(key.into(), full_at);
        }
        true
    }
}

impl fmt::Debug for Buckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buckets").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tokens_come_back() {
        let (buckets, start) = (Buckets::default(), Instant::now());
        let rate = Rate::new(10.0, 2);
        let taken = |at: u64| buckets.take(b"k", rate, start + Duration::from_millis(at));
        assert_eq!([taken(0), taken(0), taken(0), taken(0)], [true, true, true, false]);
        assert_eq!([taken(99), taken(100), taken(100)], [false, true, false]);
        assert_eq!([taken(900), taken(900), taken(900), taken(900)], [true, true, true, false]);
    }

    #[test]
    fn full_buckets_are_forgotten_and_memory_is_bounded() {
        let (mut shard, start) = (Shard::default(), Instant::now());
        let rate = Rate::new(1000.0, 0);
        for number in 0..100_000_u32 {
            let now = start + Duration::from_micros(u64::from(number) * 100);
            assert!(shard.take(&number.to_be_bytes(), rate, now));
        }
        assert!(shard.full_at.len() < 200, "{}", shard.full_at.len());
        let slow = Rate::new(0.001, 0);
        for number in 0..100_000_u32 {
            shard.take(&number.to_be_bytes(), slow, start + Duration::from_secs(3600));
        }
        assert!(shard.full_at.len() <= MOST);
    }

    proptest! {
        /// In any window no more pass than the rate and the burst allow.
        #[test]
        fn never_more_than_allowed(
            gaps in prop::collection::vec(0_u64..300, 1..100),
            per_second in 1_u32..50,
            burst in 0_u64..10,
        ) {
            let (mut shard, start) = (Shard::default(), Instant::now());
            let rate = Rate::new(f64::from(per_second), burst);
            let (mut now, mut passed) = (0, 0_u64);
            for gap in gaps {
                now += gap;
                if shard.take(b"k", rate, start + Duration::from_millis(now)) {
                    passed += 1;
                }
                let most = now as f64 / 1000.0 * f64::from(per_second) + burst as f64 + 1.001;
                prop_assert!(passed as f64 <= most, "{} of {} at {}", passed, most, now);
            }
        }
    }
}
