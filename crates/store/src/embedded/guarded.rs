//! The database with its copy: what happens when the database is damaged.

use std::fs;
use std::path::{Path, PathBuf};

use super::copy::{self, TextCopy};
use super::files::sync_parent;
use super::journal::DiskJournal;
use crate::journal::{Batch, Contents, Journal, ReplayError, Retention};
use crate::{Change, HistoryEntry, Revision, StoreError};

/// A journal that can be rebuilt.
pub(super) struct Guarded {
    disk: DiskJournal,
    copy: TextCopy,
}

impl Guarded {
    /// Opens the database; a damaged one is put aside and built anew from its copy.
    ///
    /// # Errors
    /// The database cannot be opened, or is damaged and there is no copy that could replace it.
    pub(super) fn open(path: &Path) -> Result<(Self, Contents), StoreError> {
        let (disk, contents) = match DiskJournal::open(path) {
            Ok((disk, contents)) => {
                notice_older_database(path, contents.revision);
                (disk, contents)
            }
            Err(StoreError::Corrupt(reason)) => rebuild(path, &reason)?,
            Err(error) => return Err(error),
        };
        let copy = TextCopy::beside(path);
        copy.rewrite(&contents);
        Ok((Self { disk, copy }, contents))
    }
}

/// A database that is older than its copy was replaced by somebody, or has lost its last commits. It is
/// used; what it lacks is kept and said.
fn notice_older_database(path: &Path, revision: Revision) {
    let copy = copy::path_beside(path);
    let Some(found) = copy::read(&copy).filter(|found| found.contents.revision > revision) else {
        return;
    };
    let kept = copy.with_extension("copy.ahead");
    let is_kept = fs::rename(&copy, &kept).is_ok();
    tracing::warn!(
        store = %path.display(), revision, copy = found.contents.revision, kept = %kept.display(), is_kept,
        "the store is older than its copy: it was replaced by an older file, or has lost its last \
         changes. The store is used as it is; the newer values are in the file that was kept"
    );
}

fn rebuild(path: &Path, reason: &str) -> Result<(DiskJournal, Contents), StoreError> {
    let copy = copy::path_beside(path);
    let Some(found) = copy::read(&copy) else {
        return Err(StoreError::Corrupt(format!(
            "{reason}; there is no usable copy of it in {}. Put a backup in its place, or move it \
             away to start with nothing",
            copy.display()
        )));
    };
    let aside = put_aside(path)?;
    let (disk, _) = DiskJournal::open(path)?;
    disk.fill(&found.contents)?;
    let contents = disk.reopen()?;
    let (revision, objects) = (contents.revision, contents.values.len());
    tracing::error!(
        reason, damaged = %aside.display(), copy = %copy.display(), revision, objects,
        "the store was damaged and has been rebuilt from its copy; its history is lost, the damaged \
         file is kept"
    );
    if let Some(line) = found.ends_at {
        let newest = found.newest.map_or_else(String::new, |(time_ms, author, key)| {
            format!(
                "; the last one that is there: {key} by {author} at unix time {}",
                time_ms / 1000
            )
        });
        tracing::error!(
            copy = %copy.display(), line, revision,
            "the copy is damaged, too: changes after this revision are lost{newest}"
        );
    }
    Ok((disk, contents))
}

/// Renames the damaged file; never over an earlier one.
fn put_aside(path: &Path) -> Result<PathBuf, StoreError> {
    let name = |n: u32| path.with_extension(format!("redb.damaged.{n}"));
    let free = (1..).map(name).find(|name| !name.exists()).unwrap_or_else(|| name(0));
    fs::rename(path, &free).and_then(|()| sync_parent(path)).map_err(|error| {
        StoreError::Unavailable(format!(
            "the damaged store {} cannot be renamed to {}: {error}",
            path.display(),
            free.display()
        ))
    })?;
    Ok(free)
}

impl Journal for Guarded {
    fn commit(&self, batch: &Batch, retention: Retention) -> Result<(), StoreError> {
        self.disk.commit(batch, retention)?;
        if self.copy.append(batch)
            && let Ok(contents) = self.disk.contents()
        {
            self.copy.rewrite(&contents);
        }
        Ok(())
    }

    fn reopen(&self) -> Result<Contents, StoreError> {
        let contents = self.disk.reopen()?;
        self.copy.rewrite(&contents);
        Ok(contents)
    }

    fn close(&self) {
        self.disk.close();
    }

    fn wants_pruning(&self, now_ms: u64, retention: Retention) -> bool {
        self.disk.wants_pruning(now_ms, retention)
    }

    fn replay(&self, from: Revision, to: Revision) -> Result<Vec<Change>, ReplayError> {
        self.disk.replay(from, to)
    }

    fn newest(&self, key: Option<&str>, limit: usize) -> Result<Vec<HistoryEntry>, StoreError> {
        self.disk.newest(key, limit)
    }
}
