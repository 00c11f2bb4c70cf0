//! JSON schemas: the documents that clients see, their evaluation with the reference's messages,
//! and their defaults.
//!
//! The files beside the resource types are the source of truth for what is accepted. They are
//! evaluated by an own validator because the wording and the order of messages are part of the
//! Admin API (decision record 0004).

mod compile;
mod defaults;
mod equal;
mod expand;
mod lua;
mod registry;
mod validate;

#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

pub(crate) use compile::Compiled;
pub(crate) use lua::number as lua_number;
pub(crate) use registry::Registry;
pub(crate) use validate::is_secret_reference;

use crate::Kind;
use crate::plugin::PluginMeta;

/// Names that the Admin API's schema endpoint knows.
const PUBLIC: &[&str] = &[
    "route",
    "service",
    "consumer",
    "credential",
    "upstream",
    "ssl",
    "proto",
    "global_rule",
    "stream_route",
    "plugins",
    "plugin_config",
    "consumer_group",
    "id_schema",
    "host_def",
    "uri_def",
    "label_value_def",
    "method_schema",
    "health_checker",
    "health_checker_active",
    "health_checker_passive",
    "discovery_nodes",
    "upstream_hash_vars_schema",
    "upstream_hash_header_schema",
    "upstream_hash_vars_combinations_schema",
    "plugin_injected_schema",
    "graphql_cost_decoration",
    "ip_set",
];

/// Names in the `main` member of the control API's answer.
const MAIN: &[&str] = &[
    "consumer",
    "consumer_group",
    "global_rule",
    "graphql_cost_decoration",
    "plugin_config",
    "plugins",
    "proto",
    "route",
    "service",
    "ssl",
    "stream_route",
    "upstream",
    "upstream_hash_header_schema",
    "upstream_hash_vars_schema",
];

/// The schema that `GET /apisix/admin/schema/{name}` answers.
#[must_use]
pub fn named(name: &str) -> Option<&'static Value> {
    if PUBLIC.contains(&name) { Registry::get().documents.get(name) } else { None }
}

/// The `main` member of the control API's `GET /v1/schema`: schemas by name.
#[must_use]
pub fn main_schemas() -> Map<String, Value> {
    MAIN.iter().filter_map(|name| Some(((*name).to_owned(), named(name)?.clone()))).collect()
}

/// The schema of a plugin's configuration with the injected `_meta` and `$comment`.
#[must_use]
pub fn plugin_schema(meta: &PluginMeta) -> Value {
    let mut schema: Map<String, Value> = serde_json::from_str(meta.schema).unwrap_or_default();
    let injected = Registry::get().documents.get("plugin_meta").cloned().unwrap_or_default();
    match schema.get_mut("properties").and_then(Value::as_object_mut) {
        Some(properties) => {
            properties.insert("_meta".to_owned(), injected);
        }
        None => {
            schema.insert("properties".to_owned(), json!({"_meta": injected}));
        }
    }
    schema.insert("$comment".to_owned(), Value::String(registry::INJECTED.to_owned()));
    Value::Object(expand_or_keep(schema))
}

/// A plugin's schema may name shared definitions such as `upstream` by `$ref`.
fn expand_or_keep(schema: Map<String, Value>) -> Map<String, Value> {
    let document = Value::Object(schema);
    match expand::expand(&document, &Registry::get().documents).unwrap_or(document) {
        Value::Object(schema) => schema,
        _ => Map::new(),
    }
}

/// Sets absent members to the defaults of the kind's schema.
pub fn fill_defaults(kind: Kind, value: &mut Value) {
    if let Some(schema) = Registry::get().kind(kind) {
        schema.fill(value);
    }
}

/// The defaults of a plugin's configuration or metadata.
#[derive(Debug)]
pub struct Defaults(Option<Compiled>);

impl Defaults {
    /// Those of the configuration.
    #[must_use]
    pub fn of_plugin(meta: &PluginMeta) -> Self {
        Self(Compiled::new(&plugin_schema(meta)).ok()) // an unusable schema refuses every write
    }

    /// Those of the metadata; `None` if the plugin has none.
    #[must_use]
    pub fn of_metadata(meta: &PluginMeta) -> Option<Self> {
        let schema = serde_json::from_str(meta.metadata_schema?).unwrap_or_default();
        Some(Self(Compiled::new(&schema).ok()))
    }

    /// Sets absent members to their defaults.
    pub fn fill(&self, value: &mut Value) {
        if let Some(schema) = &self.0 {
            schema.fill(value);
        }
    }
}
