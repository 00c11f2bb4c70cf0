//! Where things stand in a file whose variables were replaced before it was parsed.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::problem::{Place, Problem};
use crate::settings::environment::Replaced;
use crate::yaml::{Document, NodeSpan};

/// Positions in the text as the user wrote it.
#[derive(Debug)]
pub(super) struct Places {
    /// The text as written; its value and spans are not used.
    written: Document,
    /// Variables: bytes in the parsed text, bytes in the written one.
    replaced: Vec<(Range<usize>, Range<usize>)>,
    /// Of the parsed text; found on first use when it was parsed without.
    spans: OnceCell<HashMap<String, NodeSpan>>,
}

impl Places {
    pub(super) fn new(text: &str, path: &Path, replaced: Vec<Replaced>) -> Self {
        let written = Document {
            value: Value::Null,
            spans: HashMap::new(),
            text: text.to_owned(),
            file: Arc::new(path.to_path_buf()),
        };
        let replaced = replaced.into_iter().map(|one| (one.new, one.old)).collect();
        Self { written, replaced, spans: OnceCell::new() }
    }

    /// Positions in a text without variables.
    pub(super) fn plain(text: &str, path: &Path) -> Self {
        Self::new(text, path, Vec::new())
    }

    pub(super) fn with_spans(mut self, spans: HashMap<String, NodeSpan>) -> Self {
        self.spans = OnceCell::from(spans);
        self
    }

    /// The place of bytes of the written text.
    pub(super) fn at(&self, bytes: Range<usize>) -> Place {
        self.written.place_of(bytes)
    }

    /// The place of the value that a JSON pointer names; of a list or mapping, of its key.
    pub(super) fn of(&self, pointer: &str) -> Option<Place> {
        let span = self.spans().get(pointer)?;
        let range = match &span.key {
            Some(key) if !span.scalar || span.value.is_empty() => key,
            _ => &span.value,
        };
        Some(self.at(self.back(range.start)..self.back(range.end)))
    }

    /// The place that a message of the checker is about, below the object at `pointer`.
    pub(super) fn within(&self, pointer: &str, message: &str) -> Option<Place> {
        let mut deepest = pointer.to_owned();
        for step in steps(message) {
            let below = format!("{deepest}/{step}");
            if !self.spans().contains_key(&below) {
                break;
            }
            deepest = below;
        }
        self.of(&deepest)
    }

    /// A problem of the parsed text, with its place in the written one.
    pub(super) fn original(&self, mut problem: Problem) -> Problem {
        problem.place = problem
            .place
            .map(|place| self.at(self.back(place.span.start)..self.back(place.span.end)));
        for related in &mut problem.related {
            let span = related.place.span.clone();
            related.place = self.at(self.back(span.start)..self.back(span.end));
        }
        problem
    }

    fn spans(&self) -> &HashMap<String, NodeSpan> {
        self.spans.get_or_init(|| {
            let parsed = Document::parse(&self.written.text, &self.written.file);
            parsed.map(|document| document.spans).unwrap_or_default()
        })
    }

    /// A position in the parsed text as one in the written text.
    fn back(&self, at: usize) -> usize {
        let after = self.replaced.partition_point(|(new, _)| new.start <= at);
        let Some((new, old)) = after.checked_sub(1).and_then(|last| self.replaced.get(last)) else {
            return at;
        };
        if at < new.end { old.start } else { old.end + (at - new.end) }
    }
}

/// The way into an object that a schema message tells: `property "a" validation failed: failed to
/// validate item 2: ...` is a, 1.
fn steps(message: &str) -> impl Iterator<Item = String> {
    let mut rest = message;
    std::iter::from_fn(move || {
        loop {
            if let Some(at) = rest.strip_prefix("property \"")
                && let Some((name, after)) = at.split_once('"')
                && let Some(after) = after.strip_prefix(" validation failed: ")
            {
                rest = after;
                return Some(crate::yaml::pointer_step(name));
            }
            if let Some(at) = rest.strip_prefix("failed to validate item ")
                && let Some((number, after)) = at.split_once(": ")
                && let Ok(number) = number.parse::<usize>()
            {
                rest = after;
                return Some(number.saturating_sub(1).to_string());
            }
            if let Some(at) =
                rest.strip_prefix("failed to check the configuration of stream plugin [")
                && let Some((name, after)) = at.split_once("]: ")
            {
                rest = after;
                return Some(format!("plugins/{}", crate::yaml::pointer_step(name)));
            }
            // Words before it, such as `invalid configuration: `.
            let (_, after) = rest.split_once(": ")?;
            rest = after;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_lead_into_the_object() {
        let way = |message: &str| steps(message).collect::<Vec<_>>();
        assert_eq!(
            way(
                "invalid configuration: property \"nodes\" validation failed: failed to validate item 2: property \"port\" validation failed: wrong type"
            ),
            ["nodes", "1", "port"]
        );
        assert_eq!(
            way(
                "failed to check the configuration of stream plugin [limit-conn]: property \"conn\" is required"
            ),
            ["plugins/limit-conn"]
        );
        assert!(way("unknown plugin [x]").is_empty());
    }
}
