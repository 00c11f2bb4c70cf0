//! traffic-split: divides the sessions of a route among upstreams by weight and condition.

use headgate_model::expr;
use headgate_model::plugin::{Phases, PluginMeta};
use serde_json::Value;

use crate::plugin::PluginDef;

pub(super) static DEF: PluginDef = PluginDef::described(PluginMeta {
    name: "traffic-split",
    priority: 966,
    version: "0.1",
    default_enabled: true,
    phases: Phases::Preread,
    executed: false,
    schema: r#"{
        "type": "object",
        "properties": {
            "rules": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "match": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "properties": { "vars": { "type": "array" } }
                            }
                        },
                        "weighted_upstreams": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": 20,
                            "items": {
                                "type": "object",
                                "properties": {
                                    "upstream_id": { "$ref": "id_schema" },
                                    "upstream": { "$ref": "upstream" },
                                    "weight": { "type": "integer", "minimum": 0, "default": 1 }
                                }
                            },
                            "default": [{ "weight": 1 }]
                        }
                    }
                }
            }
        }
    }"#,
    metadata_schema: None,
    check: Some(check),
    good: &[
        r#"{}"#,
        r#"{"rules":[{"weighted_upstreams":[{"upstream_id":1,"weight":9},{"weight":1}]}]}"#,
        r#"{"rules":[{"match":[{"vars":[["server_port","==",9100]]}],
            "weighted_upstreams":[{"upstream":{"nodes":{"127.0.0.1:1980":1}},"weight":1}]}]}"#,
    ],
    bad: &[
        r#"{"rules":{"a":1}}"#,
        r#"{"rules":[{"weighted_upstreams":[]}]}"#,
        r#"{"rules":[{"weighted_upstreams":[{"weight":-1}]}]}"#,
        r#"{"rules":[{"weighted_upstreams":[{"upstream":{"type":"roundrobin"}}]}]}"#,
        r#"{"rules":[{"match":[{"vars":[["server_port","=",9100]]}]}]}"#,
        r#"{"rules":[{"match":[{"vars":["server_port","==",9100]}]}]}"#,
    ],
});

fn check(conf: &Value) -> Result<(), String> {
    let rules = conf.get("rules").and_then(Value::as_array).into_iter().flatten();
    let matches = rules.filter_map(|rule| rule.get("match")?.as_array()).flatten();
    for vars in matches.filter_map(|one| one.get("vars")) {
        expr::check(vars)
            .map_err(|error| format!("failed to validate the 'vars' expression: {error}"))?;
    }
    Ok(())
}
