//! Store to snapshot: loads everything once, then follows changes, and publishes what new
//! sessions see. One bad object never keeps the others from being served.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use headgate_model::check::Checker;
use headgate_model::resource_set::Collection;
use headgate_model::settings::SslSettings;
use headgate_model::{Entry, JsonText, Kind, PluginList, Problem, ResourceSet, plugin_list};
use headgate_store::{Change, Loaded, Store, StoreError, Stored, Watch};
use headgate_stream::{Compiler, LiveSet, Shared};
use headgate_upstream::Upstream;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

use crate::catalog::Catalog;
use crate::listeners::Listeners;
use crate::names::Resolver;
use crate::secrets::{self, Secrets};

/// Pauses between attempts to load everything again.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
/// How often to look for files that plugins could not be built without.
const LOOK: Duration = Duration::from_secs(1);

/// What is being served, for the admin side.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) resources: Arc<ResourceSet>,
    pub(crate) problems: Vec<Problem>,
    /// Since when.
    pub(crate) at: SystemTime,
}

impl Default for Served {
    fn default() -> Self {
        Self { resources: Arc::default(), problems: Vec::new(), at: SystemTime::now() }
    }
}

/// Where the reconciler publishes to.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) served: ArcSwap<Served>,
    /// Revision that new sessions see.
    pub(crate) revision: watch::Sender<u64>,
    /// What references stand for; the reconciler tells it what is referred to.
    pub(crate) secrets: Arc<Secrets>,
    /// Upstreams of live routes that have names to resolve.
    pub(crate) upstreams: watch::Sender<Vec<Arc<Upstream>>>,
    /// Upstreams of live routes that somebody looks at: health checks, slow start, a queue.
    pub(crate) watched: watch::Sender<Vec<Arc<Upstream>>>,
    /// The IP sets that sessions see, by id.
    pub(crate) ip_sets: ArcSwap<Vec<(String, Arc<LiveSet>)>>,
}

impl Default for Published {
    fn default() -> Self {
        Self {
            served: ArcSwap::default(),
            revision: watch::Sender::new(0),
            secrets: Arc::default(),
            upstreams: watch::Sender::new(Vec::new()),
            watched: watch::Sender::new(Vec::new()),
            ip_sets: ArcSwap::default(),
        }
    }
}

/// Settings of TLS listeners to go by, and whom to tell when new sessions do.
pub(crate) type Orders = mpsc::Receiver<(SslSettings, oneshot::Sender<()>)>;

/// Follows the store.
pub(crate) struct Reconciler {
    store: Arc<dyn Store>,
    checker: Arc<Checker>,
    compiler: Compiler,
    resolver: Arc<Resolver>,
    shared: Arc<Shared>,
    published: Arc<Published>,
    listeners: Arc<Listeners>,
    /// Follows a list of plugins beside the resources; `None`: those of config.yaml are enabled.
    catalog: Option<Arc<Catalog>>,
    /// That list, if there is one.
    plugins: Option<PluginList>,
    set: Arc<ResourceSet>,
    /// The `$secret://` references of objects, by key.
    references: BTreeMap<String, BTreeSet<String>>,
    /// The generation of secrets that was compiled last.
    compiled_secrets: u64,
    /// Objects that were refused, by key.
    quarantined: BTreeMap<String, Problem>,
}

