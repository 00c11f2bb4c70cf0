//! Reads what the JSON schemas allow beyond the obvious spelling: `1.0` is an integer, an id may
//! be an integer, and an empty array is an empty object.

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::{Number, Value};

use super::Plugins;

/// An id: a string, or an integer that stands for its decimal text.
pub(super) fn optional_id<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Id {
        Text(String),
        Number(Number),
    }
    Ok(Option::<Id>::deserialize(input)?.map(|id| match id {
        Id::Text(text) => text,
        Id::Number(number) => crate::reference::id_text(&number),
    }))
}

/// Plugins by name.
pub(super) fn plugins<'de, D: Deserializer<'de>>(input: D) -> Result<Plugins, D::Error> {
    match Value::deserialize(input)? {
        Value::Object(plugins) => Ok(plugins),
        Value::Array(items) if items.is_empty() => Ok(Plugins::new()),
        _ => Err(D::Error::custom("plugins must be an object")),
    }
}

/// An object of known members.
pub(super) fn object<'de, T, D>(input: D) -> Result<T, D::Error>
where
    T: DeserializeOwned + Default,
    D: Deserializer<'de>,
{
    match Value::deserialize(input)? {
        Value::Array(items) if items.is_empty() => Ok(T::default()),
        value => T::deserialize(value).map_err(D::Error::custom),
    }
}

/// A list; Lua writes an empty one as an empty object.
pub(super) fn list<'de, T: DeserializeOwned, D: Deserializer<'de>>(
    input: D,
) -> Result<Vec<T>, D::Error> {
    Ok(optional_list(input)?.unwrap_or_default())
}

/// A list that may be absent.
pub(super) fn optional_list<'de, T: DeserializeOwned, D: Deserializer<'de>>(
    input: D,
) -> Result<Option<Vec<T>>, D::Error> {
    match Value::deserialize(input)? {
        Value::Null => Ok(None),
        Value::Object(members) if members.is_empty() => Ok(Some(Vec::new())),
        other => Vec::deserialize(other).map(Some).map_err(D::Error::custom),
    }
}

/// A port.
pub(super) fn optional_port<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u16>, D::Error> {
    match optional_integer(input)? {
        None => Ok(None),
        Some(port) => match u16::try_from(port) {
            Ok(port) if port > 0 => Ok(Some(port)),
            _ => Err(D::Error::custom(format!("invalid port {port}"))),
        },
    }
}

/// A count; larger ones than `u32::MAX` mean the same as that.
pub(super) fn optional_count<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u32>, D::Error> {
    Ok(optional_integer(input)?.map(|count| count.clamp(0, i64::from(u32::MAX)) as u32))
}

/// A count that must be there.
pub(super) fn count<'de, D: Deserializer<'de>>(input: D) -> Result<u32, D::Error> {
    optional_count(input)?.ok_or_else(|| D::Error::custom("a number is missing"))
}

/// A small integer that may be negative.
pub(super) fn signed<'de, D: Deserializer<'de>>(input: D) -> Result<i32, D::Error> {
    let (low, high) = (i64::from(i32::MIN), i64::from(i32::MAX));
    Ok(optional_integer(input)?.unwrap_or(0).clamp(low, high) as i32)
}

/// An integer, which JSON may write as `1.0` or `1e3`. Out of range means the nearest in range.
fn optional_integer<'de, D: Deserializer<'de>>(input: D) -> Result<Option<i64>, D::Error> {
    match Option::<f64>::deserialize(input)? {
        None => Ok(None),
        Some(number) if number.fract() == 0.0 => Ok(Some(number as i64)),
        Some(number) => Err(D::Error::custom(format!("{number} is not an integer"))),
    }
}
