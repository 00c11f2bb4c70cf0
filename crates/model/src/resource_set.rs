//! All resources that the running planes are compiled from, in the order in which they apply.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;

use crate::JsonText;
use crate::resource::{IpSet, Service, Ssl, StreamListener, StreamRoute, Upstream};

/// One resource: what was stored and its typed view.
#[derive(Debug)]
pub struct Entry<T> {
    /// Its id, as text.
    pub id: String,
    /// Exactly what is stored.
    pub document: JsonText,
    /// Typed view of the document.
    pub value: T,
    /// Revision at which it was created; decides the order of routes.
    pub created: u64,
    /// Revision of the last change.
    pub modified: u64,
}

/// Entries of one kind: looked up by id, walked in order of creation (then of id). A clone shares
/// entries and ids; it is made for every change, of however many entries there are.
#[derive(Debug)]
pub struct Collection<T> {
    by_id: HashMap<Arc<str>, Arc<Entry<T>>>,
    order: BTreeMap<(u64, Arc<str>), Arc<Entry<T>>>,
}

impl<T> Default for Collection<T> {
    fn default() -> Self {
        Self { by_id: HashMap::new(), order: BTreeMap::new() }
    }
}

impl<T> Clone for Collection<T> {
    fn clone(&self) -> Self {
        Self { by_id: self.by_id.clone(), order: self.order.clone() }
    }
}

impl<T> Collection<T> {
    /// The entry with that id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Arc<Entry<T>>> {
        self.by_id.get(id)
    }

    /// All entries in order of creation.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Entry<T>>> {
        self.order.values()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Adds an entry or replaces the one with its id.
    pub fn insert(&mut self, entry: Arc<Entry<T>>) {
        self.remove(&entry.id);
        let id: Arc<str> = entry.id.as_str().into();
        self.order.insert((entry.created, Arc::clone(&id)), Arc::clone(&entry));
        self.by_id.insert(id, entry);
    }

    /// Removes the entry with that id.
    pub fn remove(&mut self, id: &str) -> Option<Arc<Entry<T>>> {
        let (id, entry) = self.by_id.remove_entry(id)?;
        self.order.remove(&(entry.created, id));
        Some(entry)
    }
}

/// Every resource that a plane executes.
#[derive(Debug, Clone, Default)]
pub struct ResourceSet {
    /// Revision of the store that this set shows.
    pub revision: u64,
    /// Stream routes; the order is the order of matching.
    pub stream_routes: Collection<StreamRoute>,
    /// Upstream objects.
    pub upstreams: Collection<Upstream>,
    /// Services.
    pub services: Collection<Service>,
    /// Certificates.
    pub ssls: Collection<Ssl>,
    /// Metadata of plugins, by name.
    pub plugin_metadata: Collection<Value>,
    /// Secret managers, by `manager/name`.
    pub secrets: Collection<Value>,
    /// IP sets, without the entries that are added one by one: a change of those concerns no route.
    pub ip_sets: Collection<IpSet>,
    /// Listeners of the Admin API.
    pub stream_listeners: Collection<StreamListener>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, created: u64) -> Arc<Entry<u8>> {
        Arc::new(Entry {
            id: id.to_owned(),
            document: JsonText::new(&Value::Null),
            value: 0,
            created,
            modified: created,
        })
    }

    #[test]
    fn order_is_creation_and_survives_updates() {
        let mut all = Collection::default();
        all.insert(entry("b", 1));
        all.insert(entry("a", 2));
        all.insert(entry("b", 1));
        let ids: Vec<_> = all.iter().map(|entry| entry.id.as_str()).collect();
        assert_eq!(ids, ["b", "a"]);
        all.remove("b");
        all.insert(entry("b", 9));
        let ids: Vec<_> = all.iter().map(|entry| entry.id.as_str()).collect();
        assert_eq!(ids, ["a", "b"]);
    }
}
