//! opentelemetry: a span for each sampled session, sent to a collector by OTLP over HTTP in its JSON
//! encoding (OpenTelemetry protocol 1.x, `/v1/traces`). In the reference it is a plugin of the HTTP
//! plane.
//!
//! A session has no trace that it could continue: nothing of L4 carries one. Every span is the only
//! one of its trace.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use headgate_model::plugin::{Phases, PluginMeta};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::post::{Body, Poster, Uri};
use crate::batch::{BatchConf, Batches, Bounds, Counts, MAX_PENDING};
use crate::log_format::quote;
use crate::outcome::End;
use crate::plugin::{Build, Plugin, PluginDef};
use crate::session::Session;
use crate::vars::Var;

pub(super) static DEF: PluginDef = PluginDef::of::<OpenTelemetry>(PluginMeta {
    check: Some(check),
    good: &[
        r#"{}"#,
        r#"{"endpoint":"https://otel.example/v1/traces","headers":{"Authorization":"Bearer x"}}"#,
        r#"{"sampler":{"name":"trace_id_ratio","options":{"fraction":0.01}}}"#,
        r#"{"attributes":{"team":"db","tls.sni":"$ssl_server_name"},"service_name":"edge"}"#,
    ],
    bad: &[
        r#"{"endpoint":"grpc://a"}"#,
        r#"{"sampler":{"name":"sometimes"}}"#,
        r#"{"sampler":{"name":"trace_id_ratio","options":{"fraction":2}}}"#,
        r#"{"headers":{"a":"b\r\nc"}}"#,
        r#"{"headers":{"a b":"c"}}"#,
        r#"{"attributes":{"a":1}}"#,
    ],
    ..PluginMeta::new(
        "opentelemetry",
        412,
        r#"{
            "type": "object",
            "properties": {
                "endpoint": { "type": "string", "default": "http://127.0.0.1:4318/v1/traces" },
                "headers": { "type": "object", "additionalProperties": { "type": "string" } },
                "service_name": { "type": "string", "minLength": 1, "default": "headgate" },
                "sampler": {
                    "type": "object",
                    "properties": {
                        "name": {
                            "type": "string",
                            "enum": ["always_on", "always_off", "trace_id_ratio"],
                            "default": "always_on"
                        },
                        "options": {
                            "type": "object",
                            "properties": {
                                "fraction": { "type": "number", "minimum": 0, "maximum": 1, "default": 1 }
                            }
                        }
                    }
                },
                "attributes": { "type": "object", "additionalProperties": { "type": "string" } },
                "timeout": { "type": "integer", "minimum": 1, "default": 3 },
                "ssl_verify": { "type": "boolean", "default": true },
                "name": { "type": "string", "default": "opentelemetry" },
                "max_retry_count": { "type": "integer", "minimum": 0, "default": 0 },
                "retry_delay": { "type": "integer", "minimum": 0, "default": 1 },
                "buffer_duration": { "type": "integer", "minimum": 1, "default": 60 },
                "inactive_timeout": { "type": "integer", "minimum": 1, "default": 5 },
                "batch_max_size": { "type": "integer", "minimum": 1, "default": 512 }
            }
        }"#,
        Phases::Log,
    )
});

/// What became of its spans.
pub(crate) static COUNTS: Counts = Counts::new();

/// Bytes that may wait.
const WAITING: usize = 16 << 20;
/// `SPAN_KIND_SERVER` and `STATUS_CODE_ERROR` of the protocol.
const SERVER: u8 = 2;
const ERROR: u8 = 2;

/// What every span says: attribute, variable, and whether it is a whole number. Names are those of
/// the semantic conventions where there are any.
const USUAL: &[(&str, &str, bool)] = &[
    ("client.address", "remote_addr", false),
    ("client.port", "remote_port", true),
    ("server.port", "server_port", true),
    ("network.transport", "protocol", false),
    ("tls.client.server_name", "ssl_server_name", false),
    ("headgate.listen_addr", "stream_listen_addr", false),
    ("headgate.route.id", "route_id", false),
    ("headgate.route.name", "route_name", false),
    ("headgate.service.id", "service_id", false),
    ("headgate.session.id", "session_id", false),
    ("headgate.upstream.addr", "upstream_addr", false),
    ("headgate.upstream.attempts", "upstream_attempts", true),
    ("headgate.upstream.connect_time", "upstream_connect_time", false),
    ("headgate.upstream.first_byte_time", "upstream_first_byte_time", false),
    ("headgate.bytes_received", "bytes_received", true),
    ("headgate.bytes_sent", "bytes_sent", true),
    ("headgate.status", "status", true),
    ("headgate.close_reason", "close_reason", false),
];

