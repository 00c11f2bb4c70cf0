//! How many sessions there are for each key, in the whole process.
//!
//! Keys are divided among shards by a keyed hash, so that cores rarely meet at one lock; a lock is
//! held for one look into a map. A key is there as long as it is counted.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

const SHARDS: usize = 64;

type Shard = Mutex<HashMap<Arc<[u8]>, Counted>>;

/// The sessions of a key, which is here once more so that one look into the map is enough.
struct Counted {
    sessions: u64,
    key: Arc<[u8]>,
}

/// The counters of a process.
pub(super) struct Counters {
    shards: [Shard; SHARDS],
    hasher: RandomState,
}

impl Default for Counters {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Shard::default()), hasher: RandomState::new() }
    }
}

impl Counters {
    /// Counts one more session of `key`, unless there are `most` already. Returns the place that it
    /// takes, and which one it is, from 1.
    pub(super) fn enter(self: &Arc<Self>, key: &[u8], most: u64) -> Option<(Place, u64)> {
        let mut shard = self.shard(key).lock().unwrap_or_else(PoisonError::into_inner);
        let counters = Arc::clone(self);
        if let Some(known) = shard.get_mut(key) {
            if known.sessions >= most {
                return None;
            }
            known.sessions += 1;
            return Some((Place { counters, key: Arc::clone(&known.key) }, known.sessions));
        }
        if most == 0 {
            return None;
        }
        let key: Arc<[u8]> = key.into();
        shard.insert(Arc::clone(&key), Counted { sessions: 1, key: Arc::clone(&key) });
        Some((Place { counters, key }, 1))
    }

    fn leave(&self, key: &[u8]) {
        let mut shard = self.shard(key).lock().unwrap_or_else(PoisonError::into_inner);
        match shard.get_mut(key) {
            Some(known) if known.sessions > 1 => known.sessions -= 1,
            _ => drop(shard.remove(key)),
        }
    }

    fn shard(&self, key: &[u8]) -> &Shard {
        let index = self.hasher.hash_one(key) as usize % SHARDS;
        #[expect(clippy::indexing_slicing, reason = "a remainder of the length")]
        &self.shards[index]
    }

    /// How many keys are counted.
    fn len(&self) -> usize {
        let shards = self.shards.iter();
        shards.map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Counters({})", self.len())
    }
}

/// A counted session; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    counters: Arc<Counters>,
    key: Arc<[u8]>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.counters.leave(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_up_to_the_bound_and_forgets() {
        let counters = Arc::<Counters>::default();
        let first = counters.enter(b"a", 2).unwrap();
        let second = counters.enter(b"a", 2).unwrap();
        assert_eq!((first.1, second.1), (1, 2));
        assert!(counters.enter(b"a", 2).is_none());
        assert_eq!(counters.enter(b"b", 2).unwrap().1, 1);
        drop(first);
        assert_eq!(counters.enter(b"a", 2).unwrap().1, 2);
        drop(second);
        assert_eq!(counters.len(), 0);
    }

    #[test]
    fn threads_never_exceed_the_bound() {
        let counters = Arc::<Counters>::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        if let Some((_place, count)) = counters.enter(b"k", 3) {
                            assert!((1..=3).contains(&count));
                        }
                    }
                });
            }
        });
        assert_eq!(counters.len(), 0);
    }
}
