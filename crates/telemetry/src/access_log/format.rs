//! The line format, compiled once: literal pieces and variables of the caller.

use std::fmt;

use super::Escape;

/// A compiled `access_log_format`. `V` is how the caller names a variable.
#[derive(Debug, Clone)]
pub struct Format<V> {
    pieces: Vec<Piece<V>>,
    escape: Escape,
}

#[derive(Debug, Clone)]
enum Piece<V> {
    Literal(Box<[u8]>),
    Variable(V),
}

/// Why a format text is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormatError {
    /// The variable name as written; empty when there was none.
    pub name: String,
    /// Byte offset of its `$` in the format text.
    pub at: usize,
    /// What is wrong with it.
    pub problem: FormatProblem,
}

/// Kinds of [`FormatError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormatProblem {
    /// No variable has this name.
    Unknown,
    /// `$` without a name behind it.
    Unnamed,
    /// `${` without `}`.
    Unclosed,
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, at, problem } = self;
        match problem {
            FormatProblem::Unknown => write!(f, "unknown variable ${name} at offset {at}"),
            FormatProblem::Unnamed => write!(f, "$ without a variable name at offset {at}"),
            FormatProblem::Unclosed => write!(f, "${{{name} at offset {at} has no closing brace"),
        }
    }
}

impl std::error::Error for FormatError {}

impl<V: Copy> Format<V> {
    /// Compiles `text`, looking up each `$name` and `${name}` with `resolve`.
    pub fn compile(
        text: &str,
        escape: Escape,
        resolve: impl Fn(&str) -> Option<V>,
    ) -> Result<Self, FormatError> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((literal, after)) = rest.split_once('$') {
            let at = text.len() - after.len() - 1;
            if !literal.is_empty() {
                pieces.push(Piece::Literal(literal.as_bytes().into()));
            }
            let (name, behind) = split_name(after).map_err(|(name, problem)| FormatError {
                name: name.to_owned(),
                at,
                problem,
            })?;
            let variable = resolve(name).ok_or_else(|| FormatError {
                name: name.to_owned(),
                at,
                problem: FormatProblem::Unknown,
            })?;
            pieces.push(Piece::Variable(variable));
            rest = behind;
        }
        let mut tail = rest.as_bytes().to_vec();
        tail.push(b'\n');
        pieces.push(Piece::Literal(tail.into()));
        Ok(Self { pieces, escape })
    }

    /// Appends one line, `\n` included. `value` appends the raw value of a variable and returns
    /// true, or returns false when it is not set.
    pub fn write(&self, out: &mut Vec<u8>, mut value: impl FnMut(V, &mut Vec<u8>) -> bool) {
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => out.extend_from_slice(text),
                Piece::Variable(variable) => {
                    let start = out.len();
                    if value(*variable, out) {
                        self.escape.apply(out, start);
                    } else {
                        out.truncate(start);
                        out.extend_from_slice(self.escape.unset());
                    }
                }
            }
        }
    }

    /// The variables in order of appearance, repeated as often as they appear.
    pub fn variables(&self) -> impl Iterator<Item = V> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Variable(variable) => Some(*variable),
            Piece::Literal(_) => None,
        })
    }
}

/// Splits the text behind a `$` into the variable name and what follows it.
fn split_name(after: &str) -> Result<(&str, &str), (&str, FormatProblem)> {
    let (name, behind) = match after.strip_prefix('{') {
        Some(braced) => {
            let (name, rest) = split_word(braced);
            (name, rest.strip_prefix('}').ok_or((name, FormatProblem::Unclosed))?)
        }
        None => split_word(after),
    };
    if name.is_empty() { Err(("", FormatProblem::Unnamed)) } else { Ok((name, behind)) }
}

fn split_word(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(text: &str, escape: Escape) -> Result<Format<char>, FormatError> {
        Format::compile(text, escape, |name| match name {
            "addr" => Some('a'),
            "name_2" => Some('n'),
            "unset" => Some('u'),
            _ => None,
        })
    }

    fn line(text: &str, escape: Escape) -> String {
        let mut out = Vec::new();
        compile(text, escape).unwrap().write(&mut out, |variable, out| match variable {
            'a' => {
                out.extend_from_slice(b"10.0.0.1");
                true
            }
            'n' => {
                out.extend_from_slice(b"say \"hi\"");
                true
            }
            _ => {
                out.extend_from_slice(b"leftover");
                false
            }
        });
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn pieces_and_escapes() {
        let text = "$addr [${name_2}x] $unset.";
        assert_eq!(line(text, Escape::Default), "10.0.0.1 [say \\x22hi\\x22x] -.\n");
        assert_eq!(line(text, Escape::Json), "10.0.0.1 [say \\\"hi\\\"x] .\n");
        assert_eq!(line(text, Escape::None), "10.0.0.1 [say \"hi\"x] .\n");
    }

    #[test]
    fn edges_of_the_text() {
        assert_eq!(line("", Escape::Default), "\n");
        assert_eq!(line("$addr", Escape::Default), "10.0.0.1\n");
        assert_eq!(line("$addr$addr", Escape::Default), "10.0.0.110.0.0.1\n");
        assert_eq!(line("ä$addr-ä", Escape::Default), "ä10.0.0.1-ä\n");
    }

    #[test]
    fn errors_name_variable_and_place() {
        let unknown = compile("$addr $nope", Escape::Default).unwrap_err();
        assert_eq!((unknown.name.as_str(), unknown.at), ("nope", 6));
        assert_eq!(unknown.to_string(), "unknown variable $nope at offset 6");
        let unnamed = compile("cost: 5$ or so", Escape::Default).unwrap_err();
        assert_eq!((unnamed.problem, unnamed.at), (FormatProblem::Unnamed, 7));
        let unclosed = compile("a ${addr b", Escape::Default).unwrap_err();
        assert_eq!((unclosed.problem, unclosed.at), (FormatProblem::Unclosed, 2));
        assert_eq!(compile("${}", Escape::Json).unwrap_err().problem, FormatProblem::Unnamed);
    }

    #[test]
    fn lists_its_variables() {
        let format = compile("$addr $unset $addr", Escape::Default).unwrap();
        assert_eq!(format.variables().collect::<String>(), "aua");
    }
}