fn check(conf: &Value) -> Result<(), String> {
    let endpoint = conf.get("endpoint").and_then(Value::as_str);
    if let Some(endpoint) = endpoint.filter(|text| !text.starts_with('$')) {
        Uri::parse(endpoint)?;
    }
    let headers = conf.get("headers").and_then(Value::as_object);
    for (name, value) in headers.into_iter().flatten() {
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(format!("headers: {name} is not the name of a header"));
        }
        if value.as_str().unwrap_or_default().bytes().any(|byte| byte.is_ascii_control()) {
            return Err(format!("headers: {name} has control characters"));
        }
    }
    Ok(())
}

#[derive(Debug, Deserialize)]
pub(super) struct Config {
    endpoint: String,
    #[serde(default)]
    headers: Map<String, Value>,
    service_name: String,
    #[serde(default)]
    sampler: Sampler,
    #[serde(default)]
    attributes: Map<String, Value>,
    timeout: u64,
    ssl_verify: bool,
    #[serde(flatten)]
    batch: BatchConf,
}

#[derive(Debug, Default, Deserialize)]
struct Sampler {
    name: Option<String>,
    #[serde(default)]
    options: SamplerOptions,
}

#[derive(Debug, Default, Deserialize)]
struct SamplerOptions {
    fraction: Option<f64>,
}

impl Sampler {
    /// Traces whose id is below this, in its lower 63 bits, are sampled; `None`: none.
    fn bound(&self) -> Option<u64> {
        let fraction = match self.name.as_deref() {
            Some("always_off") => 0.0,
            Some("trace_id_ratio") => self.options.fraction.unwrap_or(1.0),
            _ => 1.0,
        };
        // The cast rounds and stays in bounds: 2^63 as f64 is exact.
        (fraction > 0.0).then_some((fraction * 9_223_372_036_854_775_808.0) as u64)
    }
}

#[derive(Debug)]
enum Attribute {
    /// The whole `{"key":..,"value":..}`.
    Literal(Box<[u8]>),
    /// Everything before the value, the variable, and whether it is a whole number.
    Variable(Box<[u8]>, Var, bool),
}

impl Attribute {
    fn variable(key: &str, variable: Var, is_number: bool) -> Self {
        let kind = if is_number { "intValue" } else { "stringValue" };
        let before = format!("{{\"key\":{},\"value\":{{\"{kind}\":", json!(key));
        Self::Variable(before.into_bytes().into(), variable, is_number)
    }
}

#[derive(Debug)]
pub(super) struct OpenTelemetry {
    bound: Option<u64>,
    attributes: Vec<Attribute>,
    batches: Arc<Batches>,
}

impl Plugin for OpenTelemetry {
    type Config = Config;

    fn new(config: Config, build: &mut Build<'_>) -> Result<Self, String> {
        let bound = config.sampler.bound();
        let mut attributes = Vec::new();
        for (key, name, is_number) in USUAL {
            if let Some(variable) = build.variable(name) {
                attributes.push(Attribute::variable(key, variable, *is_number));
            }
        }
        for (key, value) in &config.attributes {
            let text = value.as_str().unwrap_or_default();
            attributes.push(match text.strip_prefix('$') {
                Some(name) => {
                    let variable = build.variable(name);
                    let variable =
                        variable.ok_or_else(|| format!("attributes: unknown variable {text}"))?;
                    Attribute::variable(key, variable, false)
                }
                None => {
                    let literal = json!({"key": key, "value": {"stringValue": text}});
                    Attribute::Literal(literal.to_string().into_bytes().into())
                }
            });
        }
        let headers = config.headers.iter();
        let headers: Vec<_> = headers
            .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect();
        let Config { endpoint, service_name, timeout, ssl_verify, batch, .. } = config;
        let key =
            format!("{endpoint} {headers:?} {service_name:?} {timeout} {ssl_verify} {batch:?}");
        let target = Poster::new(
            Uri::parse(&endpoint)?,
            None,
            Duration::from_secs(timeout),
            Body::Array,
            ssl_verify,
        );
        let target = target.with_headers(headers).around(envelope(&service_name), b"]}]}]}");
        let bounds = Bounds { entries: MAX_PENDING, bytes: WAITING };
        let background = build.background();
        let batches =
            build.shared(&key, || Batches::start(batch, bounds, &COUNTS, target, &background));
        Ok(Self { bound, attributes, batches })
    }

    fn log(&self, session: &Session, end: &End<'_>) {
        let trace = fastrand::u128(1..);
        if self.bound.is_some_and(|bound| (trace as u64 >> 1) < bound) {
            self.batches.push(self.span(trace, session, end));
        }
    }
}

