//! One reading of a file: the document, the merged values, and the problems found so far.

use serde_json::Value;

use super::wording;
use crate::problem::{Place, Problem, Related};
use crate::yaml::Document;

/// State that the checks share. Paths are dotted and use `[0]` for list positions.
pub(super) struct Reading<'a> {
    /// What the user wrote, after substitution and moves.
    pub(super) document: Document,
    /// Defaults overlaid with what the user wrote.
    pub(super) merged: Value,
    /// Role, for messages.
    pub(super) role: String,
    /// The environment.
    pub(super) env: super::environment::Lookup<'a>,
    pub(super) problems: Vec<Problem>,
}

impl Reading<'_> {
    /// The merged value of a path; deleted and absent ones are `None`.
    pub(super) fn get(&self, path: &str) -> Option<&Value> {
        self.merged.pointer(&pointer(path)).filter(|value| !value.is_null())
    }

    /// Whether the user wrote this path (even as null).
    pub(super) fn wrote(&self, path: &str) -> bool {
        self.document.value.pointer(&pointer(path)).is_some()
    }

    /// Whether the user deleted the path with null.
    pub(super) fn deleted(&self, path: &str) -> bool {
        self.document.value.pointer(&pointer(path)).is_some_and(Value::is_null)
    }

    /// A switch; absent, deleted and ill-typed ones are off.
    pub(super) fn is_on(&self, path: &str) -> bool {
        self.get(path).and_then(Value::as_bool).unwrap_or(false)
    }

    /// A string.
    pub(super) fn text(&self, path: &str) -> Option<&str> {
        self.get(path).and_then(Value::as_str)
    }

    /// A string, or a number as it is printed.
    pub(super) fn scalar(&self, path: &str) -> Option<String> {
        match self.get(path)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// A whole number, also written as a string.
    pub(super) fn int(&self, path: &str) -> Option<i64> {
        whole(self.get(path)?)
    }

    /// The strings of a list.
    pub(super) fn texts(&self, path: &str) -> Option<Vec<String>> {
        let items = self.get(path)?.as_array()?;
        Some(items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect())
    }

    /// Where the user wrote a path; of what was not written, the nearest section that was.
    pub(super) fn place(&self, path: &str) -> Option<Place> {
        let mut path = path;
        loop {
            if let Some(place) = self.document.place(&pointer(path)) {
                return Some(place);
            }
            path = path.rsplit_once(['.', '['])?.0;
        }
    }

    /// Records an error at a path and lends it for label, help and related places.
    pub(super) fn error(
        &mut self,
        code: &'static str,
        path: &str,
        message: impl Into<String>,
    ) -> Note<'_> {
        let problem = Problem::error(code, path, message).at(self.place(path));
        self.note(problem)
    }

    /// Records a warning at a path.
    pub(super) fn warning(
        &mut self,
        code: &'static str,
        path: &str,
        message: impl Into<String>,
    ) -> Note<'_> {
        let problem = Problem::warning(code, path, message).at(self.place(path));
        self.note(problem)
    }

    /// Records an error that the reference's schema would report.
    pub(super) fn refuse(&mut self, code: &'static str, path: &str, reason: &str) -> Note<'_> {
        let message = wording::schema(&self.role, path, reason);
        self.error(code, path, message)
    }

    fn note(&mut self, problem: Problem) -> Note<'_> {
        Note { problem: Some(problem), problems: &mut self.problems }
    }
}

/// A problem being written; it is recorded when this goes out of scope.
pub(super) struct Note<'a> {
    problem: Option<Problem>,
    problems: &'a mut Vec<Problem>,
}

impl Note<'_> {
    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.problem = self.problem.take().map(|problem| problem.label(label));
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.problem = self.problem.take().map(|problem| problem.help(help));
        self
    }

    pub(super) fn related(mut self, place: Option<Place>, label: impl Into<String>) -> Self {
        if let (Some(problem), Some(place)) = (&mut self.problem, place) {
            problem.related.push(Related { place, label: label.into() });
        }
        self
    }
}

impl Drop for Note<'_> {
    fn drop(&mut self) {
        self.problems.extend(self.problem.take());
    }
}

/// The JSON pointer of a dotted path.
pub(super) fn pointer(path: &str) -> String {
    if path.is_empty() {
        return String::new();
    }
    format!("/{}", path.replace('[', "/").replace(']', "").replace('.', "/"))
}

/// A whole number; strings of digits count.
pub(super) fn whole(value: &Value) -> Option<i64> {
    let number = match value {
        Value::String(text) => super::environment::number(text)?,
        other => other.clone(),
    };
    number.as_i64().or_else(|| {
        let float = number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 9e15)?;
        #[expect(clippy::cast_possible_truncation, reason = "it is whole and within 2^53")]
        Some(float as i64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_pointers() {
        assert_eq!(pointer("a.b[0].c"), "/a/b/0/c");
        assert_eq!(pointer(""), "");
    }
}
