//! `${{VAR}}` and `${{VAR:=default}}` in keys and values, replaced after parsing.
//!
//! A value that used a variable is typed anew: `"${{PORT}}"` becomes a number when the variable
//! holds one. Keys stay strings.

use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde_json::{Map, Value};

use crate::problem::Problem;
use crate::yaml::{Document, pointer_step};

/// How the environment is looked up.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

#[expect(clippy::expect_used, reason = "the pattern is a constant and tested")]
static PATTERN: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?s)\$\{\{\s*([A-Za-z0-9_]+[:=]?.*?)\s*\}\}").expect("the pattern is valid")
});

/// Replaces all variables; a missing one is a problem at its place.
pub(crate) fn substitute(document: &mut Document, env: Lookup<'_>) -> Vec<Problem> {
    if !document.text.contains("${{") {
        return Vec::new();
    }
    let value = std::mem::take(&mut document.value);
    let mut work = Substitution { env, problems: Vec::new(), renamed: Vec::new() };
    let value = work.value(value, "", document);
    document.value = value;
    for (from, to) in &work.renamed {
        document.move_spans(from, to);
    }
    work.problems
}

/// Replaces all variables of a text that is parsed afterwards, as in `apisix.yaml`. Also says which
/// bytes of the result came from where, in order.
///
/// # Errors
/// The name of the first variable that is missing.
pub(crate) fn substitute_text(
    text: &str,
    env: Lookup<'_>,
) -> Result<(String, Vec<Replaced>), String> {
    let mut new = String::with_capacity(text.len());
    let mut replaced = Vec::new();
    let mut rest = 0;
    for found in PATTERN.captures_iter(text) {
        let (Some(all), Some(inner)) = (found.get(0), found.get(1)) else { continue };
        new.push_str(text.get(rest..all.start()).unwrap_or_default());
        let (name, default) = parts(inner.as_str());
        let value = env(name).or_else(|| default.map(str::to_owned));
        let value = value.ok_or_else(|| name.to_owned())?;
        let start = new.len();
        new.push_str(&value);
        replaced.push(Replaced { new: start..new.len(), old: all.range() });
        rest = all.end();
    }
    new.push_str(text.get(rest..).unwrap_or_default());
    Ok((new, replaced))
}

/// A variable in a text and what stands in its place.
pub(crate) struct Replaced {
    /// Its bytes in the new text.
    pub(crate) new: std::ops::Range<usize>,
    /// Those of the variable in the old text.
    pub(crate) old: std::ops::Range<usize>,
}

/// Name and default of what stands between the braces.
fn parts(inner: &str) -> (&str, Option<&str>) {
    match inner.split_once(":=") {
        Some((name, default)) => (name, Some(default.trim())),
        None => (inner, None),
    }
}

struct Substitution<'a> {
    env: Lookup<'a>,
    problems: Vec<Problem>,
    /// Pointers whose last key changed, innermost first.
    renamed: Vec<(String, String)>,
}

impl Substitution<'_> {
    fn value(&mut self, value: Value, pointer: &str, document: &Document) -> Value {
        match value {
            Value::String(text) if text.contains("${{") => {
                match self.text(&text, pointer, document) {
                    Some(new) => retype(&new),
                    None => Value::String(text),
                }
            }
            Value::Array(items) => Value::Array(
                items
                    .into_iter()
                    .enumerate()
                    .map(|(index, item)| self.value(item, &format!("{pointer}/{index}"), document))
                    .collect(),
            ),
            Value::Object(map) => self.mapping(map, pointer, document),
            other => other,
        }
    }

    fn mapping(&mut self, map: Map<String, Value>, pointer: &str, document: &Document) -> Value {
        let mut new = Map::new();
        for (key, value) in map {
            let below = format!("{pointer}/{}", pointer_step(&key));
            let value = self.value(value, &below, document);
            let name = if key.contains("${{") { self.text(&key, &below, document) } else { None };
            let name = name.unwrap_or(key);
            let renamed = format!("{pointer}/{}", pointer_step(&name));
            if renamed != below {
                self.renamed.push((below, renamed));
            }
            new.insert(name, value);
        }
        Value::Object(new)
    }

    /// The text with all variables replaced; `None` when none was used.
    fn text(&mut self, text: &str, pointer: &str, document: &Document) -> Option<String> {
        let mut used = false;
        let mut missing = Vec::new();
        let new = PATTERN.replace_all(text, |found: &Captures<'_>| {
            used = true;
            let inner = found.get(1).map_or("", |inner| inner.as_str());
            let (name, default) = parts(inner);
            (self.env)(name).or_else(|| default.map(str::to_owned)).unwrap_or_else(|| {
                missing.push(name.to_owned());
                String::new()
            })
        });
        let new = new.into_owned();
        for name in &missing {
            self.problems.push(missing_variable(name, pointer, document));
        }
        (used && missing.is_empty()).then_some(new)
    }
}

