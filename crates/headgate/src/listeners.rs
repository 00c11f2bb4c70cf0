//! Which listeners are to be open: those of config.yaml, and the stream listeners of the Admin API
//! as far as they do not clash with them. [`Cores`] opens and closes the sockets.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use headgate_model::listen::{ListenAddr, ListenDefaults, ListenerSpec, Transport};
use headgate_model::resource::StreamListener;
use headgate_model::resource_set::Collection;
use headgate_model::settings::{
    DrainPolicy, DrainSettings, ListenEntry, Role, Settings, StreamSettings, is_wildcard,
};
use headgate_model::{Problem, ResourceSet};
use headgate_stream::core::Scope;
use serde::Deserialize as _;
use serde_json::Value;

use crate::cores::{BindError, Changed, Cores, Held, Place, place};
use crate::drain;

/// How often a listener that could not be bound is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Most causes that one message lists.
const SHOWN: usize = 3;

/// What is to listen, and what of it cannot.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    /// Set once the data threads run; never on a control plane.
    cores: OnceLock<Arc<Cores>>,
    /// Addresses of this process that are no stream listeners, with their names.
    servers: Vec<(&'static str, SocketAddr)>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: Vec<ListenEntry>,
    defaults: ListenDefaults,
    stored: Collection<StreamListener>,
    problems: Vec<Problem>,
    /// Some stored listener could not be bound.
    has_failed: bool,
    /// Nothing opens any more.
    is_closed: bool,
    drain: DrainSettings,
}

impl Listeners {
    pub(crate) fn new(settings: &Settings) -> Self {
        let servers = [
            ("admin port", settings.admin.as_ref().map(|admin| admin.listen)),
            ("status port", settings.status),
            ("control port", settings.control),
            ("prometheus port", settings.prometheus.as_ref().map(|server| server.listen)),
        ];
        let servers = servers.into_iter().filter_map(|(name, at)| Some((name, at?)));
        let is_elsewhere = settings.role == Role::ControlPlane;
        let listeners = Self {
            servers: if is_elsewhere { Vec::new() } else { servers.collect() },
            ..Self::default()
        };
        if let Some(stream) = &settings.stream {
            listeners.lock().configure(stream);
        }
        listeners.lock().drain = settings.drain;
        listeners
    }

    /// Opens what is wanted, now that there are threads for it.
    ///
    /// # Errors
    /// What of config.yaml could not be bound; nothing is open then.
    pub(crate) fn start(&self, cores: &Arc<Cores>) -> Result<Changed, Vec<BindError>> {
        let _ = self.cores.set(Arc::clone(cores));
        cores.set_on_close(self.lock().drain.listener);
        self.apply(&mut self.lock())
    }

    /// Takes over the listeners of config.yaml.
    ///
    /// # Errors
    /// What of them could not be bound; nothing has changed then.
    pub(crate) fn configure(&self, stream: &StreamSettings) -> Result<Changed, Vec<BindError>> {
        let mut state = self.lock();
        let before = (std::mem::take(&mut state.entries), state.defaults);
        state.configure(stream);
        self.apply(&mut state).inspect_err(|_| (state.entries, state.defaults) = before)
    }

    /// Takes over the stream listeners of the store. What cannot be bound is a problem. `true`: the
    /// cores have something to do.
    pub(crate) fn follow(&self, set: &ResourceSet) -> bool {
        let mut state = self.lock();
        let same = state.stored.len() == set.stream_listeners.len()
            && state.stored.iter().zip(set.stream_listeners.iter()).all(|(a, b)| Arc::ptr_eq(a, b));
        if !same {
            state.stored = set.stream_listeners.clone();
            self.apply_stored(&mut state);
        }
        !same
    }

    /// Returns once the cores have carried out what they were told, or after a second.
    pub(crate) async fn settle(&self) {
        if let Some(cores) = self.cores.get() {
            cores.settle().await;
        }
    }

    /// How sessions end that have to, from now on.
    pub(crate) fn set_drain(&self, drain: &DrainSettings) {
        self.lock().drain = *drain;
        if let Some(cores) = self.cores.get() {
            cores.set_on_close(drain.listener);
        }
    }

