//! The `plugins` member of resources.

use serde_json::{Map, Value};

use super::Checker;

/// What to do with a plugin that is not enabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    /// A write is refused.
    Refuse,
    /// A stored value is used without it.
    Skip,
}

impl Checker {
    /// Plugins of a stream route: stream plugins only.
    pub(super) fn stream_plugins(&self, value: &Value, unknown: Unknown) -> Result<(), String> {
        for (name, conf) in plugins(value) {
            is_table(name, conf)?;
            match self.stream_plugin(name, conf) {
                Some(result) => result.map_err(|error| {
                    format!("failed to check the configuration of stream plugin [{name}]: {error}")
                })?,
                None if unknown == Unknown::Skip => {}
                None => return Err(unknown_plugin(name)),
            }
        }
        Ok(())
    }

    /// Plugins of a service, which streams and HTTP routes share. The names of both sides are
    /// known; the ones that streams run are checked.
    pub(super) fn service_plugins(&self, value: &Value, unknown: Unknown) -> Result<(), String> {
        for (name, conf) in plugins(value) {
            is_table(name, conf)?;
            match self.stream_plugin(name, conf) {
                Some(result) => result.map_err(|error| {
                    format!("failed to check the configuration of plugin {name} err: {error}")
                })?,
                None if unknown == Unknown::Skip || self.catalog.has_http(name) => {}
                None => return Err(unknown_plugin(name)),
            }
        }
        Ok(())
    }

    /// Plugins that only the HTTP plane would run: the names must be known.
    pub(super) fn http_plugins(&self, value: &Value) -> Result<(), String> {
        for (name, conf) in plugins(value) {
            is_table(name, conf)?;
            if !self.catalog.has_http(name) {
                return Err(unknown_plugin(name));
            }
        }
        Ok(())
    }

    /// Checks one stream plugin; `None` if there is none of that name. A disabled plugin may be
    /// configured wrongly.
    fn stream_plugin(&self, name: &str, conf: &Value) -> Option<Result<(), String>> {
        let meta = self.catalog.stream(name)?;
        let result = match self.plugin(name)? {
            Ok(schema) => schema.validate(conf),
            Err(error) => Err(error.clone()),
        };
        let result = result.and_then(|()| meta.check.map_or(Ok(()), |check| check(conf)));
        Some(if is_disabled(conf) { Ok(()) } else { result })
    }
}

fn plugins(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.get("plugins").and_then(Value::as_object).into_iter().flat_map(Map::iter)
}

fn is_disabled(conf: &Value) -> bool {
    conf.get("_meta").and_then(|meta| meta.get("disable")) == Some(&Value::Bool(true))
}

fn is_table(name: &str, conf: &Value) -> Result<(), String> {
    if conf.is_object() || conf.is_array() {
        return Ok(());
    }
    // The reference's JSON encoder escapes slashes.
    let conf = conf.to_string().replace('/', "\\/");
    Err(format!("invalid plugin conf {conf} for plugin [{name}]"))
}

fn unknown_plugin(name: &str) -> String {
    format!("unknown plugin [{name}]")
}
