//! The journal on disk.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

use redb::{Database, Durability, ReadTransaction, ReadableDatabase as _, TableError};

use super::files::{corrupt, open_database};
use super::history::{oldest, prune};
use super::tables::{self, FORMAT, HISTORY, META, META_COMPACTED, META_FORMAT, META_REVISION};
use super::tables::{VALUES, failed};
use crate::journal::{Batch, Contents, Journal, ReplayError, Retention};
use crate::{Change, HistoryEntry, Revision, StoreError};

/// Opens a database; replaced in tests to make the disk fail.
pub(super) type Opener = Box<dyn Fn(&Path) -> Result<Database, StoreError> + Send + Sync>;

/// The open file.
pub(crate) struct DiskJournal {
    path: PathBuf,
    opener: Opener,
    /// None after a failed commit, until the file is opened again.
    database: RwLock<Option<Arc<Database>>>,
    /// Time of the oldest change in the history (unix ms); `u64::MAX` when there is none.
    oldest_ms: AtomicU64,
}

impl DiskJournal {
    pub(crate) fn open(path: &Path) -> Result<(Self, Contents), StoreError> {
        Self::open_with(path, Box::new(open_database))
    }

    pub(super) fn open_with(path: &Path, opener: Opener) -> Result<(Self, Contents), StoreError> {
        let journal = Self {
            path: path.to_owned(),
            opener,
            database: RwLock::new(None),
            oldest_ms: AtomicU64::new(u64::MAX),
        };
        let contents = journal.reopen()?;
        Ok((journal, contents))
    }

    fn read_all(&self, database: &Database) -> Result<Contents, StoreError> {
        let read = database.begin_read().map_err(failed)?;
        let foreign = |error: TableError| match error {
            TableError::Storage(error) => failed(error),
            error => corrupt(&self.path, &error),
        };
        let meta = read.open_table(META).map_err(foreign)?;
        let format = tables::number(&meta, META_FORMAT)?;
        if format != FORMAT {
            // Not damage: a newer program wrote it.
            return Err(StoreError::Unavailable(format!(
                "store {} has format {format}, this program reads format {FORMAT}",
                self.path.display()
            )));
        }
        let history = read.open_table(HISTORY).map_err(foreign)?;
        self.remember_oldest(oldest(&history)?.map(|(_, time_ms)| time_ms));
        tables::read_contents(&meta, &read.open_table(VALUES).map_err(foreign)?)
    }

    /// Everything that is stored now.
    pub(super) fn contents(&self) -> Result<Contents, StoreError> {
        let database = self.database()?;
        self.read_all(&database)
    }

    /// Fills an empty database; what was before is no longer known.
    pub(super) fn fill(&self, contents: &Contents) -> Result<(), StoreError> {
        let mut write = self.database()?.begin_write().map_err(failed)?;
        write.set_durability(Durability::Immediate).map_err(failed)?;
        tables::write_contents(&write, contents)?;
        write.commit().map_err(failed)
    }

    fn database(&self) -> Result<Arc<Database>, StoreError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        database.clone().ok_or_else(|| failed("the file is closed after an error"))
    }

    fn begin_read(&self) -> Result<ReadTransaction, StoreError> {
        self.database()?.begin_read().map_err(failed)
    }

    fn remember_oldest(&self, time_ms: Option<u64>) {
        self.oldest_ms.store(time_ms.unwrap_or(u64::MAX), Relaxed);
    }
}

impl Journal for DiskJournal {
    fn commit(&self, batch: &Batch, retention: Retention) -> Result<(), StoreError> {
        let commit = || {
            let mut write = self.database()?.begin_write().map_err(failed)?;
            write.set_durability(Durability::Immediate).map_err(failed)?;
            for record in &batch.records {
                tables::write_record(&write, record)?;
            }
            let oldest = prune(&write, batch, retention)?;
            let mut meta = write.open_table(META).map_err(failed)?;
            meta.insert(META_REVISION, batch.revision).map_err(failed)?;
            drop(meta);
            write.commit().map_err(failed)?;
            self.remember_oldest(oldest);
            Ok(())
        };
        let result = commit();
        if result.is_err() {
            // After an I/O error redb refuses everything until the file is opened again.
            self.close();
        }
        result
    }

    fn reopen(&self) -> Result<Contents, StoreError> {
        self.close();
        // The integrity check finds almost any damage; what it misses could panic inside redb.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let database = (self.opener)(&self.path)?;
            let contents = self.read_all(&database)?;
            Ok((database, contents))
        }));
        let (database, contents) = opened.unwrap_or_else(|_| Err(corrupt(&self.path, &"panic")))?;
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(database));
        Ok(contents)
    }

    fn close(&self) {
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn wants_pruning(&self, now_ms: u64, retention: Retention) -> bool {
        self.oldest_ms.load(Relaxed) < now_ms.saturating_sub(retention.age_ms)
    }

    fn replay(&self, from: Revision, to: Revision) -> Result<Vec<Change>, ReplayError> {
        let read = self.begin_read()?;
        let compacted = tables::number(&read.open_table(META).map_err(failed)?, META_COMPACTED)?;
        if from < compacted {
            return Err(ReplayError::Compacted(compacted));
        }
        let history = read.open_table(HISTORY).map_err(failed)?;
        let mut changes = Vec::new();
        for row in history.range(from.saturating_add(1)..=to).map_err(failed)? {
            let (revision, row) = row.map_err(failed)?;
            changes.push(tables::change(revision.value(), row.value()));
        }
        Ok(changes)
    }

    fn newest(&self, key: Option<&str>, limit: usize) -> Result<Vec<HistoryEntry>, StoreError> {
        let history = self.begin_read()?.open_table(HISTORY).map_err(failed)?;
        let mut entries = Vec::new();
        for row in history.range::<u64>(..).map_err(failed)?.rev() {
            if entries.len() >= limit {
                break;
            }
            let (revision, row) = row.map_err(failed)?;
            let row = row.value();
            if key.is_none_or(|key| row.2 == key) {
                entries.push(tables::entry(revision.value(), row));
            }
        }
        Ok(entries)
    }
}
