//! Struct = schema: whatever a schema accepts can be read into the typed resource.

use proptest::prelude::*;
use proptest::strategy::{Union, ValueTree as _};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::*;
use crate::Kind;
use crate::schema::{Registry, named};

/// Values that suit a schema, mostly: what it cannot express is filtered afterwards.
fn instance(schema: &Value) -> BoxedStrategy<Value> {
    if let Some(branches) = schema.get("anyOf").and_then(Value::as_array)
        && branches.iter().any(|branch| branch.get("required").is_none())
    {
        return Union::new(branches.iter().map(instance)).boxed();
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return prop::sample::select(values.clone()).boxed();
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("string") => text(schema),
        Some(kind @ ("integer" | "number")) => number(schema, kind == "integer"),
        Some("boolean") => any::<bool>().prop_map(Value::from).boxed(),
        Some("array") => array(schema),
        Some("object") => object(schema),
        _ => Just(json!("anything")).boxed(),
    }
}

fn text(schema: &Value) -> BoxedStrategy<Value> {
    let least = schema.get("minLength").and_then(Value::as_u64).unwrap_or(0) as usize;
    let samples = vec![
        "*",
        "*.example.com",
        "a.example.com",
        "::1",
        "[::1]",
        "10.0.0.1",
        "10.0.0.0/8",
        "::/0",
        "redis",
        "remote_addr",
        "$env://NAME",
        "$secret://vault/1/a",
        "tls",
        "chash",
        "",
    ];
    prop::sample::select(samples).prop_map(move |text| json!(format!("{text:a<least$}"))).boxed()
}

fn number(schema: &Value, whole: bool) -> BoxedStrategy<Value> {
    let bound = |names: [&str; 2]| names.iter().find_map(|name| schema.get(name)?.as_f64());
    let low = bound(["minimum", "exclusiveMinimum"]).unwrap_or(-1e6);
    let high = bound(["maximum", "exclusiveMaximum"]).unwrap_or(1e18);
    let spread = prop_oneof![Just(low), Just(high), low..=high, low..=(low + 9.0).min(high)];
    (spread, any::<bool>())
        .prop_map(move |(number, float)| match (whole, float) {
            (true, true) => json!(number.round()),
            (true, false) => json!(number.round() as i64),
            (false, _) => json!(number),
        })
        .boxed()
}

fn array(schema: &Value) -> BoxedStrategy<Value> {
    let least = schema.get("minItems").and_then(Value::as_u64).unwrap_or(0) as usize;
    let item = schema.get("items").map_or_else(|| Just(json!(1)).boxed(), instance);
    let empty = if least == 0 { 1 } else { 0 };
    prop_oneof![
        4 => prop::collection::vec(item, least..least + 3).prop_map(Value::from),
        empty => Just(json!({})),
    ]
    .boxed()
}

