//! `http-logger`: sends records of sessions to an HTTP server (extension; in the reference it is a
//! plugin of the HTTP plane).

use std::time::Duration;

use headgate_model::plugin::{Phases, PluginMeta};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::post::{Body, Poster, Uri};
use crate::batch::{BatchConf, Counts};
use crate::outcome::End;
use crate::plugin::{Build, Plugin, PluginDef};
use crate::session::Session;
use crate::session_log::{Destination, METADATA_SCHEMA, SessionLog};

pub(super) static DEF: PluginDef = PluginDef::of::<HttpLogger>(PluginMeta {
    metadata_schema: Some(METADATA_SCHEMA),
    check: Some(check),
    good: &[
        r#"{"uri":"http://127.0.0.1:3000/log"}"#,
        r#"{"uri":"https://logs.example/a?b=c","auth_header":"Bearer x","ssl_verify":true}"#,
        r#"{"uri":"http://[::1]/","concat_method":"new_line","log_format":{"a":"$remote_addr"}}"#,
    ],
    bad: &[
        r#"{}"#,
        r#"{"uri":"ftp://127.0.0.1"}"#,
        r#"{"uri":"http://"}"#,
        r#"{"uri":"http://a:99999/"}"#,
        r#"{"uri":"http://a/b c"}"#,
        r#"{"uri":"http://a/","concat_method":"xml"}"#,
        r#"{"uri":"http://a/","auth_header":"a\r\nb"}"#,
    ],
    ..PluginMeta::new(
        "http-logger",
        410,
        r#"{
            "type": "object",
            "properties": {
                "uri": { "type": "string" },
                "auth_header": { "type": "string" },
                "timeout": { "type": "integer", "minimum": 1, "default": 3 },
                "log_format": { "type": "object" },
                "concat_method": { "type": "string", "enum": ["json", "new_line"], "default": "json" },
                "ssl_verify": { "type": "boolean", "default": false },
                "name": { "type": "string", "default": "http logger" },
                "max_retry_count": { "type": "integer", "minimum": 0, "default": 0 },
                "retry_delay": { "type": "integer", "minimum": 0, "default": 1 },
                "buffer_duration": { "type": "integer", "minimum": 1, "default": 60 },
                "inactive_timeout": { "type": "integer", "minimum": 1, "default": 5 },
                "batch_max_size": { "type": "integer", "minimum": 1, "default": 1000 }
            },
            "required": ["uri"]
        }"#,
        Phases::Log,
    )
});

/// What became of its records.
pub(crate) static COUNTS: Counts = Counts::new();

/// Bytes that may wait.
const WAITING: usize = 16 << 20;

fn check(conf: &Value) -> Result<(), String> {
    let text = |name: &str| conf.get(name).and_then(Value::as_str).unwrap_or_default();
    let is_reference = text("uri").starts_with('$'); // to the environment or a secret
    if !is_reference {
        Uri::parse(text("uri"))?;
    }
    if text("auth_header").bytes().any(|byte| byte.is_ascii_control()) {
        return Err("auth_header has control characters".to_owned());
    }
    Ok(())
}

/// The configuration.
#[derive(Debug, Deserialize)]
pub(crate) struct Config {
    uri: String,
    auth_header: Option<String>,
    timeout: u64,
    log_format: Option<Map<String, Value>>,
    concat_method: String,
    ssl_verify: bool,
    #[serde(flatten)]
    batch: BatchConf,
}

#[derive(Debug)]
struct HttpLogger(SessionLog);

impl Plugin for HttpLogger {
    type Config = Config;

    fn new(config: Config, build: &mut Build<'_>) -> Result<Self, String> {
        let Config { uri, auth_header, timeout, log_format, concat_method, ssl_verify, batch } =
            config;
        let body = match (concat_method.as_str(), batch.batch_max_size) {
            ("json", 1) => Body::One,
            ("json", _) => Body::Array,
            _ => Body::Lines,
        };
        let to = Destination {
            key: format!("http-logger {uri:?} {auth_header:?} {timeout} {body:?} {ssl_verify}"),
            target: Poster::new(
                Uri::parse(&uri)?,
                auth_header,
                Duration::from_secs(timeout),
                body,
                ssl_verify,
            ),
            batch,
            bytes: WAITING,
            counts: &COUNTS,
        };
        SessionLog::new(log_format.as_ref(), true, to, build).map(Self)
    }

    fn log(&self, session: &Session, end: &End<'_>) {
        if let Some(record) = self.0.record(session, end) {
            self.0.push(record);
        }
    }
}
