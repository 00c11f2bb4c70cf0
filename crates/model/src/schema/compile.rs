//! Reads a schema document into the form that is evaluated. It knows the keywords that APISIX
//! schemas use; others are ignored, as in the reference.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use regex::bytes::{Regex, RegexBuilder};
use serde_json::{Map, Value};

/// Expressions by source. They stand in schemas that are part of the program, the same few
/// everywhere, and take tens of kilobytes each.
static EXPRESSIONS: LazyLock<Mutex<HashMap<String, Regex>>> = LazyLock::new(Mutex::default);

/// A schema that can be evaluated. Every `Vec` keeps the order of the document.
#[derive(Debug, Default)]
pub(crate) struct Compiled {
    pub(super) types: Vec<Type>,
    pub(super) properties: Vec<Property>,
    pub(super) required: Vec<String>,
    pub(super) dependencies: Vec<(String, Dependency)>,
    pub(super) patterns: Vec<(Pattern, Compiled)>,
    pub(super) additional: Additional,
    pub(super) properties_size: Size,
    pub(super) items: Option<Box<Compiled>>,
    pub(super) items_size: Size,
    pub(super) unique: bool,
    pub(super) length: Size,
    pub(super) pattern: Option<Pattern>,
    pub(super) minimum: Option<f64>,
    pub(super) maximum: Option<f64>,
    pub(super) exclusive_minimum: Option<f64>,
    pub(super) exclusive_maximum: Option<f64>,
    pub(super) values: Option<Vec<Value>>,
    pub(super) all_of: Vec<Compiled>,
    pub(super) any_of: Vec<Compiled>,
    pub(super) one_of: Vec<Compiled>,
    pub(super) condition: Option<Box<Condition>>,
    pub(super) not: Option<Box<Compiled>>,
    pub(super) format: Option<Format>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
    Null,
}

impl Type {
    const ALL: [(&'static str, Self); 7] = [
        ("object", Self::Object),
        ("array", Self::Array),
        ("string", Self::String),
        ("integer", Self::Integer),
        ("number", Self::Number),
        ("boolean", Self::Boolean),
        ("null", Self::Null),
    ];

    pub(super) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }

    fn read(value: &Value) -> Result<Self, String> {
        Self::ALL
            .iter()
            .find(|(name, _)| value.as_str() == Some(name))
            .map(|(_, known)| *known)
            .ok_or_else(|| format!("unknown type {value}"))
    }
}

#[derive(Debug)]
pub(super) struct Property {
    pub(super) name: String,
    pub(super) schema: Compiled,
    pub(super) default: Option<Value>,
    pub(super) required: bool,
}

#[derive(Debug)]
pub(super) enum Dependency {
    Names(Vec<String>),
    Schema(Box<Compiled>),
}

#[derive(Debug, Default)]
pub(super) enum Additional {
    #[default]
    Any,
    Forbidden,
    Schema(Box<Compiled>),
}

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Size {
    pub(super) min: Option<u64>,
    pub(super) max: Option<u64>,
}

/// A regular expression. It searches, and looks at bytes as PCRE without its UTF mode does.
#[derive(Debug)]
pub(super) struct Pattern {
    pub(super) source: String,
    pub(super) regex: Regex,
}

#[derive(Debug)]
pub(super) struct Condition {
    pub(super) test: Compiled,
    pub(super) then: Option<Compiled>,
    pub(super) otherwise: Option<Compiled>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Ipv4,
    Ipv6,
}

impl Compiled {
    /// Reads `schema`, a finite tree without references.
    ///
    /// # Errors
    /// What is wrong with the schema itself.
    pub(crate) fn new(schema: &Value) -> Result<Self, String> {
        let map = match schema {
            Value::Object(map) => map,
            Value::Bool(true) => return Ok(Self::default()),
            _ => return Err(format!("a schema must be an object, not {schema}")),
        };
        if let Some(target) = map.get("$ref") {
            return Err(format!("definition {target} is missing"));
        }
        let number = |name: &str| map.get(name).and_then(Value::as_f64);
        let mut required = names(map.get("required"));
        let properties = properties(map, &mut required)?;
        Ok(Self {
            types: types(map.get("type"))?,
            properties,
            required,
            dependencies: dependencies(map.get("dependencies"))?,
            patterns: patterns(map.get("patternProperties"))?,
            additional: additional(map.get("additionalProperties"))?,
            properties_size: size(map, "minProperties", "maxProperties"),
            items: sub(map.get("items"))?,
            items_size: size(map, "minItems", "maxItems"),
            unique: map.get("uniqueItems") == Some(&Value::Bool(true)),
            length: size(map, "minLength", "maxLength"),
            pattern: map.get("pattern").and_then(Value::as_str).map(Pattern::new).transpose()?,
            minimum: number("minimum"),
            maximum: number("maximum"),
            exclusive_minimum: number("exclusiveMinimum"),
            exclusive_maximum: number("exclusiveMaximum"),
            values: map.get("enum").and_then(Value::as_array).cloned(),
            all_of: list(map.get("allOf"))?,
            any_of: list(map.get("anyOf"))?,
            one_of: list(map.get("oneOf"))?,
            condition: condition(map)?,
            not: sub(map.get("not"))?,
            format: format(map.get("format")),
        })
    }

