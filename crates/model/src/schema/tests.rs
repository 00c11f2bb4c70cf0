//! One row for each row of the message table, and properties of the whole.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn message(schema: &Value, value: &Value) -> String {
    Compiled::new(schema).unwrap().validate(value).expect_err("the value should be refused")
}

#[test]
fn every_situation_has_its_message() {
    let rows = [
        (json!({"type": "integer"}), json!("a"), "wrong type: expected integer, got string"),
        (json!({"type": "integer"}), json!(1.5), "wrong type: expected integer, got number"),
        (json!({"type": "object"}), json!([1]), "wrong type: expected object, got table"),
        (json!({"type": "array"}), json!({"a": 1}), "wrong type: expected array, got table"),
        (json!({"type": "string"}), json!(null), "wrong type: expected string, got userdata"),
        (json!({"type": "string"}), json!(true), "wrong type: expected string, got boolean"),
        (
            json!({"type": ["string", "object"]}),
            json!(1),
            "wrong type: expected one of string, object, got number",
        ),
        (
            json!({"properties": {"p": {"type": "string"}}}),
            json!({"p": 1}),
            r#"property "p" validation failed: wrong type: expected string, got number"#,
        ),
        (json!({"required": ["p"]}), json!({}), r#"property "p" is required"#),
        (
            json!({"properties": {"p": {}}, "required": ["p"]}),
            json!({}),
            r#"property "p" is required"#,
        ),
        (
            json!({"dependencies": {"name": ["conf"]}}),
            json!({"name": "a"}),
            r#"property "conf" is required when "name" is set"#,
        ),
        (
            json!({"dependencies": {"client_cert": {"required": ["client_key"]}}}),
            json!({"client_cert": "a"}),
            r#"failed to validate dependent schema for "client_cert": property "client_key" is required"#,
        ),
        (
            json!({"patternProperties": {".*": {"type": "integer"}}}),
            json!({"a:1": "x"}),
            r#"failed to validate a:1 (matching ".*"): wrong type: expected integer, got string"#,
        ),
        (
            json!({"properties": {"a": {}}, "additionalProperties": false}),
            json!({"a": 1, "z": 1, "b": 1}),
            "additional properties forbidden, found z",
        ),
        (
            json!({"additionalProperties": {"type": "string"}}),
            json!({"a": 1}),
            "failed to validate additional property a: wrong type: expected string, got number",
        ),
        (
            json!({"type": "object", "minProperties": 1}),
            json!({}),
            "expect object to have at least 1 properties",
        ),
        (
            json!({"maxProperties": 1}),
            json!({"a": 1, "b": 2}),
            "expect object to have at most 1 properties",
        ),
        (
            json!({"type": "array", "minItems": 2}),
            json!([1]),
            "expect array to have at least 2 items",
        ),
        (json!({"maxItems": 1}), json!([1, 2]), "expect array to have at most 1 items"),
        (
            json!({"items": {"type": "string"}}),
            json!(["a", 1]),
            "failed to validate item 2: wrong type: expected string, got number",
        ),
        (
            json!({"uniqueItems": true}),
            json!([1, 1.0]),
            "expected unique items but items 1 and 2 are equal",
        ),
        (json!({"minLength": 3}), json!("é"), "string too short, expected at least 3, got 1"),
        (json!({"maxLength": 1}), json!("éé"), "string too long, expected at most 1, got 2"),
        (
            json!({"pattern": "^\\S+$"}),
            json!("a \"b\""),
            r#"failed to match pattern "^\S+$" with "a \"b\"""#,
        ),
        (json!({"minimum": 0}), json!(-1), "expected -1 to be at least 0"),
        (json!({"maximum": 65535}), json!(70000), "expected 70000 to be at most 65535"),
        (json!({"exclusiveMinimum": 0}), json!(0), "expected 0 to be greater than 0"),
        (json!({"exclusiveMaximum": 1}), json!(1.5), "expected 1.5 to be smaller than 1"),
        (json!({"enum": ["a", 1]}), json!("b"), "matches none of the enum values"),
        (
            json!({"anyOf": [{"type": "string"}, {"type": "object"}]}),
            json!(1),
            "object matches none of the required",
        ),
        (
            json!({"anyOf": [{"required": ["active"]}, {"required": ["active", "passive"]}]}),
            json!({"passive": {}}),
            r#"object matches none of the required: ["active"] or ["active","passive"]"#,
        ),
        (
            json!({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}),
            json!({}),
            "value should match only one schema, but matches none",
        ),
        (
            json!({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}),
            json!({"a": 1, "b": 1}),
            "value should match only one schema, but matches both schemas 1 and 2",
        ),
        (
            json!({"if": {"required": ["a"]}, "then": {"required": ["b"]}}),
            json!({"a": 1}),
            "then clause did not match",
        ),
        (
            json!({"if": {"required": ["a"]}, "else": {"required": ["b"]}}),
            json!({}),
            "else clause did not match",
        ),
        (json!({"not": {"type": "string"}}), json!("a"), "value wasn't supposed to match schema"),
        (json!({"format": "ipv4"}), json!("1.2.3"), "expect valid ipv4 format but got: 1.2.3"),
        (json!({"format": "ipv6"}), json!("::g"), "expect valid ipv6 format but got: ::g"),
        (
            json!({"allOf": [{"type": "string"}]}),
            json!(1),
            "allOf 1 failed: wrong type: expected string, got number",
        ),
    ];
    for (schema, value, expected) in rows {
        assert_eq!(message(&schema, &value), expected, "{schema} {value}");
    }
}

#[test]
fn the_first_rule_that_is_broken_is_reported() {
    let schema = json!({
        "type": "object",
        "properties": {"b": {"type": "string"}, "a": {"type": "string"}},
        "required": ["z"],
        "dependencies": {"a": ["y"]},
        "additionalProperties": false,
        "minProperties": 9,
        "oneOf": [{"required": ["x"]}],
    });
    let rows = [
        (json!({"a": 1, "b": 1}), r#"property "b" validation failed"#),
        (json!({"a": "", "c": 1}), r#"property "z" is required"#),
        (json!({"a": "", "z": 1}), r#"property "y" is required when"#),
        (json!({"z": 1, "c": 1}), "additional properties forbidden, found z"),
    ];
    for (value, expected) in rows {
        let message = message(&schema, &value);
        assert!(message.starts_with(expected), "{message}");
    }
}

#[test]
fn empty_tables_and_whole_numbers_are_ambiguous() {
    for (schema, value) in [
        (json!({"type": "object"}), json!([])),
        (json!({"type": "array"}), json!({})),
        (json!({"type": "integer"}), json!(1.0)),
        (json!({"type": "integer", "minimum": 1}), json!(1e3)),
        (json!({"enum": [1, 0]}), json!(1.0)),
    ] {
        assert_eq!(Compiled::new(&schema).unwrap().validate(&value), Ok(()), "{schema} {value}");
    }
}

#[test]
fn references_to_secrets_pass_where_strings_do() {
    let strict = json!({"type": "string", "maxLength": 1, "enum": ["a"]});
    for (schema, value, passes) in [
        (&strict, "$secret://vault/1/a", true),
        (&strict, "$ENV://NAME", true),
        (&strict, "$env://NAME", true),
        (&strict, "$SECRET://vault/1/a", false),
        (&json!({"minLength": 99}), "$env://NAME", true),
        (&json!({"type": "integer"}), "$env://NAME", false),
    ] {
        let result = Compiled::new(schema).unwrap().validate(&json!(value));
        assert_eq!(result.is_ok(), passes, "{schema} {value}");
    }
}

#[test]
fn broken_schemas_are_reported_and_not_used() {
    for schema in [
        json!({"type": "text"}),
        json!({"pattern": "("}),
        json!(1),
        json!({"items": 1}),
        json!({"$ref": "x"}),
    ] {
        assert!(Compiled::new(&schema).is_err(), "{schema}");
    }
}

#[test]
fn every_public_name_has_a_schema() {
    for name in PUBLIC {
        assert!(named(name).is_some_and(Value::is_object), "{name}");
    }
    assert_eq!(main_schemas().len(), MAIN.len());
    for hidden in ["ip", "secret/vault", "xrpc/redis", "nope", ""] {
        assert_eq!(named(hidden), None);
    }
    let route = named("stream_route").unwrap().to_string();
    assert!(!route.contains("$ref"), "{route}");
}

#[test]
fn every_kind_has_a_schema() {
    for kind in Kind::ALL {
        assert_eq!(Registry::get().kind(kind).is_some(), kind != Kind::Secret, "{kind}");
    }
}

#[test]
fn every_built_in_schema_is_sound() {
    for (name, document) in &Registry::get().documents {
        assert!(Compiled::new(document).is_ok(), "{name}");
    }
}

#[test]
fn plugin_schemas_get_the_injected_member() {
    let meta = PluginMeta {
        name: "x",
        priority: 0,
        version: "0.1",
        default_enabled: false,
        phases: crate::plugin::Phases::Both,
        executed: false,
        schema: r#"{"type":"object","properties":{"id":{"$ref":"id_schema"}}}"#,
        metadata_schema: None,
        check: None,
        good: &[],
        bad: &[],
    };
    let schema = plugin_schema(&meta);
    assert_eq!(schema["$comment"], "this is a mark for our injected plugin schema");
    assert_eq!(schema["properties"]["_meta"]["additionalProperties"], false);
    assert!(schema["properties"]["id"]["anyOf"].is_array());
}

#[test]
fn defaults_are_filled_at_every_depth() {
    let mut upstream = json!({
        "nodes": [{"host": "a", "weight": 1}],
        "tls": [],
        "checks": {"active": {"healthy": {}}},
    });
    fill_defaults(Kind::Upstream, &mut upstream);
    assert_eq!(upstream["nodes"][0]["priority"], 0);
    assert_eq!(upstream["tls"], json!({"verify": false}));
    assert_eq!(upstream["type"], "roundrobin");
    assert_eq!(upstream["scheme"], "http");
    assert_eq!(upstream["hash_on"], "vars");
    assert_eq!(upstream["pass_host"], "pass");
    assert_eq!(upstream["checks"]["active"]["healthy"]["http_statuses"], json!([200, 302]));
    assert_eq!(upstream["checks"]["active"].get("unhealthy"), None);
    assert_eq!(upstream["checks"].get("passive"), None);
}

/// Any JSON value of moderate size.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        Just(json!("$secret://a/b/c")),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((member_name(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Names that schemas know, and others.
fn member_name() -> impl Strategy<Value = String> {
    let known = vec![
        "nodes",
        "id",
        "tls",
        "client_cert",
        "client_cert_id",
        "checks",
        "active",
        "passive",
        "upstream",
        "plugins",
        "protocol",
        "logger",
        "name",
        "conf",
        "sni",
        "snis",
        "type",
        "cert",
        "key",
        "host",
        "port",
        "weight",
        "labels",
        "timeout",
        "hosts",
        "uri",
    ];
    prop_oneof![4 => prop::sample::select(known).prop_map(str::to_owned), 1 => "\\PC{0,8}"]
}

proptest! {
    #[test]
    fn any_value_gets_an_answer(value in any_json()) {
        for kind in Kind::ALL {
            let mut copy = value.clone();
            fill_defaults(kind, &mut copy);
            if let Some(schema) = Registry::get().kind(kind) {
                let before = schema.validate(&value);
                // Defaults never turn a good value into a bad one.
                if before.is_ok() {
                    schema.fill(&mut copy);
                    prop_assert_eq!(schema.validate(&copy), Ok(()));
                }
            }
        }
    }

    #[test]
    fn any_schema_can_be_read_or_is_refused(schema in any_json(), value in any_json()) {
        if let Ok(schema) = Compiled::new(&schema) {
            let _ = schema.validate(&value);
        }
    }

    #[test]
    fn equality_ignores_how_numbers_are_written(number in any::<i32>()) {
        prop_assert!(equal::equal(&json!([number]), &json!([f64::from(number)])));
    }
}
