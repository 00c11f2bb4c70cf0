//! Expressions over variables in the list form of lua-resty-expr (`spec/plugins.md`, section 9),
//! as in `vars` of traffic-split and `_meta.filter`:
//! `[["remote_addr", "==", "10.0.0.1"], ["OR", ["server_port", ">", 9000], ...]]`.

use std::cmp::Ordering;
use std::net::IpAddr;

use ipnet::IpNet;
use regex::bytes::{Regex, RegexBuilder};
use serde_json::Value;

use crate::check::parse_network;

/// Words that join the expressions after them.
const LOGICAL: &[&str] = &["AND", "OR", "!AND", "!OR"];

/// Deeper expressions are refused.
const MAX_DEPTH: usize = 32;

/// Largest compiled regular expression, bytes.
const MAX_REGEX: usize = 1 << 20;

const INVALID: &str = "invalid expression";
const UNWRAPPED: &str = "rule should be wrapped inside brackets";
const SHORT: &str = "rule too short";

/// A compiled expression; `V` is how the caller names a variable.
#[derive(Debug, Clone)]
pub struct Expr<V>(Node<V>);

#[derive(Debug, Clone)]
enum Node<V> {
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    /// `variable` is `None` when no variable has the name: it never has a value.
    Test {
        variable: Option<V>,
        test: Test,
    },
}

#[derive(Debug, Clone)]
enum Test {
    Equals(Value),
    Differs(Value),
    Ordered(fn(Ordering) -> bool, Value),
    Matches(Regex),
    In(Vec<Value>),
    Has(Value),
    Networks(Vec<IpNet>),
}

/// Whether `rule` is a well-formed expression.
///
/// # Errors
/// The reference's message.
pub fn check(rule: &Value) -> Result<(), String> {
    Expr::<()>::compile(rule, &mut |_| None).map(drop)
}

impl<V> Expr<V> {
    /// Compiles a list of conditions that must all hold, or a word such as `OR` followed by
    /// expressions. `find` looks variables up.
    ///
    /// # Errors
    /// The reference's message.
    pub fn compile(rule: &Value, find: &mut dyn FnMut(&str) -> Option<V>) -> Result<Self, String> {
        match rule {
            Value::Object(members) if members.is_empty() => Ok(Self(Node::All(Vec::new()))),
            Value::Array(items) => list(items, MAX_DEPTH, find).map(Self),
            _ => Err(INVALID.to_owned()),
        }
    }

    /// Whether it holds. `value` appends the value of a variable, or returns `false` if it has
    /// none; `scratch` is where.
    pub fn holds(
        &self,
        scratch: &mut Vec<u8>,
        value: &mut dyn FnMut(&V, &mut Vec<u8>) -> bool,
    ) -> bool {
        self.0.holds(scratch, value)
    }
}

impl<V> Node<V> {
    fn holds(
        &self,
        scratch: &mut Vec<u8>,
        value: &mut dyn FnMut(&V, &mut Vec<u8>) -> bool,
    ) -> bool {
        match self {
            Self::All(nodes) => nodes.iter().all(|node| node.holds(scratch, value)),
            Self::Any(nodes) => nodes.iter().any(|node| node.holds(scratch, value)),
            Self::Not(node) => !node.holds(scratch, value),
            Self::Test { variable, test } => {
                scratch.clear();
                let is_set = variable.as_ref().is_some_and(|variable| value(variable, scratch));
                test.holds(is_set.then_some(scratch))
            }
        }
    }
}

impl Test {
    /// Without a value only `~=` holds.
    fn holds(&self, left: Option<&[u8]>) -> bool {
        let Some(left) = left else { return matches!(self, Self::Differs(_)) };
        match self {
            Self::Equals(right) => equals(left, right),
            Self::Differs(right) => !equals(left, right),
            Self::Ordered(wanted, right) => compare(left, right).is_some_and(wanted),
            Self::Matches(regex) => regex.is_match(left),
            Self::In(items) => items.iter().any(|item| equals(left, item)),
            Self::Has(item) => {
                left.split(|byte| *byte == b',').any(|part| equals(part.trim_ascii(), item))
            }
            Self::Networks(networks) => std::str::from_utf8(left)
                .ok()
                .and_then(|text| text.parse::<IpAddr>().ok())
                .is_some_and(|ip| networks.iter().any(|network| network.contains(&ip))),
        }
    }
}

