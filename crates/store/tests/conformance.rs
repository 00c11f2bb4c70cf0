//! What every store must do. Each case runs against all back ends.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use headgate_store::{
    Change, Clock, Embedded, Etcd, Memory, Options, Precondition, Revision, Store, StoreError,
    Watch, WatchError, WriteOptions, Written,
};
use serde_json::{Value, json};

#[path = "conformance/cluster.rs"]
mod cluster;
#[path = "conformance/replaced.rs"]
mod replaced;

const HISTORY: u64 = 20;
const AGE: Duration = Duration::from_secs(3600);
const START: u64 = 1_795_255_200_000;

/// A store under test with its clock.
struct Subject {
    store: Arc<dyn Store>,
    clock: Clock,
    _dir: Option<tempfile::TempDir>,
    server: Option<cluster::Server>,
}

impl Subject {
    fn memory() -> Self {
        let clock = Clock::manual(START);
        let store = Memory::with_clock(HISTORY, AGE, clock.clone()).unwrap();
        Self { store: Arc::new(store), clock, _dir: None, server: None }
    }

    /// `None`: no etcd is installed, and that was allowed.
    fn etcd() -> Option<Self> {
        cluster::Server::start().map(Self::on)
    }

    /// The same with another version of etcd.
    fn etcd_of_second_version() -> Option<Self> {
        cluster::Server::second_version().map(Self::on)
    }

    fn on(server: cluster::Server) -> Self {
        let store = Etcd::new(&server.options()).unwrap();
        // A fresh cluster is at revision 1; the cases begin at 0.
        let store = cluster::Shifted { store, by: 1 };
        let clock = Clock::manual(START);
        Self { store: Arc::new(store), clock, _dir: None, server: Some(server) }
    }

    /// The store of both standalone modes, filled as they fill it: as a whole.
    fn whole() -> Self {
        let (store, clock) = (replaced::Replaced::default(), Clock::manual(START));
        Self { store: Arc::new(store), clock, _dir: None, server: None }
    }

    /// Lets time pass.
    async fn pass(&self, time: Duration) {
        match &self.server {
            None => self.clock.advance(time),
            Some(_) => tokio::time::sleep(time).await,
        }
    }

    /// Forgets the past up to a revision, for a store that does not do it by itself.
    fn compact(&self, revision: Revision) {
        if let Some(server) = &self.server {
            // etcd names the oldest revision that stays, and counts from 1.
            server.compact(revision + 2);
        }
    }

    fn embedded() -> Self {
        let clock = Clock::manual(START);
        let dir = tempfile::tempdir().unwrap();
        let options = Options { history_revisions: HISTORY, history_age: AGE };
        let store = Embedded::open_with_clock(dir.path(), options, clock.clone()).unwrap();
        Self { store: Arc::new(store), clock, _dir: Some(dir), server: None }
    }

    async fn put(&self, key: &str, value: Value) -> Written {
        self.store.put(key, value, by("test")).await.unwrap()
    }

    async fn delete(&self, key: &str) -> Option<Written> {
        self.store.delete(key, by("test")).await.unwrap()
    }

    async fn revision(&self) -> Revision {
        self.store.load().await.unwrap().revision
    }
}

/// Makes a module per case with one test for each back end; etcd keeps no history of its own, and a
/// store that is only replaced as a whole has neither history nor conditions.
macro_rules! cases {
    ($($name:ident)* ; but not etcd: $($local:ident)* ; of these also whole: $($whole:ident)*) => {
        mod whole {$(
            #[tokio::test]
            async fn $whole() {
                super::case::$whole(super::Subject::whole()).await;
            }
        )*}
        cases!(@local $($name)* $($local)*);
        mod etcd {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(subject) = super::Subject::etcd() {
                    super::case::$name(subject).await;
                }
            }
        )*}
        mod etcd_second_version {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(subject) = super::Subject::etcd_of_second_version() {
                    super::case::$name(subject).await;
                }
            }
        )*}
    };
    (@local $($name:ident)*) => {$(
        mod $name {
            #[tokio::test]
            async fn memory() {
                super::case::$name(super::Subject::memory()).await;
            }
            #[tokio::test]
            async fn embedded() {
                super::case::$name(super::Subject::embedded()).await;
            }
        }
    )*};
}

