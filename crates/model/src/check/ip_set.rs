//! Sets of networks and their entries.

use serde_json::Value;

use super::invalid;
use crate::Kind;
use crate::resource::ip_set;
use crate::schema::Registry;

/// The networks of a set, after its schema.
pub(super) fn check(value: &Value) -> Result<(), String> {
    let entries = value.get("entries").and_then(Value::as_array);
    for (index, item) in entries.into_iter().flatten().enumerate() {
        ip_set::member(item).map_err(|error| format!("entries[{}]: {error}", index + 1))?;
    }
    Ok(())
}

/// An entry `{set}/entries/{network}`.
pub(super) fn entry(id: &str, value: &Value) -> Result<(), String> {
    if let Some(schema) = Registry::get().kind(Kind::IpSetEntry) {
        schema.validate(value).map_err(invalid)?;
    }
    ip_set::entry(id, value).map(drop)
}
