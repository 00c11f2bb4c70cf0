//! The copy of the configuration on the local disk, from which a node starts while etcd is away.
//!
//! One thread writes it, behind what is served; traffic never waits for it, and a disk that is full
//! or read-only only makes the copy old. The file is that of the embedded store, with the revisions
//! of etcd.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tracing::{error, info, warn};

use super::shared::unix_time;
use crate::embedded::{DiskJournal, FILE_NAME, open_directory};
use crate::journal::{Batch, Contents, Journal as _, Kept, Live, Record, Retention};
use crate::{Change, Clock, Loaded, Revision, Stale, StoreError};

/// Pause after the disk has failed.
const RETRY: Duration = Duration::from_secs(5);
/// The copy is for starting, not for looking back.
const RETENTION: Retention = Retention { revisions: 1000, age_ms: 30 * 24 * 3600 * 1000 };

/// A running copy. Dropping it writes what is left.
pub(super) struct Cache {
    /// What was found at the start; taken once.
    found: Mutex<Option<Contents>>,
    failure: Arc<Mutex<Option<Stale>>>,
    open: Mutex<Option<Open>>,
}

/// The copy while it is kept.
struct Open {
    work: Sender<Work>,
    thread: JoinHandle<()>,
    /// Locked while it is in use.
    lock: File,
}

enum Work {
    Everything(Revision, Vec<Arc<Kept>>),
    Changes(Revision, Vec<Change>),
}

impl Cache {
    /// Opens the copy in `directory`, or makes an empty one.
    ///
    /// # Errors
    /// The disk does not allow it, or another process uses it.
    pub(super) fn open(directory: &Path) -> Result<Self, StoreError> {
        let lock = open_directory(directory)?;
        let path = directory.join(FILE_NAME);
        let (journal, contents) = open_or_renew(&path)?;
        let known = contents.values.iter().map(|live| {
            let Kept { key, created, modified, .. } = &*live.kept;
            (Arc::clone(key), (*created, *modified))
        });
        let failure = Arc::<Mutex<Option<Stale>>>::default();
        let mut writer = Writer {
            journal,
            failure: Arc::clone(&failure),
            known: known.collect(),
            revision: contents.revision,
            pending: BTreeMap::new(),
            is_failing: false,
        };
        let (work, queue) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("etcd-copy".into())
            .spawn(move || writer.run(&queue))
            .map_err(|error| StoreError::Unavailable(format!("starting the copy: {error}")))?;
        let found = Some(contents).filter(|found| found.revision > 0);
        Ok(Self {
            found: Mutex::new(found),
            failure,
            open: Mutex::new(Some(Open { work, thread, lock })),
        })
    }

    /// Since when and why the copy is not what is served.
    pub(super) fn failure(&self) -> Option<Stale> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was in the copy when it was opened, if anything was.
    pub(super) fn take_found(&self) -> Option<Loaded> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(Loaded {
            revision: found.revision,
            values: found.values.iter().map(|live| live.kept.stored()).collect(),
            unreadable: Vec::new(),
        })
    }

    /// What was found is not needed any more: the cluster has told everything.
    fn forget_found(&self) {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether [`Cache::take_found`] would have something.
    pub(super) fn has_found(&self) -> bool {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Replaces the copy.
    pub(super) fn replace(&self, loaded: &Loaded) {
        self.forget_found();
        let values = loaded.values.iter().map(|stored| Arc::new(stored.into())).collect();
        self.send(Work::Everything(loaded.revision, values));
    }

    /// Adds changes to the copy.
    pub(super) fn apply(&self, revision: Revision, changes: &[Change]) {
        self.send(Work::Changes(revision, changes.to_vec()));
    }

    fn send(&self, work: Work) {
        if let Some(open) = &*self.open.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = open.work.send(work);
        }
    }

    /// Whether it was closed.
    pub(super) fn is_closed(&self) -> bool {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Finishes what is queued and closes the copy, for good.
    pub(super) fn close(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Open { work, thread, lock }) = open else { return };
        drop(work);
        let _ = thread.join();
        drop(lock);
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.close();
    }
}

