//! Where resources come from: the [`Store`] trait and its back ends.
//!
//! A store is a small versioned map from keys (`/stream_routes/1`) to JSON values. Every change
//! gets the next [`Revision`]; readers follow changes from a revision on.

#![forbid(unsafe_code)]

pub mod cipher;
mod clock;
mod embedded;
mod engine;
mod etcd;
mod file;
mod health;
mod journal;
mod memory;
mod whole;

use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::mpsc;

pub use self::cipher::Keyring;
pub use self::clock::Clock;
pub use self::embedded::{Embedded, FILE_NAME, Options};
pub use self::etcd::{Etcd, EtcdOptions};
pub use self::file::File;
pub use self::health::{Health, Stale};
pub use self::memory::Memory;
pub use self::whole::{Whole, WholeItem};

/// Version of the whole store; grows by one with every change (etcd: `mod_revision`).
pub type Revision = u64;

/// A value with its place in history.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Key below the prefix, e.g. `/stream_routes/1`.
    pub key: String,
    /// The JSON value as it was written.
    pub value: Value,
    /// Revision that created the key (`createdIndex`).
    pub created: Revision,
    /// Revision of the last write (`modifiedIndex`).
    pub modified: Revision,
}

/// All values at one revision, in key order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Loaded {
    /// The revision of the store.
    pub revision: Revision,
    /// Every value.
    pub values: Vec<Stored>,
    /// Values that could not be read; they stay in the store and are reported.
    pub unreadable: Vec<Unreadable>,
}

/// A value that is not JSON or otherwise damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Its key.
    pub key: String,
    /// Why.
    pub reason: String,
}

/// What must hold for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precondition {
    /// Nothing.
    #[default]
    None,
    /// The key does not exist.
    Absent,
    /// The last change of the key was at this revision; 0 means the key does not exist.
    Modified(Revision),
}

/// Options of a write.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// What must hold.
    pub precondition: Precondition,
    /// Name of the admin key that writes, for the history.
    pub author: String,
    /// The value disappears after this time; `None` removes an earlier limit.
    pub ttl: Option<Duration>,
}

/// Answer to a write.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// What is stored now (for a delete: what was stored).
    pub stored: Stored,
    /// Revision of this change.
    pub revision: Revision,
    /// The value before, if there was one.
    pub previous: Option<Stored>,
}

/// One change.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The key was written.
    Put(Stored),
    /// The key was deleted or expired.
    Delete {
        /// The key.
        key: String,
        /// Revision of the deletion.
        revision: Revision,
    },
}

impl Change {
    /// The key that changed.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put(stored) => &stored.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// Revision of the change.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        match self {
            Self::Put(stored) => stored.modified,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

/// One entry of the history.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryEntry {
    /// Revision of the change.
    pub revision: Revision,
    /// Unix time in milliseconds.
    pub time_ms: u64,
    /// Name of the admin key that made it.
    pub author: String,
    /// The key.
    pub key: String,
    /// The value written; `None` for a delete.
    pub value: Option<Value>,
}

/// Why a store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A [`Precondition`] did not hold.
    #[error("value changed before overwritten")]
    Conflict {
        /// The value that is stored now.
        current: Option<Box<Stored>>,
    },
    /// The store cannot answer now.
    #[error("{0}")]
    Unavailable(String),
    /// A successor process is taking the store over; nothing was written here.
    #[error("headgate is being upgraded; try again in a second")]
    Moving,
    /// The files of the store are damaged or of another version.
    #[error("{0}")]
    Corrupt(String),
}

/// Why a watch ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The history no longer reaches back to the asked revision; load everything again.
    #[error("history was compacted up to revision {0}")]
    Compacted(Revision),
    /// The reader was too slow or the store went away; load everything again.
    #[error("watch ended: {0}")]
    Lost(String),
}

/// Batches of changes in order of revision. The channel closes after an error.
pub type Watch = mpsc::Receiver<Result<Vec<Change>, WatchError>>;

/// A versioned map of keys to JSON values.
#[async_trait]
pub trait Store: Send + Sync {
    /// Everything, and the revision it shows.
    async fn load(&self) -> Result<Loaded, StoreError>;
    /// One value.
    async fn get(&self, key: &str) -> Result<Option<Stored>, StoreError>;
    /// All values whose key starts with `prefix` (e.g. `/stream_routes/`), in key order.
    async fn list(&self, prefix: &str) -> Result<Vec<Stored>, StoreError>;
    /// Writes a value; it is durable when this returns.
    async fn put(
        &self,
        key: &str,
        value: Value,
        options: WriteOptions,
    ) -> Result<Written, StoreError>;
    /// Deletes a value; `None` when there was none. Durable when this returns. For a value that
    /// could not be read, the answer shows null in its place.
    async fn delete(&self, key: &str, options: WriteOptions)
    -> Result<Option<Written>, StoreError>;
    /// Takes a revision for a POST id (the reference writes `gen_id` for it). No change has this
    /// revision; watches and history skip it.
    async fn next_id(&self) -> Result<Revision, StoreError>;
    /// Changes after `from`: those already made first, then new ones as they happen. Ends with an
    /// error when the history does not reach back to `from`, when `from` is ahead of the store (it
    /// was replaced), or when the reader falls too far behind; then everything has to be loaded
    /// again.
    fn watch(&self, from: Revision) -> Watch;
    /// The newest `limit` changes of a key (of all keys when `None`), newest first.
    async fn history(
        &self,
        key: Option<&str>,
        limit: usize,
    ) -> Result<Vec<HistoryEntry>, StoreError>;
    /// How fresh the store is, against where it gets its values from. A store that is itself the
    /// source is always fresh.
    fn health(&self) -> Health {
        Health::default()
    }
    /// Closes the files for a successor process. From now on writes wait; see
    /// [`Store::refuse_writes`]. A store without files of one process does nothing.
    async fn let_go(&self) -> Result<(), StoreError> {
        Ok(())
    }
    /// The successor works with the files: writes that wait, and all others, are refused with
    /// [`StoreError::Moving`].
    fn refuse_writes(&self) {}
    /// The successor failed: opens the files again, with what it may have written.
    async fn take_back(&self) -> Result<(), StoreError> {
        Ok(())
    }
    /// Tells the other nodes of the store what this one says about itself, for `ttl` from now on.
    /// A store that belongs to one process has no others.
    async fn publish_node(&self, _: &str, _: Value, _: Duration) -> Result<(), StoreError> {
        Ok(())
    }
    /// What the nodes of the store say about themselves; `None` for a store of one process.
    async fn nodes(&self) -> Result<Option<Vec<Value>>, StoreError> {
        Ok(None)
    }
}
