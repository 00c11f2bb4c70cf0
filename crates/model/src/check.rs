//! Everything that is checked before a resource is stored or put to use: its JSON schema, then the
//! rules that schemas cannot express, in the reference's order and words (`spec/schemas.md`,
//! `spec/admin-api.md` section 4).

mod address;
mod ip_set;
mod pem;
mod plugins;
mod protocol;
mod ssl;
mod stored_only;
mod stream_listener;
mod stream_route;
mod upstream;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use serde_json::Value;

pub use address::parse as parse_network;

use crate::Kind;
use crate::plugin::{PluginCatalog, PluginMeta};
use crate::plugin_list::PluginList;
use crate::reference::{self, Reference, id_member};
use crate::schema::{Compiled, Registry, plugin_schema};

/// Turns an encrypted private key into PEM; `None` if no key of the ring fits.
pub type Decrypt = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Checks documents against schemas and the rules that schemas cannot express.
pub struct Checker {
    catalog: PluginCatalog,
    /// Schemas of the stream plugins, compiled when a plugin is first configured; `Err` says why a
    /// schema is unusable.
    plugins: HashMap<&'static str, OnceLock<Result<Compiled, String>>>,
    protocols: Vec<String>,
    decrypt: Decrypt,
}

/// A checker for the plugins of a list, or for those of `config.yaml`.
pub type CheckerFor = Arc<dyn Fn(Option<&PluginList>) -> Arc<Checker> + Send + Sync>;

/// A lookup of other resources by kind and id.
pub type Found<'a> = &'a dyn Fn(Kind, &str) -> Option<Value>;

impl Checker {
    /// A checker that knows the given plugins and the xRPC protocols `redis` and `dubbo`, and that
    /// cannot decrypt keys.
    #[must_use]
    pub fn new(catalog: PluginCatalog) -> Self {
        let plugins = catalog.stream.iter().map(|meta| (meta.name, OnceLock::new())).collect();
        let protocols = protocol::BUILTIN.iter().map(|name| (*name).to_owned()).collect();
        Self { catalog, plugins, protocols, decrypt: Box::new(|_| None) }
    }

    /// Replaces how encrypted private keys are decrypted.
    #[must_use]
    pub fn with_decrypt(mut self, decrypt: Decrypt) -> Self {
        self.decrypt = decrypt;
        self
    }

    /// Replaces the xRPC protocols that routes may name (`xrpc.protocols` of `config.yaml`).
    #[must_use]
    pub fn with_protocols(mut self, protocols: Vec<String>) -> Self {
        self.protocols = protocols;
        self
    }

    /// The plugins it knows.
    #[must_use]
    pub fn catalog(&self) -> &PluginCatalog {
        &self.catalog
    }

    /// The schema of a stream plugin; `None` if there is no such plugin.
    fn plugin(&self, name: &str) -> Option<&Result<Compiled, String>> {
        let meta = self.catalog.stream(name)?;
        Some(self.plugins.get(name)?.get_or_init(|| compile(meta)))
    }

    /// Checks the JSON schema only. A secret is checked if its `id` names the manager.
    ///
    /// # Errors
    /// The reference's message, without any prefix.
    pub fn schema(&self, kind: Kind, value: &Value) -> Result<(), String> {
        match Registry::get().kind(kind) {
            Some(schema) => schema.validate(value),
            None => {
                let id = value.get("id").and_then(Value::as_str).unwrap_or_default();
                let (manager, _) = id.split_once('/').unwrap_or((id, ""));
                stored_only::secret_schema(manager)
                    .or_else(|| Registry::get().kind(Kind::PluginMetadata))
                    .map_or(Ok(()), |schema| schema.validate(value))
            }
        }
    }

    /// The resources that must be fetched before [`Checker::check`].
    #[must_use]
    pub fn references(&self, kind: Kind, value: &Value) -> Vec<Reference> {
        reference::checked(kind, value)
    }

    /// Everything the Admin API checks on a write after the rules on ids and timestamps.
    ///
    /// # Errors
    /// The `error_msg` of the reference.
    pub fn check(
        &self,
        kind: Kind,
        id: &str,
        value: &Value,
        found: Found<'_>,
    ) -> Result<(), String> {
        match kind {
            Kind::Upstream => upstream::check(self, value, Some(found)),
            Kind::Secret => stored_only::secret(id, value),
            Kind::IpSetEntry => ip_set::entry(id, value),
            Kind::PluginMetadata => stored_only::plugin_metadata(self, id, value),
            _ => {
                self.schema(kind, value).map_err(invalid)?;
                match kind {
                    Kind::StreamRoute => stream_route::check(self, id, value, found),
                    Kind::Ssl => ssl::check(self, value),
                    Kind::IpSet => ip_set::check(value),
                    Kind::StreamListener => stream_listener::check(id, value),
                    _ => self.http_side(kind, value, found),
                }
            }
        }
    }

    /// Checks a stored value before the planes use it: unlike a write, it may name plugins that
    /// are unknown and resources that do not exist.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn load(&self, kind: Kind, id: &str, value: &Value) -> Result<(), String> {
        match kind {
            Kind::Secret => return stored_only::load_secret(id, value),
            Kind::IpSetEntry => return ip_set::entry(id, value),
            Kind::PluginMetadata => return stored_only::metadata_schema(self, id, value),
            _ => self.schema(kind, value).map_err(invalid)?,
        }
        match kind {
            Kind::StreamRoute => stream_route::load(self, value),
            Kind::Upstream => upstream::load(self, value),
            Kind::Ssl => ssl::check(self, value),
            Kind::IpSet => ip_set::check(value),
            Kind::StreamListener => stream_listener::check(id, value),
            Kind::Service => {
                value.get("upstream").map_or(Ok(()), |inline| upstream::load(self, inline))?;
                self.service_plugins(value, plugins::Unknown::Skip)
            }
            _ => Ok(()),
        }
    }

    /// Services and the kinds that only the HTTP plane runs, after the schema.
    fn http_side(&self, kind: Kind, value: &Value, found: Found<'_>) -> Result<(), String> {
        if matches!(kind, Kind::Service | Kind::Route)
            && let Some(inline) = value.get("upstream")
        {
            upstream::check(self, inline, Some(found))?;
        }
        for (member, kind) in reference::members(kind) {
            exists(*kind, value, member, found)?;
        }
        match kind {
            Kind::Service => self.service_plugins(value, plugins::Unknown::Refuse),
            _ => self.http_plugins(value),
        }
    }
}

/// A plugin whose schema is unusable refuses every configuration with the reason.
fn compile(meta: &PluginMeta) -> Result<Compiled, String> {
    match serde_json::from_str::<Value>(meta.schema) {
        Ok(_) => Compiled::new(&plugin_schema(meta)),
        Err(error) => Err(format!("the schema of plugin {} is not JSON: {error}", meta.name)),
    }
}

/// `upstream_id` and its like must name something that is stored.
fn exists(kind: Kind, value: &Value, member: &str, found: Found<'_>) -> Result<(), String> {
    match id_member(value, member) {
        Some(id) if found(kind, &id).is_none() => {
            Err(format!("failed to fetch {kind} info by {kind} id [{id}], response code: 404"))
        }
        _ => Ok(()),
    }
}

fn invalid(message: String) -> String {
    format!("invalid configuration: {message}")
}
