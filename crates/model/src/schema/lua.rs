//! How the reference, a Lua program, prints values in messages.

use serde_json::Value;

/// The name of a value's type. Objects and arrays are both tables; null is a userdata.
pub(super) const fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "userdata",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) | Value::Object(_) => "table",
    }
}

/// A number as `tostring` prints it, that is with C's `%.14g`.
pub(crate) fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let scientific = format!("{value:.13e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..14).contains(&exponent) {
        let decimals = usize::try_from(13 - exponent).unwrap_or(0);
        return without_trailing_zeros(&format!("{value:.decimals$}")).to_owned();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", without_trailing_zeros(mantissa), exponent.abs())
}

fn without_trailing_zeros(digits: &str) -> &str {
    if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits }
}

/// A string as `%q` of LuaJIT's `string.format` prints it.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' | '\\' | '\n' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_ascii_control() => {
                let code = u32::from(c);
                // A digit that follows must not become part of the escape.
                if rest.peek().is_some_and(char::is_ascii_digit) {
                    out.push_str(&format!("\\{code:03}"));
                } else {
                    out.push_str(&format!("\\{code}"));
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_print_like_c() {
        for (value, text) in [
            (0.0, "0"),
            (-1.0, "-1"),
            (70000.0, "70000"),
            (1.5, "1.5"),
            (0.1, "0.1"),
            (1e14, "1e+14"),
            (99_999_999_999_999.0, "99999999999999"),
            (1.0e-5, "1e-05"),
            (0.0001, "0.0001"),
            (-2.5e300, "-2.5e+300"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn strings_are_quoted_like_luajit() {
        assert_eq!(quoted("a\"b\\c\nd"), "\"a\\\"b\\\\c\\\nd\"");
        assert_eq!(quoted("\r1\r"), "\"\\0131\\13\"");
        assert_eq!(quoted("\u{0}é"), "\"\\0é\"");
    }
}
