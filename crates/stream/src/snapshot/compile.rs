//! Resources to snapshot. What did not change is reused, so that balancers keep their state and
//! the work follows the size of the change.

mod plugin_uses;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use headgate_model::resource::{Service, StreamRoute, Upstream as UpstreamResource};
use headgate_model::settings::SslSettings;
use headgate_model::{Entry, Problem, ResourceSet};
use headgate_upstream::{Names, Upstream};

use super::certificates::CertificateCompiler;
use super::material::{Decrypt, Material};
use super::{Route, Snapshot, Target, upstream_tls};
use crate::hash_key;
use crate::ip_sets::IpSets;
use crate::outcome::CloseReason;
use crate::plugin::{Chain, PluginFactory, Written};
use crate::router::{Predicates, Router};
use crate::secret::SecretLookup;
use crate::stats::RouteTable;
use plugin_uses::{Finder, PluginUses};

/// Compiles snapshots, one after the other.
#[derive(Debug)]
pub struct Compiler {
    names: Arc<Names>,
    plugins: Arc<PluginFactory>,
    stats: Arc<RouteTable>,
    upstreams: HashMap<String, Compiled<Arc<Upstream>>>,
    ip_sets: IpSets,
    /// Boxed: a table of many routes has room for half as many more.
    routes: HashMap<String, Box<Compiled<CompiledRoute>>>,
    certificates: CertificateCompiler,
    material: Material,
    /// CA bundle for upstreams that are verified; `None` is the system's.
    trusted: Option<PathBuf>,
    round: u64,
}

#[derive(Debug)]
struct CompiledRoute {
    predicates: Predicates,
    route: Arc<Route>,
    /// What its plugins depend on beside the route and its service; `None` without plugins.
    uses: Option<Box<PluginUses>>,
}

/// Something compiled, what it was compiled from, and when it was last used.
#[derive(Debug)]
struct Compiled<T> {
    from: Origin,
    value: T,
    round: u64,
}

/// Revisions of the object itself (a route, or whatever holds an upstream), of the service, of the
/// upstream object that a route uses, and of the certificate that the upstream shows.
type Origin = (u64, Option<u64>, Option<u64>, Option<u64>);

/// The service that a route uses: `upstream_id` beats everything, and then the service is not
/// consulted at all.
fn service_id(route: &StreamRoute) -> Option<&String> {
    route.service_id.as_ref().filter(|_| route.upstream_id.is_none())
}

fn origin(entry: &Entry<StreamRoute>, set: &ResourceSet) -> Origin {
    let route = &entry.value;
    let service = service_id(route).and_then(|id| set.services.get(id));
    let lent = || service.filter(|_| route.upstream.is_none()).map(|service| &service.value);
    let lent_id = || lent().filter(|service| service.upstream.is_none())?.upstream_id.as_ref();
    let object = route.upstream_id.as_ref().or_else(lent_id);
    let object = object.and_then(|id| set.upstreams.get(id));
    let inline = route.upstream.as_ref().or_else(|| lent()?.upstream.as_ref());
    let upstream = object.map(|object| &object.value).or(inline);
    let shown = upstream.and_then(|upstream| upstream_tls::revision(upstream, set));
    (entry.modified, service.map(|it| it.modified), object.map(|it| it.modified), shown)
}

impl Compiler {
    /// A compiler that resolves names through `names` and builds plugins with `plugins`.
    #[must_use]
    pub fn new(names: Arc<Names>, plugins: Arc<PluginFactory>) -> Self {
        Self {
            names,
            plugins,
            stats: Arc::new(RouteTable::new(1)),
            upstreams: HashMap::new(),
            ip_sets: IpSets::default(),
            routes: HashMap::new(),
            certificates: CertificateCompiler::new(&SslSettings::default()),
            material: Material::new(Box::new(|_| None)),
            trusted: None,
            round: 0,
        }
    }

    /// Sets what TLS listeners offer, how keys are decrypted, and whom to trust when upstreams
    /// are verified (`None`: the authorities of the system).
    #[must_use]
    pub fn with_tls(
        mut self,
        ssl: &SslSettings,
        decrypt: Decrypt,
        trusted: Option<PathBuf>,
    ) -> Self {
        self.certificates = CertificateCompiler::new(ssl);
        self.material = Material::new(decrypt);
        self.trusted = trusted;
        self
    }

    /// Resolves `$secret://` references of certificates and keys with that lookup.
    #[must_use]
    pub fn with_secrets(mut self, secrets: SecretLookup) -> Self {
        self.material.set_secrets(secrets);
        self
    }

    /// Goes by other settings of TLS listeners from the next snapshot on.
    pub fn set_ssl(&mut self, ssl: &SslSettings) {
        self.certificates.set(ssl);
    }

    /// Lets routes count in `stats`, which outlives the snapshots.
    #[must_use]
    pub fn counting_in(self, stats: Arc<RouteTable>) -> Self {
        Self { stats, ..self }
    }

    /// What builds plugins now.
    #[must_use]
    pub fn plugins(&self) -> &PluginFactory {
        &self.plugins
    }

