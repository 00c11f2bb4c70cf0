//! Which flow a datagram belongs to, and which flow has been idle longest. No sockets, no clock:
//! time is given by the caller.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use crate::slots::{Key, Slots};

/// Who speaks to whom: one flow for each.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct FlowId {
    /// The listener's key.
    pub(super) listener: u64,
    pub(super) client: SocketAddr,
    /// Address the client sent to.
    pub(super) local: Option<IpAddr>,
}

#[derive(Debug)]
struct Entry<V> {
    id: FlowId,
    value: V,
    active_at: u64,
    older: Option<Key>,
    newer: Option<Key>,
}

/// Flows by client, in order of their last datagram.
#[derive(Debug)]
pub(super) struct FlowTable<V> {
    flows: Slots<Entry<V>>,
    by_id: HashMap<FlowId, Key>,
    oldest: Option<Key>,
    newest: Option<Key>,
}

impl<V> Default for FlowTable<V> {
    fn default() -> Self {
        Self { flows: Slots::default(), by_id: HashMap::new(), oldest: None, newest: None }
    }
}

impl<V> FlowTable<V> {
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    /// Gives memory of ended flows back.
    pub(super) fn shrink(&mut self) {
        self.flows.shrink();
        self.by_id.shrink_to_fit();
    }

    /// The flow of a datagram; it becomes the most recently active one.
    pub(super) fn touch(&mut self, id: &FlowId, now_ms: u64) -> Option<Key> {
        let key = *self.by_id.get(id)?;
        self.touch_key(key, now_ms);
        Some(key)
    }

    /// Notes activity of a flow.
    pub(super) fn touch_key(&mut self, key: Key, now_ms: u64) {
        if let Some(entry) = self.flows.get_mut(key) {
            entry.active_at = now_ms;
            if self.newest != Some(key) {
                self.unlink(key);
                self.link_newest(key);
            }
        }
    }

    /// Adds the flow that `make` builds for its key, unless it fails.
    pub(super) fn insert_with<E>(
        &mut self,
        id: FlowId,
        now_ms: u64,
        make: impl FnOnce(Key) -> Result<V, E>,
    ) -> Result<Key, E> {
        let owned = id.clone();
        let key = self.flows.try_insert_with(|key| {
            let value = make(key)?;
            Ok(Entry { id: owned, value, active_at: now_ms, older: None, newer: None })
        })?;
        self.link_newest(key);
        if let Some(replaced) = self.by_id.insert(id, key) {
            self.remove_entry(replaced);
        }
        Ok(key)
    }

