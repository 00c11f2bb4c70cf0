//! A store whose contents are only ever replaced as a whole: a file, or one document.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use headgate_model::JsonText;
use serde_json::Value;

use crate::engine::watchers::Watchers;
use crate::journal::Kept;
use crate::{
    Change, Health, HistoryEntry, Loaded, Revision, Store, StoreError, Stored, Watch, WatchError,
    WriteOptions, Written,
};

/// One value of a new content.
#[derive(Debug, Clone, PartialEq)]
pub struct WholeItem {
    /// Key, e.g. `/stream_routes/1`.
    pub key: String,
    /// The value.
    pub value: Value,
}

/// Values that are replaced together. Readers and watchers see the old content or the new one,
/// never a mixture.
#[derive(Debug)]
pub struct Whole {
    /// Why single values cannot be written.
    refusal: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    revision: Revision,
    values: BTreeMap<Arc<str>, Kept>,
    watchers: Watchers,
    health: Health,
}

impl Whole {
    /// An empty store that waits for its first content; `refusal` tells whoever writes a single
    /// value what to do instead.
    #[must_use]
    pub fn new(refusal: impl Into<String>) -> Self {
        let state = State { health: Health::waiting(), ..State::default() };
        Self { refusal: refusal.into(), state: Mutex::new(state) }
    }

    /// Replaces everything and says which revision that is. Values that stay the same keep their
    /// `modified`; `created` is the position, so that routes apply in the order given. Of two items
    /// with one key the later counts.
    pub fn replace(&self, items: Vec<WholeItem>) -> Revision {
        let mut state = self.state();
        let revision = state.revision + 1;
        let mut changes = Vec::new();
        let mut named = HashSet::new();
        for (position, WholeItem { key, value }) in (1..).zip(items) {
            let key: Arc<str> = key.into();
            let json = JsonText::new(&value);
            let old = state.values.get(&key);
            let modified = match old {
                // The order of members may be another one.
                Some(old) if old.json == json || old.json.value() == value => old.modified,
                _ => revision,
            };
            named.insert(Arc::clone(&key));
            if old.is_some_and(|old| old.modified == modified && old.created == position) {
                continue;
            }
            let stored =
                Stored { key: key.as_ref().to_owned(), value, created: position, modified };
            changes.push(Change::Put(stored));
            let kept = Kept { key: Arc::clone(&key), json, created: position, modified };
            state.values.insert(key, kept);
        }
        let gone: Vec<Arc<str>> =
            state.values.keys().filter(|key| !named.contains(*key)).cloned().collect();
        for key in gone {
            state.values.remove(&key);
            changes.push(Change::Delete { key: key.as_ref().to_owned(), revision });
        }
        state.health.is_loaded = true;
        if changes.is_empty() {
            return state.revision;
        }
        // A value that only moved keeps its `modified`; one change has to carry the new revision.
        if changes.iter().all(|change| change.revision() < revision) {
            changes.push(Change::Delete { key: "/".to_owned(), revision });
        }
        state.revision = revision;
        state.watchers.send(&changes);
        revision
    }

    /// Changes what [`Store::health`] answers.
    pub fn report(&self, change: impl FnOnce(&mut Health)) {
        change(&mut self.state().health);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse<T>(&self) -> Result<T, StoreError> {
        Err(StoreError::Unavailable(self.refusal.clone()))
    }
}

#[async_trait]
impl Store for Whole {
    async fn load(&self) -> Result<Loaded, StoreError> {
        let state = self.state();
        let values = state.values.values().map(Kept::stored).collect();
        Ok(Loaded { revision: state.revision, values, unreadable: Vec::new() })
    }

    async fn get(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        Ok(self.state().values.get(key).map(Kept::stored))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Stored>, StoreError> {
        let state = self.state();
        let matching = state.values.values().filter(|kept| kept.key.starts_with(prefix));
        Ok(matching.map(Kept::stored).collect())
    }

    async fn put(&self, _: &str, _: Value, _: WriteOptions) -> Result<Written, StoreError> {
        self.refuse()
    }

    async fn delete(&self, _: &str, _: WriteOptions) -> Result<Option<Written>, StoreError> {
        self.refuse()
    }

    async fn next_id(&self) -> Result<Revision, StoreError> {
        self.refuse()
    }

    fn watch(&self, from: Revision) -> Watch {
        let mut state = self.state();
        match state.revision {
            now if from == now => state.watchers.add(Vec::new()),
            now if from < now => Watchers::refuse(WatchError::Compacted(now)),
            now => Watchers::refuse(WatchError::Lost(format!(
                "revision {from} is ahead of the store, which is at {now}"
            ))),
        }
    }

    async fn history(&self, _: Option<&str>, _: usize) -> Result<Vec<HistoryEntry>, StoreError> {
        Ok(Vec::new())
    }

    fn health(&self) -> Health {
        self.state().health.clone()
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        self.state().watchers.close("the store was closed");
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("revision", &self.revision).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn items(text: &[(&str, i32)]) -> Vec<WholeItem> {
        let item =
            |(key, value): &(&str, i32)| WholeItem { key: (*key).to_owned(), value: json!(value) };
        text.iter().map(item).collect()
    }

    fn seen(watch: &mut Watch) -> Vec<String> {
        let Ok(Ok(batch)) = watch.try_recv() else { return Vec::new() };
        let show = |change: Change| match change {
            Change::Put(stored) => {
                format!("+{}@{}/{}", stored.key, stored.modified, stored.created)
            }
            Change::Delete { key, revision } => format!("-{key}@{revision}"),
        };
        batch.into_iter().map(show).collect()
    }

    #[tokio::test]
    async fn only_differences_are_told_and_order_is_kept() {
        let store = Whole::new("no");
        assert!(!store.health().is_loaded);
        assert_eq!(store.replace(items(&[("/a", 1), ("/b", 1)])), 1);
        assert!(store.health().is_loaded);
        let mut watch = store.watch(1);
        assert_eq!(store.replace(items(&[("/a", 1), ("/b", 1)])), 1);
        assert_eq!(seen(&mut watch), [""; 0]);
        assert_eq!(store.replace(items(&[("/a", 1), ("/b", 2), ("/c", 1)])), 2);
        assert_eq!(seen(&mut watch), ["+/b@2/2", "+/c@2/3"]);
        assert_eq!(store.replace(items(&[("/c", 1), ("/a", 1)])), 3);
        assert_eq!(seen(&mut watch), ["+/c@2/1", "+/a@1/2", "-/b@3"]);
        assert_eq!(store.replace(items(&[("/a", 1), ("/c", 1)])), 4);
        assert_eq!(seen(&mut watch), ["+/a@1/1", "+/c@2/2", "-/@4"]);
        assert_eq!(store.load().await.unwrap().values.len(), 2);
        assert!(store.put("/a", json!(1), WriteOptions::default()).await.is_err());
    }

    #[tokio::test]
    async fn watches_from_elsewhere_are_refused() {
        let store = Whole::new("no");
        store.replace(items(&[("/a", 1)]));
        assert_eq!(store.watch(0).recv().await, Some(Err(WatchError::Compacted(1))));
        assert!(matches!(store.watch(9).recv().await, Some(Err(WatchError::Lost(_)))));
    }
}
