//! Certificates after their schema (`spec/schemas.md`, section 6).

use serde_json::Value;

use super::{Checker, pem};
use crate::schema::is_secret_reference;

/// Reads everything that is PEM. References to secrets are resolved later, so pairs with one are
/// left alone.
///
/// # Errors
/// The reference's message.
pub(super) fn check(checker: &Checker, value: &Value) -> Result<(), String> {
    pair(checker, value.get("cert"), value.get("key"))?;
    if value.get("type").and_then(Value::as_str) == Some("client") {
        return Ok(());
    }
    let list =
        |name: &str| value.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let (certs, keys) = (list("certs"), list("keys"));
    if certs.len() != keys.len() {
        return Err("mismatched number of certs and keys".to_owned());
    }
    for (index, (cert, key)) in certs.iter().zip(keys).enumerate() {
        pair(checker, Some(cert), Some(key))
            .map_err(|error| format!("failed to handle cert-key pair[{}]: {error}", index + 1))?;
    }
    match value.get("client").and_then(|client| client.get("ca")) {
        Some(ca) if !is_secret_reference(ca) => pem::certificates(ca.as_str().unwrap_or_default())
            .map_err(|error| format!("failed to validate client_cert: {error}")),
        _ => Ok(()),
    }
}

fn pair(checker: &Checker, cert: Option<&Value>, key: Option<&Value>) -> Result<(), String> {
    let (Some(cert), Some(key)) = (cert, key) else { return Ok(()) };
    if is_secret_reference(cert) || is_secret_reference(key) {
        return Ok(());
    }
    pem::pair(checker, cert.as_str().unwrap_or_default(), key.as_str().unwrap_or_default())
}
