//! What consistent hashing takes its key from: variables of a session and text between them.
//!
//! This crate knows no sessions. A plane gives its variables numbers when a key is compiled, and
//! writes the value of a number when a session begins.

use headgate_model::resource::Upstream as Resource;

use crate::crc32;

/// The hashed key of a session. Balancers without a key ignore it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyHash(pub(crate) u32);

impl KeyHash {
    /// Hashes a key.
    #[must_use]
    pub fn of(key: &[u8]) -> Self {
        Self(crc32::of(key))
    }
}

/// A compiled key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HashKey {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    /// `None` stands for a variable that the plane does not have.
    Variable {
        number: Option<u16>,
        otherwise: Vec<u8>,
    },
}

impl HashKey {
    /// The key of an upstream, with the plane's number for every variable. Sources that only HTTP
    /// has (`header`, `cookie`, `consumer`) never have a value.
    #[must_use]
    pub fn of_upstream(resource: &Resource, find: impl Fn(&str) -> Option<u16>) -> Self {
        let key = resource.key.as_deref().unwrap_or_default();
        match resource.hash_on.as_deref().unwrap_or("vars") {
            "vars" => {
                let number = find(key);
                Self { parts: vec![Part::Variable { number, otherwise: Vec::new() }] }
            }
            "vars_combinations" => Self { parts: template(key, find) },
            _ => Self::default(),
        }
    }

    /// Numbers of the variables that occur.
    pub fn variables(&self) -> impl Iterator<Item = u16> {
        self.parts.iter().filter_map(|part| match part {
            Part::Variable { number, .. } => *number,
            Part::Text(_) => None,
        })
    }

    /// Appends the key to `out`. `value` appends the value of a variable, or returns `false` if
    /// it has none. Without a single value there is no key, and the result is `false`.
    pub fn write(
        &self,
        mut value: impl FnMut(u16, &mut Vec<u8>) -> bool,
        out: &mut Vec<u8>,
    ) -> bool {
        let mut any = false;
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Variable { number, otherwise } => {
                    if number.is_some_and(|number| value(number, out)) {
                        any = true;
                    } else {
                        out.extend_from_slice(otherwise);
                    }
                }
            }
        }
        any
    }
}

/// Splits `$name`, `${name}`, `${name ?? default}`, `\$` and text (`spec/plugins.md`, section
/// 10). A `$` that begins none of these is text.
fn template(mut rest: &str, find: impl Fn(&str) -> Option<u16>) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut text = Vec::new();
    while let Some(at) = rest.find('$') {
        let (before, behind) = rest.split_at(at);
        rest = behind.strip_prefix('$').unwrap_or(behind);
        if let Some(before) = before.strip_suffix('\\') {
            text.extend_from_slice(before.as_bytes());
            text.push(b'$');
            continue;
        }
        text.extend_from_slice(before.as_bytes());
        let Some((name, otherwise, behind)) = placeholder(rest) else {
            text.push(b'$');
            continue;
        };
        if !text.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut text)));
        }
        parts.push(Part::Variable { number: find(name), otherwise: otherwise.into() });
        rest = behind;
    }
    text.extend_from_slice(rest.as_bytes());
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    parts
}

/// Name, default and rest of what follows a `$`.
fn placeholder(text: &str) -> Option<(&str, &str, &str)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    let (name, otherwise, rest) = match text.strip_prefix('{') {
        Some(inner) => {
            let (inner, rest) = inner.split_once('}')?;
            let (name, otherwise) = inner.split_once("??").unwrap_or((inner, ""));
            (name.trim(), otherwise.trim(), rest)
        }
        None => {
            let end = text.find(|c| !is_name(c)).unwrap_or(text.len());
            let (name, rest) = text.split_at(end);
            (name, "", rest)
        }
    };
    (!name.is_empty() && name.chars().all(is_name)).then_some((name, otherwise, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn find(name: &str) -> Option<u16> {
        ["a", "b", "unset"].iter().position(|known| *known == name).map(|it| it as u16)
    }

    fn written(hash_on: &str, key: &str) -> Option<String> {
        let resource = Resource {
            hash_on: Some(hash_on.into()),
            key: Some(key.into()),
            ..Resource::default()
        };
        let mut out = Vec::new();
        let value = |number: u16, out: &mut Vec<u8>| {
            out.extend_from_slice(["1", "22", ""].get(usize::from(number)).unwrap().as_bytes());
            number < 2
        };
        let any = HashKey::of_upstream(&resource, find).write(value, &mut out);
        any.then(|| String::from_utf8(out).unwrap())
    }

    #[test]
    fn every_form() {
        let some = |text: &str| Some(text.to_owned());
        for (hash_on, key, expected) in [
            ("vars", "a", some("1")),
            ("vars", "unset", None),
            ("vars", "$a", None),
            ("vars", "", None),
            ("header", "a", None),
            ("cookie", "a", None),
            ("consumer", "a", None),
            ("vars_combinations", "$a", some("1")),
            ("vars_combinations", "$a$b", some("122")),
            ("vars_combinations", "x${a}y${ b }z", some("x1y22z")),
            ("vars_combinations", "$a-$unset-$nope", some("1--")),
            ("vars_combinations", "$a.b", None),
            ("vars_combinations", "$a ${unset ?? none}", some("1 none")),
            ("vars_combinations", "${unset ?? none}", None),
            ("vars_combinations", "constant", None),
            ("vars_combinations", "", None),
            ("vars_combinations", r"\$a $b", some("$a 22")),
            ("vars_combinations", "$ $b ${", some("$ 22 ${")),
            ("vars_combinations", "$$a", some("$1")),
        ] {
            assert_eq!(written(hash_on, key), expected, "{hash_on} {key}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_template(key in r"[\$\{\}\? \\abß.]{0,20}") {
            let _ = written("vars_combinations", &key);
        }
    }
}