cases! {
    create_replace_delete
    preconditions
    conflicts_name_the_current_value
    list_is_in_key_order
    load_shows_one_revision
    watch_replays_then_follows
    watch_from_now_follows_only
    watch_batches_are_in_order_without_gaps
    watch_after_compaction
    watch_from_the_future
    slow_watcher_is_told
    ttl_deletes
    ttl_is_lifted_by_a_plain_write
    ids_are_revisions
    concurrent_writers
    only_one_of_many_creates
    an_abandoned_write_still_happens
    closing_ends_watches;
    but not etcd:
    ttl_survives_a_standing_clock
    history_has_authors_newest_first
    history_forgets_by_count
    history_forgets_by_age;
    of these also whole:
    list_is_in_key_order
    load_shows_one_revision
    watch_from_now_follows_only
    watch_batches_are_in_order_without_gaps
    watch_from_the_future
    slow_watcher_is_told
    closing_ends_watches
}

fn by(author: &str) -> WriteOptions {
    WriteOptions { author: author.to_owned(), ..WriteOptions::default() }
}

fn only_if(precondition: Precondition) -> WriteOptions {
    WriteOptions { precondition, ..by("test") }
}

fn expiring(ttl: Duration) -> WriteOptions {
    WriteOptions { ttl: Some(ttl), ..by("test") }
}

async fn next(watch: &mut Watch) -> Option<Result<Vec<Change>, WatchError>> {
    tokio::time::timeout(Duration::from_secs(20), watch.recv()).await.expect("watch is silent")
}

/// The next `count` changes as `+key@revision` or `-key@revision`.
async fn changes(watch: &mut Watch, count: usize) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.len() < count {
        for change in next(watch).await.expect("watch is open").expect("watch works") {
            seen.push(match change {
                Change::Put(stored) => format!("+{}@{}", stored.key, stored.modified),
                Change::Delete { key, revision } => format!("-{key}@{revision}"),
            });
        }
    }
    seen
}

mod case {
    use super::*;

    pub(crate) async fn create_replace_delete(s: Subject) {
        assert_eq!(s.store.get("/a/1").await.unwrap(), None);
        let created = s.put("/a/1", json!({"n": 1})).await;
        assert_eq!((created.revision, created.previous), (1, None));
        assert_eq!((created.stored.created, created.stored.modified), (1, 1));
        let replaced = s.put("/a/1", json!({"n": 2})).await;
        assert_eq!(replaced.previous.unwrap().value, json!({"n": 1}));
        assert_eq!((replaced.stored.created, replaced.stored.modified), (1, 2));
        assert_eq!(s.store.get("/a/1").await.unwrap(), Some(replaced.stored.clone()));
        let deleted = s.delete("/a/1").await.unwrap();
        assert_eq!((deleted.revision, deleted.stored), (3, replaced.stored));
        assert_eq!(s.store.get("/a/1").await.unwrap(), None);
        assert_eq!(s.delete("/a/1").await, None);
        assert_eq!(s.revision().await, 3, "deleting nothing is no change");
        let again = s.put("/a/1", json!(null)).await;
        assert_eq!((again.stored.created, again.revision, again.previous), (4, 4, None));
    }

