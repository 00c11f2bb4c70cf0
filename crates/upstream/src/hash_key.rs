//! What consistent hashing takes its key from: variables of a session and text between them.
//!
//! This crate knows no sessions. A plane gives its variables numbers when a key is compiled, and
//! writes the value of a number when a session begins.

use headgate_model::resource::Upstream as Resource;
use headgate_model::template::Template;

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
pub struct HashKey(Template<u16>);

impl HashKey {
    /// The key of an upstream, with the plane's number for every variable. Sources that only HTTP
    /// has (`header`, `cookie`, `consumer`) never have a value.
    #[must_use]
    pub fn of_upstream(resource: &Resource, find: impl Fn(&str) -> Option<u16>) -> Self {
        let key = resource.key.as_deref().unwrap_or_default();
        match resource.hash_on.as_deref().unwrap_or("vars") {
            "vars" => Self(Template::variable(find(key))),
            "vars_combinations" => Self(Template::compile(key, &mut |name| find(name))),
            _ => Self::default(),
        }
    }

    /// Numbers of the variables that occur.
    pub fn variables(&self) -> impl Iterator<Item = u16> {
        self.0.variables().copied()
    }

    /// Appends the key to `out`. `value` appends the value of a variable, or returns `false` if
    /// it has none. Without a single value there is no key, and the result is `false`.
    pub fn write(
        &self,
        mut value: impl FnMut(u16, &mut Vec<u8>) -> bool,
        out: &mut Vec<u8>,
    ) -> bool {
        self.0.write(|number, out| value(*number, out), out) > 0
    }
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
