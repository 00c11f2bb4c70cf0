//! The table of all keys of `config.yaml`: shape, default, whether headgate reads them, meaning.
//!
//! Everything generic comes from this one table: the defaults, the check of types, the warnings
//! for unknown keys and for keys without effect, and `docs/reference/config.md`.

mod apisix;
mod deployment;
mod headgate;
mod nginx;
mod plugins;
pub mod reference;

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};

/// What a value must look like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Shape {
    /// A mapping whose members are in the table.
    Section,
    /// `true` or `false`.
    Bool,
    /// A whole number within bounds.
    Int(i64, i64),
    /// Any number.
    Number,
    /// A string.
    Text,
    /// A number or a string.
    Scalar,
    /// One of these words.
    Words(&'static [&'static str]),
    /// A list of strings; `true` forbids the empty list.
    Texts(bool),
    /// A list that its own code checks; never empty.
    Items,
    /// Checked by its own code.
    Free,
}

impl Shape {
    /// Name for the reference page.
    pub(super) fn name(self) -> String {
        match self {
            Self::Section => "mapping".to_owned(),
            Self::Bool => "boolean".to_owned(),
            Self::Int(i64::MIN, i64::MAX) => "integer".to_owned(),
            Self::Int(1, 65535) => "port".to_owned(),
            Self::Int(low, i64::MAX) => format!("integer, at least {low}"),
            Self::Int(low, high) => format!("integer, {low} to {high}"),
            Self::Number => "number".to_owned(),
            Self::Text => "string".to_owned(),
            Self::Scalar => "number or string".to_owned(),
            Self::Words(words) => words.join(", "),
            Self::Texts(_) => "list of strings".to_owned(),
            Self::Items => "list".to_owned(),
            Self::Free => "see text".to_owned(),
        }
    }
}

/// What headgate does with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// It is honoured.
    Read,
    /// It is accepted and changes nothing, for this reason.
    Idle(&'static str),
    /// An older spelling of this key.
    Moved(&'static str),
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    /// Dotted path; `[]` is any list item, `*` any name.
    pub(super) path: &'static str,
    pub(super) shape: Shape,
    /// Default as JSON; empty when there is none to merge.
    pub(super) default: &'static str,
    pub(super) used: Use,
    /// Meaning, for the reference page.
    pub(super) doc: &'static str,
}

impl Key {
    /// The default as a value.
    pub(super) fn default_value(&self) -> Option<Value> {
        serde_json::from_str(self.default).ok()
    }
}

/// A key that headgate honours.
const fn read(path: &'static str, shape: Shape, default: &'static str, doc: &'static str) -> Key {
    Key { path, shape, default, used: Use::Read, doc }
}

/// A mapping.
const fn section(path: &'static str, doc: &'static str) -> Key {
    Key { path, shape: Shape::Section, default: "", used: Use::Read, doc }
}

/// A key without effect, because ...
const fn idle(path: &'static str, reason: &'static str) -> Key {
    Key { path, shape: Shape::Free, default: "", used: Use::Idle(reason), doc: "" }
}

/// An older spelling.
const fn moved(path: &'static str, to: &'static str) -> Key {
    Key { path, shape: Shape::Free, default: "", used: Use::Moved(to), doc: "" }
}

/// All rows, in the order of the reference page.
pub(super) fn all() -> impl Iterator<Item = &'static Key> {
    [apisix::KEYS, nginx::KEYS, plugins::KEYS, headgate::KEYS, deployment::KEYS]
        .into_iter()
        .flatten()
}

static BY_PATH: LazyLock<HashMap<&'static str, &'static Key>> =
    LazyLock::new(|| all().map(|key| (key.path, key)).collect());

/// The row of a dotted path (`[]` for list items); a `*` row serves names without their own.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    BY_PATH.get(path).copied().or_else(|| {
        let (parent, _) = path.rsplit_once('.')?;
        BY_PATH.get(format!("{parent}.*").as_str()).copied()
    })
}

/// Names of the members that a section may have.
pub(super) fn members(path: &str) -> Vec<&'static str> {
    all()
        .filter_map(|key| {
            if path.is_empty() {
                return (!key.path.contains('.')).then_some(key.path);
            }
            let name = key.path.strip_prefix(path)?.strip_prefix('.')?;
            (!name.contains('.') && name != "*").then_some(name)
        })
        .collect()
}

/// All defaults as one document.
pub(super) fn defaults() -> Value {
    let mut root = Value::Object(Map::new());
    for key in all() {
        if let Some(value) = key.default_value() {
            place(&mut root, key.path, value);
        }
    }
    root
}

/// Puts a value at a dotted path, making mappings on the way.
pub(super) fn place(root: &mut Value, path: &str, value: Value) {
    let mut here = root;
    for step in path.split('.') {
        if !here.is_object() {
            *here = Value::Object(Map::new());
        }
        let Value::Object(map) = here else { return };
        here = map.entry(step).or_insert(Value::Null);
    }
    *here = value;
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn rows_are_unique_and_have_parents() {
        let mut seen = HashSet::new();
        for key in all() {
            assert!(seen.insert(key.path), "{} is there twice", key.path);
            if let Some((parent, _)) = key.path.rsplit_once('.') {
                let parent = parent.trim_end_matches("[]");
                assert!(find(parent).is_some(), "{} has no parent row", key.path);
            }
            assert_eq!(key.doc.is_empty(), key.used != Use::Read, "{}", key.path);
            assert!(key.default.is_empty() || key.default_value().is_some(), "{}", key.path);
        }
    }

    #[test]
    fn moved_keys_lead_somewhere() {
        for key in all() {
            if let Use::Moved(to) = key.used {
                assert!(find(to).is_some_and(|key| key.used == Use::Read), "{}", key.path);
            }
        }
    }

    #[test]
    fn defaults_are_those_of_the_reference() {
        let defaults = defaults();
        assert_eq!(defaults.pointer("/deployment/admin/admin_listen/port").unwrap(), 9180);
        assert_eq!(defaults.pointer("/apisix/control/port").unwrap(), 9090);
        assert_eq!(defaults.pointer("/stream_plugins/4").unwrap(), "traffic-split");
    }
}
