//! What the plugins of a route look up while they are built: it decides when they are built again.

use std::sync::Arc;

use headgate_model::ResourceSet;
use headgate_model::resource::Upstream as UpstreamResource;
use headgate_upstream::Upstream;
use serde::Deserialize as _;
use serde_json::Value;

use super::Compiler;
use crate::ip_sets::LiveSet;
use crate::plugin::Upstreams;
use crate::snapshot::{Target, upstream_tls};

/// What plugins looked up while they were built, with what they found.
#[derive(Debug, Default)]
pub(super) struct PluginUses {
    /// Keys of the upstreams they hold.
    pub(super) upstreams: Vec<String>,
    /// Upstream objects by id, and their revisions.
    pub(super) objects: Vec<(String, Option<u64>)>,
    /// Certificates that inline upstreams show, by id, and their revisions.
    pub(super) shown: Vec<(String, Option<u64>)>,
    /// Plugins whose metadata they read, and its revision.
    pub(super) metadata: Vec<(&'static str, Option<u64>)>,
    /// IP sets by id, and whether there was one.
    pub(super) ip_sets: Vec<(String, bool)>,
    pub(super) wants_server: bool,
    /// What does not run, in sentences.
    pub(super) notes: Vec<String>,
}

/// When an upstream object, or the certificate that it shows, last changed.
fn object_revision(id: &str, set: &ResourceSet) -> Option<u64> {
    let entry = set.upstreams.get(id)?;
    Some(entry.modified.max(upstream_tls::revision(&entry.value, set).unwrap_or(0)))
}

impl PluginUses {
    /// Whether everything looked up would be found the same today.
    pub(super) fn are_current(&self, set: &ResourceSet) -> bool {
        let object = |id: &str| object_revision(id, set);
        let metadata = |name: &str| set.plugin_metadata.get(name).map(|entry| entry.modified);
        let certificate = |id: &str| set.ssls.get(id).map(|entry| entry.modified);
        self.objects.iter().all(|(id, found)| object(id) == *found)
            && self.shown.iter().all(|(id, found)| certificate(id) == *found)
            && self.metadata.iter().all(|(name, found)| metadata(name) == *found)
            && self.ip_sets.iter().all(|(id, found)| set.ip_sets.get(id).is_some() == *found)
    }
}

/// Finds upstreams for the plugins of one route, and notes which.
pub(super) struct Finder<'a> {
    compiler: &'a mut Compiler,
    set: &'a ResourceSet,
    /// Revisions of the route and of its service.
    written: (u64, u64),
    pub(super) uses: PluginUses,
}

impl<'a> Finder<'a> {
    pub(super) fn new(
        compiler: &'a mut Compiler,
        set: &'a ResourceSet,
        written: (u64, u64),
    ) -> Self {
        Self { compiler, set, written, uses: PluginUses::default() }
    }

    fn found(&mut self, target: Target) -> Result<Arc<Upstream>, String> {
        match target {
            Target::Upstream(upstream) => {
                self.uses.upstreams.push(upstream.key().to_owned());
                Ok(upstream)
            }
            Target::Broken { message, .. } => Err(message),
        }
    }
}

impl Upstreams for Finder<'_> {
    fn by_id(&mut self, id: &str) -> Result<Option<Arc<Upstream>>, String> {
        let found = object_revision(id, self.set);
        self.uses.objects.push((id.to_owned(), found));
        if found.is_none() {
            return Ok(None);
        }
        let target = self.compiler.upstream_object(id, self.set);
        self.found(target).map(Some)
    }

    fn ip_set(&mut self, id: &str) -> Option<Arc<LiveSet>> {
        let found = self.set.ip_sets.get(id).is_some();
        self.uses.ip_sets.push((id.to_owned(), found));
        self.compiler.ip_sets.find(id).filter(|_| found)
    }

    fn inline(&mut self, key: &str, conf: &Value) -> Result<Arc<Upstream>, String> {
        let resource = UpstreamResource::deserialize(conf).map_err(|error| error.to_string())?;
        let (route, service) = self.written;
        if let Some(id) = resource.tls.as_ref().and_then(|tls| tls.client_cert_id.clone()) {
            let found = self.set.ssls.get(&id).map(|entry| entry.modified);
            self.uses.shown.push((id, found));
        }
        let modified = if key.starts_with("services/") { service } else { route };
        let target = self.compiler.usable(key.to_owned(), modified, &resource, self.set);
        self.found(target)
    }
}
