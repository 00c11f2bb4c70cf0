//! From the `plugins` members of a route and its service to a [`Chain`].

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use headgate_model::plugin::PluginMeta;
use headgate_model::resource::Plugins;
use headgate_model::schema::Defaults;
use headgate_upstream::crc32;
use serde_json::{Map, Value};

use super::chain::Link;
use super::shared::SharedState;
use crate::secret::SecretLookup;

use super::{Awaited, Build, Chain, Place, PluginDef, Upstreams, reference};

/// The plugins of a program by descending priority, whether enabled or not.
#[derive(Debug, Clone)]
pub struct Registry {
    known: Vec<&'static PluginDef>,
}

impl Default for Registry {
    /// The built-in plugins.
    fn default() -> Self {
        Self { known: crate::plugins::BUILTIN.to_vec() }
    }
}

impl Registry {
    /// Adds a plugin. One that has the name of another replaces it.
    pub fn add(&mut self, def: &'static PluginDef) {
        self.known.retain(|known| known.meta.name != def.meta.name);
        self.known.push(def);
        self.known.sort_by_key(|def| std::cmp::Reverse(def.meta.priority));
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[&'static PluginDef] {
        &self.known
    }

    /// The plugin of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&'static PluginDef> {
        self.known.iter().copied().find(|def| def.meta.name == name)
    }
}

/// The control side, where what waits is done: cores never wait for it.
pub trait Background: fmt::Debug + Send + Sync {
    /// Runs a task on the control threads (tokio's multi-thread runtime). It should end when the
    /// plugin it works for is gone, which it notices by a closed channel, and when
    /// [`Background::stopping`] resolves; then it has a moment to deliver what is left.
    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>);

    /// Resolves when the last session has ended and the process is about to.
    fn stopping(&self) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// A control side that does nothing, for tests of what does not need it.
#[derive(Debug)]
struct Nobody;

impl Background for Nobody {
    fn spawn(&self, _: Pin<Box<dyn Future<Output = ()> + Send>>) {}

    fn stopping(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::pending())
    }
}

/// Builds plugins from configurations, for one snapshot after the other.
#[derive(Debug)]
pub struct PluginFactory {
    enabled: Vec<Enabled>,
    /// Names that are somebody else's business.
    http: Vec<String>,
    /// Outlives a factory: see [`PluginFactory::enabling`].
    pub(super) shared: Arc<SharedState>,
    pub(super) background: Arc<dyn Background>,
    pub(super) awaited: Arc<Awaited>,
    secrets: SecretLookup,
}

#[derive(Debug)]
struct Enabled {
    def: &'static PluginDef,
    defaults: Defaults,
    metadata: Option<Defaults>,
}

impl Default for PluginFactory {
    /// No plugins at all.
    fn default() -> Self {
        Self::new(&[], Vec::new(), Arc::new(Nobody))
    }
}

/// What a factory made of a route's plugins.
#[derive(Debug, Default)]
pub(crate) struct Made {
    pub(crate) chain: Chain,
    /// Whether one of them needs the address that the client connected to.
    pub(crate) wants_server: bool,
    /// Names of the plugins whose metadata was looked at.
    pub(crate) metadata: Vec<&'static str>,
    /// What does not run, in sentences.
    pub(crate) notes: Vec<String>,
    /// Why the route must not serve.
    pub(crate) broken: Option<String>,
}

/// Plugins as they are written, and where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written<'a> {
    /// E.g. `stream_routes/1`.
    pub(crate) resource: &'a str,
    pub(crate) plugins: &'a Plugins,
}

