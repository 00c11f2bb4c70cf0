//! Text with variables in it (`spec/plugins.md`, section 10): `$name`, `${name}`,
//! `${name ?? default}`; `\$` is a `$`. A `$` that begins none of these is text.

/// A compiled text; `V` is how the caller names a variable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Template<V> {
    parts: Vec<Part<V>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part<V> {
    Text(Vec<u8>),
    /// `None` stands for a variable that does not exist.
    Variable {
        variable: Option<V>,
        otherwise: Vec<u8>,
    },
}

impl<V> Template<V> {
    /// Compiles a text; `find` looks variables up.
    pub fn compile(text: &str, find: &mut dyn FnMut(&str) -> Option<V>) -> Self {
        Self { parts: split(text, find) }
    }

    /// A text that is nothing but the value of a variable.
    #[must_use]
    pub fn variable(variable: Option<V>) -> Self {
        Self { parts: vec![Part::Variable { variable, otherwise: Vec::new() }] }
    }

    /// The variables that occur and exist.
    pub fn variables(&self) -> impl Iterator<Item = &V> {
        self.parts.iter().filter_map(|part| match part {
            Part::Variable { variable, .. } => variable.as_ref(),
            Part::Text(_) => None,
        })
    }

    /// Whether it names any variable, existing or not.
    #[must_use]
    pub fn is_constant(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Text(_)))
    }

    /// Appends the text to `out`. `value` appends the value of a variable, or returns `false` if it
    /// has none; its default stands there then. Returns how many had a value.
    pub fn write(
        &self,
        mut value: impl FnMut(&V, &mut Vec<u8>) -> bool,
        out: &mut Vec<u8>,
    ) -> usize {
        let mut resolved = 0;
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Variable { variable, otherwise } => {
                    if variable.as_ref().is_some_and(|variable| value(variable, out)) {
                        resolved += 1;
                    } else {
                        out.extend_from_slice(otherwise);
                    }
                }
            }
        }
        resolved
    }
}

fn split<V>(mut rest: &str, find: &mut dyn FnMut(&str) -> Option<V>) -> Vec<Part<V>> {
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
        parts.push(Part::Variable { variable: find(name), otherwise: otherwise.into() });
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

    fn written(text: &str) -> (String, usize) {
        let find = &mut |name: &str| (name != "none").then(|| name.to_owned());
        let template = Template::compile(text, find);
        let mut out = Vec::new();
        let resolved = template.write(
            |name, out| {
                out.extend_from_slice(name.to_uppercase().as_bytes());
                true
            },
            &mut out,
        );
        (String::from_utf8(out).unwrap(), resolved)
    }

    #[test]
    fn every_form() {
        for (text, expected, resolved) in [
            ("", "", 0),
            ("plain", "plain", 0),
            ("$a $b", "A B", 2),
            ("${a}x${ b ?? y }", "AxB", 2),
            ("${none ?? default}", "default", 0),
            ("$none|$a", "|A", 1),
            (r"\$a$", "$a$", 0),
            ("${a", "${a", 0),
            ("$-", "$-", 0),
        ] {
            assert_eq!(written(text), (expected.to_owned(), resolved), "{text}");
        }
    }
}