/// A number on the right makes it a comparison of numbers.
fn equals(left: &[u8], right: &Value) -> bool {
    match right {
        Value::String(right) => left == right.as_bytes(),
        Value::Number(right) => number(left).is_some_and(|left| Some(left) == right.as_f64()),
        _ => false,
    }
}

/// By number when both sides are numbers, else by bytes.
fn compare(left: &[u8], right: &Value) -> Option<Ordering> {
    let by_number = |right: Option<f64>| number(left)?.partial_cmp(&right?);
    match right {
        Value::Number(right) => by_number(right.as_f64()),
        Value::String(right) => {
            by_number(number(right.as_bytes())).or_else(|| Some(left.cmp(right.as_bytes())))
        }
        _ => None,
    }
}

fn number(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?.trim();
    // `inf` and `nan` are words, not numbers.
    let first = text.trim_start_matches(['+', '-']).bytes().next()?;
    if !first.is_ascii_digit() && first != b'.' {
        return None;
    }
    text.parse().ok()
}

fn list<V>(
    items: &[Value],
    depth: usize,
    find: &mut dyn FnMut(&str) -> Option<V>,
) -> Result<Node<V>, String> {
    match items.split_first() {
        Some((first, rest)) if is_logical(first) => joined(first, rest, depth, find),
        _ => all(items, depth, find).map(Node::All),
    }
}

fn all<V>(
    items: &[Value],
    depth: usize,
    find: &mut dyn FnMut(&str) -> Option<V>,
) -> Result<Vec<Node<V>>, String> {
    items.iter().map(|item| expression(item, depth, find)).collect()
}

fn is_logical(value: &Value) -> bool {
    value.as_str().is_some_and(|word| LOGICAL.contains(&word))
}

fn joined<V>(
    word: &Value,
    expressions: &[Value],
    depth: usize,
    find: &mut dyn FnMut(&str) -> Option<V>,
) -> Result<Node<V>, String> {
    if expressions.len() < 2 {
        return Err(SHORT.to_owned());
    }
    let nodes = all(expressions, depth, find)?;
    Ok(match word.as_str().unwrap_or_default() {
        "OR" => Node::Any(nodes),
        "!OR" => Node::Not(Box::new(Node::Any(nodes))),
        "!AND" => Node::Not(Box::new(Node::All(nodes))),
        _ => Node::All(nodes),
    })
}

fn expression<V>(
    value: &Value,
    depth: usize,
    find: &mut dyn FnMut(&str) -> Option<V>,
) -> Result<Node<V>, String> {
    let depth = depth.checked_sub(1).ok_or(INVALID)?;
    let items = value.as_array().ok_or(UNWRAPPED)?;
    match items.as_slice() {
        [] => Err(SHORT.to_owned()),
        [first, rest @ ..] if is_logical(first) => joined(first, rest, depth, find),
        [Value::Array(_), ..] => list(items, depth, find),
        [_] | [_, _] => Err(SHORT.to_owned()),
        [name, operator, right] => condition(name, operator, right, find),
        [name, Value::String(not), operator, right] if not == "!" => {
            condition(name, operator, right, find).map(|node| Node::Not(Box::new(node)))
        }
        _ => Err("bad 'not' expression".to_owned()),
    }
}

fn condition<V>(
    name: &Value,
    operator: &Value,
    right: &Value,
    find: &mut dyn FnMut(&str) -> Option<V>,
) -> Result<Node<V>, String> {
    let name = name.as_str().ok_or(INVALID)?;
    let operator = match operator {
        Value::String(operator) => operator.as_str(),
        other => return Err(format!("invalid operator '{other}'")),
    };
    let ordered = |wanted: fn(Ordering) -> bool| Test::Ordered(wanted, right.clone());
    let test = match operator {
        "==" => Test::Equals(right.clone()),
        "~=" | "!=" => Test::Differs(right.clone()),
        ">" => ordered(Ordering::is_gt),
        ">=" => ordered(Ordering::is_ge),
        "<" => ordered(Ordering::is_lt),
        "<=" => ordered(Ordering::is_le),
        "~~" => Test::Matches(regex(right, false)?),
        "~*" => Test::Matches(regex(right, true)?),
        "in" => Test::In(right.as_array().ok_or(INVALID)?.clone()),
        "has" => Test::Has(right.clone()),
        "ipmatch" => Test::Networks(networks(right)?),
        other => return Err(format!("invalid operator '{other}'")),
    };
    Ok(Node::Test { variable: find(name), test })
}

