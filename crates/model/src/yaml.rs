//! YAML text to a [`Document`]: a JSON value plus the position of every key and value.
//!
//! This file and its `yaml/node.rs` are the only places that name the YAML crate. JSON is YAML, so
//! JSON files are read here too. Mistakes become a [`Problem`] with a position; duplicate keys are
//! refused, documents that would exhaust memory are refused, `yes` and `on` stay strings.

mod node;
mod syntax;
mod write;

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

pub use self::write::write;

use crate::problem::{Place, Problem};

/// Where one value of a document stands in the text, as byte ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSpan {
    /// The value. Of a list or mapping: the place where it begins.
    pub value: Range<usize>,
    /// Its key, when it is a member of a mapping.
    pub key: Option<Range<usize>>,
    /// It is a scalar, so `value` covers the whole of it.
    pub scalar: bool,
}

/// A parsed document that remembers where everything came from.
#[derive(Debug, Clone)]
pub struct Document {
    /// What it says.
    pub value: Value,
    /// JSON pointer (`""` is the root) to position.
    pub spans: HashMap<String, NodeSpan>,
    /// The text itself.
    pub text: String,
    /// Name of the file, for messages.
    pub file: Arc<PathBuf>,
}

impl Document {
    /// Parses `text`; `file` only names it in problems.
    ///
    /// # Errors
    ///
    /// Every problem found: one for a syntax error, or all duplicate keys.
    pub fn parse(text: &str, file: &Path) -> Result<Self, Vec<Problem>> {
        let file = Arc::new(file.to_path_buf());
        let mut document = Self {
            value: Value::Null,
            spans: HashMap::new(),
            text: text.to_owned(),
            file: Arc::clone(&file),
        };
        if document.is_blank() {
            return Ok(document);
        }
        match node::read(text) {
            Ok(root) => {
                let mut builder = node::Builder::new(text, &file, &mut document.spans);
                let value = builder.build(root);
                let problems = builder.finish();
                if problems.is_empty() {
                    document.value = value;
                    Ok(document)
                } else {
                    Err(problems)
                }
            }
            Err(failure) => Err(vec![syntax::explain(text, &file, &failure)]),
        }
    }

    /// Whether there is nothing but blank lines and comments.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.text.trim_start_matches('\u{feff}').lines().map(str::trim_start).all(is_filler)
    }

    /// The best place to point at for a value: a scalar itself, a list or mapping by its key.
    #[must_use]
    pub fn place(&self, pointer: &str) -> Option<Place> {
        let span = self.spans.get(pointer)?;
        let range = match &span.key {
            Some(key) if !span.scalar || span.value.is_empty() => key,
            _ => &span.value,
        };
        Some(self.place_of(range.clone()))
    }

    /// The place of a key; of a list item, the item.
    #[must_use]
    pub fn key_place(&self, pointer: &str) -> Option<Place> {
        let span = self.spans.get(pointer)?;
        Some(self.place_of(span.key.clone().unwrap_or_else(|| span.value.clone())))
    }

    /// The place of a byte range.
    #[must_use]
    pub fn place_of(&self, span: Range<usize>) -> Place {
        place_in(&self.text, &self.file, span)
    }

    /// Moves a value, with its positions, from one pointer to another.
    pub fn move_spans(&mut self, from: &str, to: &str) {
        let below = format!("{from}/");
        let moved: Vec<String> = self
            .spans
            .keys()
            .filter(|pointer| *pointer == from || pointer.starts_with(&below))
            .cloned()
            .collect();
        for pointer in moved {
            if let Some(span) = self.spans.remove(&pointer) {
                let rest = pointer.get(from.len()..).unwrap_or_default();
                self.spans.insert(format!("{to}{rest}"), span);
            }
        }
    }
}

/// A line that says nothing.
fn is_filler(line: &str) -> bool {
    line.is_empty() || line.starts_with('#')
}

/// Turns a byte range into a place with line and column; tolerates ranges outside the text.
fn place_in(text: &str, file: &Arc<PathBuf>, span: Range<usize>) -> Place {
    let start = text.floor_char_boundary(span.start);
    let end = text.ceil_char_boundary(span.end.clamp(start, text.len().max(start)));
    let before = text.get(..start).unwrap_or_default();
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Place { file: Arc::clone(file), line, column, span: start..end.min(text.len()) }
}

/// Escapes one step of a JSON pointer.
#[must_use]
pub fn pointer_step(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Document {
        Document::parse(text, Path::new("t.yaml")).unwrap()
    }

    fn problems(text: &str) -> Vec<Problem> {
        Document::parse(text, Path::new("t.yaml")).unwrap_err()
    }

    #[test]
    fn knows_where_everything_is() {
        let doc = parse("a:\n  - 1\n  - b: ünï # c\n    'q k': \"x y\"\nempty:\n");
        assert_eq!(doc.value["a"][1]["b"], "ünï");
        let place = doc.place("/a/1/b").unwrap();
        assert_eq!((place.line, place.column), (3, 8));
        assert_eq!(doc.text.get(place.span).unwrap(), "ünï");
        let key = doc.key_place("/a/1/q k").unwrap();
        assert_eq!((key.line, key.column), (4, 5));
        assert_eq!(doc.text.get(doc.place("/a/1/q k").unwrap().span).unwrap(), "\"x y\"");
        assert_eq!(doc.place("/a").unwrap().line, 1);
        assert_eq!(doc.text.get(doc.place("/empty").unwrap().span).unwrap(), "empty");
    }

    #[test]
    fn json_is_yaml() {
        let doc = parse("{\"a\": {\"b\": [1, true, null, 1.5]}}");
        assert_eq!(doc.value, serde_json::json!({"a": {"b": [1, true, null, 1.5]}}));
    }

    #[test]
    fn yes_is_a_string() {
        assert_eq!(parse("a: yes").value["a"], "yes");
        assert_eq!(parse("a: on").value["a"], "on");
        assert_eq!(parse("a: true").value["a"], true);
        assert_eq!(parse("a: ~").value["a"], Value::Null);
    }

    #[test]
    fn aliases_and_merge_keys_work() {
        let doc = parse("x: &x {p: 1}\ny: *x\nz:\n  <<: *x\n  q: 2\n");
        assert_eq!(doc.value["y"]["p"], 1);
        assert_eq!(doc.value["z"], serde_json::json!({"p": 1, "q": 2}));
    }

    #[test]
    fn duplicate_keys_show_both_places() {
        let found = problems("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\na: 4\n");
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|problem| problem.code == "yaml/duplicate-key"));
        let inner = &found[0];
        assert_eq!(inner.place.as_ref().unwrap().line, 5);
        assert_eq!(inner.related[0].place.line, 3);
    }

    #[test]
    fn bombs_are_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let refs = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{refs}]\n"));
        }
        assert_eq!(problems(&text)[0].code, "yaml/too-large");
        let deep = "[".repeat(5000);
        assert!(!problems(&deep).is_empty());
    }

    #[test]
    fn byte_order_marks_and_crlf_do_not_shift_places() {
        let doc = parse("\u{feff}a: 1\r\nb:\r\n  - xy\r\n");
        let place = doc.place("/b/0").unwrap();
        assert_eq!((place.line, place.column), (3, 5));
        assert_eq!(doc.text.get(place.span).unwrap(), "xy");
        assert_eq!(doc.value["a"], 1);
    }

    #[test]
    fn blank_text_is_null() {
        assert!(parse("# nothing\n\n   # here\n").is_blank());
        assert!(!parse("~").is_blank());
    }
}
