//! limit-rate: bounds how many sessions begin in a second, and how many bytes they carry in one, for
//! each value of a key. Not a plugin of the reference.

mod bandwidth;
mod buckets;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use headgate_model::plugin::{Phases, PluginMeta};
use headgate_telemetry::LogLimit;
use serde::Deserialize;
use serde_json::Value;

use crate::plugin::{Build, Phase, Plugin, PluginDef};
use crate::plugins::limit_conn::Key;
use crate::session::Session;
use crate::throttle::Way;
use crate::throttle::bucket::{self, ByteRate};
use bandwidth::{Bandwidths, Rates};
use buckets::{Buckets, Rate};

pub(super) static DEF: PluginDef = PluginDef::of::<LimitRate>(PluginMeta {
    name: "limit-rate",
    priority: 1001,
    version: "0.1",
    default_enabled: false,
    phases: Phases::Preread,
    executed: true,
    schema: r#"{
        "type": "object",
        "properties": {
            "rate": { "type": "number", "exclusiveMinimum": 0, "maximum": 1000000000 },
            "burst": { "type": "integer", "minimum": 0, "default": 0 },
            "bandwidth": {
                "type": "object",
                "properties": {
                    "up": { "type": "integer", "minimum": 1, "maximum": 1000000000000 },
                    "down": { "type": "integer", "minimum": 1, "maximum": 1000000000000 },
                    "up_burst": { "type": "integer", "minimum": 0, "maximum": 1000000000000 },
                    "down_burst": { "type": "integer", "minimum": 0, "maximum": 1000000000000 }
                },
                "anyOf": [{ "required": ["up"] }, { "required": ["down"] }],
                "additionalProperties": false
            },
            "key": { "type": "string", "minLength": 1, "default": "remote_addr" },
            "key_type": { "type": "string", "enum": ["var", "var_combination"], "default": "var" },
            "rejected_code": { "type": "integer", "minimum": 200, "maximum": 599, "default": 503 },
            "dry_run": { "type": "boolean", "default": false }
        },
        "anyOf": [{ "required": ["rate"] }, { "required": ["bandwidth"] }],
        "additionalProperties": false
    }"#,
    metadata_schema: None,
    check: Some(check),
    good: &[
        r#"{"rate":10}"#,
        r#"{"rate":0.5,"burst":5,"key":"$remote_addr $server_port","key_type":"var_combination"}"#,
        r#"{"rate":100,"burst":100,"key":"server_port","dry_run":true,"rejected_code":429}"#,
        r#"{"bandwidth":{"up":1000000}}"#,
        r#"{"rate":5,"bandwidth":{"up":1,"down":1000000000,"up_burst":0,"down_burst":65536}}"#,
    ],
    bad: &[
        r#"{}"#,
        r#"{"rate":0}"#,
        r#"{"rate":"1"}"#,
        r#"{"rate":1,"burst":-1}"#,
        r#"{"rate":1,"key_type":"other"}"#,
        r#"{"rate":1,"bandwidth":1}"#,
        r#"{"bandwidth":{}}"#,
        r#"{"bandwidth":{"up":0}}"#,
        r#"{"bandwidth":{"up":1,"down_burst":1}}"#,
        r#"{"bandwidth":{"up":1},"burst":1}"#,
    ],
});

/// A burst of something that has no limit would have no effect.
fn check(conf: &Value) -> Result<(), String> {
    let bandwidth = conf.get("bandwidth");
    let inside = |name: &str| bandwidth.and_then(|bandwidth| bandwidth.get(name)).is_some();
    let needs = [
        ("burst", conf.get("burst").is_some(), "rate", conf.get("rate").is_some()),
        ("bandwidth.up_burst", inside("up_burst"), "bandwidth.up", inside("up")),
        ("bandwidth.down_burst", inside("down_burst"), "bandwidth.down", inside("down")),
    ];
    match needs.into_iter().find(|(_, is_there, _, has_other)| *is_there && !has_other) {
        Some((name, _, other, _)) => Err(format!("{name} has no effect without {other}")),
        None => Ok(()),
    }
}

