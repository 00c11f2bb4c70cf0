//! fault-injection: delays some sessions, slows them down, or closes them, to see how clients cope. Not a plugin
//! of the reference's stream proxy; its members are those of the HTTP plugin of that name.

use std::sync::Arc;
use std::time::{Duration, Instant};

use headgate_model::expr;
use headgate_model::plugin::{Phases, PluginMeta};
use headgate_telemetry::LogLimit;
use serde::Deserialize;
use serde_json::Value;

use crate::plugin::{Build, Client, Condition, Flow, Later, Phase, Plugin, PluginDef};
use crate::session::Session;
use crate::throttle::Way;
use crate::throttle::bucket::{Bucket, ByteRate};

pub(super) static DEF: PluginDef = PluginDef::of::<FaultInjection>(PluginMeta {
    name: "fault-injection",
    priority: 11000,
    version: "0.1",
    default_enabled: false,
    phases: Phases::Preread,
    executed: true,
    schema: r#"{
        "type": "object",
        "properties": {
            "delay": {
                "type": "object",
                "properties": {
                    "duration": { "type": "number", "exclusiveMinimum": 0, "maximum": 3600 },
                    "percentage": { "type": "integer", "minimum": 0, "maximum": 100, "default": 100 },
                    "vars": { "type": "array" }
                },
                "required": ["duration"],
                "additionalProperties": false
            },
            "abort": {
                "type": "object",
                "properties": {
                    "code": { "type": "integer", "minimum": 200, "maximum": 599, "default": 503 },
                    "percentage": { "type": "integer", "minimum": 0, "maximum": 100, "default": 100 },
                    "vars": { "type": "array" }
                },
                "additionalProperties": false
            },
            "throttle": {
                "type": "object",
                "properties": {
                    "up": { "type": "integer", "minimum": 1, "maximum": 1000000000000 },
                    "down": { "type": "integer", "minimum": 1, "maximum": 1000000000000 },
                    "percentage": { "type": "integer", "minimum": 0, "maximum": 100, "default": 100 },
                    "vars": { "type": "array" }
                },
                "anyOf": [{ "required": ["up"] }, { "required": ["down"] }],
                "additionalProperties": false
            }
        },
        "anyOf": [
            { "required": ["delay"] },
            { "required": ["abort"] },
            { "required": ["throttle"] }
        ],
        "additionalProperties": false
    }"#,
    metadata_schema: None,
    check: Some(check),
    good: &[
        r#"{"delay":{"duration":0.5}}"#,
        r#"{"abort":{"code":500,"percentage":10,"vars":[["remote_addr","==","192.0.2.1"]]}}"#,
        r#"{"delay":{"duration":1},"abort":{}}"#,
        r#"{"throttle":{"up":1000,"down":2000,"percentage":50,"vars":[]}}"#,
    ],
    bad: &[
        r#"{}"#,
        r#"{"delay":{}}"#,
        r#"{"delay":{"duration":0}}"#,
        r#"{"abort":{"percentage":101}}"#,
        r#"{"abort":{"vars":[["a","="]]}}"#,
        r#"{"throttle":1,"abort":{}}"#,
        r#"{"throttle":{}}"#,
        r#"{"throttle":{"up":0}}"#,
    ],
});

fn check(conf: &Value) -> Result<(), String> {
    let vars =
        ["delay", "abort", "throttle"].into_iter().filter_map(|name| conf.get(name)?.get("vars"));
    for vars in vars {
        expr::check(vars)
            .map_err(|error| format!("failed to validate the 'vars' expression: {error}"))?;
    }
    Ok(())
}

static INJECTED: LogLimit = LogLimit::per_second(10);

#[derive(Debug, Deserialize)]
pub(super) struct Config {
    delay: Option<DelayConfig>,
    abort: Option<AbortConfig>,
    throttle: Option<ThrottleConfig>,
}

#[derive(Debug, Deserialize)]
struct DelayConfig {
    duration: f64,
    percentage: u8,
    vars: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct AbortConfig {
    code: u16,
    percentage: u8,
    vars: Option<Value>,
}

/// Bytes per second.
#[derive(Debug, Deserialize)]
struct ThrottleConfig {
    up: Option<u64>,
    down: Option<u64>,
    percentage: u8,
    vars: Option<Value>,
}

#[derive(Debug)]
pub(super) struct FaultInjection {
    delay: Option<(Chance, Duration)>,
    abort: Option<(Chance, u16)>,
    throttle: Option<(Chance, Speed)>,
}

/// Bytes per second in each direction.
#[derive(Debug, Clone, Copy)]
struct Speed {
    up: Option<u64>,
    down: Option<u64>,
}

/// Which sessions are hit.
#[derive(Debug)]
struct Chance {
    percentage: u8,
    condition: Option<Condition>,
}

/// What a session that is delayed first ends with.
#[derive(Debug)]
struct Sentence(Duration, u16);

impl Plugin for FaultInjection {
    type Config = Config;