/// Regular expressions are those of the crate `regex`: linear time, so without back-references
/// and look-around.
fn regex(pattern: &Value, ignore_case: bool) -> Result<Regex, String> {
    let pattern = pattern.as_str().ok_or(INVALID)?;
    RegexBuilder::new(pattern)
        .unicode(false)
        .case_insensitive(ignore_case)
        .size_limit(MAX_REGEX)
        .build()
        .map_err(|error| {
            let error = error.to_string();
            let reason = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
            format!("invalid regex '{pattern}': {reason}")
        })
}

fn networks(value: &Value) -> Result<Vec<IpNet>, String> {
    let one = std::slice::from_ref(value);
    let items = value.as_array().map_or(one, Vec::as_slice);
    let network = |item: &Value| {
        let text = item.as_str().ok_or(INVALID)?;
        parse_network(text).ok_or_else(|| format!("invalid ip address: {text}"))
    };
    items.iter().map(network).collect()
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

    fn holds(rule: Value, variables: &[(&str, &str)]) -> bool {
        let find = &mut |name: &str| variables.iter().position(|(known, _)| *known == name);
        let expr = Expr::compile(&rule, find).unwrap();
        expr.holds(&mut Vec::new(), &mut |index, out| {
            out.extend_from_slice(variables[*index].1.as_bytes());
            true
        })
    }

    #[test]
    fn every_operator() {
        let vars = [("ip", "10.1.2.3"), ("port", "9100"), ("name", "Web-1"), ("list", "a, b")];
        for (condition, expected) in [
            (json!(["port", "==", 9100]), true),
            (json!(["port", "==", "9100"]), true),
            (json!(["port", "==", "09100"]), false),
            (json!(["port", "==", true]), false),
            (json!(["name", "==", 1]), false),
            (json!(["port", "~=", 9100]), false),
            (json!(["name", "~=", "web-1"]), true),
            (json!(["port", ">", 900]), true),
            (json!(["port", ">", "900"]), true),
            (json!(["port", ">=", 9100]), true),
            (json!(["port", "<", 9100]), false),
            (json!(["port", "<=", 9100.5]), true),
            (json!(["name", ">", 1]), false),
            (json!(["name", "<", "Xeb"]), true),
            (json!(["name", "~~", "^web-\\d$"]), false),
            (json!(["name", "~*", "^web-\\d$"]), true),
            (json!(["name", "in", ["a", "Web-1"]]), true),
            (json!(["port", "in", [9100]]), true),
            (json!(["name", "in", []]), false),
            (json!(["list", "has", "b"]), true),
            (json!(["list", "has", "a, b"]), false),
            (json!(["ip", "ipmatch", ["::1", "10.0.0.0/8"]]), true),
            (json!(["ip", "ipmatch", ["10.1.2.4"]]), false),
            (json!(["name", "ipmatch", ["0.0.0.0/0"]]), false),
            (json!(["none", "==", ""]), false),
            (json!(["none", "~=", "x"]), true),
            (json!(["none", "<", 1]), false),
            (json!(["none", "!", "==", "x"]), true),
            (json!(["port", "!", "in", ["1"]]), true),
        ] {
            assert_eq!(holds(json!([condition]), &vars), expected, "{condition}");
        }
    }

    #[test]
    fn words_join() {
        let vars = [("a", "1")];
        let (yes, no) = (json!(["a", "==", "1"]), json!(["a", "==", "2"]));
        for (rule, expected) in [
            (json!([]), true),
            (json!({}), true),
            (json!([yes, no]), false),
            (json!([yes, yes]), true),
            (json!(["OR", no, yes]), true),
            (json!(["AND", no, yes]), false),
            (json!(["!AND", no, yes]), true),
            (json!(["!OR", no, no]), true),
            (json!([["OR", no, ["AND", yes, yes]], [yes]]), true),
            (json!([[yes, no]]), false),
        ] {
            assert_eq!(holds(rule.clone(), &vars), expected, "{rule}");
        }
    }

    #[test]
    fn what_could_never_be_evaluated_is_refused() {
        for (rule, part) in [
            (json!([["a", "~~", "(?=x)"]]), "invalid regex '(?=x)': look-around"),
            (json!([["a", "~~", 1]]), INVALID),
            (json!([["a", "in", "x"]]), INVALID),
            (json!([["a", "ipmatch", ["x"]]]), "invalid ip address: x"),
        ] {
            let message = check(&rule).unwrap_err();
            assert!(message.starts_with(part), "{rule}: {message}");
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
