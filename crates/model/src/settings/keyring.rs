//! `apisix.data_encryption.keyring`, with the values of the older `key_encrypt_salt` appended.

use serde_json::Value;

use super::Keyring;
use super::legacy::SALT;
use super::reading::{Reading, pointer};

const KEYRING: &str = "apisix.data_encryption.keyring";

/// Reads the keys; none switches encryption off.
pub(super) fn read(reading: &mut Reading<'_>) -> Vec<Keyring> {
    let current = reading.get(KEYRING).cloned();
    let salt = reading.document.value.pointer(&pointer(SALT)).cloned();
    let mut keys = Vec::new();
    for (path, value) in [(KEYRING, current), (SALT, salt)] {
        match value {
            None | Some(Value::Null) => {}
            Some(Value::Array(items)) => {
                if items.is_empty() && path == KEYRING {
                    refuse(reading, path, "empty");
                }
                for (index, item) in items.iter().enumerate() {
                    one(reading, &format!("{path}[{index}]"), item, &mut keys);
                }
            }
            Some(other) => one(reading, path, &other, &mut keys),
        }
    }
    keys
}

fn one(reading: &mut Reading<'_>, path: &str, value: &Value, keys: &mut Vec<Keyring>) {
    let Some(text) = value.as_str() else {
        return refuse(reading, path, "not a string");
    };
    if text.len() != 16 && text.len() != 32 {
        return refuse(reading, path, &format!("this one has {} bytes", text.len()));
    }
    if !keys.iter().any(|key| key.0 == text) {
        keys.push(Keyring(text.to_owned()));
    }
}

/// The message names the list, as in the reference; the place is the key itself.
fn refuse(reading: &mut Reading<'_>, path: &str, label: &str) {
    let list = path.split('[').next().unwrap_or(path);
    let message =
        super::wording::schema(&reading.role, list, "object matches none of the required");
    let note = reading.error("encryption/keyring", path, message).label(label);
    note.help("each key has exactly 16 or 32 characters; keyring: ~ switches encryption off");
}