impl OpenTelemetry {
    /// The span of a session, as JSON.
    fn span(&self, trace: u128, session: &Session, end: &End<'_>) -> Vec<u8> {
        let mut out = Vec::with_capacity(2048);
        let from = session.started_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let until = from + session.started.elapsed();
        let name = match &session.route {
            Some(route) => format!("stream {}", route.name.as_deref().unwrap_or(&route.id)),
            None => "stream".to_owned(),
        };
        // Writing to a Vec does not fail.
        let _ = write!(
            out,
            "{{\"traceId\":\"{trace:032x}\",\"spanId\":\"{:016x}\",\"name\":{},\"kind\":{SERVER},\
             \"startTimeUnixNano\":\"{}\",\"endTimeUnixNano\":\"{}\",\"attributes\":[",
            fastrand::u64(1..),
            json!(name),
            from.as_nanos(),
            until.as_nanos(),
        );
        let begin = out.len();
        for attribute in &self.attributes {
            let before = out.len();
            if before > begin {
                out.push(b',');
            }
            match attribute {
                Attribute::Literal(text) => out.extend_from_slice(text),
                Attribute::Variable(head, variable, is_number) => {
                    out.extend_from_slice(head);
                    let start = out.len();
                    let has_value = variable.write(session, Some(end), &mut out);
                    let is_right = !is_number
                        || out.get(start..).is_some_and(|text| {
                            !text.is_empty() && text.iter().all(u8::is_ascii_digit)
                        });
                    if has_value && is_right {
                        // 64-bit numbers are strings in the JSON encoding of protocol buffers.
                        quote(&mut out, start);
                        out.extend_from_slice(b"}}");
                    } else {
                        out.truncate(before);
                    }
                }
            }
        }
        let status = end.status(session);
        out.extend_from_slice(b"],\"status\":{");
        if status != 200 {
            let _ = write!(out, "\"code\":{ERROR},\"message\":\"{}\"", end.reason.code());
        }
        out.extend_from_slice(b"}}");
        out
    }
}

/// What stands before the spans of a request.
fn envelope(service_name: &str) -> Vec<u8> {
    let attribute = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    let resource = json!({"attributes": [
        attribute("service.name", service_name),
        attribute("service.version", env!("CARGO_PKG_VERSION")),
        attribute("host.name", crate::vars::hostname()),
    ]});
    let scope = json!({"name": "headgate", "version": env!("CARGO_PKG_VERSION")});
    let text = format!(
        "{{\"resourceSpans\":[{{\"resource\":{resource},\"scopeSpans\":[{{\"scope\":{scope},\"spans\":["
    );
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use headgate_telemetry::TimeText;

    use super::*;
    use crate::outcome::CloseReason;
    use crate::plugin::build_for_test;

    fn span(conf: Value, reason: CloseReason) -> Value {
        let plugin: OpenTelemetry = build_for_test(&DEF, conf).unwrap();
        let times = RefCell::new(TimeText::default());
        let session = Session::of("192.0.2.7:4711");
        let span = plugin.span(0xabc, &session, &End::now(reason, &times));
        let text = [envelope("edge"), span, b"]}]}]}".to_vec()].concat();
        let whole: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(
            whole["resourceSpans"][0]["resource"]["attributes"][0]["value"]["stringValue"],
            "edge"
        );
        whole["resourceSpans"][0]["scopeSpans"][0]["spans"][0].clone()
    }

    #[test]
    fn a_span_of_the_protocol() {
        let conf = json!({"attributes": {"team": "d\"b", "sni": "$ssl_server_name"}});
        let span = span(conf, CloseReason::Done);
        assert_eq!(span["traceId"], format!("{:032x}", 0xabc));
        assert_eq!(span["spanId"].as_str().map(str::len), Some(16));
        assert_eq!((&span["name"], &span["kind"]), (&json!("stream"), &json!(2)));
        let from: u128 = span["startTimeUnixNano"].as_str().unwrap().parse().unwrap();
        assert!(from <= span["endTimeUnixNano"].as_str().unwrap().parse().unwrap());
        let attributes = span["attributes"].as_array().unwrap();
        let has =
            |key: &str, value: Value| attributes.contains(&json!({"key": key, "value": value}));
        assert!(has("client.address", json!({"stringValue": "192.0.2.7"})), "{span}");
        assert!(has("client.port", json!({"intValue": "4711"})), "{span}");
        assert!(has("team", json!({"stringValue": "d\"b"})), "{span}");
        assert!(attributes.iter().all(|one| one["key"] != "sni"), "it has no value");
    }

    #[test]
    fn samplers() {
        let bound = |conf: Value| serde_json::from_value::<Sampler>(conf).unwrap().bound();
        assert_eq!(bound(json!({})), Some(1 << 63));
        assert_eq!(bound(json!({"name": "always_off"})), None);
        let half = json!({"name": "trace_id_ratio", "options": {"fraction": 0.5}});
        assert_eq!(bound(half), Some(1 << 62));
        let none = json!({"name": "trace_id_ratio", "options": {"fraction": 0}});
        assert_eq!(bound(none), None);
    }
}
