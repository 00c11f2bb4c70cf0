//! Series that appear as sessions bring them and never go. Cores add them, a scrape reads them, and
//! neither waits for the other: what is read is an append-only shelf without a lock.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use headgate_telemetry::{Counter, PerCore};

/// Most series of each kind.
pub(super) const MOST: usize = 20_000;
/// Places that are allocated at once.
const SHELF: usize = 256;

/// What is counted in one series.
pub(super) type Count = Arc<PerCore<Counter>>;

/// Where one series is, or will be.
type Place<K> = OnceLock<(Arc<K>, Count)>;
/// Places that were allocated together.
type Shelf<K> = Box<[Place<K>]>;

/// Counts by key.
#[derive(Debug)]
pub(super) struct Series<K> {
    cores: usize,
    /// Where a core finds a series of another core. A reader never takes this lock.
    known: Mutex<HashMap<Arc<K>, Count>>,
    /// All series in the order in which they came; places are filled from the front.
    shelves: Box<[OnceLock<Shelf<K>>]>,
}

impl<K: Hash + Eq + Ord> Series<K> {
    /// No series yet.
    pub(super) fn new(cores: usize) -> Self {
        let shelves = (0..MOST.div_ceil(SHELF)).map(|_| OnceLock::new()).collect();
        Self { cores, known: Mutex::default(), shelves }
    }

    /// The series of `key`, which is made if there is room for it.
    pub(super) fn find(&self, key: K) -> Option<Count> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = known.get(&key) {
            return Some(Arc::clone(count));
        }
        let at = known.len();
        if at >= MOST {
            return None;
        }
        let shelf = self.shelves.get(at / SHELF)?;
        let shelf = shelf.get_or_init(|| (0..SHELF).map(|_| OnceLock::new()).collect());
        let (key, count) = (Arc::new(key), Arc::new(PerCore::new(self.cores)));
        let _ = shelf.get(at % SHELF)?.set((Arc::clone(&key), Arc::clone(&count)));
        known.insert(key, Arc::clone(&count));
        Some(count)
    }

    /// Each key and its sum over all cores, sorted. Takes no lock.
    pub(super) fn totals(&self) -> Vec<(&K, u64)> {
        let shelves = self.shelves.iter().map_while(OnceLock::get);
        let filled = shelves.flatten().map_while(OnceLock::get);
        let mut totals: Vec<_> =
            filled.map(|(key, count)| (&**key, count.sum(Counter::get))).collect();
        totals.sort_unstable();
        totals
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn there_is_a_bound() {
        let series = Series::new(1);
        assert!((0..MOST).all(|key| series.find(key).is_some()));
        assert!(series.find(MOST).is_none() && series.find(0).is_some());
        assert_eq!(series.totals().len(), MOST);
    }

    #[test]
    fn what_cores_add_meanwhile_is_seen_whole() {
        let series = Series::new(4);
        std::thread::scope(|scope| {
            for core in 0..4 {
                let series = &series;
                scope.spawn(move || {
                    for key in 0..2_000_u64 {
                        series.find(key).unwrap().get(core).increment();
                    }
                });
            }
            while series.totals().len() < 2_000 {
                let totals = series.totals();
                assert!(totals.is_sorted() && totals.iter().all(|(_, count)| *count <= 4));
            }
        });
        let totals = series.totals();
        let expected: Vec<u64> = (0..2_000).collect();
        assert!(totals.iter().map(|(key, _)| *key).eq(&expected));
        assert!(totals.iter().all(|(_, count)| *count == 4));
    }

    /// A core that is stopped in the middle of adding a series holds up no scrape, and a scrape no
    /// core: they have no lock in common.
    #[test]
    fn a_scrape_needs_nothing_that_a_core_holds() {
        let series = Arc::new(Series::new(1));
        series.find("a".to_owned()).unwrap().get(0).add(3);
        let held = series.known.lock().unwrap();
        let (done, read) = mpsc::channel();
        let reader = Arc::clone(&series);
        std::thread::spawn(move || {
            let totals: Vec<_> =
                reader.totals().into_iter().map(|(key, count)| (key.clone(), count)).collect();
            let _ = done.send(totals);
        });
        let totals = read.recv_timeout(Duration::from_secs(10)).expect("the scrape goes on");
        assert_eq!(totals, [("a".to_owned(), 3)]);
        drop(held);
    }
}
