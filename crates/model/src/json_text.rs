//! A JSON value kept as its text: a tenth of the memory of a tree, for values that are kept long and
//! looked at seldom.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

/// Compact JSON text, shared by its clones.
#[derive(Clone, PartialEq, Eq)]
pub struct JsonText(Arc<str>);

impl JsonText {
    /// The text of a value.
    #[must_use]
    pub fn new(value: &Value) -> Self {
        Self(value.to_string().into())
    }

    /// Takes over a text as it is.
    ///
    /// # Errors
    /// It is not JSON.
    pub fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        let _: Value = serde_json::from_slice(text)?;
        let text = std::str::from_utf8(text).map_err(serde::de::Error::custom)?;
        Ok(Self(text.into()))
    }

    /// The value again.
    #[must_use]
    pub fn value(&self) -> Value {
        // It was written from a value, so it is one.
        serde_json::from_str(&self.0).unwrap_or(Value::Null)
    }

    /// The text itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<Value> for JsonText {
    fn from(value: Value) -> Self {
        Self::new(&value)
    }
}

/// The value itself is not shown: it may hold a private key.
impl fmt::Debug for JsonText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JsonText({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn order_and_depth_survive() {
        let mut deep = json!(1);
        for _ in 0..100 {
            deep = json!([deep]);
        }
        for value in [json!({"b": 1, "a": [1.5, -1, 1e300, u64::MAX, null, "\u{0}ß"]}), deep] {
            let text = JsonText::new(&value);
            assert_eq!(text.value(), value);
            assert_eq!(text.value().to_string(), text.as_str());
        }
        assert!(!format!("{:?}", JsonText::new(&json!("secret"))).contains("secret"));
    }

    proptest! {
        #[test]
        fn any_number_survives(number: f64, integer: i64) {
            let value = json!([number, integer]);
            prop_assert_eq!(JsonText::new(&value).value(), value);
        }
    }
}
