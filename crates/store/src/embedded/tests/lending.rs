//! A successor has the files for a while.

use super::*;

async fn put(store: &Embedded, key: &str) -> Result<(), StoreError> {
    store.put(key, json!(1), WriteOptions::default()).await.map(drop)
}

#[tokio::test]
async fn a_successor_that_fails_gives_everything_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, "/a/1").await.unwrap();
    let mut watch = store.watch(1);
    store.take_back().await.unwrap(); // it was never away
    store.let_go().await.unwrap();
    let successor = open(dir.path());
    let mut waiting = Box::pin(put(&store, "/a/3"));
    start(&mut waiting).await;
    put(&successor, "/a/2").await.unwrap();
    assert!(store.get("/a/1").await.unwrap().is_some(), "it can be read meanwhile");
    drop(successor);
    store.take_back().await.unwrap();
    waiting.await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let changes = watch.recv().await.unwrap().unwrap();
        seen.extend(changes.iter().map(Change::revision));
    }
    assert_eq!(seen, [2, 3], "watches go on with what the successor wrote");
    assert_eq!(store.load().await.unwrap().values.len(), 3);
    assert!(refused(dir.path()).contains("in use"));
}

#[tokio::test]
async fn writes_are_refused_once_the_successor_serves() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.let_go().await.unwrap();
    let successor = open(dir.path());
    let mut waiting = Box::pin(put(&store, "/a/1"));
    start(&mut waiting).await;
    store.refuse_writes();
    assert!(matches!(waiting.await, Err(StoreError::Moving)));
    assert!(matches!(put(&store, "/a/2").await, Err(StoreError::Moving)));
    // Even then it may fail.
    drop(successor);
    store.take_back().await.unwrap();
    put(&store, "/a/3").await.unwrap();
    assert_eq!(store.load().await.unwrap().values.len(), 1);
    drop(store); // does not hang
}

#[tokio::test]
async fn a_store_can_be_dropped_while_it_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.let_go().await.unwrap();
    drop(store);
    open(dir.path());
}
