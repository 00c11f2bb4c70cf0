//! Keys of older versions: their values move to where they live now, with a warning.

use serde_json::Value;

use super::keys::{self, Use};
use super::reading::{Reading, pointer};

/// Older key whose value stays where it is; `keyring.rs` reads it there.
pub(super) const SALT: &str = "apisix.ssl.key_encrypt_salt";
const ONLY: &str = "apisix.stream_proxy.only";

/// Moves everything that the table calls moved.
pub(super) fn translate(reading: &mut Reading<'_>) {
    for key in keys::all() {
        let Use::Moved(to) = key.used else { continue };
        if !reading.wrote(key.path) {
            continue;
        }
        match key.path {
            ONLY => warn_of_only(reading),
            SALT => warn_of_salt(reading),
            path => shift(reading, path, to),
        }
    }
}

/// Moves one value, unless the new key is there too.
fn shift(reading: &mut Reading<'_>, from: &str, to: &str) {
    if reading.wrote(to) || !can_hold(&reading.document.value, to) {
        let other = reading.place(to);
        let message = format!("{from} is the older spelling of {to} and is ignored beside it");
        let note = reading.warning("config/deprecated", from, message).label("ignored");
        note.help(format!("remove {from}")).related(other, "this one counts");
        return;
    }
    let value = take(&mut reading.document.value, from);
    let shown = shown(to, &value);
    let message = format!("{from} is an older spelling of {to}");
    let note = reading.warning("config/deprecated", from, message);
    note.label("still understood").help(format!("write it in the new form:\n{shown}"));
    keys::place(&mut reading.document.value, to, value);
    reading.document.move_spans(&pointer(from), &pointer(to));
}

fn warn_of_only(reading: &mut Reading<'_>) {
    let document = &reading.document.value;
    let http_off = document.pointer("/apisix/enable_admin") == Some(&Value::Bool(false))
        && document.pointer(&pointer(ONLY)) != Some(&Value::Bool(false));
    let mode = if http_off { "stream" } else { "http&stream" };
    let help = if reading.wrote("apisix.proxy_mode") {
        "remove it; apisix.proxy_mode decides".to_owned()
    } else {
        format!("remove it and say which planes run:\napisix:\n  proxy_mode: {mode}")
    };
    let message = "apisix.stream_proxy.only is an older key; apisix.proxy_mode replaced it";

    reading.warning("config/deprecated", ONLY, message).label("no effect any more").help(help);
}

fn warn_of_salt(reading: &mut Reading<'_>) {
    let message = format!(
        "{SALT} is an older key; its values are appended to apisix.data_encryption.keyring"
    );
    let help = "append them to the keyring yourself:\napisix:\n  data_encryption:\n    keyring: [<new key>, <old key>]";
    reading.warning("config/deprecated", SALT, message).label("still understood").help(help);
}

/// Whether every part of the way to `path` is a mapping or absent.
fn can_hold(root: &Value, path: &str) -> bool {
    let mut here = root;
    for step in path.split('.') {
        match here {
            Value::Object(map) => match map.get(step) {
                Some(next) => here = next,
                None => return true,
            },
            Value::Null => return true,
            _ => return false,
        }
    }
    true
}

fn take(root: &mut Value, path: &str) -> Value {
    let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
    root.pointer_mut(&pointer(parent))
        .and_then(Value::as_object_mut)
        .and_then(|map| map.shift_remove(name))
        .unwrap_or_default()
}

/// A key in block style; scalars with their value, secrets and everything else with dots.
fn shown(path: &str, value: &Value) -> String {
    let mut lines = Vec::new();
    for (depth, step) in path.split('.').enumerate() {
        lines.push(format!("{}{step}:", "  ".repeat(depth)));
    }
    let value = match value {
        Value::Bool(_) | Value::Number(_) | Value::Null => value.to_string(),
        Value::String(text) => text.clone(),
        _ => "...".to_owned(),
    };
    format!("{} {value}", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_new_form_is_shown() {
        assert_eq!(shown("a.b", &json!(1)), "a:\n  b: 1");
        assert_eq!(shown("a", &json!([1])), "a: ...");
    }

    #[test]
    fn scalars_in_the_way_are_seen() {
        assert!(can_hold(&json!({"a": null}), "a.b"));
        assert!(can_hold(&json!({}), "a.b"));
        assert!(!can_hold(&json!({"a": 1}), "a.b"));
    }
}