    pub(crate) async fn preconditions(s: Subject) {
        let put = |key: &'static str, precondition| {
            let store = Arc::clone(&s.store);
            async move { store.put(key, json!(1), only_if(precondition)).await.is_ok() }
        };
        assert!(put("/a", Precondition::Absent).await);
        assert!(!put("/a", Precondition::Absent).await);
        assert!(put("/a", Precondition::Modified(1)).await);
        assert!(!put("/a", Precondition::Modified(1)).await);
        assert!(put("/b", Precondition::Modified(0)).await);
        assert!(!put("/c", Precondition::Modified(3)).await);
        let delete = |key: &'static str, precondition| {
            let store = Arc::clone(&s.store);
            async move { store.delete(key, only_if(precondition)).await.is_ok() }
        };
        assert!(!delete("/a", Precondition::Absent).await);
        assert!(!delete("/a", Precondition::Modified(1)).await);
        assert!(delete("/a", Precondition::Modified(2)).await);
        assert!(!delete("/a", Precondition::Modified(2)).await);
        assert_eq!(s.revision().await, 4, "refused writes take no revision");
    }

    pub(crate) async fn conflicts_name_the_current_value(s: Subject) {
        let stored = s.put("/a", json!("now")).await.stored;
        let refused = s.store.put("/a", json!("new"), only_if(Precondition::Absent)).await;
        let Err(StoreError::Conflict { current: Some(current) }) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(*current, stored);
        let refused = s.store.delete("/none", only_if(Precondition::Modified(9))).await;
        assert!(matches!(refused, Err(StoreError::Conflict { current: None })), "{refused:?}");
    }

    pub(crate) async fn list_is_in_key_order(s: Subject) {
        for key in ["/b/10", "/b/2", "/a/1", "/b/1", "/bb/1", "/b", "/c/ä"] {
            s.put(key, json!(key)).await;
        }
        let keys = |values: Vec<headgate_store::Stored>| {
            values.into_iter().map(|stored| stored.key).collect::<Vec<_>>()
        };
        assert_eq!(keys(s.store.list("/b/").await.unwrap()), ["/b/1", "/b/10", "/b/2"]);
        assert_eq!(keys(s.store.list("/none/").await.unwrap()), [""; 0]);
        let all = keys(s.store.list("").await.unwrap());
        assert_eq!(all, ["/a/1", "/b", "/b/1", "/b/10", "/b/2", "/bb/1", "/c/ä"]);
        assert_eq!(keys(s.store.load().await.unwrap().values), all);
    }

    pub(crate) async fn load_shows_one_revision(s: Subject) {
        let empty = s.store.load().await.unwrap();
        assert_eq!((empty.revision, empty.values.len(), empty.unreadable.len()), (0, 0, 0));
        s.put("/a", json!([1, "two", {"three": 3.5}])).await;
        s.put("/b", json!(true)).await;
        s.delete("/b").await;
        let loaded = s.store.load().await.unwrap();
        assert_eq!(loaded.revision, 3);
        assert_eq!(loaded.values.len(), 1);
        assert_eq!(loaded.values[0].value, json!([1, "two", {"three": 3.5}]));
    }

    pub(crate) async fn watch_replays_then_follows(s: Subject) {
        s.put("/a", json!(1)).await;
        s.put("/b", json!({"deep": [1]})).await;
        s.delete("/a").await;
        let mut watch = s.store.watch(1);
        s.put("/c", json!(3)).await;
        assert_eq!(changes(&mut watch, 3).await, ["+/b@2", "-/a@3", "+/c@4"]);
        let mut whole = s.store.watch(0);
        let mut first = next(&mut whole).await.unwrap().unwrap();
        while first.len() < 2 {
            first.extend(next(&mut whole).await.unwrap().unwrap());
        }
        let Change::Put(stored) = &first[1] else { panic!("{first:?}") };
        assert_eq!(*stored, s.store.get("/b").await.unwrap().unwrap());
    }

    pub(crate) async fn watch_from_now_follows_only(s: Subject) {
        s.put("/a", json!(1)).await;
        let mut watch = s.store.watch(s.revision().await);
        s.put("/b", json!(2)).await;
        assert_eq!(changes(&mut watch, 1).await, ["+/b@2"]);
    }

    pub(crate) async fn watch_batches_are_in_order_without_gaps(s: Subject) {
        let mut watch = s.store.watch(0);
        let writers = (0..8).map(|writer| {
            let store = Arc::clone(&s.store);
            tokio::spawn(async move {
                for round in 0..10 {
                    let key = format!("/{writer}");
                    store.put(&key, json!(round), by("test")).await.unwrap();
                }
            })
        });
        let writers: Vec<_> = writers.collect();
        let mut revisions = Vec::new();
        while revisions.len() < 80 {
            let batch = next(&mut watch).await.unwrap().unwrap();
            revisions.extend(batch.iter().map(Change::revision));
        }
        assert_eq!(revisions, (1..=80).collect::<Vec<_>>());
        for writer in writers {
            writer.await.unwrap();
        }
    }

    pub(crate) async fn watch_after_compaction(s: Subject) {
        for n in 0..HISTORY + 5 {
            s.put("/a", json!(n)).await;
        }
        s.compact(5);
        let refused = next(&mut s.store.watch(0)).await;
        assert_eq!(refused, Some(Err(WatchError::Compacted(5))));
        let mut watch = s.store.watch(4);
        assert_eq!(next(&mut watch).await, Some(Err(WatchError::Compacted(5))));
        assert_eq!(next(&mut watch).await, None, "the channel closes after an error");
        let mut watch = s.store.watch(5);
        assert_eq!(changes(&mut watch, HISTORY as usize).await[0], "+/a@6");
    }

    pub(crate) async fn watch_from_the_future(s: Subject) {
        s.put("/a", json!(1)).await;
        let refused = next(&mut s.store.watch(2)).await;
        assert!(matches!(refused, Some(Err(WatchError::Lost(_)))), "{refused:?}");
    }

    pub(crate) async fn slow_watcher_is_told(s: Subject) {
        let mut watch = s.store.watch(0);
        let mut quick = s.store.watch(0);
        let mut received = 0;
        for n in 0..400 {
            s.put("/a", json!(n)).await;
            while received <= n {
                received += next(&mut quick).await.unwrap().unwrap().len();
            }
        }
        assert_eq!(received, 400, "one slow reader does not hurt another");
        let mut last = None;
        let mut changes = 0;
        while let Some(batch) = next(&mut watch).await {
            changes += batch.as_ref().map_or(0, Vec::len);
            last = Some(batch);
        }
        assert!((100..400).contains(&changes), "{changes}");
        assert!(matches!(last, Some(Err(WatchError::Lost(_)))), "{last:?}");
    }

    pub(crate) async fn ttl_deletes(s: Subject) {
        let mut watch = s.store.watch(0);
        s.store.put("/a", json!(1), expiring(Duration::from_secs(3))).await.unwrap();
        s.put("/b", json!(1)).await;
        assert!(s.store.get("/a").await.unwrap().is_some());
        s.pass(Duration::from_secs(3)).await;
        assert_eq!(changes(&mut watch, 2).await, ["+/a@1", "+/b@2"]);
        if s.server.is_none() {
            s.store.next_id().await.unwrap();
        }
        assert_eq!(changes(&mut watch, 1).await, ["-/a@3"]);
        assert_eq!(s.store.get("/a").await.unwrap(), None);
    }

    pub(crate) async fn ttl_survives_a_standing_clock(s: Subject) {
        let mut watch = s.store.watch(0);
        s.store.put("/a", json!(1), expiring(Duration::from_secs(10))).await.unwrap();
        s.store.put("/b", json!(1), expiring(Duration::from_secs(20))).await.unwrap();
        s.clock.advance(Duration::from_millis(9_999));
        s.put("/c", json!(1)).await;
        assert!(s.store.get("/a").await.unwrap().is_some());
        s.clock.advance(Duration::from_millis(1));
        s.store.next_id().await.unwrap();
        assert_eq!(s.store.get("/a").await.unwrap(), None);
        assert_eq!(changes(&mut watch, 4).await, ["+/a@1", "+/b@2", "+/c@3", "-/a@4"]);
        let history = s.store.history(Some("/a"), 1).await.unwrap();
        assert_eq!((history[0].author.as_str(), &history[0].value), ("ttl", &None));
        assert_eq!(history[0].time_ms, START + 10_000);
        assert!(s.store.get("/b").await.unwrap().is_some());
    }

    pub(crate) async fn ttl_is_lifted_by_a_plain_write(s: Subject) {
        s.store.put("/a", json!(1), expiring(Duration::from_secs(1))).await.unwrap();
        s.put("/a", json!(2)).await;
        s.store.put("/b", json!(1), expiring(Duration::from_secs(1))).await.unwrap();
        s.store.put("/b", json!(1), expiring(Duration::from_secs(9))).await.unwrap();
        s.store.put("/c", json!(1), expiring(Duration::MAX)).await.unwrap();
        s.pass(Duration::from_secs(5)).await;
        s.store.next_id().await.unwrap();
        assert_eq!(s.store.load().await.unwrap().values.len(), 3);
    }

    pub(crate) async fn ids_are_revisions(s: Subject) {
        s.put("/a", json!(1)).await;
        assert_eq!(s.store.next_id().await.unwrap(), 2);
        assert_eq!(s.store.next_id().await.unwrap(), 3);
        assert_eq!(s.revision().await, 3);
        assert_eq!(s.put("/b", json!(1)).await.revision, 4);
        let mut watch = s.store.watch(1);
        assert_eq!(changes(&mut watch, 1).await, ["+/b@4"]);
        assert_eq!(s.store.list("").await.unwrap().len(), 2, "ids leave no trace in the values");
    }

    pub(crate) async fn history_has_authors_newest_first(s: Subject) {
        s.store.put("/a", json!(1), by("ann")).await.unwrap();
        s.clock.advance(Duration::from_secs(1));
        s.store.put("/b", json!(2), by("bob")).await.unwrap();
        s.store.delete("/a", by("cid")).await.unwrap();
        let all = s.store.history(None, 10).await.unwrap();
        let lines: Vec<_> = all
            .iter()
            .map(|entry| (entry.revision, entry.author.as_str(), entry.key.as_str()))
            .collect();
        assert_eq!(lines, [(3, "cid", "/a"), (2, "bob", "/b"), (1, "ann", "/a")]);
        assert_eq!((all[0].time_ms, all[2].time_ms), (START + 1_000, START));
        assert_eq!((&all[0].value, &all[2].value), (&None, &Some(json!(1))));
        assert_eq!(s.store.history(None, 2).await.unwrap(), all[..2]);
        let one = s.store.history(Some("/a"), 10).await.unwrap();
        assert_eq!(one, [all[0].clone(), all[2].clone()]);
        assert_eq!(s.store.history(Some("/none"), 10).await.unwrap(), []);
        assert_eq!(s.store.history(None, 0).await.unwrap(), []);
    }

    pub(crate) async fn history_forgets_by_count(s: Subject) {
        for n in 0..HISTORY * 2 {
            s.put(&format!("/{}", n % 3), json!(n)).await;
        }
        let entries = s.store.history(None, usize::MAX).await.unwrap();
        assert_eq!(entries.len() as u64, HISTORY);
        assert_eq!(entries.last().unwrap().revision, HISTORY + 1);
        assert_eq!(s.store.list("").await.unwrap().len(), 3, "values stay");
    }

    pub(crate) async fn history_forgets_by_age(s: Subject) {
        s.put("/a", json!(1)).await;
        s.clock.advance(AGE / 2);
        s.put("/b", json!(1)).await;
        s.clock.advance(AGE / 2 + Duration::from_millis(1));
        s.put("/c", json!(1)).await;
        let entries = s.store.history(None, 10).await.unwrap();
        assert_eq!(entries.iter().map(|e| e.key.as_str()).collect::<Vec<_>>(), ["/c", "/b"]);
        assert_eq!(next(&mut s.store.watch(0)).await, Some(Err(WatchError::Compacted(1))));
    }

    pub(crate) async fn concurrent_writers(s: Subject) {
        let writers: Vec<_> = (0..50)
            .map(|writer| {
                let store = Arc::clone(&s.store);
                tokio::spawn(async move {
                    let mut revisions = Vec::new();
                    for n in 0..20 {
                        let key = format!("/{}", (writer + n) % 7);
                        revisions
                            .push(store.put(&key, json!(n), by("test")).await.unwrap().revision);
                    }
                    assert!(revisions.is_sorted());
                    revisions
                })
            })
            .collect();
        let mut all = BTreeSet::new();
        for writer in writers {
            all.extend(writer.await.unwrap());
        }
        assert_eq!(all, (1..=1000).collect(), "every write has a revision of its own");
        assert_eq!(s.revision().await, 1000);
    }

    pub(crate) async fn only_one_of_many_creates(s: Subject) {
        let writers: Vec<_> = (0..30)
            .map(|writer| {
                let store = Arc::clone(&s.store);
                tokio::spawn(async move {
                    store.put("/a", json!(writer), only_if(Precondition::Absent)).await.is_ok()
                })
            })
            .collect();
        let mut created = 0;
        for writer in writers {
            created += usize::from(writer.await.unwrap());
        }
        assert_eq!((created, s.revision().await), (1, 1));
    }

    pub(crate) async fn an_abandoned_write_still_happens(s: Subject) {
        let mut watch = s.store.watch(0);
        let mut write = s.store.put("/a", json!(1), by("test"));
        let polled =
            std::future::poll_fn(|cx| std::task::Poll::Ready(write.as_mut().poll(cx).is_ready()));
        let _ = polled.await;
        drop(write);
        assert_eq!(changes(&mut watch, 1).await, ["+/a@1"]);
    }

    pub(crate) async fn closing_ends_watches(s: Subject) {
        let mut watch = s.store.watch(0);
        drop(s);
        assert!(matches!(next(&mut watch).await, Some(Err(WatchError::Lost(_)))));
        assert_eq!(next(&mut watch).await, None);
    }
}