    /// Names that the schema itself requires, in order, as anyOf messages list them.
    pub(super) fn required_names(&self) -> Vec<&str> {
        let own = self.properties.iter().filter(|p| p.required).map(|p| p.name.as_str());
        own.chain(self.required.iter().map(String::as_str)).collect()
    }
}

impl Pattern {
    fn new(source: &str) -> Result<Self, String> {
        let mut known = EXPRESSIONS.lock().unwrap_or_else(PoisonError::into_inner);
        let regex = match known.get(source) {
            Some(regex) => regex.clone(),
            None => {
                let regex = RegexBuilder::new(source).unicode(false).build();
                let regex = regex.map_err(|error| format!("pattern {source}: {error}"))?;
                known.entry(source.to_owned()).or_insert(regex).clone()
            }
        };
        Ok(Self { source: source.to_owned(), regex })
    }
}

fn types(value: Option<&Value>) -> Result<Vec<Type>, String> {
    match value {
        None => Ok(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(Type::read).collect(),
        Some(one) => Ok(vec![Type::read(one)?]),
    }
}

fn names(value: Option<&Value>) -> Vec<String> {
    let list = value.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn properties(map: &Map<String, Value>, rest: &mut Vec<String>) -> Result<Vec<Property>, String> {
    let listed = map.get("properties").and_then(Value::as_object).into_iter().flatten();
    listed
        .map(|(name, schema)| {
            let required = rest.iter().any(|wanted| wanted == name);
            rest.retain(|wanted| wanted != name);
            Ok(Property {
                name: name.clone(),
                schema: Compiled::new(schema).map_err(|error| format!("{name}: {error}"))?,
                default: schema.get("default").cloned(),
                required,
            })
        })
        .collect()
}

fn dependencies(value: Option<&Value>) -> Result<Vec<(String, Dependency)>, String> {
    let listed = value.and_then(Value::as_object).into_iter().flatten();
    listed
        .map(|(name, rule)| {
            let rule = match rule {
                Value::Array(_) => Dependency::Names(names(Some(rule))),
                _ => Dependency::Schema(Box::new(Compiled::new(rule)?)),
            };
            Ok((name.clone(), rule))
        })
        .collect()
}

fn patterns(value: Option<&Value>) -> Result<Vec<(Pattern, Compiled)>, String> {
    let listed = value.and_then(Value::as_object).into_iter().flatten();
    listed.map(|(source, schema)| Ok((Pattern::new(source)?, Compiled::new(schema)?))).collect()
}

fn additional(value: Option<&Value>) -> Result<Additional, String> {
    match value {
        None | Some(Value::Bool(true)) => Ok(Additional::Any),
        Some(Value::Bool(false)) => Ok(Additional::Forbidden),
        Some(schema) => Ok(Additional::Schema(Box::new(Compiled::new(schema)?))),
    }
}

fn size(map: &Map<String, Value>, min: &str, max: &str) -> Size {
    Size { min: map.get(min).and_then(Value::as_u64), max: map.get(max).and_then(Value::as_u64) }
}

fn sub(value: Option<&Value>) -> Result<Option<Box<Compiled>>, String> {
    value.map(|schema| Compiled::new(schema).map(Box::new)).transpose()
}

fn list(value: Option<&Value>) -> Result<Vec<Compiled>, String> {
    value.and_then(Value::as_array).into_iter().flatten().map(Compiled::new).collect()
}

fn condition(map: &Map<String, Value>) -> Result<Option<Box<Condition>>, String> {
    let Some(test) = map.get("if") else { return Ok(None) };
    Ok(Some(Box::new(Condition {
        test: Compiled::new(test)?,
        then: map.get("then").map(Compiled::new).transpose()?,
        otherwise: map.get("else").map(Compiled::new).transpose()?,
    })))
}

fn format(value: Option<&Value>) -> Option<Format> {
    match value?.as_str()? {
        "ipv4" => Some(Format::Ipv4),
        "ipv6" => Some(Format::Ipv6),
        _ => None,
    }
}