fn object(schema: &Value) -> BoxedStrategy<Value> {
    let listed = schema.get("properties").and_then(Value::as_object);
    let mut members: BoxedStrategy<Map<String, Value>> = Just(Map::new()).boxed();
    for (name, schema) in listed.into_iter().flatten() {
        let name = name.clone();
        let member = prop::option::weighted(0.3, instance(schema));
        members = (members, member)
            .prop_map(move |(mut members, member)| {
                members.extend(member.map(|member| (name.clone(), member)));
                members
            })
            .boxed();
    }
    if let Some(pattern) = schema.get("patternProperties").and_then(|all| all.get(".*")) {
        let keys = vec!["a:80", "a", "[::1]:80", "::1", "a:99999", "a:b", "[x", "", "unix:/a"];
        let member = (prop::sample::select(keys), instance(pattern));
        return prop::collection::vec(member, 0..4)
            .prop_map(|all| all.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
            .boxed();
    }
    let mut branches = vec![schema.clone()];
    for word in ["oneOf", "anyOf"] {
        branches.extend(schema.get(word).and_then(Value::as_array).into_iter().flatten().cloned());
    }
    if let Some(then) = schema.get("then").and_then(|then| then["oneOf"].as_array()) {
        branches.extend(then.iter().cloned());
    }
    let branches = required(schema, &branches);
    (members, branches)
        .prop_map(|(mut members, required)| {
            for (name, value) in required {
                match value {
                    Some(value) => drop(members.entry(name).or_insert(value)),
                    None => drop(members.shift_remove(&name)),
                }
            }
            if members.is_empty() { json!([]) } else { Value::Object(members) }
        })
        .boxed()
}

type Required = Vec<(String, Option<Value>)>;

/// Members that one of the branches requires; `None` for what only other branches want.
fn required(schema: &Value, branches: &[Value]) -> BoxedStrategy<Required> {
    let names = |branch: &Value| -> Vec<String> {
        let list = branch.get("required").and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|name| Some(name.as_str()?.to_owned())).collect()
    };
    let always = names(schema);
    let choices: Vec<_> = branches.iter().skip(1).map(names).collect();
    let all: Vec<String> = choices.iter().flatten().cloned().collect();
    let choices = if choices.is_empty() { vec![Vec::new()] } else { choices };
    let one = |wanted: Vec<String>| {
        let mut out: BoxedStrategy<Required> = Just(
            all.iter().filter(|name| !wanted.contains(name)).map(|n| (n.clone(), None)).collect(),
        )
        .boxed();
        for name in wanted.into_iter().chain(always.iter().cloned()) {
            let member = schema.get("properties").and_then(|all| all.get(&name));
            let value = member.map_or_else(|| Just(json!(1)).boxed(), instance);
            out = (out, value)
                .prop_map(move |(mut out, value)| {
                    out.push((name.clone(), Some(value)));
                    out
                })
                .boxed();
        }
        out
    };
    Union::new(choices.into_iter().map(one)).boxed()
}

fn reads<T: DeserializeOwned>(kind: Kind, name: &str) {
    let strategy = instance(named(name).unwrap());
    let schema = Registry::get().kind(kind).unwrap();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut good = 0;
    for _ in 0..2000 {
        let value = strategy.new_tree(&mut runner).unwrap().current();
        // A whole document is an object; the store takes nothing else.
        if !value.is_object() || schema.validate(&value).is_err() {
            continue;
        }
        good += 1;
        let result = serde_json::from_value::<T>(value.clone());
        assert!(result.is_ok(), "{}: {value}", result.err().unwrap());
    }
    assert!(good > 100, "only {good} of 2000 values suit the schema of {name}");
}

#[test]
fn every_stream_route_can_be_read() {
    reads::<StreamRoute>(Kind::StreamRoute, "stream_route");
}

#[test]
fn every_upstream_can_be_read() {
    reads::<Upstream>(Kind::Upstream, "upstream");
}

#[test]
fn every_service_can_be_read() {
    reads::<Service>(Kind::Service, "service");
}

#[test]
fn every_ssl_can_be_read() {
    reads::<Ssl>(Kind::Ssl, "ssl");
}

#[test]
fn integers_may_be_written_as_floats() {
    let upstream: Upstream = serde_json::from_value(json!({
        "id": 7.0, "retries": 2.0,
        "nodes": [{"host": "a", "port": 80.0, "weight": 1e300, "priority": -1e300}],
    }))
    .unwrap();
    assert_eq!(upstream.id.as_deref(), Some("7"));
    assert_eq!(upstream.retries, Some(2));
    let node = &upstream.nodes[0];
    assert_eq!((node.port, node.weight, node.priority), (Some(80), u32::MAX, i32::MIN));
}

#[test]
fn node_keys_that_are_no_address_have_no_port() {
    let upstream: Upstream =
        serde_json::from_value(json!({"nodes": {"a:99999": 1, "[x": 1, "b:1": 1}})).unwrap();
    let ports: Vec<_> = upstream.nodes.iter().map(|node| node.port).collect();
    assert_eq!(ports, [None, None, Some(1)]);
}
