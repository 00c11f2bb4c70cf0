//! mqtt-proxy: reads the MQTT CONNECT packet and offers the client id as `mqtt_client_id`.

use headgate_model::plugin::{Phases, PluginMeta};

use crate::plugin::PluginDef;

pub(super) static DEF: PluginDef = PluginDef::described(PluginMeta {
    name: "mqtt-proxy",
    priority: 1000,
    version: "0.1",
    default_enabled: true,
    phases: Phases::Preread,
    executed: false,
    schema: r#"{
        "type": "object",
        "properties": {
            "protocol_name": { "type": "string", "default": "MQTT" },
            "protocol_level": { "type": "integer" }
        },
        "required": ["protocol_level"]
    }"#,
    metadata_schema: None,
    check: None,
    good: &[r#"{"protocol_level":4}"#, r#"{"protocol_name":"MQTT","protocol_level":5}"#],
    bad: &[r#"{}"#, r#"{"protocol_level":"4"}"#, r#"{"protocol_level":4,"protocol_name":1}"#],
});
