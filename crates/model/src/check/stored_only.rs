//! Kinds whose schema depends on their id: secrets and plugin metadata.

use serde_json::Value;

use super::{Checker, invalid};
use crate::http_plugins;
use crate::schema::{Compiled, Registry};

/// Plugins that exist for streams only.
const STREAM_ONLY: &[&str] = &["mqtt-proxy"];

/// The schema of one secret manager's configuration.
pub(super) fn secret_schema(manager: &str) -> Option<&'static Compiled> {
    Registry::get().named(&format!("secret/{manager}"))
}

/// A write of the secret `manager/name`.
///
/// # Errors
/// The reference's message.
pub(super) fn secret(id: &str, value: &Value) -> Result<(), String> {
    let (manager, _) = id.split_once('/').unwrap_or((id, ""));
    let schema =
        secret_schema(manager).ok_or_else(|| format!("invalid secret manager: {manager}"))?;
    schema.validate(value).map_err(invalid)
}

/// A stored secret.
///
/// # Errors
/// The reference's message.
pub(super) fn load_secret(id: &str, value: &Value) -> Result<(), String> {
    let (manager, name) = id.split_once('/').unwrap_or((id, ""));
    if name.is_empty() {
        return Err("no secret id".to_owned());
    }
    let schema = secret_schema(manager)
        .ok_or_else(|| format!("secret manager not exits, manager: {manager}"))?;
    schema.validate(value)
}

/// A write of the metadata of the plugin `name`, which need not be enabled.
///
/// # Errors
/// The reference's message.
pub(super) fn plugin_metadata(checker: &Checker, name: &str, value: &Value) -> Result<(), String> {
    let known = checker.catalog.stream(name).is_some()
        || checker.catalog.has_http(name)
        || http_plugins::is_known(name)
        || STREAM_ONLY.contains(&name);
    if !known {
        return Err("invalid plugin name".to_owned());
    }
    metadata_schema(checker, name, value)
}

/// The schema of a plugin's metadata; any object if it has none. The schema of the HTTP plugin
/// counts for a name that both sides have.
///
/// # Errors
/// The reference's message.
pub(super) fn metadata_schema(checker: &Checker, name: &str, value: &Value) -> Result<(), String> {
    if name == "syslog" {
        let schema = Registry::get().named("http_syslog_metadata");
        return schema.map_or(Ok(()), |schema| schema.validate(value)).map_err(invalid);
    }
    checker.schema(crate::Kind::PluginMetadata, value).map_err(invalid)?;
    let Some(text) = checker.catalog.stream(name).and_then(|meta| meta.metadata_schema) else {
        return Ok(());
    };
    let schema: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    Compiled::new(&schema)?.validate(value).map_err(invalid)
}
