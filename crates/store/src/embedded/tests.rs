use std::fs;
use std::future::{Future, poll_fn};
use std::os::unix::fs::PermissionsExt as _;
use std::pin::Pin;
use std::task::Poll;

use redb::Database;
use serde_json::json;

use super::*;
use crate::{Change, Precondition, Store as _, WriteOptions};

mod bad_disk;
mod lending;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn open(dir: &Path) -> Embedded {
    Embedded::open(dir, Options::default()).unwrap()
}

fn refused(dir: &Path) -> String {
    let error = Embedded::open(dir, Options::default()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(dir.to_str().unwrap()), "names the place: {text}");
    match error {
        StoreError::Corrupt(_) => format!("corrupt: {text}"),
        _ => text,
    }
}

/// Polls a future once: enough to queue a write.
async fn start(future: &mut Pin<Box<impl Future + ?Sized>>) {
    let poll = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready()));
    let _ = poll.await;
}

#[test]
fn only_the_owner_may_read() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("var/store");
    let store = open(&dir);
    assert_eq!((mode(&dir), mode(store.path())), (0o700, 0o600));
    assert_eq!(mode(&dir.join("store.copy")), 0o600);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 2, "the store, its copy and nothing else");
}

#[test]
fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    assert!(refused(dir.path()).contains("in use by another process"));
    drop(first);
    open(dir.path());
}

#[tokio::test]
async fn creation_that_was_interrupted_starts_over() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("store.redb.new"), [0; 5_000]).unwrap();
    let store = open(dir.path());
    assert_eq!(store.load().await.unwrap().revision, 0);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn damage_is_an_error_with_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    fs::write(&path, "this is not a database").unwrap();
    assert!(refused(dir.path()).starts_with("corrupt: "));
    fs::write(&path, "").unwrap();
    assert!(refused(dir.path()).starts_with("corrupt: "));
    fs::remove_file(&path).unwrap();
    drop(open(dir.path()));
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    fs::remove_file(dir.path().join("store.copy")).unwrap();
    assert!(refused(dir.path()).contains("no usable copy"));
    assert_eq!(fs::read(&path).unwrap(), whole[..whole.len() / 2], "as it was");
}

#[tokio::test]
async fn flipped_bits_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 0..20 {
        store.put(&format!("/{n}"), json!("x".repeat(500)), WriteOptions::default()).await.unwrap();
    }
    let path = store.path().to_owned();
    drop(store);
    let whole = fs::read(&path).unwrap();
    for at in (0..whole.len()).step_by(whole.len() / 97) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(&path, damaged).unwrap();
        match Embedded::open(dir.path(), Options::default()) {
            Ok(store) => assert_eq!(store.load().await.unwrap().values.len(), 20, "byte {at}"),
            Err(error) => panic!("byte {at}: {error}"),
        }
    }
}

#[tokio::test]
async fn a_damaged_store_is_rebuilt_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 0..5 {
        store.put("/n", json!(n), WriteOptions::default()).await.unwrap();
    }
    store.put("/gone", json!(1), WriteOptions::default()).await.unwrap();
    store.delete("/gone", WriteOptions::default()).await.unwrap();
    let path = store.path().to_owned();
    let before = store.load().await.unwrap();
    drop(store);
    for round in 1..3 {
        fs::write(&path, "no database").unwrap();
        let store = open(dir.path());
        let after = store.load().await.unwrap();
        assert_eq!((after.revision, &after.values), (before.revision, &before.values));
        let kept = dir.path().join(format!("store.redb.damaged.{round}"));
        assert_eq!(fs::read(&kept).unwrap(), b"no database");
        assert!(store.history(None, 10).await.unwrap().is_empty());
    }
    // And it goes on from there.
    let store = open(dir.path());
    let written = store.put("/n", json!(9), WriteOptions::default()).await.unwrap();
    assert_eq!(written.stored.modified, before.revision + 1);
}

#[tokio::test]
async fn a_copy_that_is_damaged_too_serves_as_far_as_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 0..5 {
        store.put("/n", json!(n), WriteOptions::default()).await.unwrap();
    }
    let path = store.path().to_owned();
    drop(store);
    let copy = dir.path().join("store.copy");
    let whole = fs::read(&copy).unwrap();
    fs::write(&copy, &whole[..whole.len() - 3]).unwrap();
    fs::write(&path, "").unwrap();
    let loaded = open(dir.path()).load().await.unwrap();
    assert_eq!((loaded.revision, loaded.values[0].value.clone()), (4, json!(3)));
}

#[tokio::test]
async fn an_older_store_is_used_and_the_newer_copy_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = open(dir.path()).path().to_owned();
    let old = fs::read(&path).unwrap();
    let store = open(dir.path());
    store.put("/n", json!(1), WriteOptions::default()).await.unwrap();
    drop(store);
    fs::write(&path, old).unwrap();
    assert_eq!(open(dir.path()).load().await.unwrap().revision, 0);
    let ahead = copy::read(&dir.path().join("store.copy.ahead")).unwrap();
    assert_eq!(ahead.contents.values.len(), 1);
}

#[test]
fn a_newer_format_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = open(dir.path()).path().to_owned();
    let database = Database::open(&path).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(tables::META).unwrap().insert(tables::META_FORMAT, 2).unwrap();
    write.commit().unwrap();
    drop(database);
    assert!(refused(dir.path()).contains("has format 2"));
}

#[tokio::test]
async fn unreadable_values_are_reported_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for key in ["/a", "/b", "/c"] {
        store.put(key, json!(1), WriteOptions::default()).await.unwrap();
    }
    let path = store.path().to_owned();
    drop(store);
    let database = Database::open(&path).unwrap();
    let write = database.begin_write().unwrap();
    for (key, revision) in [("/b", 2), ("/c", 3)] {
        let row = (revision, revision, None, b"{\"cut".as_slice());
        write.open_table(tables::VALUES).unwrap().insert(key, row).unwrap();
    }
    write.commit().unwrap();
    drop(database);

    for _ in 0..2 {
        let loaded = open(dir.path()).load().await.unwrap();
        assert_eq!(loaded.values.len(), 1);
        let keys: Vec<_> = loaded.unreadable.iter().map(|found| found.key.as_str()).collect();
        assert_eq!(keys, ["/b", "/c"]);
        assert!(loaded.unreadable[0].reason.contains("EOF"), "{:?}", loaded.unreadable);
    }
    let store = open(dir.path());
    assert_eq!(store.get("/b").await.unwrap(), None);
    let absent = WriteOptions { precondition: Precondition::Absent, ..WriteOptions::default() };
    assert!(store.put("/b", json!(2), absent).await.is_err(), "the key is taken");
    let written = store.put("/b", json!(2), WriteOptions::default()).await.unwrap();
    assert_eq!((written.stored.created, written.previous), (2, None));
    let deleted = store.delete("/c", WriteOptions::default()).await.unwrap().unwrap();
    assert_eq!((deleted.stored.value, deleted.previous), (json!(null), None));
    assert_eq!(store.load().await.unwrap().unreadable, []);
}

#[tokio::test]
async fn drop_finishes_what_was_queued() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 0..300 {
        let key = format!("/{n}");
        let mut write = store.put(&key, json!(n), WriteOptions::default());
        start(&mut write).await;
        tokio::task::yield_now().await;
    }
    drop(store);
    assert_eq!(open(dir.path()).load().await.unwrap().values.len(), 300);
}