impl PluginFactory {
    /// A factory for the `enabled` plugins. Plugins named in `http` are known to belong to another
    /// plane.
    #[must_use]
    pub fn new(
        enabled: &[&'static PluginDef],
        http: Vec<String>,
        background: Arc<dyn Background>,
    ) -> Self {
        let secrets = SecretLookup::default();
        let (shared, awaited) = (Arc::default(), Arc::default());
        Self { enabled: prepare(enabled), http, shared, background, awaited, secrets }
    }

    /// The files without which plugins could not be built.
    #[must_use]
    pub fn awaited(&self) -> &Awaited {
        &self.awaited
    }

    /// Resolves `$secret://` references in configurations with that lookup.
    #[must_use]
    pub fn with_secrets(self, secrets: SecretLookup) -> Self {
        Self { secrets, ..self }
    }

    /// A factory for other plugins. What they have counted goes on counting.
    #[must_use]
    pub fn enabling(&self, enabled: &[&'static PluginDef], http: Vec<String>) -> Self {
        Self {
            enabled: prepare(enabled),
            http,
            shared: Arc::clone(&self.shared),
            background: Arc::clone(&self.background),
            awaited: Arc::clone(&self.awaited),
            secrets: self.secrets.clone(),
        }
    }

    /// Makes the chain of a route. The route's plugins come before the service's of the same
    /// name, whole.
    pub(crate) fn make(
        &self,
        route: Written<'_>,
        service: Option<Written<'_>>,
        metadata: &dyn Fn(&str) -> Option<Value>,
        upstreams: &mut dyn Upstreams,
    ) -> Made {
        let mut made = Made::default();
        let mut links = Vec::new();
        for written in [Some(route), service].into_iter().flatten() {
            let lent = written.resource != route.resource;
            for (name, conf) in written.plugins {
                if lent && route.plugins.contains_key(name) {
                    continue;
                }
                let Some(enabled) = self.enabled.iter().find(|it| it.def.meta.name == name) else {
                    // A service is shared with HTTP routes, whose plugins are not ours to run.
                    if !lent || !self.http.contains(name) {
                        made.notes.push(format!(
                            "plugin [{name}] of {} is not enabled, so sessions pass without it \
                             (fix: add it to stream_plugins, or remove it)",
                            written.resource
                        ));
                    }
                    continue;
                };
                let meta = &enabled.def.meta;
                let place = Place { resource: written.resource, plugin: meta.name };
                match self.link(enabled, place, conf, metadata, upstreams, &mut made) {
                    Ok(Some(link)) => links.push(link),
                    Ok(None) => {} // disabled
                    Err(error) if meta.phases.has_preread() => {
                        made.broken.get_or_insert(error);
                    }
                    Err(error) => made.notes.push(error),
                }
            }
        }
        links.sort_by_key(|(priority, link)| (std::cmp::Reverse(*priority), link.meta.name));
        made.chain.links = links.into_iter().map(|(_, link)| link).collect();
        made
    }

    fn link(
        &self,
        enabled: &Enabled,
        place: Place<'_>,
        conf: &Value,
        metadata: &dyn Fn(&str) -> Option<Value>,
        upstreams: &mut dyn Upstreams,
        made: &mut Made,
    ) -> Result<Option<(i64, Link)>, String> {
        let meta: &'static PluginMeta = &enabled.def.meta;
        let (name, resource) = (meta.name, place.resource);
        let mut conf = match conf {
            Value::Object(members) => members.clone(),
            _ => Map::new(), // an empty array is an empty object
        };
        let version = version(&conf);
        let about = match conf.remove("_meta") {
            Some(Value::Object(about)) => about,
            _ => Map::new(),
        };
        if about.get("disable") == Some(&Value::Bool(true)) {
            return Ok(None);
        }
        if about.contains_key("pre_function") {
            made.notes.push(format!(
                "`_meta.pre_function` of plugin [{name}] of {resource} is Lua code, which does not run"
            ));
        }
        let Some(construct) = enabled.def.build else {
            let what = if meta.phases.has_preread() {
                "sessions are closed"
            } else {
                "nothing is recorded by it"
            };
            return Err(format!(
                "plugin [{name}] is not run by this version of headgate, so {what}"
            ));
        };
        let failed = |error: String| format!("plugin [{name}] of {resource} cannot run: {error}");
        let mut conf = Value::Object(conf);
        reference::resolve(&mut conf, &self.secrets).map_err(failed)?;
        enabled.defaults.fill(&mut conf);
        let own_metadata = enabled.metadata.as_ref().and_then(|defaults| {
            made.metadata.push(name);
            let mut metadata = metadata(name)?;
            if let Err(error) = reference::resolve(&mut metadata, &self.secrets) {
                made.notes.push(format!("the metadata of plugin [{name}] is not used: {error}"));
                return None;
            }
            defaults.fill(&mut metadata);
            Some(metadata)
        });
        let mut build = Build {
            place,
            version,
            factory: self,
            metadata: own_metadata.as_ref(),
            upstreams,
            wants_server: false,
        };
        let filter = about.get("filter").map(|rule| build.condition(rule));
        let plugin = construct(conf, &mut build).map_err(failed)?;
        made.wants_server |= build.wants_server;
        let error_response = about.get("error_response").map(|response| match response {
            Value::String(text) => text.clone().into_bytes(),
            other => other.to_string().into_bytes(),
        });
        let priority = about.get("priority").and_then(Value::as_f64);
        let priority = priority.map_or(i64::from(meta.priority), |number| number as i64);
        let error_response = error_response.map(Vec::into_boxed_slice);
        Ok(Some((priority, Link { meta, plugin, filter, error_response })))
    }
}

fn prepare(enabled: &[&'static PluginDef]) -> Vec<Enabled> {
    let prepare = |def: &&'static PluginDef| Enabled {
        def,
        defaults: Defaults::of_plugin(&def.meta),
        metadata: Defaults::of_metadata(&def.meta),
    };
    enabled.iter().map(prepare).collect()
}

/// The checksum of a configuration, whatever the order of its members.
fn version(conf: &Map<String, Value>) -> u32 {
    fn sorted(value: &Value) -> Value {
        match value {
            Value::Object(members) => {
                let mut members: Vec<_> =
                    members.iter().map(|(name, value)| (name.clone(), sorted(value))).collect();
                members.sort_by(|a, b| a.0.cmp(&b.0));
                Value::Object(members.into_iter().collect())
            }
            Value::Array(items) => items.iter().map(sorted).collect(),
            other => other.clone(),
        }
    }
    crc32::of(sorted(&Value::Object(conf.clone())).to_string().as_bytes())
}
