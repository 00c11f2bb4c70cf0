//! syslog: sends a line for every session to a syslog server.

use headgate_model::plugin::{Phases, PluginMeta};

use crate::plugin::PluginDef;

pub(super) static DEF: PluginDef = PluginDef::described(PluginMeta {
    name: "syslog",
    priority: 401,
    version: "0.1",
    default_enabled: true,
    phases: Phases::Log,
    executed: false,
    schema: r#"{
        "type": "object",
        "properties": {
            "host": { "type": "string" },
            "port": { "type": "integer" },
            "flush_limit": { "type": "integer", "minimum": 1, "default": 4096 },
            "drop_limit": { "type": "integer", "default": 1048576 },
            "timeout": { "type": "integer", "minimum": 1, "default": 3000 },
            "log_format": { "type": "object" },
            "sock_type": { "type": "string", "enum": ["tcp", "udp"], "default": "tcp" },
            "pool_size": { "type": "integer", "minimum": 5, "default": 5 },
            "tls": { "type": "boolean", "default": false },
            "name": { "type": "string", "default": "stream sys logger" },
            "max_retry_count": { "type": "integer", "minimum": 0, "default": 0 },
            "retry_delay": { "type": "integer", "minimum": 0, "default": 1 },
            "buffer_duration": { "type": "integer", "minimum": 1, "default": 60 },
            "inactive_timeout": { "type": "integer", "minimum": 1, "default": 5 },
            "batch_max_size": { "type": "integer", "minimum": 1, "default": 1000 }
        },
        "required": ["host", "port"]
    }"#,
    metadata_schema: Some(
        r#"{
            "type": "object",
            "properties": {
                "log_format": { "type": "object" },
                "max_pending_entries": { "type": "integer", "minimum": 1, "default": 8192 }
            }
        }"#,
    ),
    check: None,
    good: &[
        r#"{"host":"127.0.0.1","port":514}"#,
        r#"{"host":"logs","port":514,"sock_type":"udp","log_format":{"client":"$remote_addr"}}"#,
        r#"{"host":"logs","port":6514,"tls":true,"batch_max_size":1,"pool_size":6}"#,
    ],
    bad: &[
        r#"{}"#,
        r#"{"host":"127.0.0.1"}"#,
        r#"{"host":"127.0.0.1","port":"514"}"#,
        r#"{"host":"127.0.0.1","port":514,"sock_type":"unix"}"#,
        r#"{"host":"127.0.0.1","port":514,"pool_size":4}"#,
        r#"{"host":"127.0.0.1","port":514,"batch_max_size":0}"#,
        r#"{"host":"127.0.0.1","port":514,"log_format":"x"}"#,
    ],
});
