//! Parts of a request: path segments, query, and (in [`body`]) the body within limits.

pub(crate) mod body;

/// Segments of a path, percent-decoded. Empty ones (`//`, a trailing `/`) are left out.
pub(crate) fn segments(path: &str) -> Vec<String> {
    // Decoded before it is split, as the reference does: `%2F` separates too.
    decode(path, false).split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// Arguments of a query string in order.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `a=b&c=d`.
    pub(crate) fn parse(query: Option<&str>) -> Self {
        let pair = |part: &str| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (decode(name, true), decode(value, true))
        };
        let parts = query.unwrap_or_default().split('&').filter(|part| !part.is_empty());
        Self(parts.map(pair).collect())
    }

    /// The first argument of that name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// All arguments.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// An argument as a number, the way Lua's `tonumber` sees decimal numbers.
    pub(crate) fn number(&self, name: &str) -> Option<f64> {
        self.get(name)?.trim().parse().ok().filter(|number: &f64| number.is_finite())
    }
}

/// Percent-decoding; broken escapes stay as they are.
fn decode(text: &str, plus_is_space: bool) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'%', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    out.push(high << 4 | low);
                    rest = after;
                }
                _ => out.push(b'%'),
            },
            (b'+', _) if plus_is_space => out.push(b' '),
            _ => out.push(*first),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_and_merged() {
        assert_eq!(
            segments("//apisix//admin/%75pstreams/1/"),
            ["apisix", "admin", "upstreams", "1"]
        );
        assert_eq!(segments("/a%2fb/%zz%4"), ["a", "b", "%zz%4"]);
        assert!(segments("/").is_empty());
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse(Some("a=1+2&b&filter=x%3D1%26y%3D2&n=%20-3.5&i=inf&&a=z"));
        assert_eq!(query.get("a"), Some("1 2"));
        assert_eq!(query.get("b"), Some(""));
        assert_eq!(query.get("filter"), Some("x=1&y=2"));
        assert_eq!(query.number("n"), Some(-3.5));
        assert_eq!(query.number("i"), None);
        assert_eq!(query.get("c"), None);
    }
}
