//! JSON as the reference reads and writes it (cjson): compact, `/` written as `\/`.

mod diagnosis;

use std::io;

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};

/// Deepest nesting that is read; serde_json stops at the same depth.
const MAX_DEPTH: usize = 127;

/// A value as compact JSON with `\/`.
pub(crate) fn to_text(value: &Value) -> String {
    let mut out = Vec::with_capacity(256);
    // Writing a `Value` to memory cannot fail: its keys are strings and `Vec` takes every byte.
    let written = value.serialize(&mut Serializer::with_formatter(&mut out, EscapedSlash));
    debug_assert!(written.is_ok(), "a JSON value was not written: {written:?}");
    String::from_utf8(out).unwrap_or_default()
}

/// Reads a JSON document; the error is worded as cjson words it where it has words for it.
pub(crate) fn parse(input: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(input)
        .map_err(|error| diagnosis::explain(input, MAX_DEPTH).unwrap_or_else(|| error.to_string()))
}

/// What Lua calls the type of a value; messages of the reference say it.
pub(crate) const fn lua_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "userdata",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) | Value::Object(_) => "table",
    }
}

struct EscapedSlash;

impl Formatter for EscapedSlash {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut parts = fragment.split('/');
        if let Some(first) = parts.next() {
            writer.write_all(first.as_bytes())?;
        }
        for part in parts {
            writer.write_all(b"\\/")?;
            writer.write_all(part.as_bytes())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn slashes_are_escaped_everywhere() {
        let value = json!({"a/b": "/x//y/", "n": [1, 1.5, null, true], "e": "\"\\\n"});
        assert_eq!(to_text(&value), r#"{"a\/b":"\/x\/\/y\/","n":[1,1.5,null,true],"e":"\"\\\n"}"#);
        assert_eq!(serde_json::from_str::<Value>(&to_text(&value)).unwrap(), value);
    }

    #[test]
    fn depth_is_bounded() {
        let deep = |depth: usize| [b"[".repeat(depth), b"]".repeat(depth)].concat();
        assert!(parse(&deep(MAX_DEPTH)).is_ok());
        assert_eq!(
            parse(&deep(MAX_DEPTH + 1)).unwrap_err(),
            "Found too many nested data structures (128) at character 128"
        );
        assert!(parse(&b"[".repeat(1_000_000)).is_err());
    }
}
