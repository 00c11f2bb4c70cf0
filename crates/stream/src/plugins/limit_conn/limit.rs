//! What is counted, and up to what: keys and numbers that may depend on the session.

use serde_json::Value;

use crate::plugin::{Build, Template};
use crate::session::Session;
use crate::vars::Var;

/// A number, or a text with variables that gives one.
#[derive(Debug)]
pub(super) enum Number {
    Fixed(u64),
    Text { name: &'static str, text: Template },
}

/// Checks a number as it is written. A text without variables must be a number already.
pub(super) fn check(name: &str, value: &Value) -> Result<(), String> {
    match value.as_str() {
        Some(text) if !text.contains('$') => parse(name, text).map(drop),
        _ => Ok(()),
    }
}

fn parse(name: &str, text: &str) -> Result<u64, String> {
    let number = text.trim().parse::<u64>().ok().filter(|number| *number > 0 || name != "conn");
    number.ok_or_else(|| format!("{name} must resolve to an integer, not to {text:?}"))
}

impl Number {
    pub(super) fn new(
        name: &'static str,
        value: &Value,
        build: &mut Build<'_>,
    ) -> Result<Self, String> {
        match value {
            Value::String(text) if text.contains('$') => {
                Ok(Self::Text { name, text: build.template(text) })
            }
            Value::String(text) => parse(name, text).map(Self::Fixed),
            other => other
                .as_u64()
                .map(Self::Fixed)
                .ok_or_else(|| format!("{name} must be an integer, not {other}")),
        }
    }

    /// Its value for a session.
    ///
    /// # Errors
    /// The variables do not give a number.
    pub(super) fn of(&self, session: &Session) -> Result<u64, String> {
        match self {
            Self::Fixed(number) => Ok(*number),
            Self::Text { name, text } => {
                let mut out = Vec::new();
                text.write(session, &mut out);
                parse(name, &String::from_utf8_lossy(&out))
            }
        }
    }
}

/// What sessions are counted by.
#[derive(Debug)]
pub(in crate::plugins) enum Key {
    Variable(Option<Var>),
    Combination(Template),
    /// All sessions together.
    Constant(String),
}

impl Key {
    /// The value of a variable.
    pub(in crate::plugins) fn variable(name: &str, build: &mut Build<'_>) -> Self {
        Self::Variable(build.variable(name))
    }

    /// A text with variables.
    pub(in crate::plugins) fn combination(text: &str, build: &mut Build<'_>) -> Self {
        Self::Combination(build.template(text))
    }

    /// The key of a rule: a text with variables, or a word that all sessions share.
    pub(in crate::plugins) fn of_rule(text: &str, build: &mut Build<'_>) -> Self {
        match text.contains('$') {
            true => Self::combination(text, build),
            false => Self::Constant(text.to_owned()),
        }
    }

    /// Appends the value for a session: the client's address when there is none.
    pub(in crate::plugins) fn write(&self, session: &Session, out: &mut Vec<u8>) {
        let before = out.len();
        let has_value = match self {
            Self::Variable(variable) => variable.is_some_and(|it| it.write(session, None, out)),
            Self::Combination(text) => text.write(session, out) > 0,
            Self::Constant(text) => {
                out.extend_from_slice(text.as_bytes());
                true
            }
        };
        if !has_value || out.len() == before {
            tracing::info!(
                conn = session.number,
                "The value of the configured key is empty, use client IP instead"
            );
            out.truncate(before);
            let ip = session.client.map_or_else(|| "unix:".to_owned(), |it| it.ip().to_string());
            out.extend_from_slice(ip.as_bytes());
        }
    }
}
