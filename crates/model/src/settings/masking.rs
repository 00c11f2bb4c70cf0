//! Hides secrets in the text that excerpts are taken from, so that problems can go to a log.

use serde_json::Value;

use super::reading::pointer;
use crate::yaml::Document;

/// Paths of secrets; lists and mappings hide every scalar below them, except names and roles.
const SECRETS: &[&str] = &[
    "apisix.data_encryption.keyring",
    "apisix.ssl.key_encrypt_salt",
    "apisix.admin_key",
    "deployment.admin.admin_key",
    "deployment.etcd.password",
    "etcd.password",
    "vault",
    "discovery",
];

/// Members that may be shown.
const OPEN: &[&str] = &["name", "role", "host", "servers"];

/// The document's text with `*` in place of every byte of a secret; all positions stay valid.
pub(super) fn mask(document: &Document) -> String {
    let mut bytes = document.text.clone().into_bytes();
    for path in SECRETS {
        let pointer = pointer(path);
        if let Some(value) = document.value.pointer(&pointer) {
            hide(document, value, &pointer, &mut bytes);
        }
    }
    String::from_utf8(bytes).unwrap_or_default()
}

fn hide(document: &Document, value: &Value, pointer: &str, bytes: &mut [u8]) {
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                hide(document, item, &format!("{pointer}/{index}"), bytes);
            }
        }
        Value::Object(map) => {
            for (name, member) in map.iter().filter(|(name, _)| !OPEN.contains(&name.as_str())) {
                let below = format!("{pointer}/{}", crate::yaml::pointer_step(name));
                hide(document, member, &below, bytes);
            }
        }
        Value::String(_) | Value::Number(_) => {
            let Some(span) = document.spans.get(pointer).map(|span| span.value.clone()) else {
                return;
            };
            let variable = document.text.get(span.clone()).is_none_or(|text| text.contains("${{"));
            if let Some(secret) = bytes.get_mut(span).filter(|_| !variable) {
                let kept = |byte: &u8| matches!(byte, b'"' | b'\'' | b'\n' | b'\r' | b' ');
                secret.iter_mut().filter(|byte| !kept(byte)).for_each(|byte| *byte = b'*');
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn secrets_are_hidden_and_nothing_moves() {
        let text = "apisix:\n  data_encryption: {keyring: [\"sécret\", plain]}\ndeployment:\n  admin:\n    admin_key:\n      - {name: root, key: hush, role: admin}\n      - {name: v, key: \"${{KEY}}\", role: viewer}\n";
        let masked = mask(&Document::parse(text, Path::new("t")).unwrap());
        assert_eq!(masked.len(), text.len());
        for secret in ["cret", "plain", "hush"] {
            assert!(!masked.contains(secret), "{masked}");
        }
        assert!(
            masked.contains("name: root, key: ****, role: admin") && masked.contains("${{KEY}}")
        );
    }
}