static EXCEEDED: LogLimit = LogLimit::per_second(10);

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug, Deserialize)]
pub(super) struct Config {
    rate: Option<f64>,
    burst: u64,
    bandwidth: Option<BandwidthConfig>,
    key: String,
    key_type: String,
    rejected_code: u16,
    dry_run: bool,
}

/// Bytes per second, and bytes that may pass at once after a quiet time.
#[derive(Debug, Deserialize)]
struct BandwidthConfig {
    up: Option<u64>,
    down: Option<u64>,
    up_burst: Option<u64>,
    down_burst: Option<u64>,
}

#[derive(Debug)]
pub(super) struct LimitRate {
    /// `<resource>:<version of the configuration>:`.
    prefix: String,
    /// Of sessions.
    rate: Option<Rate>,
    /// Of bytes.
    bandwidth: Option<Rates>,
    key: Key,
    rejected_code: u16,
    dry_run: bool,
    buckets: Arc<Buckets>,
    bandwidths: Arc<Bandwidths>,
}

impl Plugin for LimitRate {
    type Config = Config;

    fn new(config: Config, build: &mut Build<'_>) -> Result<Self, String> {
        let key = match config.key_type.as_str() {
            "var_combination" => Key::combination(&config.key, build),
            _ => Key::variable(&config.key, build),
        };
        Ok(Self {
            prefix: format!("{}:{}:", build.resource(), build.version()),
            rate: config.rate.map(|rate| Rate::new(rate, config.burst)),
            // Unless told otherwise, what comes in a second may be saved up.
            bandwidth: config.bandwidth.map(|of| Rates {
                up: of.up.map(|rate| ByteRate::new(rate, of.up_burst.unwrap_or(rate))),
                down: of.down.map(|rate| ByteRate::new(rate, of.down_burst.unwrap_or(rate))),
            }),
            key,
            rejected_code: config.rejected_code,
            dry_run: config.dry_run,
            buckets: build.shared("", Buckets::default),
            bandwidths: build.shared("", Bandwidths::default),
        })
    }

    fn preread(&self, session: &mut Session) -> Phase {
        let taken = BUFFER.with_borrow_mut(|key| {
            key.clear();
            key.extend_from_slice(self.prefix.as_bytes());
            self.key.write(session, key);
            let taken = self.rate.is_none_or(|rate| self.buckets.take(key, rate, session.started));
            if (taken || self.dry_run)
                && let Some(rates) = self.bandwidth
            {
                let pair = self.bandwidths.of(key, rates, bucket::now());
                for (way, bucket) in [(Way::Up, pair.up), (Way::Down, pair.down)] {
                    if let Some(bucket) = bucket {
                        session.limit(way, bucket, self.dry_run);
                    }
                }
            }
            taken
        });
        if taken {
            return Phase::NEXT;
        }
        if let Some(suppressed) = EXCEEDED.check(Instant::now()) {
            let (conn, client) = (session.number, session.client_text());
            let dry_run = self.dry_run;
            tracing::warn!(conn, %client, dry_run, suppressed, "the rate of new sessions is exceeded");
        }
        if self.dry_run { Phase::NEXT } else { Phase::reject(self.rejected_code) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugin::build_for_test;

    fn answers(conf: Value, clients: &[&str]) -> Vec<Phase> {
        let plugin: LimitRate = build_for_test(&DEF, conf).unwrap();
        let mut sessions: Vec<_> = clients.iter().map(|client| Session::of(client)).collect();
        sessions.iter_mut().map(|session| plugin.preread(session)).collect()
    }

    #[test]
    fn a_burst_and_then_no_more() {
        const FULL: Phase = Phase::reject(503);
        let (a, b) = ("198.51.100.7:1", "198.51.100.8:1");
        let conf = json!({"rate": 0.001, "burst": 1});
        let expected = [Phase::NEXT, Phase::NEXT, FULL, Phase::NEXT];
        assert_eq!(answers(conf, &[a, a, a, b]), expected);
        let all = json!({"rate": 0.001, "key": "server_port", "rejected_code": 429});
        assert_eq!(answers(all, &[a, b]), [Phase::NEXT, Phase::reject(429)]);
        let dry = json!({"rate": 0.001, "dry_run": true});
        assert_eq!(answers(dry, &[a, a]), [Phase::NEXT; 2]);
    }
}
