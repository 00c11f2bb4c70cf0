//! Equality of values as the reference sees it: 1 and 1.0 are the same number, `{}` and `[]` the
//! same empty table.

use serde_json::Value;

/// Deeper values than the JSON parser lets through are never equal.
const MAX_DEPTH: usize = 256;

/// Whether two values are the same.
pub(super) fn equal(a: &Value, b: &Value) -> bool {
    within(a, b, MAX_DEPTH)
}

fn within(a: &Value, b: &Value, depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else { return false };
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| within(a, b, depth))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter().all(|(k, a)| b.get(k).is_some_and(|b| within(a, b, depth)))
        }
        (Value::Array(a), Value::Object(b)) | (Value::Object(b), Value::Array(a)) => {
            a.is_empty() && b.is_empty()
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_and_empty_tables() {
        assert!(equal(&json!(1), &json!(1.0)));
        assert!(equal(&json!({"a": []}), &json!({"a": {}})));
        assert!(!equal(&json!({"a": 1}), &json!({"a": 1, "b": 2})));
        assert!(!equal(&json!("1"), &json!(1)));
    }
}
