//! Whether a value has the shape of its key, and how to write one that does.

use serde_json::Value;

use super::keys::{Key, Shape};
use super::nearest::nearest;
use super::reading::whole;
use super::wording;

/// Code, path and reason of a value that does not have its shape.
pub(super) fn misfit(
    shape: Shape,
    value: &Value,
    path: &str,
    lenient: bool,
) -> Option<(&'static str, String, String)> {
    let kind = |expected: &str| {
        Some(("config/type", path.to_owned(), wording::wrong_type(expected, value)))
    };
    let range = |reason: String| Some(("config/value", path.to_owned(), reason));
    match shape {
        Shape::Free => None,
        Shape::Section => {
            let empty = value.as_array().is_some_and(Vec::is_empty);
            if value.is_object() || empty { None } else { kind("object") }
        }
        Shape::Bool => {
            if value.is_boolean() {
                None
            } else {
                kind("boolean")
            }
        }
        Shape::Number => {
            if value.is_number() {
                None
            } else {
                kind("number")
            }
        }
        Shape::Text => {
            if value.is_string() {
                None
            } else {
                kind("string")
            }
        }
        Shape::Scalar => {
            if value.is_string() || value.is_number() {
                None
            } else {
                kind("string")
            }
        }
        Shape::Int(low, high) => {
            let digits = lenient && value.is_string();
            if !value.is_number() && !digits {
                return kind("integer");
            }
            match whole(value) {
                None => kind("integer"),
                Some(number) if number < low => {
                    range(format!("expected {number} to be at least {low}"))
                }
                Some(number) if number > high => {
                    range(format!("expected {number} to be at most {high}"))
                }
                Some(_) => None,
            }
        }
        Shape::Words(words) => match value.as_str() {
            None => kind("string"),
            Some(word) if words.contains(&word) => None,
            Some(_) => range("matches none of the enum values".to_owned()),
        },
        Shape::Items => {
            list(value).map_or_else(|| kind("array"), |items| at_least_one(items, path))
        }
        Shape::Texts(some) => {
            let Some(items) = list(value) else { return kind("array") };
            if let Some((index, item)) =
                items.iter().enumerate().find(|(_, item)| !item.is_string())
            {
                let at = format!("{path}[{index}]");
                return Some(("config/type", at, wording::wrong_type("string", item)));
            }
            if some { at_least_one(items, path) } else { None }
        }
    }
}

/// The items of a list; an empty mapping is an empty list, as in the reference.
fn list(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(items) => Some(items),
        Value::Object(map) if map.is_empty() => Some(&[]),
        _ => None,
    }
}

fn at_least_one(items: &[Value], path: &str) -> Option<(&'static str, String, String)> {
    let code = if path.contains("stream_proxy") { "stream-proxy/empty" } else { "config/value" };
    items
        .is_empty()
        .then(|| (code, path.to_owned(), "expect array to have at least 1 items".to_owned()))
}

/// How to write a value of this shape.
pub(super) fn advice(key: &Key, value: &Value) -> String {
    let name = key.path.rsplit('.').next().unwrap_or(key.path);
    let by_default = || {
        let default = if key.default.is_empty() { "..." } else { key.default };
        format!("write a list, e.g. {name}: {default}")
    };
    match key.shape {
        Shape::Section => format!("put the members of {name} on indented lines below it"),
        Shape::Bool => format!("write {name}: true or {name}: false, without quotes"),
        Shape::Int(..) if whole(value).is_some() && value.is_string() => {
            format!("remove the quotes: {name}: {}", value.as_str().unwrap_or_default())
        }
        Shape::Int(low, i64::MAX) => format!("write a whole number, at least {low}"),
        Shape::Int(low, high) => format!("write a whole number from {low} to {high}"),
        Shape::Number => "write a number, without quotes".to_owned(),
        Shape::Text | Shape::Scalar => format!("write a string: {name}: \"...\""),
        Shape::Words(words) => match value.as_str().and_then(|word| nearest(word, words)) {
            Some(near) => format!("did you mean {near}? possible are {}", words.join(", ")),
            None => format!("write one of {}", words.join(", ")),
        },
        Shape::Items if value.as_array().is_some_and(Vec::is_empty) => {
            format!("add an item (- 9100), or remove {name}")
        }
        Shape::Items => format!("write a list: {name}: [9100]"),
        Shape::Texts(_) | Shape::Free => by_default(),
    }
}

/// The type of a value in a sentence.
pub(super) const fn spoken(value: &Value) -> &'static str {
    match value {
        Value::Array(_) => "list",
        Value::Object(_) => "mapping",
        other => wording::lua_type(other),
    }
}