/// A copy that is damaged is put aside: etcd has everything.
fn open_or_renew(path: &Path) -> Result<(DiskJournal, Contents), StoreError> {
    match DiskJournal::open(path) {
        Err(StoreError::Corrupt(reason)) => {
            let aside: PathBuf = path.with_extension("damaged");
            warn!(%reason, aside = %aside.display(), "the local copy is damaged and put aside");
            fs::rename(path, &aside).map_err(|error| StoreError::Unavailable(error.to_string()))?;
            DiskJournal::open(path)
        }
        opened => opened,
    }
}

struct Writer {
    journal: DiskJournal,
    /// Keys of the file: revisions of creation and of the last change.
    known: HashMap<Arc<str>, (Revision, Revision)>,
    revision: Revision,
    /// What the file lacks, by key.
    pending: BTreeMap<Arc<str>, Option<Arc<Kept>>>,
    is_failing: bool,
    failure: Arc<Mutex<Option<Stale>>>,
}

impl Writer {
    fn run(&mut self, queue: &Receiver<Work>) {
        loop {
            let first = if self.is_failing {
                match queue.recv_timeout(RETRY) {
                    Ok(work) => Some(work),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            } else {
                match queue.recv() {
                    Ok(work) => Some(work),
                    Err(_) => return,
                }
            };
            let retry = first.is_none();
            first.into_iter().chain(queue.try_iter()).for_each(|work| self.take(work));
            if self.is_failing && !retry {
                // Not with every change: the next attempt comes with the next pause.
                thread::sleep(Duration::from_millis(50));
                if self.journal.reopen().is_err() {
                    continue;
                }
            }
            self.write();
        }
    }

    fn take(&mut self, work: Work) {
        match work {
            Work::Changes(revision, changes) => {
                for change in changes {
                    match change {
                        Change::Put(stored) => {
                            let kept = Kept::from(&stored);
                            self.pending.insert(Arc::clone(&kept.key), Some(Arc::new(kept)));
                        }
                        Change::Delete { key, .. } => drop(self.pending.insert(key.into(), None)),
                    }
                }
                self.revision = revision;
            }
            Work::Everything(revision, values) => {
                self.pending = self.known.keys().map(|key| (key.clone(), None)).collect();
                for stored in values {
                    let same = self.known.get(&stored.key)
                        == Some(&(stored.created, stored.modified))
                        && self.revision <= revision;
                    if same {
                        self.pending.remove(&stored.key);
                    } else {
                        self.pending.insert(Arc::clone(&stored.key), Some(stored));
                    }
                }
                self.revision = revision;
            }
        }
    }

    fn write(&mut self) {
        let now_ms = Clock::System.now_ms();
        let record = |(key, value): (&Arc<str>, &Option<Arc<Kept>>)| Record {
            revision: value.as_ref().map_or(self.revision, |stored| stored.modified),
            time_ms: now_ms,
            author: String::new(),
            key: key.as_ref().to_owned(),
            value: value.as_ref().map(|kept| Live { kept: Arc::clone(kept), expires_ms: None }),
        };
        let mut records: Vec<_> = self.pending.iter().map(record).collect();
        records.sort_by_key(|record| record.revision);
        let batch = Batch { records, revision: self.revision, now_ms };
        match self.journal.commit(&batch, RETENTION) {
            Ok(()) => {
                for (key, value) in std::mem::take(&mut self.pending) {
                    match value {
                        Some(stored) => {
                            self.known.insert(key, (stored.created, stored.modified));
                        }
                        None => drop(self.known.remove(&key)),
                    }
                }
                if std::mem::take(&mut self.is_failing) {
                    *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
                    info!("the local copy of the configuration can be written again");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_failing, true) {
                    let failure = Stale { since: unix_time(), reason: error.to_string() };
                    *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
                    error!(%error, "the local copy of the configuration cannot be written; it is not what is served any more");
                }
                let _ = self.journal.reopen();
            }
        }
    }
}
