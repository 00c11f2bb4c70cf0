//! Values as YAML in block style. Strings are quoted as in JSON, which YAML reads the same way, so
//! nothing is taken for something else (`on`, `1e3`, `~`).

use serde_json::Value;

/// Writes a value; reading it gives the same value.
#[must_use]
pub fn write(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, false, &mut out);
    out
}

/// Writes below `indent`; `is_inline`: the cursor stands behind `- ` already.
fn block(value: &Value, indent: usize, is_inline: bool, out: &mut String) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (at, (name, member)) in members.iter().enumerate() {
                if at > 0 || !is_inline {
                    pad(indent, out);
                }
                out.push_str(&key(name));
                out.push(':');
                below(member, indent, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (at, item) in items.iter().enumerate() {
                if at > 0 || !is_inline {
                    pad(indent, out);
                }
                out.push_str("- ");
                if is_nested(item) {
                    block(item, indent + 2, true, out);
                } else {
                    scalar(item, out);
                }
            }
        }
        other => {
            if !is_inline {
                pad(indent, out);
            }
            scalar(other, out);
        }
    }
}

/// The value of a key.
fn below(value: &Value, indent: usize, out: &mut String) {
    if is_nested(value) {
        out.push('\n');
        block(value, indent + 2, false, out);
    } else {
        out.push(' ');
        scalar(value, out);
    }
}

fn is_nested(value: &Value) -> bool {
    match value {
        Value::Object(members) => !members.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    }
}

fn scalar(value: &Value, out: &mut String) {
    out.push_str(&value.to_string());
    out.push('\n');
}

/// A plain word where that is safe, else quoted.
fn key(name: &str) -> String {
    let mut chars = name.chars();
    let starts = chars.next().is_some_and(|c| c.is_ascii_alphabetic());
    let plain = starts && chars.all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    let word = matches!(
        name.to_ascii_lowercase().as_str(),
        "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n"
    );
    if plain && !word { name.to_owned() } else { Value::from(name).to_string() }
}

fn pad(indent: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', indent));
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::yaml::Document;

    #[test]
    fn block_style() {
        let value = json!({"routes": [{"id": "1", "uris": ["/a", "/b"], "x": {}}, [1, [2]]], "on": "~", "e": []});
        assert_eq!(
            write(&value),
            "routes:\n  - id: \"1\"\n    uris:\n      - \"/a\"\n      - \"/b\"\n    x: {}\n  - - 1\n    - - 2\n\"on\": \"~\"\ne: []\n"
        );
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[ -~]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map("[ -~]{0,8}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_the_same(value in values()) {
            let value = json!({ "top": value });
            let text = write(&value);
            let read = Document::parse(&text, Path::new("t.yaml"));
            prop_assert_eq!(read.map(|document| document.value).map_err(|_| text), Ok(value));
        }
    }
}
