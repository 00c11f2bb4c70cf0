//! Counts by route. They go with the id: a route that is written again keeps them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use headgate_telemetry::{Counter, PerCore};

use crate::outcome::CloseReason;
use crate::session::Traffic;

/// How long the counts of a deleted route are still shown, so that the next scrape sees its end.
const KEPT: Duration = Duration::from_secs(15 * 60);

/// What one core counts for one route.
#[derive(Debug, Default)]
pub struct RouteCounts {
    /// Sessions ended, by [`CloseReason`].
    pub closed: [Counter; CloseReason::ALL.len()],
    /// Endpoints tried after the first one.
    pub retries: Counter,
    /// Bytes from clients.
    pub from_client: Counter,
    /// Bytes to clients.
    pub to_client: Counter,
}

/// What was counted for one route; a core that never served it has no memory here.
#[derive(Debug)]
pub struct RouteStats(PerCore<RouteCounts>);

impl RouteStats {
    /// Nothing yet.
    #[must_use]
    pub fn new(cores: usize) -> Self {
        Self(PerCore::new(cores))
    }

    /// What each core that served it counted.
    pub(super) fn slots(&self) -> impl Iterator<Item = &RouteCounts> {
        self.0.iter().map(|(_, counts)| counts)
    }

    /// What one core, or the predecessors together, counted.
    pub(super) fn slot(&self, slot: usize) -> &RouteCounts {
        self.0.get(slot)
    }

    /// Adds bytes that just passed.
    pub(crate) fn count(&self, core: usize, more: &Traffic) {
        let counts = self.0.get(core);
        counts.from_client.add(more.from_client);
        counts.to_client.add(more.to_client);
    }

    /// Notes the end of a session.
    pub(crate) fn closed(&self, core: usize, reason: CloseReason, retries: u64) {
        let counts = self.0.get(core);
        if let Some(counter) = counts.closed.get(reason.index()) {
            counter.increment();
        }
        counts.retries.add(retries);
    }

    /// Whether any core served it.
    pub(crate) fn is_used(&self) -> bool {
        self.0.iter().next().is_some()
    }

    /// The sum of one counter over all cores.
    #[must_use]
    pub fn sum(&self, of: impl Fn(&RouteCounts) -> u64) -> u64 {
        self.0.sum(of)
    }
}

/// The counts of all routes by id.
#[derive(Debug)]
pub struct RouteTable {
    cores: usize,
    all: Mutex<HashMap<String, Kept>>,
}

#[derive(Debug)]
struct Kept {
    stats: Arc<RouteStats>,
    /// When nobody was found to use it any more.
    unused_since: Option<Instant>,
}

impl RouteTable {
    /// For that many cores.
    #[must_use]
    pub fn new(cores: usize) -> Self {
        Self { cores, all: Mutex::default() }
    }

    /// The counts of the route `id`.
    #[must_use]
    pub fn of(&self, id: &str) -> Arc<RouteStats> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = all.get_mut(id) {
            kept.unused_since = None;
            return Arc::clone(&kept.stats);
        }
        let stats = Arc::new(RouteStats::new(self.cores));
        let kept = Kept { stats: Arc::clone(&stats), unused_since: None };
        all.insert(id.to_owned(), kept);
        stats
    }

    /// Forgets routes that have been gone for a while. Called at `now` by whoever asks or changes
    /// routes.
    pub fn sweep(&self, now: Instant) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, kept| {
            if Arc::strong_count(&kept.stats) > 1 {
                kept.unused_since = None;
                return true;
            }
            // One without sessions has nothing that a scrape could miss.
            let since = *kept.unused_since.get_or_insert(now);
            kept.stats.is_used() && now.saturating_duration_since(since) < KEPT
        });
    }

    /// The routes that served a session, by id.
    pub(crate) fn used(&self) -> Vec<(String, Arc<RouteStats>)> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let used = all.iter().filter(|(_, kept)| kept.stats.is_used());
        let mut used: Vec<_> =
            used.map(|(id, kept)| (id.clone(), Arc::clone(&kept.stats))).collect();
        drop(all);
        used.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_with_the_id() {
        let table = RouteTable::new(2);
        let before = table.of("1");
        before.closed(1, CloseReason::Done, 2);
        drop(before);
        let after = table.of("1");
        assert_eq!(after.sum(|of| of.closed[0].get()), 1);
        assert_eq!(after.sum(|of| of.retries.get()), 2);
        assert_eq!(table.used().len(), 1);
    }

    #[test]
    fn deleted_routes_stay_for_a_last_scrape() {
        let table = RouteTable::new(1);
        let now = Instant::now();
        let idle = table.of("idle");
        table.of("served").closed(0, CloseReason::Done, 0);
        table.sweep(now);
        assert_eq!(table.used().len(), 1);
        table.sweep(now + KEPT / 2);
        assert_eq!(table.used().len(), 1);
        table.sweep(now + KEPT);
        assert_eq!(table.used().len(), 0);
        drop(idle);
        table.sweep(now + KEPT);
        assert!(table.all.lock().unwrap().is_empty());
    }
}
