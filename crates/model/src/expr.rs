//! Expressions over variables in the list form of lua-resty-expr, as in `vars` of traffic-split:
//! `[["remote_addr", "==", "10.0.0.1"], ["OR", ["server_port", ">", 9000], ...]]`.

use serde_json::Value;

/// Words that join the expressions after them.
const LOGICAL: &[&str] = &["AND", "OR", "!AND", "!OR"];

/// Operators between a variable and a value.
const OPERATORS: &[&str] =
    &["==", "~=", "!=", ">", ">=", "<", "<=", "~~", "~*", "in", "has", "ipmatch"];

/// Deeper expressions are refused.
const MAX_DEPTH: usize = 32;

/// Whether `rule` is a well-formed expression: a list of conditions that must all hold, or a word
/// such as `OR` followed by expressions.
///
/// # Errors
/// The reference's message.
pub fn check(rule: &Value) -> Result<(), String> {
    match rule {
        Value::Object(members) if members.is_empty() => Ok(()),
        Value::Array(items) => list(items, MAX_DEPTH),
        _ => Err(INVALID.to_owned()),
    }
}

const INVALID: &str = "invalid expression";
const UNWRAPPED: &str = "rule should be wrapped inside brackets";
const SHORT: &str = "rule too short";

fn list(items: &[Value], depth: usize) -> Result<(), String> {
    match items.split_first() {
        None => Ok(()),
        Some((first, rest)) if is_logical(first) => joined(rest, depth),
        _ => items.iter().try_for_each(|item| expression(item, depth)),
    }
}

fn is_logical(value: &Value) -> bool {
    value.as_str().is_some_and(|word| LOGICAL.contains(&word))
}

fn joined(expressions: &[Value], depth: usize) -> Result<(), String> {
    if expressions.len() < 2 {
        return Err(SHORT.to_owned());
    }
    expressions.iter().try_for_each(|item| expression(item, depth))
}

fn expression(value: &Value, depth: usize) -> Result<(), String> {
    let depth = depth.checked_sub(1).ok_or(INVALID)?;
    let items = value.as_array().ok_or(UNWRAPPED)?;
    match items.as_slice() {
        [] => Err(SHORT.to_owned()),
        [first, rest @ ..] if is_logical(first) => joined(rest, depth),
        [Value::Array(_), ..] => list(items, depth),
        [_] | [_, _] => Err(SHORT.to_owned()),
        [name, operator, _] => condition(name, operator),
        [name, Value::String(not), operator, _] if not == "!" => condition(name, operator),
        _ => Err("bad 'not' expression".to_owned()),
    }
}

fn condition(name: &Value, operator: &Value) -> Result<(), String> {
    if !name.is_string() {
        return Err(INVALID.to_owned());
    }
    match operator.as_str() {
        Some(known) if OPERATORS.contains(&known) => Ok(()),
        Some(other) => Err(format!("invalid operator '{other}'")),
        None => Err(format!("invalid operator '{operator}'")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn well_formed() {
        for rule in [
            json!([]),
            json!([["remote_addr", "==", "1.2.3.4"]]),
            json!([["a", "==", "1"], ["b", "!", "~~", "x.*"]]),
            json!(["OR", ["a", "in", ["1", "2"]], ["!AND", ["b", ">", 1], ["c", "has", "d"]]]),
            json!([["OR", ["a", "~=", "1"], ["b", "ipmatch", ["10.0.0.0/8"]]]]),
        ] {
            assert_eq!(check(&rule), Ok(()), "{rule}");
        }
    }

    #[test]
    fn malformed() {
        for (rule, message) in [
            (json!("a"), INVALID),
            (json!(["a", "==", "1"]), UNWRAPPED),
            (json!([["a", "=="]]), SHORT),
            (json!([[]]), SHORT),
            (json!(["OR", ["a", "==", "1"]]), SHORT),
            (json!([["a", "=", "1"]]), "invalid operator '='"),
            (json!([["a", "x", "==", "1"]]), "bad 'not' expression"),
            (json!([[1, "==", "1"]]), INVALID),
        ] {
            assert_eq!(check(&rule), Err(message.to_owned()), "{rule}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let mut rule = json!([["a", "==", "1"]]);
        for _ in 0..100 {
            rule = json!([rule]);
        }
        assert_eq!(check(&rule), Err(INVALID.to_owned()));
    }
}
