//! The IP sets that plugins name by id: large lists, and entries that come and go one by one.
//!
//! Routes hold a [`LiveSet`]; what is written into a set changes it in place, and no route is
//! compiled for that. The list of the object itself and the single entries are kept apart, so that
//! one more entry costs what the entries cost, however long the list is.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use headgate_model::resource::{IpSet as Resource, ip_set};
use headgate_model::resource_set::Collection;
use ipnet::IpNet;
use serde_json::Value;

use crate::ip_set::IpSet;

/// A set as plugins see it.
#[derive(Debug, Default)]
pub struct LiveSet {
    list: ArcSwap<IpSet>,
    entries: ArcSwap<IpSet>,
    /// Networks as they are written, in the list and in entries of their own.
    listed: AtomicUsize,
    single: AtomicUsize,
}

impl LiveSet {
    /// Networks in the list of the set and in entries of their own; those whose time is over count
    /// until they are removed.
    #[must_use]
    pub fn written(&self) -> usize {
        self.listed.load(Ordering::Relaxed) + self.single.load(Ordering::Relaxed)
    }

    /// Whether `ip` is in a network of the set that has not ended; `now` tells the time in Unix
    /// seconds, and is asked only if it matters.
    pub fn contains(&self, ip: IpAddr, now: impl Fn() -> u64) -> bool {
        self.list.load().contains_at(ip, &now) || self.entries.load().contains_at(ip, &now)
    }
}

/// All sets. Entries may come before their set; they count once it is there.
#[derive(Debug, Default)]
pub struct IpSets {
    sets: HashMap<String, Named>,
}

#[derive(Debug, Default)]
struct Named {
    live: Arc<LiveSet>,
    /// Revision of the list that is shown; 0 for a set that is not there.
    revision: u64,
    entries: HashMap<IpNet, Option<u64>>,
    /// Whether the entries have changed since they were shown.
    is_changed: bool,
}

impl IpSets {
    /// Takes an entry over; [`IpSets::publish`] shows it.
    ///
    /// # Errors
    /// Its id does not end in a network.
    pub fn put_entry(&mut self, id: &str, value: &Value) -> Result<(), String> {
        let (set, network, until) = ip_set::entry(id, value)?;
        let named = self.named(set);
        named.is_changed |= named.entries.insert(network, until) != Some(until);
        Ok(())
    }

    /// Forgets an entry; [`IpSets::publish`] shows that.
    pub fn remove_entry(&mut self, id: &str) {
        let Ok((set, network, _)) = ip_set::entry(id, &Value::Null) else { return };
        if let Some(named) = self.sets.get_mut(set) {
            named.is_changed |= named.entries.remove(&network).is_some();
        }
    }

    /// Forgets every entry, before all are put again.
    pub fn forget_entries(&mut self) {
        for named in self.sets.values_mut() {
            named.is_changed |= !named.entries.is_empty();
            named.entries.clear();
        }
    }

    /// Shows the lists of the objects anew, whatever their revisions.
    pub(crate) fn forget(&mut self) {
        self.sets.values_mut().for_each(|named| named.revision = 0);
    }

    /// Shows lists and entries as they are now.
    pub(crate) fn update(&mut self, objects: &Collection<Resource>) {
        for object in objects.iter() {
            let named = self.named(&object.id);
            if named.revision != object.modified {
                let list = IpSet::timed(object.value.entries.iter().copied());
                tracing::debug!(id = object.id, ranges = list.len(), "an ip set was taken over");
                named.live.list.store(Arc::new(list));
                named.live.listed.store(object.value.entries.len(), Ordering::Relaxed);
                named.revision = object.modified;
            }
        }
        self.publish();
        // Sessions may still hold a set that is gone: its routes are about to be compiled anew.
        self.sets.retain(|id, named| objects.get(id).is_some() || !named.entries.is_empty());
        for (id, named) in &mut self.sets {
            if objects.get(id).is_none() && named.revision != 0 {
                named.live = Arc::default();
                named.revision = 0;
                named.is_changed = true;
            }
        }
    }

    /// Shows the entries as they are now.
    pub fn publish(&mut self) {
        for named in self.sets.values_mut().filter(|named| named.is_changed) {
            let entries = named.entries.iter().map(|(network, until)| (*network, *until));
            named.live.entries.store(Arc::new(IpSet::timed(entries)));
            named.live.single.store(named.entries.len(), Ordering::Relaxed);
            named.is_changed = false;
        }
    }

    /// All sets of `objects`, by id.
    pub fn live(&self, objects: &Collection<Resource>) -> Vec<(String, Arc<LiveSet>)> {
        let live = objects.iter().filter_map(|it| Some((it.id.clone(), self.find(&it.id)?)));
        live.collect()
    }

    /// The set of that id, which an object has.
    pub(crate) fn find(&self, id: &str) -> Option<Arc<LiveSet>> {
        self.sets.get(id).map(|named| Arc::clone(&named.live))
    }

    fn named(&mut self, id: &str) -> &mut Named {
        if !self.sets.contains_key(id) {
            self.sets.insert(id.to_owned(), Named::default());
        }
        self.sets.entry(id.to_owned()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use headgate_model::Entry;
    use serde_json::json;

    use super::*;

    fn objects(revision: u64, entries: Value) -> Collection<Resource> {
        let mut objects = Collection::default();
        let document = json!({ "entries": entries });
        objects.insert(Arc::new(Entry {
            id: "a".to_owned(),
            value: serde_json::from_value(document.clone()).unwrap(),
            document: document.into(),
            created: 1,
            modified: revision,
        }));
        objects
    }

    fn has(set: &LiveSet, ip: &str, now: u64) -> bool {
        set.contains(ip.parse().unwrap(), || now)
    }

    #[test]
    fn a_set_changes_in_place() {
        let mut sets = IpSets::default();
        sets.update(&objects(1, json!(["10.0.0.0/8", {"network": "::1", "until": 50}])));
        let set = sets.find("a").unwrap();
        assert!(has(&set, "10.1.1.1", 0) && has(&set, "::1", 49) && !has(&set, "::1", 50));
        sets.put_entry("a/entries/192.0.2.0/24", &json!({"until": 100})).unwrap();
        assert!(!has(&set, "192.0.2.1", 0), "not before it is published");
        assert_eq!(set.written(), 2);
        sets.publish();
        assert_eq!(set.written(), 3);
        assert!(has(&set, "192.0.2.1", 99) && !has(&set, "192.0.2.1", 100));
        sets.remove_entry("a/entries/192.0.2.0/24");
        sets.update(&objects(2, json!([])));
        assert!(!has(&set, "192.0.2.1", 0) && !has(&set, "10.1.1.1", 0));
        assert_eq!(set.written(), 0);
        assert!(sets.put_entry("a/entries/x", &json!({})).is_err());
    }

    #[test]
    fn entries_wait_for_their_set() {
        let mut sets = IpSets::default();
        sets.put_entry("a/entries/::1", &json!({})).unwrap();
        sets.update(&Collection::default());
        sets.update(&objects(1, json!(["::2"])));
        let set = sets.find("a").unwrap();
        assert!(has(&set, "::1", 0) && has(&set, "::2", 0));
        sets.update(&Collection::default());
        sets.update(&objects(2, json!([])));
        let again = sets.find("a").unwrap();
        assert!(has(&again, "::1", 0) && !has(&again, "::2", 0), "only its entries are left");
        sets.forget_entries();
        sets.update(&Collection::default());
        assert!(sets.find("a").is_none());
    }
}