fn missing_variable(name: &str, pointer: &str, document: &Document) -> Problem {
    let message = format!("failed to handle configuration: can't find environment variable {name}");
    Problem::error("config/environment", pointer.trim_start_matches('/').replace('/', "."), message)
        .at(document.place(pointer))
        .label("needs this variable")
        .help(format!("set {name} before the start, or give a default: ${{{{{name}:=value}}}}"))
}

/// The value a substituted text stands for.
fn retype(text: &str) -> Value {
    match text {
        "true" => return Value::Bool(true),
        "false" => return Value::Bool(false),
        _ => {}
    }
    number(text).unwrap_or_else(|| Value::String(text.to_owned()))
}

/// A number as Lua's `tonumber` reads it, for what can occur in a configuration.
pub(super) fn number(text: &str) -> Option<Value> {
    let text = text.trim();
    let digits = text.trim_start_matches(['-', '+']);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        return i64::from_str_radix(hex, 16)
            .ok()
            .and_then(|value| if text.starts_with('-') { value.checked_neg() } else { Some(value) })
            .map(Value::from);
    }
    if let Ok(value) = text.parse::<i64>() {
        return Some(Value::from(value));
    }
    let value = text.parse::<f64>().ok().filter(|value| value.is_finite())?;
    if value.fract() == 0.0 && value.abs() < 9e15 {
        #[expect(clippy::cast_possible_truncation, reason = "it is whole and within 2^53")]
        return Some(Value::from(value as i64));
    }
    serde_json::Number::from_f64(value).map(Value::Number)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    fn run(text: &str) -> (Document, Vec<Problem>) {
        let mut document = Document::parse(text, Path::new("t.yaml")).unwrap();
        let env = |name: &str| match name {
            "PORT" => Some("9100".to_owned()),
            "EMPTY" => Some(String::new()),
            "YES" => Some("true".to_owned()),
            "NAME" => Some("apisix".to_owned()),
            _ => None,
        };
        let problems = substitute(&mut document, &env);
        (document, problems)
    }

    #[test]
    fn values_are_typed_anew() {
        let (doc, problems) = run(
            "a: ${{PORT}}\nb: \"${{ PORT }}\"\nc: x${{PORT}}y\nd: ${{YES}}\ne: ${{NONE:= 1e3 }}\n\
             f: '${{EMPTY:=x}}'\ng: ${{NONE:=}}\nh: ${{PORT}}${{PORT}}\ni: ${{PORT :=7}}\nj: '9'\n",
        );
        assert!(problems.is_empty());
        assert_eq!(
            doc.value,
            json!({"a": 9100, "b": 9100, "c": "x9100y", "d": true, "e": 1000, "f": "", "g": "",
                   "h": 91009100, "i": 7, "j": "9"})
        );
    }

    #[test]
    fn keys_are_replaced_and_keep_their_place() {
        let (doc, _) = run("${{NAME}}:\n  ${{NAME}}_x: 1\n");
        assert_eq!(doc.value, json!({"apisix": {"apisix_x": 1}}));
        assert_eq!(doc.place("/apisix/apisix_x").unwrap().line, 2);
    }

    #[test]
    fn missing_ones_are_all_told() {
        let (_, problems) = run("a: ${{X1}}\nb:\n  - ${{X2}}-${{X3}}\n");
        assert_eq!(problems.len(), 3);
        assert_eq!(problems[1].place.as_ref().unwrap().line, 3);
        assert!(problems[0].message.ends_with("can't find environment variable X1"));
        assert!(problems[0].help.as_ref().unwrap().contains("${{X1:=value}}"));
    }
}
