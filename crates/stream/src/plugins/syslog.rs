//! `syslog`: sends a record of every session to a syslog server (`spec/plugins.md`, section 7).

mod sender;

use std::time::{Duration, Instant};

use headgate_model::plugin::{Phases, PluginMeta};
use headgate_telemetry::LogLimit;
use headgate_wire::syslog::{Header, PRIORITY, encode};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::batch::{BatchConf, Counts};
use crate::outcome::End;
use crate::plugin::{Build, Plugin, PluginDef};
use crate::session::Session;
use crate::session_log::{Destination, METADATA_SCHEMA, SessionLog};
use sender::{Sender, Transport};

pub(super) static DEF: PluginDef = PluginDef::of::<Syslog>(PluginMeta {
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
    metadata_schema: Some(METADATA_SCHEMA),
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

/// What became of its records.
pub(crate) static COUNTS: Counts = Counts::new();

static NO_FORMAT: LogLimit = LogLimit::per_second(1);

/// The configuration.
#[derive(Debug, Deserialize)]
pub(crate) struct Config {
    host: String,
    port: i64,
    drop_limit: i64,
    timeout: u64,
    log_format: Option<Map<String, Value>>,
    sock_type: String,
    tls: bool,
    #[serde(flatten)]
    batch: BatchConf,
}

#[derive(Debug)]
struct Syslog(SessionLog);

impl Plugin for Syslog {
    type Config = Config;

    fn new(config: Config, build: &mut Build<'_>) -> Result<Self, String> {
        let transport = match (config.sock_type.as_str(), config.tls) {
            ("udp", _) => Transport::Udp,
            (_, false) => Transport::Tcp,
            (_, true) => Transport::Tls,
        };
        let Config { host, port, timeout, batch, drop_limit, log_format, .. } = config;
        let port = u16::try_from(port).ok().filter(|port| *port > 0);
        let port = port.ok_or("`port` must be a number from 1 to 65535")?;
        let to = Destination {
            key: format!("syslog {host:?} {port} {transport:?} {timeout}"),
            target: Sender::new(host, port, transport, Duration::from_millis(timeout)),
            batch,
            bytes: usize::try_from(drop_limit).unwrap_or_default(),
            counts: &COUNTS,
        };
        SessionLog::new(log_format.as_ref(), false, to, build).map(Self)
    }

    fn log(&self, session: &Session, end: &End<'_>) {
        let Some(record) = self.0.record(session, end) else {
            if let Some(suppressed) = NO_FORMAT.check(Instant::now()) {
                let route = session.route.as_ref().map(|route| route.id.as_str());
                tracing::error!(route, suppressed, "syslog's log_format is not set");
            }
            return;
        };
        let header = Header {
            priority: PRIORITY,
            unix_ms: u64::try_from(end.at.as_millis()).unwrap_or_default(),
            hostname: "-",
            app: "apisix",
            process: std::process::id(),
        };
        let mut line = Vec::with_capacity(record.len() + 64);
        encode(&header, &record, &mut line);
        self.0.push(line);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugin::build_for_test;

    /// The reference's schema lets every number through.
    #[test]
    fn a_port_that_is_none_is_named() {
        for port in [-1, 0, 70_000] {
            let built = build_for_test::<Syslog>(&DEF, json!({"host": "logs", "port": port}));
            assert_eq!(built.err().as_deref(), Some("`port` must be a number from 1 to 65535"));
        }
        assert!(build_for_test::<Syslog>(&DEF, json!({"host": "logs", "port": 514})).is_ok());
    }
}
