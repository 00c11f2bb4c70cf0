//! The byte buckets of the keys, for the whole process.
//!
//! The map is looked at once a session, which then holds its buckets. A full bucket that nobody
//! holds is as good as none, and is forgotten when a shard grows.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use crate::throttle::bucket::{Bucket, ByteRate};

const SHARDS: usize = 64;
/// Most keys of a shard; a quarter of a million in all.
const MOST: usize = 4 * 1024;

/// The rates of both directions; `None`: no limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rates {
    pub(super) up: Option<ByteRate>,
    pub(super) down: Option<ByteRate>,
}

/// The buckets of one key.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub(super) up: Option<Arc<Bucket>>,
    pub(super) down: Option<Arc<Bucket>>,
}

impl Pair {
    fn new(rates: Rates) -> Self {
        let bucket = |rate: Option<ByteRate>| rate.map(|rate| Arc::new(Bucket::new(rate)));
        Self { up: bucket(rates.up), down: bucket(rates.down) }
    }

    fn is_needed(&self, now: u64) -> bool {
        let is_needed =
            |bucket: &Arc<Bucket>| Arc::strong_count(bucket) > 1 || !bucket.is_full(now);
        [&self.up, &self.down].into_iter().flatten().any(is_needed)
    }
}

#[derive(Default)]
struct Shard {
    pairs: HashMap<Box<[u8]>, Pair>,
    /// Forget when there are so many.
    sweep_at: usize,
}

/// All keys.
pub(super) struct Bandwidths {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
}

impl Default for Bandwidths {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new() }
    }
}

impl Bandwidths {
    /// The buckets of `key`. A key more than the bound gets buckets that it shares with nobody.
    pub(super) fn of(&self, key: &[u8], rates: Rates, now: u64) -> Pair {
        let index = self.hasher.hash_one(key) as usize % SHARDS;
        let Some(shard) = self.shards.get(index) else { return Pair::new(rates) };
        shard.lock().unwrap_or_else(PoisonError::into_inner).of(key, rates, now)
    }
}

impl Shard {
    fn of(&mut self, key: &[u8], rates: Rates, now: u64) -> Pair {
        if let Some(pair) = self.pairs.get(key) {
            return pair.clone();
        }
        if self.pairs.len() >= self.sweep_at.max(64) {
            self.pairs.retain(|_, pair| pair.is_needed(now));
            self.sweep_at = self.pairs.len() * 2;
        }
        let pair = Pair::new(rates);
        if self.pairs.len() < MOST {
            self.pairs.insert(key.into(), pair.clone());
        }
        pair
    }
}

impl fmt::Debug for Bandwidths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bandwidths").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn sessions_of_a_key_share_and_what_they_owe_outlives_them() {
        let all = Bandwidths::default();
        let rates = Rates { up: Some(ByteRate::new(1000, 100)), down: None };
        let now = 10 * SECOND;
        let up = |key: &[u8]| all.of(key, rates, now).up.unwrap();
        assert!(up(b"a").take(100, now), "the session ends at once");
        assert!(!up(b"a").take(1, now));
        assert!(up(b"b").take(100, now));
        assert!(all.of(b"a", rates, now).down.is_none());
    }

    #[test]
    fn memory_is_bounded() {
        let rates = Rates { up: None, down: Some(ByteRate::new(1, 1)) };
        let mut shard = Shard::default();
        for number in 0..100_000_u32 {
            shard.of(&number.to_be_bytes(), rates, SECOND);
        }
        assert!(shard.pairs.len() < 200, "{}", shard.pairs.len());
        for number in 0..100_000_u32 {
            let pair = shard.of(&number.to_be_bytes(), rates, SECOND);
            pair.down.unwrap().reserve(1000, SECOND);
        }
        assert_eq!(shard.pairs.len(), MOST);
    }
}