    fn new(config: Config, build: &mut Build<'_>) -> Result<Self, String> {
        let mut chance = |percentage, vars: Option<Value>| {
            let condition = vars.map(|vars| build.condition(&vars)).transpose()?;
            Ok::<_, String>(Chance { percentage, condition })
        };
        let delay = config.delay.map(|delay| {
            let duration = Duration::try_from_secs_f64(delay.duration).unwrap_or_default();
            chance(delay.percentage, delay.vars).map(|chance| (chance, duration))
        });
        let delay = delay.transpose()?;
        let abort = config
            .abort
            .map(|abort| chance(abort.percentage, abort.vars).map(|chance| (chance, abort.code)));
        let abort = abort.transpose()?;
        let throttle = config.throttle.map(|it| {
            let speed = Speed { up: it.up, down: it.down };
            chance(it.percentage, it.vars).map(|chance| (chance, speed))
        });
        Ok(Self { delay, abort, throttle: throttle.transpose()? })
    }

    fn preread(&self, session: &mut Session) -> Phase {
        let delay = self.delay.as_ref().filter(|(chance, _)| chance.hits(session));
        let abort = self.abort.as_ref().filter(|(chance, _)| chance.hits(session));
        let (delay, abort) = (delay.map(|(_, time)| *time), abort.map(|(_, code)| *code));
        let throttle = self.throttle.as_ref().filter(|(chance, _)| chance.hits(session));
        let throttle = throttle.map(|(_, speed)| *speed).filter(|_| abort.is_none());
        if (delay.is_some() || abort.is_some() || throttle.is_some())
            && let Some(suppressed) = INJECTED.check(Instant::now())
        {
            let (up, down) = throttle.map_or((None, None), |speed| (speed.up, speed.down));
            let conn = session.number;
            tracing::info!(conn, ?delay, abort, up, down, suppressed, "a fault is injected");
        }
        if let Some(speed) = throttle {
            speed.hold(session);
        }
        match (delay, abort) {
            (None, None) => Phase::NEXT,
            (Some(time), None) => Phase::Delay(time),
            (None, Some(code)) => Phase::reject(code),
            (Some(time), Some(code)) => {
                session.keep(Sentence(time, code));
                Phase::Wait
            }
        }
    }

    fn wait<'a>(&'a self, session: &'a mut Session, client: &'a mut Client<'_>) -> Later<'a, Flow> {
        Box::pin(async move {
            let Some(Sentence(time, code)) = session.kept() else { return Flow::Next };
            client.sleep(*time).await;
            Flow::Reject(*code)
        })
    }
}

impl Speed {
    /// Holds a session to it, which shares it with no other.
    fn hold(self, session: &mut Session) {
        for (way, rate) in [(Way::Up, self.up), (Way::Down, self.down)] {
            if let Some(rate) = rate {
                session.limit(way, Arc::new(Bucket::new(ByteRate::new(rate, 0))), false);
            }
        }
    }
}

impl Chance {
    fn hits(&self, session: &Session) -> bool {
        let is_meant = self.condition.as_ref().is_none_or(|condition| condition.holds(session));
        is_meant && fastrand::u8(0..100) < self.percentage
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugin::build_for_test;

    fn answers(conf: Value, count: usize) -> Vec<Phase> {
        let plugin: FaultInjection = build_for_test(&DEF, conf).unwrap();
        (0..count).map(|_| plugin.preread(&mut Session::of("198.51.100.7:1000"))).collect()
    }

    #[test]
    fn all_none_or_some() {
        let second = Phase::Delay(Duration::from_secs(1));
        assert_eq!(answers(json!({"delay": {"duration": 1}}), 2), [second; 2]);
        assert_eq!(answers(json!({"abort": {"code": 500}}), 1), [Phase::reject(500)]);
        assert_eq!(answers(json!({"delay": {"duration": 1}, "abort": {}}), 1), [Phase::Wait]);
        assert_eq!(answers(json!({"abort": {"percentage": 0}}), 50), [Phase::NEXT; 50]);
        let half = answers(json!({"abort": {"percentage": 50}}), 1000);
        let hit = half.iter().filter(|phase| **phase != Phase::NEXT).count();
        assert!((300..700).contains(&hit), "{hit}");
    }

    #[test]
    fn only_who_is_meant() {
        let abort = |ip: &str| json!({"abort": {"vars": [["remote_addr", "==", ip]]}});
        assert_eq!(answers(abort("192.0.2.1"), 1), [Phase::NEXT]);
        assert_eq!(answers(abort("198.51.100.7"), 1), [Phase::reject(503)]);
    }
}
