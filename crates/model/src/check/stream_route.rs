//! Stream routes after their schema, in the order of `spec/admin-api.md`, section 4.

use serde_json::Value;

use super::plugins::Unknown;
use super::{Checker, Found, address, exists, protocol};
use crate::Kind;
use crate::reference::id_member;

/// All checks of a write.
///
/// # Errors
/// The reference's message.
pub(super) fn check(
    checker: &Checker,
    id: &str,
    value: &Value,
    found: Found<'_>,
) -> Result<(), String> {
    names(value)?;
    exists(Kind::Upstream, value, "upstream_id", found)?;
    exists(Kind::Service, value, "service_id", found)?;
    superior(id, value, found)?;
    checker.stream_plugins(value, Unknown::Refuse)?;
    addresses(value)?;
    protocol::check(checker, value)
}

/// The checks of a stored route.
///
/// # Errors
/// The reference's message.
pub(super) fn load(checker: &Checker, value: &Value) -> Result<(), String> {
    names(value)?;
    checker.stream_plugins(value, Unknown::Skip)?;
    addresses(value)?;
    protocol::check(checker, value)
}

/// One spelling of the names is enough.
fn names(value: &Value) -> Result<(), String> {
    match value.get("sni").is_some() && value.get("snis").is_some() {
        true => Err("only one of sni and snis can be set".to_owned()),
        false => Ok(()),
    }
}

/// The route that hands sessions to this one must exist and speak the same protocol.
fn superior(id: &str, value: &Value, found: Found<'_>) -> Result<(), String> {
    let Some(protocol) = value.get("protocol") else { return Ok(()) };
    let Some(superior_id) = id_member(protocol, "superior_id") else { return Ok(()) };
    if superior_id == id {
        return Err("stream route can not set itself as superior_id".to_owned());
    }
    let Some(superior) = found(Kind::StreamRoute, &superior_id) else {
        return Err(format!("failed to fetch stream routes[{superior_id}], response code: 404"));
    };
    let name = |protocol: Option<&Value>| {
        let name = protocol.and_then(|protocol| protocol.get("name")).and_then(Value::as_str);
        name.unwrap_or("nil").to_owned()
    };
    let (own, other) = (name(Some(protocol)), name(superior.get("protocol")));
    if own == other {
        return Ok(());
    }
    Err(format!(
        "protocol mismatch: subordinate protocol [{own}] does not match superior protocol [{other}]"
    ))
}

fn addresses(value: &Value) -> Result<(), String> {
    for name in ["remote_addr", "server_addr"] {
        if let Some(text) = value.get(name).and_then(Value::as_str)
            && address::parse(text).is_none()
        {
            return Err(format!("invalid {name}: {text}"));
        }
    }
    Ok(())
}
