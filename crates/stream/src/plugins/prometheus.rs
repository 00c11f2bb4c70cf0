//! prometheus: counts the sessions of a route.

use headgate_model::plugin::PluginMeta;

pub(super) static META: PluginMeta = PluginMeta {
    name: "prometheus",
    priority: 500,
    version: "0.1",
    default_enabled: false,
    executed: false,
    schema: r#"{
        "type": "object",
        "properties": { "prefer_name": { "type": "boolean", "default": false } }
    }"#,
    metadata_schema: None,
    check: None,
    good: &[r#"{}"#, r#"{"prefer_name":true}"#],
    bad: &[r#"{"prefer_name":"yes"}"#, r#"{"_meta":{"disable":"no"}}"#],
};
