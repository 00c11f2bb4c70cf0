//! A store without files: for tests, and where configuration lives only as long as the process.

use std::collections::VecDeque;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use crate::clock::millis;
use crate::engine::{Engine, impl_store};
use crate::journal::{Batch, Contents, Journal, Record, ReplayError, Retention};
use crate::{Change, Clock, HistoryEntry, Revision, StoreError};

/// Behaves as [`Embedded`](crate::Embedded) does, but forgets everything when dropped.
#[derive(Debug)]
pub struct Memory {
    engine: Engine,
}

impl Memory {
    /// An empty store that keeps the newest `history_revisions` changes for at most
    /// `history_age`.
    pub fn new(history_revisions: u64, history_age: Duration) -> Result<Self, StoreError> {
        Self::with_clock(history_revisions, history_age, Clock::System)
    }

    /// As [`Memory::new`] with a given clock.
    pub fn with_clock(
        history_revisions: u64,
        history_age: Duration,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        let retention = Retention { revisions: history_revisions, age_ms: millis(history_age) };
        let engine = Engine::start(History::default(), Contents::default(), retention, clock)?;
        Ok(Self { engine })
    }
}

impl_store!(Memory);

/// The changes that are still known, oldest first.
#[derive(Default)]
struct History(RwLock<Changes>);

#[derive(Default)]
struct Changes {
    records: VecDeque<Record>,
    /// Newest revision that was removed.
    compacted: Revision,
}

impl Journal for History {
    fn close(&self) {}

    fn commit(&self, batch: &Batch, retention: Retention) -> Result<(), StoreError> {
        let mut changes = self.0.write().unwrap_or_else(PoisonError::into_inner);
        changes.records.extend(batch.records.iter().cloned());
        let oldest_allowed = batch.now_ms.saturating_sub(retention.age_ms);
        while let Some(first) = changes.records.front()
            && (changes.records.len() as u64 > retention.revisions
                || first.time_ms < oldest_allowed)
        {
            changes.compacted = first.revision;
            changes.records.pop_front();
        }
        Ok(())
    }

    fn reopen(&self) -> Result<Contents, StoreError> {
        Err(StoreError::Unavailable("a store in memory does not fail".to_owned()))
    }

    fn wants_pruning(&self, now_ms: u64, retention: Retention) -> bool {
        let changes = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let oldest_allowed = now_ms.saturating_sub(retention.age_ms);
        changes.records.front().is_some_and(|first| first.time_ms < oldest_allowed)
    }

    fn replay(&self, from: Revision, to: Revision) -> Result<Vec<Change>, ReplayError> {
        let changes = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if from < changes.compacted {
            return Err(ReplayError::Compacted(changes.compacted));
        }
        let start = changes.records.partition_point(|record| record.revision <= from);
        let wanted = changes.records.iter().skip(start).take_while(|record| record.revision <= to);
        Ok(wanted.map(Record::change).collect())
    }

    fn newest(&self, key: Option<&str>, limit: usize) -> Result<Vec<HistoryEntry>, StoreError> {
        let changes = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let wanted = changes.records.iter().rev();
        let wanted = wanted.filter(|record| key.is_none_or(|key| record.key == key));
        Ok(wanted.take(limit).map(Record::entry).collect())
    }
}
