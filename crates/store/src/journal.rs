//! Where the engine keeps what must outlive it: on disk, or in memory for tests.

use std::sync::Arc;

use headgate_model::JsonText;
use serde_json::Value;

use crate::{Change, HistoryEntry, Revision, StoreError, Stored, Unreadable, WatchError};

/// How much history is kept. A change is removed when either limit says so.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retention {
    /// Number of changes.
    pub(crate) revisions: u64,
    /// Age in milliseconds.
    pub(crate) age_ms: u64,
}

/// One change on its way to the journal.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) revision: Revision,
    pub(crate) time_ms: u64,
    pub(crate) author: String,
    pub(crate) key: String,
    /// What is stored now; `None` for a delete.
    pub(crate) value: Option<Live>,
}

/// A [`Stored`] with its value as text: what stays in memory for as long as it is stored.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) key: Arc<str>,
    pub(crate) json: JsonText,
    pub(crate) created: Revision,
    pub(crate) modified: Revision,
}

impl Kept {
    pub(crate) fn stored(&self) -> Stored {
        Stored {
            key: self.key.as_ref().to_owned(),
            value: self.json.value(),
            created: self.created,
            modified: self.modified,
        }
    }
}

impl From<&Stored> for Kept {
    fn from(stored: &Stored) -> Self {
        Self {
            key: stored.key.as_str().into(),
            json: JsonText::new(&stored.value),
            created: stored.created,
            modified: stored.modified,
        }
    }
}

/// A value together with when it expires.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    pub(crate) kept: Arc<Kept>,
    /// Unix time in milliseconds.
    pub(crate) expires_ms: Option<u64>,
}

/// A value of the store that cannot be read.
#[derive(Debug, Clone)]
pub(crate) struct Damaged {
    pub(crate) created: Revision,
    pub(crate) modified: Revision,
    pub(crate) reason: String,
}

/// Changes that become durable together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// In order of revision.
    pub(crate) records: Vec<Record>,
    /// Revision after the batch; larger than the last record's when ids were taken.
    pub(crate) revision: Revision,
    pub(crate) now_ms: u64,
}

/// Everything a journal holds, as read when it is opened.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) revision: Revision,
    pub(crate) values: Vec<Live>,
    pub(crate) damaged: Vec<(String, Damaged)>,
}

/// Why a replay is not possible.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayError {
    /// Changes up to this revision are no longer known.
    #[error("history was compacted up to revision {0}")]
    Compacted(Revision),
    /// The history cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<ReplayError> for WatchError {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::Compacted(revision) => Self::Compacted(revision),
            ReplayError::Store(error) => Self::Lost(error.to_string()),
        }
    }
}

/// Durable part of a store. One thread commits; any thread reads the history.
pub(crate) trait Journal: Send + Sync + 'static {
    /// Makes a batch durable and prunes the history by a bounded amount. When this fails it is
    /// unknown whether the batch is durable; call [`Journal::reopen`] to find out.
    fn commit(&self, batch: &Batch, retention: Retention) -> Result<(), StoreError>;

    /// Starts over after a failed commit and says what is there.
    fn reopen(&self) -> Result<Contents, StoreError>;

    /// Closes what is open, until [`Journal::reopen`].
    fn close(&self);

    /// True when the oldest change is due to be removed by age.
    fn wants_pruning(&self, now_ms: u64, retention: Retention) -> bool;

    /// Changes with `from < revision <= to`.
    fn replay(&self, from: Revision, to: Revision) -> Result<Vec<Change>, ReplayError>;

    /// The newest `limit` changes of a key or of all keys, newest first.
    fn newest(&self, key: Option<&str>, limit: usize) -> Result<Vec<HistoryEntry>, StoreError>;
}

impl Damaged {
    pub(crate) fn report(&self, key: &str) -> Unreadable {
        Unreadable { key: key.to_owned(), reason: self.reason.clone() }
    }

    /// A stand-in for the value, for answers that have to show one.
    pub(crate) fn stored(&self, key: &str) -> Stored {
        Stored {
            key: key.to_owned(),
            value: Value::Null,
            created: self.created,
            modified: self.modified,
        }
    }
}

impl Record {
    pub(crate) fn change(&self) -> Change {
        match &self.value {
            Some(live) => Change::Put(live.kept.stored()),
            None => Change::Delete { key: self.key.clone(), revision: self.revision },
        }
    }

    pub(crate) fn entry(&self) -> HistoryEntry {
        HistoryEntry {
            revision: self.revision,
            time_ms: self.time_ms,
            author: self.author.clone(),
            key: self.key.clone(),
            value: self.value.as_ref().map(|live| live.kept.json.value()),
        }
    }
}