    pub(super) fn get(&self, key: Key) -> Option<&V> {
        self.flows.get(key).map(|entry| &entry.value)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut V> {
        self.flows.get_mut(key).map(|entry| &mut entry.value)
    }

    /// How many milliseconds the flow may still be idle, when `limit` is the longest time without a
    /// datagram in either direction; 0 when it has been idle for that long.
    pub(super) fn rest(&self, key: Key, now_ms: u64, limit: u64) -> Option<u64> {
        let idle = now_ms.saturating_sub(self.flows.get(key)?.active_at);
        Some(limit.saturating_sub(idle))
    }

    /// The flow that has been idle longest.
    pub(super) const fn oldest(&self) -> Option<Key> {
        self.oldest
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<V> {
        self.detach(key);
        self.remove_entry(key)
    }

    /// Datagrams of its client begin another flow from now on; this one lives on until removed.
    pub(super) fn detach(&mut self, key: Key) {
        let Some(entry) = self.flows.get(key) else { return };
        if self.by_id.get(&entry.id) == Some(&key) {
            self.by_id.remove(&entry.id);
        }
    }

    /// Keys of the flows for which `wanted` holds.
    pub(super) fn keys_where(&self, wanted: impl Fn(&V) -> bool) -> Vec<Key> {
        let keys = self.flows.keys().into_iter();
        keys.filter(|key| self.get(*key).is_some_and(&wanted)).collect()
    }

    fn remove_entry(&mut self, key: Key) -> Option<V> {
        self.unlink(key);
        self.flows.remove(key).map(|entry| entry.value)
    }

    fn link_newest(&mut self, key: Key) {
        let before = self.newest.replace(key);
        if let Some(entry) = self.flows.get_mut(key) {
            entry.older = before;
            entry.newer = None;
        }
        match before.and_then(|before| self.flows.get_mut(before)) {
            Some(entry) => entry.newer = Some(key),
            None => self.oldest = Some(key),
        }
    }

    fn unlink(&mut self, key: Key) {
        let Some(entry) = self.flows.get(key) else { return };
        let (older, newer) = (entry.older, entry.newer);
        match older.and_then(|older| self.flows.get_mut(older)) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
        match newer.and_then(|newer| self.flows.get_mut(newer)) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
    }
}

#[cfg(test)]
#[path = "flow_table/simulation.rs"] // said, because the bench includes this file
mod simulation;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(port: u16) -> FlowId {
        FlowId { listener: 1, client: ([127, 0, 0, 1], port).into(), local: None }
    }

    fn insert(table: &mut FlowTable<u16>, port: u16, now: u64) -> Key {
        table.insert_with(id(port), now, |_| Ok::<_, ()>(port)).unwrap()
    }

    #[test]
    fn the_longest_idle_flow_is_the_oldest() {
        let mut table = FlowTable::default();
        let first = insert(&mut table, 1, 10);
        let second = insert(&mut table, 2, 20);
        assert_eq!(table.oldest(), Some(first));
        assert_eq!(table.touch(&id(1), 30), Some(first));
        assert_eq!(table.oldest(), Some(second));
        assert_eq!((table.rest(first, 70, 100), table.rest(first, 130, 100)), (Some(60), Some(0)));
        assert_eq!(table.rest(first, 0, 100), Some(100), "a clock that stands or goes back");
        assert_eq!(table.remove(second), Some(2));
        assert_eq!((table.oldest(), table.touch(&id(2), 40)), (Some(first), None));
    }

    #[test]
    fn a_detached_flow_lives_on_beside_its_successor() {
        let mut table = FlowTable::default();
        let first = insert(&mut table, 1, 10);
        table.detach(first);
        assert_eq!(table.touch(&id(1), 20), None);
        let second = insert(&mut table, 1, 20);
        table.detach(first);
        assert_eq!((table.touch(&id(1), 30), table.len()), (Some(second), 2));
        assert_eq!(table.remove(first), Some(1));
        assert_eq!((table.touch(&id(1), 40), table.len()), (Some(second), 1));
    }

    #[test]
    fn a_failed_flow_leaves_nothing() {
        let mut table: FlowTable<u16> = FlowTable::default();
        assert_eq!(table.insert_with(id(1), 0, |_| Err("no")), Err("no"));
        assert_eq!((table.len(), table.oldest(), table.touch(&id(1), 1)), (0, None, None));
    }

    proptest! {
        /// Against a plain list in order of activity.
        #[test]
        fn like_a_list(steps in prop::collection::vec((0_u8..4, 0_u16..12), 0..200)) {
            let mut table = FlowTable::default();
            let mut list: Vec<u16> = Vec::new();
            for (now, (step, port)) in steps.into_iter().enumerate() {
                let known = list.iter().position(|other| *other == port);
                match step {
                    0 if known.is_none() => {
                        insert(&mut table, port, now as u64);
                        list.push(port);
                    }
                    1 => {
                        prop_assert_eq!(table.touch(&id(port), now as u64).is_some(), known.is_some());
                        if let Some(at) = known {
                            list.remove(at);
                            list.push(port);
                        }
                    }
                    2 => if let Some(at) = known {
                        let key = table.touch(&id(port), 0).unwrap();
                        prop_assert_eq!(table.remove(key), Some(port));
                        list.remove(at);
                    },
                    3 => if let Some(oldest) = table.oldest() {
                        prop_assert_eq!(table.remove(oldest), Some(list.remove(0)));
                    },
                    _ => {}
                }
                prop_assert_eq!(table.len(), list.len());
                let oldest = table.oldest().and_then(|key| table.get(key)).copied();
                prop_assert_eq!(oldest, list.first().copied());
            }
        }
    }
}
