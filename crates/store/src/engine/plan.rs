//! Working out what a batch of writes changes, before anything is durable.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::published::{Known, Published};
use crate::clock::millis;
use crate::journal::{Batch, Kept, Live, Record};
use crate::{Precondition, Revision, StoreError, Stored, WriteOptions, Written};

/// The batch being put together: later writes see the earlier ones.
pub(super) struct Plan<'a> {
    published: &'a Published,
    batch: Batch,
    /// Keys this batch has written: index of the last record.
    written: HashMap<String, usize>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(published: &'a Published, now_ms: u64) -> Self {
        let revision = published.revision();
        let batch = Batch { records: Vec::new(), revision, now_ms };
        Self { published, batch, written: HashMap::new() }
    }

    pub(super) fn into_batch(self) -> Batch {
        self.batch
    }

    pub(super) fn put(
        &mut self,
        key: String,
        value: Value,
        options: WriteOptions,
    ) -> Result<Written, StoreError> {
        let previous = self.find(&key);
        check(options.precondition, previous.as_ref())?;
        let revision = self.next_revision();
        let stored = Stored {
            key: key.clone(),
            value,
            created: previous.as_ref().map_or(revision, |found| found.stored.created),
            modified: revision,
        };
        let now_ms = self.batch.now_ms;
        let live = Live {
            kept: Arc::new(Kept::from(&stored)),
            expires_ms: options.ttl.map(|ttl| now_ms.saturating_add(millis(ttl))),
        };
        self.record(key, options.author, Some(live));
        let previous = previous.filter(|found| found.is_readable).map(|found| found.stored);
        Ok(Written { stored, revision, previous })
    }

    pub(super) fn delete(
        &mut self,
        key: String,
        options: WriteOptions,
    ) -> Result<Option<Written>, StoreError> {
        let previous = self.find(&key);
        check(options.precondition, previous.as_ref())?;
        let Some(Found { stored, is_readable }) = previous else { return Ok(None) };
        let revision = self.next_revision();
        self.record(key, options.author, None);
        let previous = is_readable.then(|| stored.clone());
        Ok(Some(Written { stored, revision, previous }))
    }

    pub(super) const fn next_revision(&mut self) -> Revision {
        self.batch.revision += 1;
        self.batch.revision
    }

    fn record(&mut self, key: String, author: String, value: Option<Live>) {
        let Batch { revision, now_ms: time_ms, .. } = self.batch;
        self.written.insert(key.clone(), self.batch.records.len());
        self.batch.records.push(Record { revision, time_ms, author, key, value });
    }

    fn find(&self, key: &str) -> Option<Found> {
        if let Some(record) = self.written.get(key).and_then(|at| self.batch.records.get(*at)) {
            let live = record.value.as_ref()?;
            return Some(Found { stored: live.kept.stored(), is_readable: true });
        }
        Some(match self.published.find(key)? {
            Known::Value(live) => Found { stored: live.kept.stored(), is_readable: true },
            Known::Damaged(damaged) => Found { stored: damaged.stored(key), is_readable: false },
        })
    }
}

/// What a key holds while the batch is put together.
struct Found {
    stored: Stored,
    is_readable: bool,
}

/// As in etcd, a key that does not exist was last modified at revision 0.
fn check(precondition: Precondition, found: Option<&Found>) -> Result<(), StoreError> {
    let holds = match precondition {
        Precondition::None => true,
        Precondition::Absent => found.is_none(),
        Precondition::Modified(revision) => {
            found.map_or(0, |found| found.stored.modified) == revision
        }
    };
    if holds {
        return Ok(());
    }
    let current = found.filter(|found| found.is_readable);
    Err(StoreError::Conflict { current: current.map(|found| Box::new(found.stored.clone())) })
}
