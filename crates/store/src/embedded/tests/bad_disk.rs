//! Disks that fail, and power that does.

use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use std::{fmt, io};

use proptest::prelude::*;
use redb::{BackendError, Builder, Database, StorageBackend};
use serde_json::json;

use super::super::journal::{DiskJournal, Opener};
use super::super::tables;
use crate::engine::Engine;
use crate::journal::Retention;
use crate::{Clock, StoreError, WriteOptions};

const RETENTION: Retention = Retention { revisions: 10, age_ms: u64::MAX };

/// A disk in memory that knows which writes have been synced.
#[derive(Default)]
struct Platter {
    /// What reads see.
    current: Vec<u8>,
    /// What is left after a power cut.
    synced: Vec<u8>,
    /// Operations since the last sync.
    unsynced: Vec<Operation>,
    fault: Fault,
}

#[derive(Clone)]
enum Operation {
    Write(u64, Vec<u8>),
    Resize(u64),
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Fault {
    #[default]
    None,
    /// Nothing can be written, as on a full disk.
    Write,
    /// Writes work, but the disk cannot promise to keep them.
    Sync,
}

#[derive(Clone, Default)]
struct Disk(Arc<Mutex<Platter>>);

impl Disk {
    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap()
    }

    fn break_down(&self, fault: Fault) {
        self.platter().fault = fault;
    }

    /// Cuts the power: of the writes since the last sync, only those survive that `keep` allows.
    fn after_power_cut(&self, mut keep: impl FnMut() -> bool) -> Self {
        let platter = self.platter();
        let mut left = platter.synced.clone();
        for operation in platter.unsynced.iter().filter(|_| keep()) {
            operation.apply(&mut left);
        }
        let platter = Platter { current: left.clone(), synced: left, ..Platter::default() };
        Self(Arc::new(Mutex::new(platter)))
    }

    fn start(&self) -> Result<Engine, StoreError> {
        let disk = self.clone();
        let opener: Opener = Box::new(move |_| disk.database());
        let (journal, contents) = DiskJournal::open_with(Path::new("test"), opener)?;
        Engine::start(journal, contents, RETENTION, Clock::System)
    }

    fn database(&self) -> Result<Database, StoreError> {
        let is_new = self.platter().current.is_empty();
        let mut builder = Builder::new();
        builder.set_check_integrity_on_open(true);
        let database = builder.create_with_backend(self.clone()).map_err(tables::failed)?;
        if is_new {
            tables::initialize(&database)?;
        }
        Ok(database)
    }
}

impl Operation {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(offset, data) => {
                let start = *offset as usize;
                let end = start + data.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[start..end].copy_from_slice(data);
            }
            Self::Resize(length) => bytes.resize(*length as usize, 0),
        }
    }
}

impl Platter {
    fn perform(&mut self, operation: Operation) -> io::Result<()> {
        if self.fault == Fault::Write {
            return Err(io::ErrorKind::StorageFull.into());
        }
        operation.apply(&mut self.current);
        self.unsynced.push(operation);
        Ok(())
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.platter().current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = offset as usize;
        let platter = self.platter();
        let bytes = platter.current.get(start..start + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.platter().perform(Operation::Resize(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut platter = self.platter();
        if platter.fault != Fault::None {
            return Err(io::ErrorKind::StorageFull.into());
        }
        platter.synced = platter.current.clone();
        platter.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.platter().perform(Operation::Write(offset, data.to_vec()))
    }

    fn try_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }
}

async fn put(engine: &Engine, key: &str, n: u64) -> Result<u64, StoreError> {
    engine.put(key, json!(n), WriteOptions::default()).await.map(|written| written.revision)
}

fn value(engine: &Engine, key: &str) -> Option<u64> {
    engine.get(key).and_then(|stored| stored.value.as_u64())
}

#[tokio::test]
async fn a_full_disk_refuses_writes_until_there_is_room() {
    for fault in [Fault::Write, Fault::Sync] {
        let disk = Disk::default();
        let engine = disk.start().unwrap();
        assert_eq!(put(&engine, "/a", 1).await.unwrap(), 1);
        let mut watch = engine.watch(1);
        disk.break_down(fault);
        for _ in 0..3 {
            let error = put(&engine, "/a", 2).await.unwrap_err();
            assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
            assert_eq!(value(&engine, "/a"), Some(1), "readers are served meanwhile");
        }
        disk.break_down(Fault::None);
        let revision = put(&engine, "/a", 3).await.unwrap();
        assert_eq!(value(&engine, "/a"), Some(3));
        // With a failed sync the refused write may turn out to be stored; then it has to be seen.
        let mut seen = Vec::new();
        while seen.last() != Some(&revision) {
            let batch = watch.recv().await.unwrap().unwrap();
            seen.extend(batch.iter().map(crate::Change::revision));
        }
        assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
        drop(engine);
        assert_eq!(value(&disk.start().unwrap(), "/a"), Some(3));
    }
}

#[tokio::test]
async fn the_writer_recovers_by_itself() {
    let disk = Disk::default();
    let engine = disk.start().unwrap();
    let ttl = Some(Duration::from_millis(50));
    engine.put("/a", json!(1), WriteOptions { ttl, ..WriteOptions::default() }).await.unwrap();
    let mut watch = engine.watch(1);
    disk.break_down(Fault::Write);
    // A failed commit, after which nobody writes any more.
    assert!(put(&engine, "/b", 1).await.is_err());
    disk.break_down(Fault::None);
    let batch = watch.recv().await.unwrap().unwrap();
    assert_eq!(batch, [crate::Change::Delete { key: "/a".to_owned(), revision: 2 }]);
    assert_eq!(put(&engine, "/b", 1).await.unwrap(), 3);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever the disk kept of the writes it had not promised: everything acknowledged is there.
    #[test]
    fn power_cuts_lose_nothing_acknowledged(
        writes in 1_u64..40,
        lost in 0_u64..5,
        kept in prop::collection::vec(any::<bool>(), 64),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let disk = Disk::default();
            let engine = disk.start().unwrap();
            for n in 1..=writes {
                put(&engine, &format!("/{}", n % 4), n).await.unwrap();
            }
            // Under way when the power fails: written in part, never acknowledged.
            disk.break_down(if lost % 2 == 0 { Fault::None } else { Fault::Sync });
            if lost > 0 {
                let _ = put(&engine, "/0", 1_000).await;
            }
            let mut kept = kept.into_iter().cycle();
            let engine = disk.after_power_cut(|| kept.next().unwrap()).start().unwrap();
            assert!(engine.load().revision >= writes);
            for n in (1..=writes).rev().take(4) {
                let found = value(&engine, &format!("/{}", n % 4)).unwrap();
                assert!(found == n || found == 1_000, "{found} instead of {n}");
            }
        });
    }
}
