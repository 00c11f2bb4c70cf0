//! The `protocol` member of stream routes (xRPC).

use serde_json::Value;

use super::Checker;
use crate::schema::Registry;

/// Protocols that this program knows.
pub(super) const BUILTIN: &[&str] = &["redis", "dubbo"];

/// The protocol must be enabled and its configuration must suit it.
///
/// # Errors
/// The reference's message.
pub(super) fn check(checker: &Checker, route: &Value) -> Result<(), String> {
    let Some(protocol) = route.get("protocol") else { return Ok(()) };
    let name = protocol.get("name").and_then(Value::as_str).unwrap_or_default();
    if !checker.protocols.iter().any(|known| known == name) {
        return Err(format!("unknown protocol [{name}]"));
    }
    match (protocol.get("conf"), Registry::get().named(&format!("xrpc/{name}"))) {
        (Some(conf), Some(schema)) => schema.validate(conf),
        _ => Ok(()),
    }
}
