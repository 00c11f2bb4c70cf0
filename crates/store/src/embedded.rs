//! The store that needs no other program: one file, written by one process.
//!
//! `<dir>/store.redb` holds the values, the history and the revision. A write is on disk before it
//! is answered; concurrent writes share one `fsync`. `<dir>/store.copy` holds the values once more,
//! for the case that the first file is damaged. How it survives a crash, and how that is tested, is in
//! `docs/internals/store.md`.

mod copy;
mod files;
mod guarded;
mod history;
mod journal;
mod tables;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

pub(crate) use self::files::open_directory;
pub(crate) use self::journal::DiskJournal;
use crate::clock::millis;
use crate::engine::{Engine, impl_store};
use crate::journal::Retention;
use crate::{Clock, StoreError};

/// Name of the file below the directory of the store.
pub const FILE_NAME: &str = "store.redb";

/// How much history an embedded store keeps. A change is forgotten when either limit says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Number of changes.
    pub history_revisions: u64,
    /// Age of changes.
    pub history_age: Duration,
}

impl Default for Options {
    /// 10 000 changes, 30 days.
    fn default() -> Self {
        Self { history_revisions: 10_000, history_age: Duration::from_secs(30 * 24 * 3600) }
    }
}

/// A store in a directory of its own.
#[derive(Debug)]
pub struct Embedded {
    engine: Engine,
    path: PathBuf,
    /// Locked while the store is open; declared last, so the file is closed before.
    lock: Mutex<Option<File>>,
}

impl Embedded {
    /// Opens the store in `dir`, creating both when missing. Fails when another process has it
    /// open. Reads everything, so call it where blocking is allowed.
    pub fn open(dir: &Path, options: Options) -> Result<Self, StoreError> {
        Self::open_with_clock(dir, options, Clock::System)
    }

    /// As [`Embedded::open`] with a given clock.
    pub fn open_with_clock(dir: &Path, options: Options, clock: Clock) -> Result<Self, StoreError> {
        let lock = open_directory(dir)?;
        let path = dir.join(FILE_NAME);
        let (journal, contents) = guarded::Guarded::open(&path)?;
        let retention =
            Retention { revisions: options.history_revisions, age_ms: millis(options.history_age) };
        let engine = Engine::start(journal, contents, retention, clock)?;
        Ok(Self { engine, path, lock: Mutex::new(Some(lock)) })
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl_store!(Embedded, {
    async fn let_go(&self) -> Result<(), StoreError> {
        self.engine.let_go().await?;
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(())
    }
    fn refuse_writes(&self) {
        self.engine.refuse_writes();
    }
    async fn take_back(&self) -> Result<(), StoreError> {
        if self.lock.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            self.engine.take_back(); // if it was about to go
            return Ok(());
        }
        let directory = self.path.parent().unwrap_or(Path::new("."));
        let locked = open_directory(directory);
        // Without the lock it is tried all the same: redb locks its file, too.
        let (lock, result) = match locked {
            Ok(lock) => (Some(lock), Ok(())),
            Err(error) => (None, Err(error)),
        };
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = lock;
        self.engine.take_back();
        result
    }
});

#[cfg(test)]
mod tests;
