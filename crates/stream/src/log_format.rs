//! `log_format` of logging plugins (`spec/plugins.md`, section 7): a JSON object in which strings
//! that begin with `$` are variables, filled in for every session.

use std::io::Write as _;

use serde_json::{Map, Value};

use crate::outcome::End;
use crate::plugin::Build;
use crate::session::Session;
use crate::vars::Var;

/// Objects inside objects, at most.
const DEPTH: usize = 5;

/// A compiled `log_format`.
#[derive(Debug, Clone)]
pub(crate) struct LogFormat(Vec<(Box<[u8]>, Part)>);

#[derive(Debug, Clone)]
enum Part {
    Variable(Var),
    /// As JSON text.
    Literal(Box<[u8]>),
    Object(Vec<(Box<[u8]>, Part)>),
}

impl LogFormat {
    /// Compiles a format. `route_id` and `service_id` are added when it does not mention them. What
    /// can have no value (unknown variables, objects nested too deeply) is left out, as in the
    /// reference, and the process log says so.
    pub(crate) fn compile(format: &Map<String, Value>, build: &mut Build<'_>) -> Self {
        let mut parts = object(format, 1, build);
        for name in ["route_id", "service_id"] {
            if !format.contains_key(name)
                && let Some(variable) = build.variable(name)
            {
                parts.push((key(name), Part::Variable(variable)));
            }
        }
        Self(parts)
    }

    /// Appends the record of a session, in one line.
    pub(crate) fn write(&self, session: &Session, end: &End<'_>, out: &mut Vec<u8>) {
        write_object(&self.0, session, end, out);
    }
}

fn object(
    members: &Map<String, Value>,
    depth: usize,
    build: &mut Build<'_>,
) -> Vec<(Box<[u8]>, Part)> {
    let part = |(name, value): (&String, &Value)| Some((key(name), part(value, depth, build)?));
    members.iter().filter_map(part).collect()
}

fn part(value: &Value, depth: usize, build: &mut Build<'_>) -> Option<Part> {
    match value {
        Value::Object(members) if depth < DEPTH => {
            Some(Part::Object(object(members, depth + 1, build)))
        }
        Value::Object(_) => {
            let resource = build.resource();
            tracing::warn!(
                resource,
                "log_format nests objects more than {DEPTH} deep; the rest is left out"
            );
            None
        }
        Value::String(text) if text.starts_with('$') => {
            let variable = build.variable(text.trim_start_matches('$'));
            if variable.is_none() {
                let resource = build.resource();
                tracing::warn!(
                    resource,
                    "log_format has the unknown variable {text}; it is left out"
                );
            }
            variable.map(Part::Variable)
        }
        other => Some(Part::Literal(literal(other))),
    }
}

fn key(name: &str) -> Box<[u8]> {
    literal(&Value::String(name.to_owned()))
}

fn literal(value: &Value) -> Box<[u8]> {
    value.to_string().into_bytes().into()
}

/// A variable without a value leaves its member out.
fn write_object(parts: &[(Box<[u8]>, Part)], session: &Session, end: &End<'_>, out: &mut Vec<u8>) {
    out.push(b'{');
    let begin = out.len();
    for (key, part) in parts {
        let before = out.len();
        if before > begin {
            out.push(b',');
        }
        out.extend_from_slice(key);
        out.push(b':');
        match part {
            Part::Literal(text) => out.extend_from_slice(text),
            Part::Object(parts) => write_object(parts, session, end, out),
            Part::Variable(variable) => {
                let start = out.len();
                if variable.write(session, Some(end), out) {
                    quote(out, start);
                } else {
                    out.truncate(before);
                }
            }
        }
    }
    out.push(b'}');
}

/// Makes a JSON string of everything from `start` on; bytes that are no UTF-8 are replaced.
pub(crate) fn quote(out: &mut Vec<u8>, start: usize) {
    let is_plain = |byte: &u8| (32..127).contains(byte) && !b"\"\\".contains(byte);
    if out.iter().skip(start).all(is_plain) {
        out.insert(start, b'"');
        out.push(b'"');
        return;
    }
    let raw = out.split_off(start);
    let _ = write!(out, "{}", Value::String(String::from_utf8_lossy(&raw).into_owned()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quoted(raw: &[u8]) -> String {
        let mut out = b"x".to_vec();
        out.extend_from_slice(raw);
        quote(&mut out, 1);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_become_json_strings() {
        for (raw, text) in [
            (&b"10.0.0.1"[..], "x\"10.0.0.1\""),
            (b"", "x\"\""),
            (b"a\"b\\\n", "x\"a\\\"b\\\\\\n\""),
            ("\u{e4}".as_bytes(), "x\"\u{e4}\""),
            (b"\xff", "x\"\u{fffd}\""),
        ] {
            assert_eq!(quoted(raw), text);
        }
    }
}
