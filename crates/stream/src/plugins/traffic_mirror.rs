//! traffic-mirror: sends a copy of what clients send to a second upstream. Not a plugin of the
//! reference.

use std::sync::Arc;
use std::time::Instant;

use headgate_model::plugin::{Phases, PluginMeta};
use headgate_telemetry::LogLimit;
use headgate_upstream::Upstream;
use serde::Deserialize;
use serde_json::Value;

use crate::mirror::Plan;
use crate::plugin::{Build, Phase, Plugin, PluginDef};
use crate::session::Session;

pub(super) static DEF: PluginDef = PluginDef::of::<TrafficMirror>(PluginMeta {
    name: "traffic-mirror",
    priority: 960,
    version: "0.1",
    default_enabled: false,
    phases: Phases::Preread,
    executed: true,
    schema: r#"{
        "type": "object",
        "properties": {
            "upstream_id": { "$ref": "id_schema" },
            "upstream": { "$ref": "upstream" },
            "percentage": { "type": "integer", "minimum": 1, "maximum": 100, "default": 100 },
            "buffer": {
                "type": "integer",
                "minimum": 131072,
                "maximum": 67108864,
                "default": 1048576
            }
        },
        "oneOf": [{ "required": ["upstream_id"] }, { "required": ["upstream"] }],
        "additionalProperties": false
    }"#,
    metadata_schema: None,
    check: None,
    good: &[
        r#"{"upstream_id":"shadow"}"#,
        r#"{"upstream":{"nodes":{"127.0.0.1:1980":1}},"percentage":10,"buffer":131072}"#,
    ],
    bad: &[
        r#"{}"#,
        r#"{"upstream_id":1,"upstream":{"nodes":{"127.0.0.1:1980":1}}}"#,
        r#"{"upstream":{"type":"roundrobin"}}"#,
        r#"{"upstream_id":1,"percentage":0}"#,
        r#"{"upstream_id":1,"buffer":1000}"#,
        r#"{"upstream_id":1,"host":"127.0.0.1"}"#,
    ],
});

static UNUSABLE: LogLimit = LogLimit::per_second(10);

#[derive(Debug, Deserialize)]
pub(super) struct Config {
    upstream_id: Option<Value>,
    upstream: Option<Value>,
    percentage: u8,
    buffer: usize,
}

#[derive(Debug)]
pub(super) struct TrafficMirror {
    /// Or why nothing is copied.
    to: Result<Arc<Upstream>, String>,
    percentage: u8,
    buffer: usize,
}

impl Plugin for TrafficMirror {
    type Config = Config;

    /// A mirror that cannot be used is no reason to close sessions.
    fn new(config: Config, build: &mut Build<'_>) -> Result<Self, String> {
        let id =
            config.upstream_id.map(|id| id.as_str().map_or_else(|| id.to_string(), str::to_owned));
        let to = match (id, config.upstream) {
            (Some(id), _) => build.upstream(&id).and_then(|found| {
                found.ok_or_else(|| format!("failed to fetch upstream info by upstream id: {id}"))
            }),
            (None, Some(conf)) => build.inline_upstream("upstream", &conf),
            (None, None) => Err("no upstream".to_owned()),
        };
        Ok(Self { to, percentage: config.percentage, buffer: config.buffer })
    }

    fn preread(&self, session: &mut Session) -> Phase {
        if fastrand::u8(0..100) >= self.percentage {
            return Phase::NEXT;
        }
        match &self.to {
            Ok(upstream) => {
                let upstream = Arc::clone(upstream);
                session.mirror = Some(Box::new(Plan { upstream, buffer: self.buffer }));
            }
            Err(why) => {
                if let Some(suppressed) = UNUSABLE.check(Instant::now()) {
                    let route = session.route.as_ref().map(|route| route.id.as_str());
                    tracing::error!(
                        conn = session.number,
                        route,
                        suppressed,
                        "a session is not mirrored: {why}"
                    );
                }
            }
        }
        Phase::NEXT
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugin::build_for_test;

    #[test]
    fn some_sessions_or_all_are_copied() {
        let copied = |more: Value, count: usize| {
            let mut conf = json!({"upstream": {"nodes": {"127.0.0.1:1": 1}}});
            conf.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let plugin: TrafficMirror = build_for_test(&DEF, conf).unwrap();
            let sessions = (0..count).map(|_| {
                let mut session = Session::of("198.51.100.7:1");
                assert_eq!(plugin.preread(&mut session), Phase::NEXT);
                session.mirror.is_some()
            });
            sessions.filter(|copied| *copied).count()
        };
        assert_eq!(copied(json!({}), 10), 10);
        let half = copied(json!({"percentage": 50}), 1000);
        assert!((300..700).contains(&half), "{half}");
    }

    #[test]
    fn without_its_upstream_sessions_pass() {
        let plugin: TrafficMirror = build_for_test(&DEF, json!({"upstream_id": "none"})).unwrap();
        let mut session = Session::of("198.51.100.7:1");
        assert_eq!(plugin.preread(&mut session), Phase::NEXT);
        assert!(session.mirror.is_none());
    }
}