impl Reconciler {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        checker: Arc<Checker>,
        compiler: Compiler,
        resolver: Arc<Resolver>,
        shared: Arc<Shared>,
        published: Arc<Published>,
    ) -> Self {
        let compiler = compiler.counting_in(Arc::clone(&shared.stats.routes));
        Self {
            store,
            checker,
            compiler,
            resolver,
            shared,
            published,
            listeners: Arc::default(),
            catalog: None,
            plugins: None,
            set: Arc::default(),
            references: BTreeMap::new(),
            compiled_secrets: 0,
            quarantined: BTreeMap::new(),
        }
    }

    /// Hands stream listeners to `listeners`.
    pub(crate) fn with_listeners(mut self, listeners: &Arc<Listeners>) -> Self {
        self.listeners = Arc::clone(listeners);
        self
    }

    /// Lets a list of plugins beside the resources decide which are enabled.
    pub(crate) fn following(mut self, catalog: &Arc<Catalog>) -> Self {
        self.catalog = Some(Arc::clone(catalog)).filter(|catalog| catalog.follows());
        self
    }

    /// Loads everything and publishes it; the watch goes on from there.
    pub(crate) async fn load(&mut self) -> Result<Watch, StoreError> {
        let loaded = self.store.load().await?;
        let mut set = ResourceSet { revision: loaded.revision, ..ResourceSet::default() };
        let previous = std::mem::take(&mut self.set);
        self.quarantined.clear();
        self.compiler.ip_sets().forget_entries();
        let referring = std::mem::take(&mut self.references);
        self.take_plugins(&loaded);
        for unreadable in loaded.unreadable {
            if let Some((kind, id)) = Kind::parse_key(&unreadable.key) {
                keep_previous(kind, id, &previous, &mut set);
            }
            self.quarantine(&unreadable.key, &unreadable.reason);
        }
        for stored in loaded.values {
            self.apply(&mut set, stored, Some(&previous));
        }
        // What was kept of before refers to what it referred to.
        let kept = |key: &String| self.quarantined.contains_key(key);
        self.references.extend(referring.into_iter().filter(|(key, _)| kept(key)));
        if is_another_past(&previous, &set) {
            // What was compiled is kept by revision, which means something else now.
            tracing::warn!("the store has another past than before; everything is compiled anew");
            self.compiler.forget();
        }
        self.set = Arc::new(set);
        self.publish().await;
        self.published.revision.send_replace(loaded.revision);
        Ok(self.store.watch(loaded.revision))
    }

    /// Applies changes, and orders of whoever read `config.yaml` again, until the process ends.
    pub(crate) async fn follow(mut self, mut changes: Watch, mut orders: Orders) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let received = tokio::select! {
                received = changes.recv() => received,
                _ = looks.tick() => {
                    if let Some(path) = self.compiler.plugins().awaited().changed() {
                        let path = path.display();
                        tracing::info!(%path, "a file that plugins wait for has come or changed");
                        self.publish().await;
                    }
                    continue;
                }
                () = self.published.secrets.changed() => {
                    self.publish().await;
                    continue;
                }
                Some((ssl, done)) = orders.recv() => {
                    self.compiler.set_ssl(&ssl);
                    self.publish().await;
                    let _ = done.send(()); // nobody may be waiting any more
                    continue;
                }
            };
            match received {
                Some(Ok(batch)) => {
                    let mut batches = vec![batch];
                    // What arrived in the meantime is taken along.
                    while let Ok(Ok(batch)) = changes.try_recv() {
                        batches.push(batch);
                    }
                    let batch: Vec<_> = batches.into_iter().flatten().collect();
                    if self.catalog.is_some() && batch.iter().any(|it| it.key() == plugin_list::KEY)
                    {
                        // What is valid depends on the list, so everything is read again.
                        changes = self.load_at_last().await;
                    } else {
                        self.apply_all(batch).await;
                    }
                }
                ended => {
                    let reason = match ended {
                        Some(Err(error)) => error.to_string(),
                        _ => "the store closed it".to_owned(),
                    };
                    tracing::warn!(%reason, "the watch of the store ended; loading everything again");
                    changes = self.load_at_last().await;
                }
            }
        }
    }

    /// Loads everything as soon as that is possible; what is served stays until then.
    async fn load_at_last(&mut self) -> Watch {
        let mut told = String::new();
        let mut pause = FIRST_PAUSE;
        loop {
            match self.load().await {
                Ok(changes) => return changes,
                Err(error) => {
                    let error = error.to_string();
                    if told != error {
                        tracing::error!(%error, "failed to load the configuration; trying again");
                        told = error;
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    async fn apply_all(&mut self, changes: Vec<Change>) {
        let revision = changes.iter().map(Change::revision).max().unwrap_or_default();
        if !changes.iter().any(concerns_a_plane) {
            self.published.revision.send_replace(revision);
            return;
        }
        if changes.iter().filter(|change| concerns_a_plane(change)).all(is_of_an_ip_set) {
            // However often a ban list changes, no route is looked at.
            let mut unused = ResourceSet::default();
            self.apply_batch(&mut unused, changes);
            self.compiler.ip_sets().publish();
            self.published.revision.send_modify(|seen| *seen = revision.max(*seen));
            return;
        }
        let mut set = ResourceSet::clone(&self.set);
        self.apply_batch(&mut set, changes);
        self.set = Arc::new(set);
        self.publish().await;
    }

    fn apply_batch(&mut self, set: &mut ResourceSet, batch: Vec<Change>) {
        for change in batch {
            set.revision = set.revision.max(change.revision());
            match change {
                Change::Put(stored) => self.apply(set, stored, None),
                Change::Delete { key, .. } => {
                    self.quarantined.remove(&key);
                    self.references.remove(&key);
                    match Kind::parse_key(&key) {
                        Some((Kind::StreamRoute, id)) => drop(set.stream_routes.remove(id)),
                        Some((Kind::Upstream, id)) => drop(set.upstreams.remove(id)),
                        Some((Kind::Service, id)) => drop(set.services.remove(id)),
                        Some((Kind::Ssl, id)) => drop(set.ssls.remove(id)),
                        Some((Kind::PluginMetadata, id)) => drop(set.plugin_metadata.remove(id)),
                        Some((Kind::Secret, id)) => drop(set.secrets.remove(id)),
                        Some((Kind::IpSet, id)) => drop(set.ip_sets.remove(id)),
                        Some((Kind::IpSetEntry, id)) => self.compiler.ip_sets().remove_entry(id),
                        Some((Kind::StreamListener, id)) => drop(set.stream_listeners.remove(id)),
                        _ => {}
                    }
                }
            }
        }
    }

    /// Enables what the list of plugins names, or what config.yaml names when there is none. One that
    /// is not valid changes nothing.
    fn take_plugins(&mut self, loaded: &Loaded) {
        let Some(catalog) = self.catalog.clone() else { return };
        if loaded.unreadable.iter().any(|unreadable| unreadable.key == plugin_list::KEY) {
            return; // told with the others
        }
        let stored = loaded.values.iter().find(|stored| stored.key == plugin_list::KEY);
        let list = match stored.map(|stored| PluginList::read(&stored.value)).transpose() {
            Ok(list) => list,
            Err(reason) => {
                tracing::error!(
                    key = plugin_list::KEY,
                    "failed to check item data of [plugins] err:{reason}"
                );
                let problem = Problem::error(
                    "store/invalid-object",
                    plugin_list::NAME,
                    format!("the list of plugins is not valid; the plugins before stay: {reason}"),
                );
                let problem = problem
                    .help("write it again, or delete it: then those of config.yaml are enabled");
                self.quarantined.insert(plugin_list::KEY.to_owned(), problem);
                return;
            }
        };
        if list == self.plugins {
            return;
        }
        match &list {
            Some(list) => {
                let names = list.stream.join(", ");
                tracing::info!(
                    stream_plugins = names,
                    "plugins are enabled as the list plugins says"
                );
            }
            None => tracing::info!("plugins are enabled as config.yaml says"),
        }
        self.checker = catalog.checker(list.as_ref());
        let factory = catalog.factory(list.as_ref(), self.compiler.plugins());
        self.compiler.use_plugins(Arc::new(factory));
        self.plugins = list;
    }

    /// Takes a value over. A refused one leaves the last good version in place: that of `set`,
    /// or of `previous` when everything is loaded anew.
    fn apply(&mut self, set: &mut ResourceSet, stored: Stored, previous: Option<&ResourceSet>) {
        let key = stored.key.clone();
        let Some((kind, id)) = Kind::parse_key(&key) else { return };
        let result = match kind {
            Kind::StreamRoute => self.take(kind, id, stored, &mut set.stream_routes),
            Kind::Upstream => self.take(kind, id, stored, &mut set.upstreams),
            Kind::Service => self.take(kind, id, stored, &mut set.services),
            Kind::Ssl => self.take(kind, id, stored, &mut set.ssls),
            Kind::PluginMetadata => self.take(kind, id, stored, &mut set.plugin_metadata),
            Kind::Secret => self.take(kind, id, stored, &mut set.secrets),
            Kind::IpSet => self.take(kind, id, stored, &mut set.ip_sets),
            Kind::IpSetEntry => {
                let checked = self.checker.load(kind, id, &stored.value);
                checked.and_then(|()| self.compiler.ip_sets().put_entry(id, &stored.value))
            }
            Kind::StreamListener => self.take(kind, id, stored, &mut set.stream_listeners),
            _ => return,
        };
        match result {
            Ok(()) => drop(self.quarantined.remove(&key)),
            Err(reason) => {
                if let Some(previous) = previous {
                    keep_previous(kind, id, previous, set);
                }
                self.quarantine(&key, &reason);
            }
        }
    }

    fn take<T: DeserializeOwned>(
        &mut self,
        kind: Kind,
        id: &str,
        stored: Stored,
        into: &mut Collection<T>,
    ) -> Result<(), String> {
        self.checker.load(kind, id, &stored.value)?;
        let value = T::deserialize(&stored.value).map_err(|error| error.to_string())?;
        let mut found = BTreeSet::new();
        if !matches!(kind, Kind::Secret | Kind::IpSet) {
            secrets::references(&stored.value, &mut found);
        }
        match found.is_empty() {
            true => drop(self.references.remove(&stored.key)),
            false => drop(self.references.insert(stored.key.clone(), found)),
        }
        into.insert(Arc::new(Entry {
            id: id.to_owned(),
            document: JsonText::new(&stored.value),
            value,
            created: stored.created,
            modified: stored.modified,
        }));
        Ok(())
    }

    /// The value itself is not logged: it may hold a private key.
    fn quarantine(&mut self, key: &str, reason: &str) {
        let kind = Kind::parse_key(key).map_or("unknown", |(kind, _)| kind.segment());
        tracing::error!(key, "failed to check item data of [{kind}] err:{reason}");
        let subject = key.trim_start_matches('/');
        let message = format!("the stored object is not valid and is not used: {reason}");
        let problem = Problem::error("store/invalid-object", subject, message)
            .help(format!("write it again through /apisix/admin/{subject}, or delete it"));
        self.quarantined.insert(key.to_owned(), problem);
    }

    async fn publish(&mut self) {
        let wanted = self.references.values().flatten().cloned().collect();
        let secrets = &self.published.secrets;
        secrets.prepare(&self.set.secrets, wanted).await;
        let generation = secrets.generation();
        if generation != self.compiled_secrets {
            self.compiled_secrets = generation;
            self.compiler.distrust();
        }
        let (snapshot, compile_problems) = self.compiler.compile(&self.set);
        let upstreams: Vec<_> = self
            .compiler
            .upstreams()
            .filter(|upstream| upstream.names().next().is_some())
            .cloned()
            .collect();
        self.resolver.first_answers(&upstreams).await;
        let mut problems: Vec<_> = self.quarantined.values().cloned().collect();
        problems.extend(compile_problems);
        let revision = snapshot.revision;
        let ip_sets = self.compiler.ip_sets().live(&self.set.ip_sets);
        self.published.ip_sets.store(Arc::new(ip_sets));
        self.shared.snapshot.store(Arc::new(snapshot));
        let served = Served { resources: Arc::clone(&self.set), problems, at: SystemTime::now() };
        self.published.served.store(Arc::new(served));
        // Behind the snapshot: a new port finds its route, and one that goes keeps it to the end.
        if self.listeners.follow(&self.set) {
            self.listeners.settle().await; // whoever reads the answer finds them so
        }
        self.listeners.drain_removed_nodes();
        self.published.upstreams.send_replace(upstreams);
        let watched = self
            .compiler
            .upstreams()
            .filter(|upstream| upstream.wants_watching() || upstream.settings().queue.is_some());
        let watched: Vec<_> = watched.cloned().collect();
        self.published.watched.send_if_modified(|known| {
            let same = |(a, b): (&Arc<_>, &Arc<_>)| Arc::ptr_eq(a, b);
            let is_same = known.len() == watched.len() && known.iter().zip(&watched).all(same);
            *known = watched;
            !is_same
        });
        self.published.revision.send_modify(|seen| *seen = revision.max(*seen));
        tracing::debug!(revision, routes = self.set.stream_routes.len(), "configuration published");
    }
}

/// Whether a change is about a kind that a plane is compiled from.
fn concerns_a_plane(change: &Change) -> bool {
    let kind = Kind::parse_key(change.key()).map(|(kind, _)| kind);
    matches!(
        kind,
        Some(
            Kind::StreamRoute
                | Kind::Upstream
                | Kind::Service
                | Kind::Ssl
                | Kind::PluginMetadata
                | Kind::Secret
                | Kind::IpSet
                | Kind::IpSetEntry
                | Kind::StreamListener
        )
    )
}

/// Whether a change is about a single entry of an IP set.
fn is_of_an_ip_set(change: &Change) -> bool {
    let key = match change {
        Change::Put(stored) => &stored.key,
        Change::Delete { key, .. } => key,
    };
    matches!(Kind::parse_key(key), Some((Kind::IpSetEntry, _)))
}

/// Whether a store was put back to a backup: revisions run backwards, or one of them stands for
/// another value than before.
fn is_another_past(before: &ResourceSet, after: &ResourceSet) -> bool {
    fn differs<T>(before: &Collection<T>, after: &Collection<T>) -> bool {
        after.iter().any(|entry| {
            before.get(&entry.id).is_some_and(|known| {
                known.modified == entry.modified && known.document != entry.document
            })
        })
    }
    after.revision < before.revision
        || differs(&before.stream_routes, &after.stream_routes)
        || differs(&before.upstreams, &after.upstreams)
        || differs(&before.services, &after.services)
        || differs(&before.ssls, &after.ssls)
        || differs(&before.plugin_metadata, &after.plugin_metadata)
        || differs(&before.secrets, &after.secrets)
        || differs(&before.ip_sets, &after.ip_sets)
        || differs(&before.stream_listeners, &after.stream_listeners)
}

fn keep_previous(kind: Kind, id: &str, previous: &ResourceSet, set: &mut ResourceSet) {
    fn keep<T>(id: &str, from: &Collection<T>, to: &mut Collection<T>) {
        if let Some(entry) = from.get(id) {
            to.insert(Arc::clone(entry));
        }
    }
    match kind {
        Kind::StreamRoute => keep(id, &previous.stream_routes, &mut set.stream_routes),
        Kind::Upstream => keep(id, &previous.upstreams, &mut set.upstreams),
        Kind::Service => keep(id, &previous.services, &mut set.services),
        Kind::Ssl => keep(id, &previous.ssls, &mut set.ssls),
        Kind::PluginMetadata => keep(id, &previous.plugin_metadata, &mut set.plugin_metadata),
        Kind::Secret => keep(id, &previous.secrets, &mut set.secrets),
        Kind::IpSet => keep(id, &previous.ip_sets, &mut set.ip_sets),
        Kind::StreamListener => keep(id, &previous.stream_listeners, &mut set.stream_listeners),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