    /// Nodes may have been removed from their upstreams.
    pub(crate) fn drain_removed_nodes(&self) {
        let order = drain::order(&self.lock().drain.node, Scope::RemovedNodes);
        if let Some(cores) = self.cores.get().filter(|_| order.after.is_some()) {
            cores.drain(&order);
        }
    }

    /// Tries again what could not be bound, until the process ends.
    pub(crate) async fn retry(self: Arc<Self>) {
        loop {
            tokio::time::sleep(RETRY).await;
            let mut state = self.lock();
            if state.has_failed {
                self.apply_stored(&mut state);
            }
        }
    }

    /// Leaves all to a successor, as they are.
    pub(crate) fn hand_over(&self) {
        self.lock().is_closed = true;
    }

    /// Closes all, for good.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        if let Some(cores) = self.cores.get() {
            // How their sessions end is said by whoever closes everything.
            cores.set_on_close(DrainPolicy::default());
            let _ = cores.listen(&[], &[]); // closing cannot fail
        }
    }

    /// The entries of config.yaml.
    pub(crate) fn entries(&self) -> Vec<ListenEntry> {
        self.lock().entries.clone()
    }

    /// Everything that is wanted, here or on the nodes that listen.
    pub(crate) fn wanted(&self) -> Vec<ListenerSpec> {
        let state = self.lock();
        let mut problems = Vec::new();
        let (mut all, stored) = (state.configured(), state.usable(&self.servers, &mut problems));
        all.extend(stored.into_iter().map(|(_, spec)| spec));
        all
    }

    /// Who has which address: a path of config.yaml, or `stream_listeners/1`.
    pub(crate) fn owners(&self) -> HashMap<Place, String> {
        self.lock().taken(None)
    }

    /// What is wrong with stream listeners of the store.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        self.lock().problems.clone()
    }

    /// Binds the sockets of a stream listener that is about to be stored as `id`. A process without
    /// data threads only looks for clashes.
    ///
    /// # Errors
    /// What is in the way, and how to mend it.
    pub(crate) fn reserve(&self, id: &str, document: &Value) -> Result<Option<Held>, String> {
        let state = self.lock();
        let listener = StreamListener::deserialize(document).map_err(|error| error.to_string())?;
        let specs = listener.specs(&state.defaults)?;
        let taken = state.taken(Some(id));
        let clashes: Vec<_> =
            specs.iter().filter_map(|spec| clash(spec, &taken, &self.servers)).collect();
        if !clashes.is_empty() {
            return Err(some_of(&clashes));
        }
        let Some(cores) = self.cores.get().filter(|_| !state.is_closed) else { return Ok(None) };
        cores
            .hold(&specs)
            .map(Some)
            .map_err(|errors| some_of(&errors.iter().map(ToString::to_string).collect::<Vec<_>>()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply_stored(&self, state: &mut State) {
        if let Err(errors) = self.apply(state) {
            // They are open already, so nothing of them has to be bound.
            let text: Vec<_> = errors.iter().map(ToString::to_string).collect();
            tracing::error!("listeners of config.yaml are gone: {}", some_of(&text));
        }
    }

    fn apply(&self, state: &mut State) -> Result<Changed, Vec<BindError>> {
        let mut problems = Vec::new();
        let stored = state.usable(&self.servers, &mut problems);
        let Some(cores) = self.cores.get().filter(|_| !state.is_closed) else {
            state.note(problems, false);
            return Ok(Changed { opened: 0, closed: 0 });
        };
        let may: Vec<_> = stored.iter().map(|(_, spec)| spec.clone()).collect();
        let (changed, failed) = cores.listen(&state.configured(), &may)?;
        let owners: HashMap<Place, &str> =
            stored.iter().map(|(id, spec)| (place(spec), id.as_str())).collect();
        let mut by_owner: Vec<(&str, Vec<String>)> = Vec::new();
        for error in &failed {
            let Some(owner) = owners.get(&place(&error.spec)).copied() else { continue };
            match by_owner.iter_mut().find(|(id, _)| *id == owner) {
                Some((_, texts)) => texts.push(error.to_string()),
                None => by_owner.push((owner, vec![error.to_string()])),
            }
        }
        for (id, texts) in by_owner {
            problems.push(not_open(id, &some_of(&texts)));
        }
        state.note(problems, !failed.is_empty());
        Ok(changed)
    }
}

impl State {
    fn configure(&mut self, stream: &StreamSettings) {
        self.entries = stream.entries.clone();
        self.defaults = stream.defaults;
    }

    /// The listeners of config.yaml.
    fn configured(&self) -> Vec<ListenerSpec> {
        self.entries.iter().flat_map(|entry| &entry.listeners).cloned().collect()
    }

    fn configured_places(&self) -> HashMap<Place, String> {
        let owned = |entry: &ListenEntry| {
            let owner = format!("{} of config.yaml", entry.path);
            let places = entry.listeners.iter().map(place);
            places.map(|place| (place, owner.clone())).collect::<Vec<_>>()
        };
        self.entries.iter().flat_map(owned).collect()
    }

    /// Who has an address, by what he is called in messages; `but` is the id of a stream listener
    /// that does not count.
    fn taken(&self, but: Option<&str>) -> HashMap<Place, String> {
        let mut taken = self.configured_places();
        for entry in self.stored.iter().filter(|entry| Some(entry.id.as_str()) != but) {
            for spec in entry.value.specs(&self.defaults).unwrap_or_default() {
                taken.entry(place(&spec)).or_insert_with(|| owner(&entry.id));
            }
        }
        taken
    }

    /// The stored listeners that clash with nothing, the oldest first, with their ids.
    fn usable(
        &self,
        servers: &[(&'static str, SocketAddr)],
        problems: &mut Vec<Problem>,
    ) -> Vec<(String, ListenerSpec)> {
        let mut taken = self.configured_places();
        let mut usable = Vec::new();
        for entry in self.stored.iter() {
            let mut clashes = Vec::new();
            for spec in entry.value.specs(&self.defaults).unwrap_or_default() {
                match clash(&spec, &taken, servers) {
                    Some(clash) => clashes.push(clash),
                    None => {
                        taken.insert(place(&spec), owner(&entry.id));
                        usable.push((entry.id.clone(), spec));
                    }
                }
            }
            if !clashes.is_empty() {
                problems.push(not_open(&entry.id, &some_of(&clashes)));
            }
        }
        usable
    }

    /// Keeps the problems; says in the log what is new among them, and what is over.
    fn note(&mut self, problems: Vec<Problem>, has_failed: bool) {
        for problem in problems.iter().filter(|problem| !self.problems.contains(problem)) {
            tracing::error!(listener = problem.subject, "{}", problem.message);
        }
        for problem in &self.problems {
            if !problems.iter().any(|other| other.subject == problem.subject) {
                tracing::info!(listener = problem.subject, "the listener has no problem any more");
            }
        }
        self.problems = problems;
        self.has_failed = has_failed;
    }
}

fn owner(id: &str) -> String {
    format!("stream_listeners/{id}")
}

fn not_open(id: &str, why: &str) -> Problem {
    Problem::error("listener/not-open", owner(id), why.to_owned())
        .help("change its addr, or free the address; it is tried again every 5 s")
}

/// Why `spec` cannot be opened beside what is there.
fn clash(
    spec: &ListenerSpec,
    taken: &HashMap<Place, String>,
    servers: &[(&'static str, SocketAddr)],
) -> Option<String> {
    if let Some(owner) = taken.get(&place(spec)) {
        return Some(format!(
            "cannot listen on {spec}: {owner} listens there (fix: choose another address or port, \
             or remove that one first)"
        ));
    }
    let ListenAddr::Ip(addr) = spec.addr else { return None };
    let (name, at) = servers.iter().find(|(_, at)| {
        spec.transport == Transport::Tcp
            && at.port() == addr.port()
            && at.is_ipv4() == addr.is_ipv4()
            && (at.ip() == addr.ip() || is_wildcard(at.ip()) || is_wildcard(addr.ip()))
    })?;
    Some(format!(
        "cannot listen on {spec}: it is the {name} of headgate, {at} (fix: choose another port)"
    ))
}

/// The first few of many messages.
fn some_of(texts: &[String]) -> String {
    let mut text = texts.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
    if texts.len() > SHOWN {
        let _ = write!(text, "; and {} more", texts.len() - SHOWN);
    }
    text
}

#[cfg(test)]
mod tests {
    use headgate_model::Entry;
    use serde_json::json;

    use super::*;

    fn settings(text: &str) -> Settings {
        let path = std::path::Path::new("/etc/gate/conf/config.yaml");
        let loaded = Settings::parse(text, path, &|_| None);
        loaded.settings.unwrap_or_else(|| panic!("{:?}", loaded.problems))
    }

    fn set(listeners: &[(&str, Value)]) -> ResourceSet {
        let mut set = ResourceSet::default();
        for (created, (id, document)) in listeners.iter().enumerate() {
            set.stream_listeners.insert(Arc::new(Entry {
                id: (*id).to_owned(),
                document: document.clone().into(),
                value: serde_json::from_value(document.clone()).unwrap(),
                created: created as u64,
                modified: created as u64,
            }));
        }
        set
    }

    #[test]
    fn clashes_are_named_and_the_oldest_wins() {
        let listeners = Listeners::new(&settings("apisix: {stream_proxy: {tcp: [9100]}}"));
        listeners.follow(&set(&[
            ("a", json!({"addr": "9100-9101"})),
            ("b", json!({"addr": 9101})),
            ("c", json!({"addr": 9101, "protocol": "udp"})),
            ("d", json!({"addr": "127.0.0.1:9180"})),
        ]));
        let wanted: Vec<_> = listeners.wanted().iter().map(ToString::to_string).collect();
        assert_eq!(wanted, ["tcp://0.0.0.0:9100", "tcp://0.0.0.0:9101", "udp://0.0.0.0:9101"]);
        let problems = listeners.problems();
        let problems: Vec<_> =
            problems.iter().map(|it| (it.subject.as_str(), it.message.as_str())).collect();
        let [(a, first), (b, second), (d, third)] = problems.as_slice() else {
            panic!("{problems:?}")
        };
        assert_eq!(
            (*a, *b, *d),
            ("stream_listeners/a", "stream_listeners/b", "stream_listeners/d")
        );
        assert!(first.contains("tcp://0.0.0.0:9100: apisix.stream_proxy.tcp[0] of config.yaml"));
        assert!(second.contains("stream_listeners/a listens there"), "{second}");
        assert!(third.contains("it is the admin port of headgate, 0.0.0.0:9180"), "{third}");
    }

    #[test]
    fn a_write_is_checked_against_all_others() {
        let listeners = Listeners::new(&settings("apisix: {stream_proxy: {tcp: [9100]}}"));
        listeners.follow(&set(&[("a", json!({"addr": 9101}))]));
        let refusal = |id: &str, addr: Value| listeners.reserve(id, &json!({"addr": addr}));
        assert!(refusal("a", json!("9101-9102")).is_ok());
        assert!(refusal("b", json!(9102)).is_ok());
        let error = refusal("b", json!("9100-9101")).unwrap_err();
        assert!(error.contains("tcp[0] of config.yaml") && error.contains("stream_listeners/a"));
        let many = refusal("b", json!("0.0.0.0:9101-9199")).unwrap_err();
        assert!(many.contains("admin port"), "{many}");
    }

    #[test]
    fn a_control_plane_has_its_ports_elsewhere() {
        let text = "apisix: {stream_proxy: {tcp: [9100]}}\ndeployment: {role: control_plane, \
                    role_control_plane: {config_provider: etcd}, etcd: {host: ['http://a:2379']}}";
        let listeners = Listeners::new(&settings(text));
        assert!(listeners.reserve("a", &json!({"addr": 9180})).unwrap().is_none());
        assert!(listeners.reserve("a", &json!({"addr": 9100})).is_err());
    }
}
