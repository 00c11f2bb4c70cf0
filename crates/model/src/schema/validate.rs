//! Evaluates a schema the way the reference's validator does: same order, same words, first error
//! wins (`spec/schemas.md`, section 1; decision record 0004).
//!
//! Recursion follows the schema, which is a finite tree, so a hostile value cannot deepen it.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::compile::{Additional, Compiled, Condition, Dependency, Format, Size, Type};
use super::equal::equal;
use super::lua;

/// What `[]` is where an object is wanted.
static EMPTY: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);

impl Compiled {
    /// Whether `value` conforms.
    ///
    /// # Errors
    /// The message of the first rule that is broken.
    pub(crate) fn validate(&self, value: &Value) -> Result<(), String> {
        if is_secret_reference(value) && self.takes_secret_reference() {
            return Ok(());
        }
        self.kind(value)?;
        if let Some(members) = members(value) {
            self.object(value, members)?;
        }
        if let Some(items) = items(value) {
            self.array(items)?;
        }
        match value {
            Value::String(text) => self.string(text)?,
            Value::Number(number) => self.number(number.as_f64().unwrap_or(f64::MAX))?,
            _ => {}
        }
        if let Some(values) = &self.values
            && !values.iter().any(|known| equal(known, value))
        {
            return Err("matches none of the enum values".to_owned());
        }
        self.combined(value)?;
        match (self.format, value) {
            (Some(format), Value::String(text)) => format.check(text),
            _ => Ok(()),
        }
    }

    fn takes_secret_reference(&self) -> bool {
        self.types.is_empty() || self.types.contains(&Type::String)
    }

    fn kind(&self, value: &Value) -> Result<(), String> {
        if self.types.is_empty() || self.types.iter().any(|kind| kind.holds(value)) {
            return Ok(());
        }
        let got = lua::type_name(value);
        let wanted: Vec<_> = self.types.iter().map(|kind| kind.name()).collect();
        match wanted.as_slice() {
            [one] => Err(format!("wrong type: expected {one}, got {got}")),
            _ => Err(format!("wrong type: expected one of {}, got {got}", wanted.join(", "))),
        }
    }

    fn object(&self, value: &Value, members: &Map<String, Value>) -> Result<(), String> {
        for property in &self.properties {
            let name = &property.name;
            match members.get(name) {
                Some(member) => property.schema.validate(member).map_err(|inner| {
                    format!("property {} validation failed: {inner}", lua::quoted(name))
                })?,
                // An absent member gets its default, which is never checked.
                None if property.required && property.default.is_none() => {
                    return Err(missing(name));
                }
                None => {}
            }
        }
        if let Some(name) = self.required.iter().find(|name| !members.contains_key(*name)) {
            return Err(missing(name));
        }
        self.dependencies(value, members)?;
        self.other_members(members)?;
        self.properties_size.check(members.len(), |bound, count| {
            format!("expect object to have {bound} {count} properties")
        })
    }

