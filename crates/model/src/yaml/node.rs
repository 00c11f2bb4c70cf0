//! The tree as the YAML crate hands it over, and its conversion into value and positions.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{DuplicateKeyPolicy, Error, Location, Spanned};

use super::{NodeSpan, place_in, pointer_step};
use crate::problem::{Problem, Related};

/// One node of the document.
pub(super) enum Node {
    Scalar(Value),
    List(Vec<Spanned<Node>>),
    Mapping(Vec<(Spanned<Key>, Spanned<Node>)>),
}

/// A key; numbers and booleans are taken as they are spelled.
pub(super) struct Key(String);

/// Why a text could not be read.
pub(super) struct Failure {
    pub(super) message: String,
    /// Byte offset, if the crate knows it.
    pub(super) offset: Option<usize>,
    pub(super) line: usize,
    pub(super) too_large: bool,
}

/// Reads one document.
pub(super) fn read(text: &str) -> Result<Spanned<Node>, Failure> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        with_snippet: false,
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
        },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| failure(&error))
}

fn failure(error: &Error) -> Failure {
    let at = error.location();
    let cause = match error {
        Error::AliasError { error, .. } => error,
        other => other,
    };
    let too_large = matches!(
        cause,
        Error::Budget { .. }
            | Error::AliasReplayLimitExceeded { .. }
            | Error::AliasExpansionLimitExceeded { .. }
            | Error::AliasReplayStackDepthExceeded { .. }
            | Error::AliasReplayCounterOverflow { .. }
    );
    Failure {
        message: cause.render(),
        offset: at.and_then(|at| at.span().byte_offset()).and_then(|at| usize::try_from(at).ok()),
        line: at.and_then(|at| usize::try_from(at.line()).ok()).unwrap_or(0),
        too_large,
    }
}

/// Turns nodes into a value and records where each was.
pub(super) struct Builder<'a> {
    text: &'a str,
    file: &'a Arc<PathBuf>,
    spans: &'a mut HashMap<String, NodeSpan>,
    problems: Vec<Problem>,
}

impl<'a> Builder<'a> {
    pub(super) const fn new(
        text: &'a str,
        file: &'a Arc<PathBuf>,
        spans: &'a mut HashMap<String, NodeSpan>,
    ) -> Self {
        Self { text, file, spans, problems: Vec::new() }
    }

    pub(super) fn build(&mut self, root: Spanned<Node>) -> Value {
        self.node(root, String::new(), None)
    }

    pub(super) fn finish(self) -> Vec<Problem> {
        self.problems
    }

    fn node(&mut self, node: Spanned<Node>, pointer: String, key: Option<Range<usize>>) -> Value {
        let scalar = matches!(node.value, Node::Scalar(_));
        let value = bytes(&node.referenced);
        self.spans.insert(pointer.clone(), NodeSpan { value, key, scalar });
        match node.value {
            Node::Scalar(value) => value,
            Node::List(items) => Value::Array(
                items
                    .into_iter()
                    .enumerate()
                    .map(|(index, item)| self.node(item, format!("{pointer}/{index}"), None))
                    .collect(),
            ),
            Node::Mapping(pairs) => self.mapping(pairs, &pointer),
        }
    }

    fn mapping(&mut self, pairs: Vec<(Spanned<Key>, Spanned<Node>)>, pointer: &str) -> Value {
        let mut map = Map::new();
        let mut seen: HashMap<String, Range<usize>> = HashMap::new();
        for (key, value) in pairs {
            let at = bytes(&key.referenced);
            let name = key.value.0;
            if let Some(first) = seen.get(&name) {
                self.duplicate(&name, first.clone(), at);
                continue;
            }
            seen.insert(name.clone(), at.clone());
            let below = format!("{pointer}/{}", pointer_step(&name));
            let value = self.node(value, below, Some(at));
            map.insert(name, value);
        }
        Value::Object(map)
    }

    fn duplicate(&mut self, name: &str, first: Range<usize>, second: Range<usize>) {
        let message = format!("the key {name} appears twice in this mapping");
        let mut problem = Problem::error("yaml/duplicate-key", name, message)
            .at(Some(place_in(self.text, self.file, second)))
            .label("again here")
            .help(format!("keep one {name} and move the members of the other one into it"));
        problem.related.push(Related {
            place: place_in(self.text, self.file, first),
            label: format!("{name} is first written here"),
        });
        self.problems.push(problem);
    }
}

/// Byte range of a location.
fn bytes(at: &Location) -> Range<usize> {
    let span = at.span();
    let start = span.byte_offset().and_then(|at| usize::try_from(at).ok()).unwrap_or(0);
    let length = span.byte_len().and_then(|len| usize::try_from(len).ok()).unwrap_or(0);
    start..start.saturating_add(length)
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(Value::from(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(Value::from(value)))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Node, E> {
        Ok(Node::Scalar(Value::String(value.to_string())))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Node, E> {
        Ok(Node::Scalar(Value::String(value.to_string())))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node, E> {
        Number::from_f64(value)
            .map(|number| Node::Scalar(Value::Number(number)))
            .ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(Value::String(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<Node, E> {
        Ok(Node::Scalar(Value::String(value)))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Node, D::Error> {
        Node::deserialize(inner)
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<Node, E> {
        Ok(Node::Scalar(Value::String(String::from_utf8_lossy(value).into_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Node::Mapping(pairs))
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(KeyVisitor)
    }
}

struct KeyVisitor;

impl Visitor<'_> for KeyVisitor {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key that is a single word or string")
    }

    fn visit_str<E>(self, value: &str) -> Result<Key, E> {
        Ok(Key(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Key, E> {
        Ok(Key(value))
    }
}
