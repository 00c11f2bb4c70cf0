//! The embedded store across restarts: against a model, and time-to-live on the real clock.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use headgate_store::{
    Change, Clock, Embedded, Options, Precondition, Store, StoreError, WriteOptions,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[derive(Debug, Clone)]
enum Step {
    Put { key: u8, value: Value, precondition: Precondition },
    Delete { key: u8 },
    NextId,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let value = prop_oneof![
        any::<i64>().prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
        prop::collection::vec(any::<bool>(), 0..5).prop_map(|list| json!({ "list": list })),
    ];
    let precondition = prop_oneof![
        3 => Just(Precondition::None),
        1 => Just(Precondition::Absent),
        1 => (0_u64..30).prop_map(Precondition::Modified),
    ];
    prop_oneof![
        6 => (0_u8..6, value, precondition)
            .prop_map(|(key, value, precondition)| Step::Put { key, value, precondition }),
        3 => (0_u8..6).prop_map(|key| Step::Delete { key }),
        1 => Just(Step::NextId),
        2 => Just(Step::Reopen),
    ]
}

/// What the store should hold: key -> (created, modified, value).
#[derive(Default)]
struct Model {
    revision: u64,
    values: BTreeMap<String, (u64, u64, Value)>,
    changes: Vec<Change>,
}

impl Model {
    fn allows(&self, key: &str, precondition: Precondition) -> bool {
        let modified = self.values.get(key).map(|(_, modified, _)| *modified);
        match precondition {
            Precondition::None => true,
            Precondition::Absent => modified.is_none(),
            Precondition::Modified(revision) => modified.unwrap_or(0) == revision,
        }
    }

    fn put(&mut self, key: &str, value: Value) {
        self.revision += 1;
        let created = self.values.get(key).map_or(self.revision, |(created, ..)| *created);
        self.values.insert(key.to_owned(), (created, self.revision, value));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn equals_a_map(steps in prop::collection::vec(step(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let open = || Embedded::open(dir.path(), Options::default()).unwrap();
        let mut store = Some(open());
        let mut model = Model::default();
        runtime().block_on(async {
            for step in steps {
                let open_store = store.as_ref().unwrap();
                match step {
                    Step::Put { key, value, precondition } => {
                        let key = format!("/{key}");
                        let options = WriteOptions { precondition, ..WriteOptions::default() };
                        let result = open_store.put(&key, value.clone(), options).await;
                        if model.allows(&key, precondition) {
                            let previous = model.values.get(&key).map(|(.., value)| value.clone());
                            model.put(&key, value);
                            let written = result.unwrap();
                            assert_eq!(written.revision, model.revision);
                            assert_eq!(written.previous.map(|stored| stored.value), previous);
                            model.changes.push(Change::Put(written.stored));
                        } else {
                            assert!(matches!(result, Err(StoreError::Conflict { .. })));
                        }
                    }
                    Step::Delete { key } => {
                        let key = format!("/{key}");
                        let result = open_store.delete(&key, WriteOptions::default()).await.unwrap();
                        let expected = model.values.remove(&key);
                        assert_eq!(result.is_some(), expected.is_some());
                        if expected.is_some() {
                            model.revision += 1;
                            let revision = model.revision;
                            model.changes.push(Change::Delete { key, revision });
                        }
                    }
                    Step::NextId => {
                        model.revision += 1;
                        assert_eq!(open_store.next_id().await.unwrap(), model.revision);
                    }
                    Step::Reopen => {
                        drop(store.take());
                        store = Some(open());
                    }
                }
                let loaded = store.as_ref().unwrap().load().await.unwrap();
                assert_eq!(loaded.revision, model.revision);
                let values = loaded.values.into_iter();
                let values = values.map(|s| (s.key, (s.created, s.modified, s.value)));
                assert_eq!(values.collect::<BTreeMap<_, _>>(), model.values);
            }
            if !model.changes.is_empty() {
                let replay = store.as_ref().unwrap().watch(0).recv().await.unwrap().unwrap();
                assert_eq!(replay, model.changes);
            }
        });
    }
}

#[test]
fn leases_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_000_000);
    let open = || Embedded::open_with_clock(dir.path(), Options::default(), clock.clone()).unwrap();
    let ttl = |seconds| WriteOptions {
        ttl: Some(Duration::from_secs(seconds)),
        ..WriteOptions::default()
    };
    runtime().block_on(async {
        let store = open();
        store.put("/short", json!(1), ttl(10)).await.unwrap();
        store.put("/long", json!(1), ttl(100)).await.unwrap();
        drop(store);
        clock.advance(Duration::from_secs(10));
        let store = open();
        let keys: Vec<_> = store.list("").await.unwrap().into_iter().map(|s| s.key).collect();
        assert_eq!(keys, ["/long"], "gone before the first read");
        let history = store.history(None, 1).await.unwrap();
        assert_eq!((history[0].revision, history[0].author.as_str()), (3, "ttl"));
        clock.advance(Duration::from_secs(90));
        drop(store);
        assert_eq!(open().load().await.unwrap().values, []);
    });
}

#[test]
fn leases_end_without_any_write() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let store = Embedded::open(dir.path(), Options::default()).unwrap();
        let ttl = Some(Duration::from_millis(30));
        let options = WriteOptions { ttl, ..WriteOptions::default() };
        store.put("/a", json!(1), options).await.unwrap();
        let mut watch = store.watch(1);
        let deadline = Duration::from_secs(20);
        let batch = tokio::time::timeout(deadline, watch.recv()).await.unwrap().unwrap().unwrap();
        assert_eq!(batch, [Change::Delete { key: "/a".to_owned(), revision: 2 }]);
    });
}

#[test]
fn history_and_compaction_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { history_revisions: 3, ..Options::default() };
    runtime().block_on(async {
        let store = Embedded::open(dir.path(), options).unwrap();
        for n in 0..5 {
            let options = WriteOptions { author: format!("a{n}"), ..WriteOptions::default() };
            store.put("/a", json!(n), options).await.unwrap();
        }
        let before = store.history(None, 10).await.unwrap();
        drop(store);
        let store = Embedded::open(dir.path(), options).unwrap();
        assert_eq!(store.history(None, 10).await.unwrap(), before);
        assert_eq!(before.len(), 3);
        let refused = store.watch(1).recv().await.unwrap().unwrap_err();
        assert_eq!(refused, headgate_store::WatchError::Compacted(2));
    });
}