    fn dependencies(&self, value: &Value, members: &Map<String, Value>) -> Result<(), String> {
        for (name, rule) in &self.dependencies {
            if !members.contains_key(name) {
                continue;
            }
            match rule {
                Dependency::Names(wanted) => {
                    if let Some(absent) = wanted.iter().find(|other| !members.contains_key(*other))
                    {
                        return Err(format!(
                            "property {} is required when {} is set",
                            lua::quoted(absent),
                            lua::quoted(name)
                        ));
                    }
                }
                Dependency::Schema(schema) => {
                    schema.validate(value).map_err(|inner| {
                        format!(
                            "failed to validate dependent schema for {}: {inner}",
                            lua::quoted(name)
                        )
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Members that `properties` does not name.
    fn other_members(&self, members: &Map<String, Value>) -> Result<(), String> {
        if self.patterns.is_empty() && matches!(self.additional, Additional::Any) {
            return Ok(());
        }
        for (name, member) in members {
            let mut known = self.properties.iter().any(|property| property.name == *name);
            for (pattern, schema) in &self.patterns {
                if pattern.regex.is_match(name.as_bytes()) {
                    known = true;
                    schema.validate(member).map_err(|inner| {
                        let pattern = &pattern.source;
                        format!("failed to validate {name} (matching \"{pattern}\"): {inner}")
                    })?;
                }
            }
            match &self.additional {
                _ if known => {}
                Additional::Any => {}
                Additional::Forbidden => {
                    return Err(format!("additional properties forbidden, found {name}"));
                }
                Additional::Schema(schema) => schema.validate(member).map_err(|inner| {
                    format!("failed to validate additional property {name}: {inner}")
                })?,
            }
        }
        Ok(())
    }

    fn array(&self, items: &[Value]) -> Result<(), String> {
        self.items_size.check(items.len(), |bound, count| {
            format!("expect array to have {bound} {count} items")
        })?;
        if let Some(schema) = &self.items {
            for (index, item) in items.iter().enumerate() {
                schema
                    .validate(item)
                    .map_err(|inner| format!("failed to validate item {}: {inner}", index + 1))?;
            }
        }
        if self.unique {
            for (later, item) in items.iter().enumerate() {
                if let Some(earlier) = items.iter().take(later).position(|seen| equal(seen, item)) {
                    return Err(format!(
                        "expected unique items but items {} and {} are equal",
                        earlier + 1,
                        later + 1
                    ));
                }
            }
        }
        Ok(())
    }

    fn string(&self, text: &str) -> Result<(), String> {
        if self.length.min.is_some() || self.length.max.is_some() {
            let length = text.chars().count();
            let got = |word: &str, bound: &str, limit: u64| {
                format!("string too {word}, expected {bound} {limit}, got {length}")
            };
            if let Some(min) = self.length.min.filter(|min| (length as u64) < *min) {
                return Err(got("short", "at least", min));
            }
            if let Some(max) = self.length.max.filter(|max| (length as u64) > *max) {
                return Err(got("long", "at most", max));
            }
        }
        match &self.pattern {
            Some(pattern) if !pattern.regex.is_match(text.as_bytes()) => Err(format!(
                "failed to match pattern \"{}\" with {}",
                pattern.source,
                lua::quoted(text)
            )),
            _ => Ok(()),
        }
    }

    fn number(&self, value: f64) -> Result<(), String> {
        let broken = |rule: &str, limit: f64| {
            Err(format!("expected {} to be {rule} {}", lua::number(value), lua::number(limit)))
        };
        match self {
            Self { minimum: Some(limit), .. } if value < *limit => broken("at least", *limit),
            Self { exclusive_minimum: Some(limit), .. } if value <= *limit => {
                broken("greater than", *limit)
            }
            Self { maximum: Some(limit), .. } if value > *limit => broken("at most", *limit),
            Self { exclusive_maximum: Some(limit), .. } if value >= *limit => {
                broken("smaller than", *limit)
            }
            _ => Ok(()),
        }
    }

    /// allOf, anyOf, oneOf, if and not.
    fn combined(&self, value: &Value) -> Result<(), String> {
        for (index, schema) in self.all_of.iter().enumerate() {
            schema
                .validate(value)
                .map_err(|inner| format!("allOf {} failed: {inner}", index + 1))?;
        }
        if !self.any_of.is_empty() && !self.any_of.iter().any(|s| s.validate(value).is_ok()) {
            return Err(none_of(&self.any_of));
        }
        if !self.one_of.is_empty() {
            let mut fits =
                self.one_of.iter().enumerate().filter(|(_, s)| s.validate(value).is_ok());
            let only = "value should match only one schema, but matches";
            match (fits.next(), fits.next()) {
                (Some(_), None) => {}
                (Some((a, _)), Some((b, _))) => {
                    return Err(format!("{only} both schemas {} and {}", a + 1, b + 1));
                }
                (None, _) => return Err(format!("{only} none")),
            }
        }
        if let Some(condition) = &self.condition {
            condition.check(value)?;
        }
        match &self.not {
            Some(not) if not.validate(value).is_ok() => Err(NOT.to_owned()),
            _ => Ok(()),
        }
    }
}

const NOT: &str = "value wasn't supposed to match schema";

fn missing(name: &str) -> String {
    format!("property {} is required", lua::quoted(name))
}

fn none_of(branches: &[Compiled]) -> String {
    let message = "object matches none of the required";
    let wanted: Vec<String> = branches
        .iter()
        .map(Compiled::required_names)
        .filter(|names| !names.is_empty())
        .map(|names| {
            let quoted: Vec<_> = names.into_iter().map(lua::quoted).collect();
            format!("[{}]", quoted.join(","))
        })
        .collect();
    if wanted.is_empty() {
        message.to_owned()
    } else {
        format!("{message}: {}", wanted.join(" or "))
    }
}

impl Condition {
    fn check(&self, value: &Value) -> Result<(), String> {
        let (schema, name) = if self.test.validate(value).is_ok() {
            (&self.then, "then")
        } else {
            (&self.otherwise, "else")
        };
        match schema {
            Some(schema) if schema.validate(value).is_err() => {
                Err(format!("{name} clause did not match"))
            }
            _ => Ok(()),
        }
    }
}

impl Type {
    fn holds(self, value: &Value) -> bool {
        match self {
            Self::Object => members(value).is_some(),
            Self::Array => items(value).is_some(),
            Self::String => value.is_string(),
            Self::Integer => value.as_f64().is_some_and(|number| number.fract() == 0.0),
            Self::Number => value.is_number(),
            Self::Boolean => value.is_boolean(),
            Self::Null => value.is_null(),
        }
    }
}

impl Format {
    fn check(self, text: &str) -> Result<(), String> {
        let (name, fits) = match self {
            Self::Ipv4 => ("ipv4", text.parse::<Ipv4Addr>().is_ok()),
            Self::Ipv6 => ("ipv6", text.parse::<Ipv6Addr>().is_ok()),
        };
        if fits { Ok(()) } else { Err(format!("expect valid {name} format but got: {text}")) }
    }
}

impl Size {
    fn check(self, count: usize, message: impl Fn(&str, u64) -> String) -> Result<(), String> {
        let count = count as u64;
        if let Some(min) = self.min.filter(|min| count < *min) {
            return Err(message("at least", min));
        }
        match self.max.filter(|max| count > *max) {
            Some(max) => Err(message("at most", max)),
            None => Ok(()),
        }
    }
}

/// The members of an object; an empty array is an empty object.
fn members(value: &Value) -> Option<&Map<String, Value>> {
    match value {
        Value::Object(members) => Some(members),
        Value::Array(items) if items.is_empty() => Some(&EMPTY),
        _ => None,
    }
}

/// The items of an array; an empty object is an empty array.
fn items(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(items) => Some(items),
        Value::Object(members) if members.is_empty() => Some(&[]),
        _ => None,
    }
}

/// Whether the value stands for something that is kept elsewhere.
pub(crate) fn is_secret_reference(value: &Value) -> bool {
    value.as_str().is_some_and(|text| {
        let env = text.get(..7).is_some_and(|head| head.eq_ignore_ascii_case("$env://"));
        env || text.starts_with("$secret://")
    })
}
