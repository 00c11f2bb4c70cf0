//! The user's values over the defaults.
//!
//! As in the reference null deletes a default, lists replace it, mappings are merged. Two
//! differences keep a half-commented file safe: a *section* that is null or empty leaves its
//! defaults alone (there it would drop, for example, `allow_admin`).

use serde_json::{Map, Value};

use super::keys::{self, Shape};

/// Overlays `user` on the defaults.
pub(super) fn merge(user: &Value) -> Value {
    let mut merged = keys::defaults();
    if let (Value::Object(base), Value::Object(user)) = (&mut merged, user) {
        overlay(base, user, "");
    }
    merged
}

fn overlay(base: &mut Map<String, Value>, user: &Map<String, Value>, path: &str) {
    for (name, value) in user {
        let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let section = keys::find(&below).is_some_and(|key| key.shape == Shape::Section);
        match value {
            Value::Null if section => {}
            Value::Null => {
                base.shift_remove(name);
            }
            Value::Array(items) if section && items.is_empty() => {}
            Value::Object(map) if map.is_empty() && section => {
                base.entry(name.as_str()).or_insert_with(|| Value::Object(Map::new()));
            }
            Value::Object(map) if map.is_empty() => {
                base.insert(name.clone(), Value::Array(Vec::new()));
            }
            Value::Object(map) => {
                let slot = base.entry(name.as_str()).or_insert(Value::Null);
                if !slot.is_object() {
                    *slot = Value::Object(Map::new());
                }
                if let Value::Object(base) = slot {
                    overlay(base, map, &below);
                }
            }
            // A scalar in the place of a section is an error already; the defaults stay.
            _ if section => {}
            other => {
                base.insert(name.clone(), other.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn null_deletes_lists_replace_mappings_merge() {
        let merged = merge(&json!({
            "apisix": {"data_encryption": {"keyring": null}, "control": {"port": 1}, "ssl": {}},
            "stream_plugins": [],
            "deployment": {"admin": null, "etcd": {"host": {}}},
        }));
        assert_eq!(merged.pointer("/apisix/data_encryption/keyring"), None);
        assert_eq!(merged.pointer("/apisix/control/ip").unwrap(), "127.0.0.1");
        assert_eq!(merged.pointer("/apisix/control/port").unwrap(), 1);
        assert_eq!(merged.pointer("/stream_plugins").unwrap(), &json!([]));
        assert_eq!(merged.pointer("/deployment/etcd/host").unwrap(), &json!([]));
        assert_eq!(merged.pointer("/deployment/admin/allow_admin/0").unwrap(), "127.0.0.0/24");
    }
}
