//! limit-conn: bounds the number of sessions at a time for each value of a key.

use headgate_model::plugin::{Phases, PluginMeta};

use crate::plugin::PluginDef;

pub(super) static DEF: PluginDef = PluginDef::described(PluginMeta {
    name: "limit-conn",
    priority: 1003,
    version: "0.1",
    default_enabled: true,
    phases: Phases::Both,
    executed: false,
    schema: r#"{
        "type": "object",
        "properties": {
            "conn": { "type": "integer", "exclusiveMinimum": 0 },
            "burst": { "type": "integer", "minimum": 0 },
            "default_conn_delay": { "type": "number", "exclusiveMinimum": 0 },
            "only_use_default_delay": { "type": "boolean", "default": false },
            "key": { "type": "string" },
            "key_type": { "type": "string", "enum": ["var", "var_combination"], "default": "var" }
        },
        "required": ["conn", "burst", "default_conn_delay", "key"]
    }"#,
    metadata_schema: None,
    check: None,
    good: &[
        r#"{"conn":1,"burst":0,"default_conn_delay":0.1,"key":"remote_addr"}"#,
        r#"{"conn":9,"burst":2,"default_conn_delay":1,"key":"$remote_addr","key_type":"var_combination"}"#,
        r#"{"conn":1,"burst":0,"default_conn_delay":0.1,"key":"remote_addr","rejected_code":503}"#,
    ],
    bad: &[
        r#"{}"#,
        r#"{"conn":0,"burst":0,"default_conn_delay":0.1,"key":"remote_addr"}"#,
        r#"{"conn":1.5,"burst":0,"default_conn_delay":0.1,"key":"remote_addr"}"#,
        r#"{"conn":1,"burst":-1,"default_conn_delay":0.1,"key":"remote_addr"}"#,
        r#"{"conn":1,"burst":0,"default_conn_delay":0,"key":"remote_addr"}"#,
        r#"{"conn":1,"burst":0,"default_conn_delay":0.1}"#,
        r#"{"conn":1,"burst":0,"default_conn_delay":0.1,"key":"a","key_type":"other"}"#,
    ],
});
