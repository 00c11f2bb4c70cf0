//! prometheus: counts the sessions of a route.

use headgate_model::plugin::{Phases, PluginMeta};

use crate::plugin::PluginDef;

pub(super) static DEF: PluginDef = PluginDef::described(PluginMeta {
    name: "prometheus",
    priority: 500,
    version: "0.1",
    default_enabled: false,
    phases: Phases::Log,
    executed: false,
    schema: r#"{
        "type": "object",
        "properties": { "prefer_name": { "type": "boolean", "default": false } }
    }"#,
    metadata_schema: None,
    check: None,
    good: &[r#"{}"#, r#"{"prefer_name":true}"#],
    bad: &[r#"{"prefer_name":"yes"}"#, r#"{"_meta":{"disable":"no"}}"#],
});
