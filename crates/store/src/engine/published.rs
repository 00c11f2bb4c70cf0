//! The in-memory copy that readers see.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock};

use crate::journal::{Contents, Damaged, Kept, Live, Record};
use crate::{Loaded, Revision, Stored};

/// Everything durable, at one revision. Only the writer thread changes it.
pub(super) struct Published(RwLock<State>);

#[derive(Default)]
struct State {
    revision: Revision,
    values: BTreeMap<Arc<str>, Live>,
    damaged: BTreeMap<String, Damaged>,
    /// When values expire, soonest first.
    leases: BTreeSet<(u64, String)>,
}

/// What is known about one key.
pub(super) enum Known {
    Value(Live),
    Damaged(Damaged),
}

impl Published {
    pub(super) fn new(contents: Contents) -> Self {
        Self(RwLock::new(State::from(contents)))
    }

    pub(super) fn revision(&self) -> Revision {
        self.read().revision
    }

    pub(super) fn load(&self) -> Loaded {
        let state = self.read();
        let values: Vec<_> = state.values.values().map(|live| Arc::clone(&live.kept)).collect();
        let unreadable = state.damaged.iter().map(|(key, damaged)| damaged.report(key)).collect();
        let revision = state.revision;
        drop(state);
        Loaded { revision, values: copies(values), unreadable }
    }

    pub(super) fn get(&self, key: &str) -> Option<Stored> {
        let found = self.read().values.get(key).map(|live| Arc::clone(&live.kept));
        found.map(|kept| kept.stored())
    }

    pub(super) fn list(&self, prefix: &str) -> Vec<Stored> {
        let state = self.read();
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let matching = state.values.range::<str, _>(from);
        let matching = matching.take_while(|(key, _)| key.starts_with(prefix));
        let values = matching.map(|(_, live)| Arc::clone(&live.kept)).collect();
        drop(state);
        copies(values)
    }

    pub(super) fn find(&self, key: &str) -> Option<Known> {
        let state = self.read();
        let value = state.values.get(key).cloned().map(Known::Value);
        value.or_else(|| state.damaged.get(key).cloned().map(Known::Damaged))
    }

    /// When the next value expires (unix time in milliseconds).
    pub(super) fn next_expiry(&self) -> Option<u64> {
        self.read().leases.first().map(|(at, _)| *at)
    }

    /// At most `limit` keys that have expired.
    pub(super) fn expired(&self, now_ms: u64, limit: usize) -> Vec<String> {
        let state = self.read();
        let due = state.leases.iter().take_while(|(at, _)| *at <= now_ms).take(limit);
        due.map(|(_, key)| key.clone()).collect()
    }

    /// Shows committed changes to readers, all at once.
    pub(super) fn apply(&self, records: &[Record], revision: Revision) {
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for record in records {
            state.remove(&record.key);
            if let Some(live) = &record.value {
                state.insert(live.clone());
            }
        }
        state.revision = revision;
    }

    /// Replaces everything, after the journal was read again.
    pub(super) fn replace(&self, contents: Contents) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = State::from(contents);
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn insert(&mut self, live: Live) {
        let key = Arc::clone(&live.kept.key);
        if let Some(at) = live.expires_ms {
            self.leases.insert((at, key.as_ref().to_owned()));
        }
        self.values.insert(key, live);
    }

    fn remove(&mut self, key: &str) {
        self.damaged.remove(key);
        if let Some(Live { expires_ms: Some(at), .. }) = self.values.remove(key) {
            self.leases.remove(&(at, key.to_owned()));
        }
    }
}

impl From<Contents> for State {
    fn from(contents: Contents) -> Self {
        let mut state = Self { revision: contents.revision, ..Self::default() };
        contents.values.into_iter().for_each(|live| state.insert(live));
        state.damaged = contents.damaged.into_iter().collect();
        state
    }
}

fn copies(values: Vec<Arc<Kept>>) -> Vec<Stored> {
    values.iter().map(|kept| kept.stored()).collect()
}