    /// Builds plugins with another factory from now on; routes are compiled anew, upstreams stay.
    pub fn use_plugins(&mut self, plugins: Arc<PluginFactory>) {
        self.plugins = plugins;
        self.routes.clear();
    }

    /// Keeps nothing of what was compiled before: for a store whose revisions have come to mean
    /// something else (a restored backup).
    pub fn forget(&mut self) {
        self.upstreams.clear();
        self.ip_sets.forget();
        self.routes.clear();
        self.certificates.forget();
    }

    /// Compiles everything anew next time, for what is not seen in revisions (a secret that has
    /// changed). Upstreams keep their balancers, counts and health.
    pub fn distrust(&mut self) {
        self.upstreams.values_mut().for_each(|known| known.from.0 = u64::MAX);
        self.routes.values_mut().for_each(|known| known.from.0 = u64::MAX);
        self.certificates.forget();
    }

    /// The IP sets, to be told of entries that are added one by one.
    pub const fn ip_sets(&mut self) -> &mut IpSets {
        &mut self.ip_sets
    }

    /// The upstreams that live routes use.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.values().map(|compiled| &compiled.value)
    }

    /// Compiles everything. Never fails: what cannot be used becomes a [`Problem`], and its
    /// sessions are closed with a reason.
    pub fn compile(&mut self, set: &ResourceSet) -> (Snapshot, Vec<Problem>) {
        self.round += 1;
        self.plugins.awaited().clear();
        self.ip_sets.update(&set.ip_sets);
        let mut problems = Vec::new();
        let mut routes = Vec::with_capacity(set.stream_routes.len());
        for entry in set.stream_routes.iter() {
            let is_subordinate = entry
                .value
                .protocol
                .as_ref()
                .is_some_and(|protocol| protocol.superior_id.is_some());
            if is_subordinate {
                continue; // only reached through its superior
            }
            let (predicates, route) = match self.unchanged(entry, set) {
                Some(known) => known,
                None => match Predicates::of(&entry.value) {
                    Ok(predicates) => (predicates.clone(), self.route(entry, predicates, set)),
                    Err(error) => {
                        problems.push(problem(&entry.id, error.to_string()));
                        continue;
                    }
                },
            };
            if let Target::Broken { message, .. } = &route.target {
                problems.push(problem(&entry.id, message.clone()));
            }
            let notes = self.routes.get(&entry.id).and_then(|known| known.value.uses.as_ref());
            let notes = notes.into_iter().flat_map(|uses| &uses.notes);
            problems.extend(notes.map(|note| remark(&entry.id, note)));
            let names = entry.value.names().map(str::to_owned).collect();
            routes.push((predicates, names, route));
        }
        let round = self.round;
        self.upstreams.retain(|_, compiled| compiled.round == round);
        self.routes.retain(|_, compiled| compiled.round == round);
        let wants_server = self.upstreams().any(|upstream| hash_key::needs_server(upstream))
            || self
                .routes
                .values()
                .any(|known| known.value.uses.as_ref().is_some_and(|uses| uses.wants_server));
        let routes = Router::new(routes);
        let certificates = self.certificates.compile(set, &self.material, &mut problems);
        (Snapshot { revision: set.revision, routes, certificates, wants_server }, problems)
    }

    /// What was compiled for a route last time, if nothing that it depends on has changed.
    fn unchanged(
        &mut self,
        entry: &Entry<StreamRoute>,
        set: &ResourceSet,
    ) -> Option<(Predicates, Arc<Route>)> {
        let known = self.routes.get_mut(&entry.id)?;
        let Target::Upstream(upstream) = &known.value.route.target else { return None };
        if known.from != origin(entry, set)
            || !known.value.uses.as_ref().is_none_or(|uses| uses.are_current(set))
        {
            return None;
        }
        known.round = self.round;
        let used = known.value.uses.iter().flat_map(|uses| &uses.upstreams);
        for key in used.map(String::as_str).chain([upstream.key()]) {
            self.upstreams.get_mut(key)?.round = self.round;
        }
        Some((known.value.predicates.clone(), Arc::clone(&known.value.route)))
    }

    fn route(
        &mut self,
        entry: &Arc<Entry<StreamRoute>>,
        predicates: Predicates,
        set: &ResourceSet,
    ) -> Arc<Route> {
        let route = &entry.value;
        let service_id = service_id(route);
        let service = service_id.and_then(|id| set.services.get(id));
        let (chain, uses, refused) = self.chain(entry, service, set);
        let target = match (service_id, service, refused) {
            (Some(id), None, _) => {
                broken(format!("failed to fetch service configuration by id: {id}"))
            }
            (_, _, Some(message)) => {
                Target::Broken { message, reason: CloseReason::PluginNotBuilt }
            }
            _ => self.target(entry, service, set),
        };
        let compiled = Arc::new(Route {
            id: entry.id.clone(),
            name: route.name.clone(),
            service: service.map(|service| (service.id.clone(), service.value.name.clone())),
            plugins: chain,
            tls_passthrough: route.tls_passthrough,
            target,
            stats: self.stats.of(&entry.id),
            udp: route.udp,
        });
        let from = origin(entry, set);
        let value = CompiledRoute { predicates, route: Arc::clone(&compiled), uses };
        let compiled_route = Compiled { from, value, round: self.round };
        self.routes.insert(entry.id.clone(), Box::new(compiled_route));
        compiled
    }

    /// The plugins of a route, what they use, and why the route must not serve, if it must not.
    fn chain(
        &mut self,
        entry: &Arc<Entry<StreamRoute>>,
        service: Option<&Arc<Entry<Service>>>,
        set: &ResourceSet,
    ) -> (Chain, Option<Box<PluginUses>>, Option<String>) {
        let lent = service.filter(|service| !service.value.plugins.is_empty());
        if entry.value.plugins.is_empty() && lent.is_none() {
            return (Chain::default(), None, None);
        }
        let plugins = Arc::clone(&self.plugins);
        let own = format!("stream_routes/{}", entry.id);
        let theirs = lent.map(|service| format!("services/{}", service.id));
        let metadata =
            |name: &str| set.plugin_metadata.get(name).map(|entry| entry.document.value());
        let written = (entry.modified, lent.map_or(0, |service| service.modified));
        let mut finder = Finder::new(self, set, written);
        let made = plugins.make(
            Written { resource: &own, plugins: &entry.value.plugins },
            lent.zip(theirs.as_ref())
                .map(|(service, resource)| Written { resource, plugins: &service.value.plugins }),
            &metadata,
            &mut finder,
        );
        let mut uses = finder.uses;
        uses.wants_server = made.wants_server;
        uses.notes = made.notes;
        let revision = |name| set.plugin_metadata.get(name).map(|entry| entry.modified);
        uses.metadata = made.metadata.into_iter().map(|name| (name, revision(name))).collect();
        (made.chain, Some(Box::new(uses)), made.broken)
    }

    fn target(
        &mut self,
        entry: &Arc<Entry<StreamRoute>>,
        service: Option<&Arc<Entry<Service>>>,
        set: &ResourceSet,
    ) -> Target {
        let route = &entry.value;
        if let Some(protocol) = &route.protocol {
            let message = format!(
                "protocol [{}] is not run by this version of headgate, so sessions are closed",
                protocol.name
            );
            return Target::Broken { message, reason: CloseReason::PluginNotBuilt };
        }
        if let Some(id) = &route.upstream_id {
            return self.upstream_object(id, set);
        }
        if let Some(inline) = &route.upstream {
            return self.usable(format!("stream_routes/{}", entry.id), entry.modified, inline, set);
        }
        let Some(service) = service else {
            return broken(
                "failed to set upstream: missing upstream configuration in Route or Service".into(),
            );
        };
        if let Some(inline) = &service.value.upstream {
            let key = format!("services/{}", service.id);
            return self.usable(key, service.modified, inline, set);
        }
        match &service.value.upstream_id {
            Some(id) => self.upstream_object(id, set),
            None => broken(
                "failed to set upstream: missing upstream configuration in Route or Service".into(),
            ),
        }
    }

    fn upstream_object(&mut self, id: &str, set: &ResourceSet) -> Target {
        match set.upstreams.get(id) {
            Some(entry) => {
                self.usable(format!("upstreams/{id}"), entry.modified, &entry.value, set)
            }
            None => broken(format!("failed to find upstream by id: {id}")),
        }
    }

    fn usable(
        &mut self,
        key: String,
        modified: u64,
        resource: &UpstreamResource,
        set: &ResourceSet,
    ) -> Target {
        if resource.discovery_type.is_some() || resource.service_name.is_some() {
            return broken("failed to set upstream: discovery is uninitialized".into());
        }
        let from = (modified, None, None, upstream_tls::revision(resource, set));
        if let Some(known) = self.upstreams.get_mut(&key)
            && known.from == from
        {
            known.round = self.round;
            return Target::Upstream(Arc::clone(&known.value));
        }
        let trusted = self.trusted.as_deref();
        let tls = match upstream_tls::compile(resource, set, &self.material, trusted) {
            Ok(tls) => tls,
            Err(message) => return broken(message),
        };
        let previous = self.upstreams.get(&key).map(|known| &*known.value);
        let compiled = Upstream::new(
            key.clone(),
            modified,
            resource,
            &self.names,
            hash_key::number,
            tls,
            previous,
        );
        let upstream = match compiled {
            Ok(upstream) => upstream,
            Err(invalid) => return broken(invalid.to_string()),
        };
        let value = Arc::clone(&upstream);
        self.upstreams.insert(key, Compiled { from, value, round: self.round });
        Target::Upstream(upstream)
    }
}

fn broken(message: String) -> Target {
    Target::Broken { message, reason: CloseReason::NoUpstream }
}

fn problem(id: &str, message: String) -> Problem {
    Problem::warning("stream-route/unusable", format!("stream_routes/{id}"), message)
        .help(format!("mend or delete /apisix/admin/stream_routes/{id}"))
}

fn remark(id: &str, note: &str) -> Problem {
    Problem::warning("stream-route/plugin", format!("stream_routes/{id}"), note.to_owned())
}

#[cfg(test)]
mod tests;
