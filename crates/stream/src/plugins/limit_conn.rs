//! limit-conn: bounds the number of sessions at a time for each value of a key
//! (`spec/plugins.md`, section 3).

mod counters;
mod limit;
mod remote;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headgate_model::plugin::{Phases, PluginMeta};
use headgate_telemetry::LogLimit;
use serde::Deserialize;
use serde_json::Value;

use crate::plugin::{Build, Client, Flow, Later, Phase, Plugin, PluginDef};
use crate::session::Session;
use counters::Counters;
pub(super) use limit::Key;
use limit::Number;
use remote::{RedisConf, Remote, RemotePlace};

pub(super) static DEF: PluginDef = PluginDef::of::<LimitConn>(PluginMeta {
    name: "limit-conn",
    priority: 1003,
    version: "0.1",
    default_enabled: true,
    phases: Phases::Both,
    executed: true,
    schema: r#"{
        "type": "object",
        "properties": {
            "conn": { "type": ["integer", "string"], "exclusiveMinimum": 0, "minLength": 1 },
            "burst": { "type": ["integer", "string"], "minimum": 0, "minLength": 1 },
            "default_conn_delay": { "type": "number", "exclusiveMinimum": 0 },
            "only_use_default_delay": { "type": "boolean", "default": false },
            "key": { "type": "string" },
            "key_type": { "type": "string", "enum": ["var", "var_combination"], "default": "var" },
            "rules": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "properties": {
                        "conn": { "type": ["integer", "string"], "exclusiveMinimum": 0, "minLength": 1 },
                        "burst": { "type": ["integer", "string"], "minimum": 0, "minLength": 1 },
                        "key": { "type": "string", "minLength": 1 }
                    },
                    "required": ["conn", "burst", "key"]
                }
            },
            "rejected_code": { "type": "integer", "minimum": 200, "maximum": 599, "default": 503 },
            "rejected_msg": { "type": "string", "minLength": 1 },
            "allow_degradation": { "type": "boolean", "default": false },
            "policy": {
                "type": "string",
                "enum": ["local", "redis", "redis-cluster"],
                "default": "local"
            },
            "key_ttl": { "type": "integer", "minimum": 1, "default": 3600 },
            "redis_host": { "type": "string", "minLength": 2 },
            "redis_port": { "type": "integer", "minimum": 1, "maximum": 65535, "default": 6379 },
            "redis_username": { "type": "string", "minLength": 1 },
            "redis_password": { "type": "string", "minLength": 0 },
            "redis_database": { "type": "integer", "minimum": 0, "default": 0 },
            "redis_timeout": { "type": "integer", "minimum": 1, "default": 1000 },
            "redis_ssl": { "type": "boolean", "default": false },
            "redis_ssl_verify": { "type": "boolean", "default": false },
            "redis_keepalive_timeout": { "type": "integer", "minimum": 1000, "default": 10000 },
            "redis_keepalive_pool": { "type": "integer", "minimum": 1, "default": 100 },
            "redis_cluster_nodes": {
                "type": "array",
                "minItems": 1,
                "items": { "type": "string", "minLength": 2, "maxLength": 100 }
            },
            "redis_cluster_name": { "type": "string" },
            "redis_cluster_ssl": { "type": "boolean", "default": false },
            "redis_cluster_ssl_verify": { "type": "boolean", "default": false }
        }
    }"#,
    metadata_schema: None,
    check: Some(check),
    good: &[
        r#"{"conn":1,"burst":0,"default_conn_delay":0.1,"key":"remote_addr"}"#,
        r#"{"conn":9,"burst":2,"default_conn_delay":1,"key":"$remote_addr","key_type":"var_combination"}"#,
        r#"{"conn":1,"burst":0,"default_conn_delay":0.1,"key":"remote_addr","rejected_code":503}"#,
        r#"{"conn":"${most ?? 3}","burst":0,"default_conn_delay":0.1,"key":"server_port"}"#,
        r#"{"default_conn_delay":0.1,"rules":[{"conn":1,"burst":0,"key":"$remote_addr"}]}"#,
        r#"{"conn":1,"burst":0,"default_conn_delay":0.1,"key":"a","policy":"redis","redis_host":"127.0.0.1"}"#,
        r#"{"conn":1,"burst":0,"default_conn_delay":0.1,"key":"a","policy":"redis-cluster",
            "redis_cluster_nodes":["127.0.0.1:7000"],"redis_cluster_name":"c"}"#,
    ],
    bad: &[
        r#"{}"#,
        r#"{"conn":0,"burst":0,"default_conn_delay":0.1,"key":"remote_addr"}"#,
        r#"{"conn":1.5,"burst":0,"default_conn_delay":0.1,"key":"remote_addr"}"#,
        r#"{"conn":1,"burst":-1,"default_conn_delay":0.1,"key":"remote_addr"}"#,
        r#"{"conn":1,"burst":0,"default_conn_delay":0,"key":"remote_addr"}"#,
        r#"{"conn":1,"burst":0,"default_conn_delay":0.1}"#,
        r#"{"conn":1,"burst":0,"default_conn_delay":0.1,"key":"a","key_type":"other"}"#,
        r#"{"conn":"many","burst":0,"default_conn_delay":0.1,"key":"a"}"#,
        r#"{"default_conn_delay":0.1,"rules":[]}"#,
        r#"{"default_conn_delay":0.1,"rules":[{"conn":1,"burst":0}]}"#,
        r#"{"rules":[{"conn":1,"burst":0,"key":"$remote_addr"}]}"#,
        r#"{"conn":1,"burst":0,"default_conn_delay":0.1,"key":"a","rejected_code":600}"#,
        r#"{"conn":1,"burst":0,"default_conn_delay":0.1,"key":"a","policy":"none"}"#,
        r#"{"conn":1,"burst":0,"default_conn_delay":0.1,"key":"a","policy":"redis"}"#,
        r#"{"conn":1,"burst":0,"default_conn_delay":0.1,"key":"a","policy":"redis-cluster"}"#,
    ],
});

/// What is required depends on whether there are rules.
fn check(conf: &Value) -> Result<(), String> {
    let required: &[&str] = match conf.get("rules") {
        Some(_) => &["default_conn_delay"],
        None => &["conn", "burst", "default_conn_delay", "key"],
    };
    if let Some(name) = required.iter().find(|name| conf.get(**name).is_none()) {
        return Err(format!("property \"{name}\" is required"));
    }
    let more: &[&str] = match conf.get("policy").and_then(Value::as_str) {
        Some("redis") => &["redis_host"],
        Some("redis-cluster") => &["redis_cluster_nodes", "redis_cluster_name"],
        _ => &[],
    };
    if let Some(name) = more.iter().find(|name| conf.get(**name).is_none()) {
        return Err(format!("property \"{name}\" is required"));
    }
    let rules = conf.get("rules").and_then(Value::as_array).into_iter().flatten();
    for limit in rules.chain([conf]) {
        for name in ["conn", "burst"] {
            limit.get(name).map_or(Ok(()), |number| limit::check(name, number))?;
        }
    }
    Ok(())
}

static FAILED: LogLimit = LogLimit::per_second(10);

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The members of the configuration that have an effect. There is no latency to adapt a delay to,
/// and nothing is sent to a refused client.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    conn: Option<Value>,
    burst: Option<Value>,
    default_conn_delay: f64,
    key: Option<String>,
    key_type: String,
    #[serde(default)]
    rules: Vec<RuleConfig>,
    rejected_code: u16,
    allow_degradation: bool,
    policy: String,
    #[serde(flatten)]
    redis: RedisConf,
}

#[derive(Debug, Deserialize)]
struct RuleConfig {
    conn: Value,
    burst: Value,
    key: String,
}

#[derive(Debug)]
pub(super) struct LimitConn {
    /// `<resource>:<version of the configuration>:`. A changed configuration counts from 0; older
    /// sessions still count under their own.
    prefix: String,
    rules: Vec<Rule>,
    delay: Duration,
    rejected_code: u16,
    allow_degradation: bool,
    counters: Counting,
}

/// Where is counted.
#[derive(Debug)]
enum Counting {
    Here(Arc<Counters>),
    Redis(Arc<Remote>),
}

#[derive(Debug)]
struct Rule {
    conn: Number,
    burst: Number,
    key: Key,
}

impl Plugin for LimitConn {
    type Config = Config;

    fn new(config: Config, build: &mut Build<'_>) -> Result<Self, String> {
        let counters = match config.policy.as_str() {
            "local" => Counting::Here(build.shared("", Counters::default)),
            policy => {
                let is_cluster = policy == "redis-cluster";
                Remote::check(&config.redis, is_cluster)?;
                let background = build.background();
                let start = || Remote::start(&config.redis, is_cluster, &*background);
                Counting::Redis(build.shared(&config.redis.key(is_cluster), start))
            }
        };
        let mut rules = Vec::new();
        for rule in &config.rules {
            rules.push(Rule {
                conn: Number::new("conn", &rule.conn, build)?,
                burst: Number::new("burst", &rule.burst, build)?,
                key: Key::of_rule(&rule.key, build),
            });
        }
        if config.rules.is_empty() {
            let missing = || "conn, burst and key are needed without rules".to_owned();
            let (conn, burst) = config.conn.zip(config.burst).ok_or_else(missing)?;
            let key = config.key.ok_or_else(missing)?;
            rules.push(Rule {
                conn: Number::new("conn", &conn, build)?,
                burst: Number::new("burst", &burst, build)?,
                key: match config.key_type.as_str() {
                    "var_combination" => Key::combination(&key, build),
                    _ => Key::variable(&key, build),
                },
            });
        }
        Ok(Self {
            prefix: format!("/apisix/{}:{}:", build.resource(), build.version()),
            rules,
            delay: Duration::try_from_secs_f64(config.default_conn_delay).unwrap_or(Duration::MAX),
            rejected_code: config.rejected_code,
            allow_degradation: config.allow_degradation,
            counters,
        })
    }

    fn preread(&self, session: &mut Session) -> Phase {
        let Counting::Here(counters) = &self.counters else { return Phase::Wait };
        let mut delay = Duration::ZERO;
        for rule in &self.rules {
            let entered = rule.bound(session).map(|bound| {
                self.with_key(rule, session, |key| {
                    let (place, count) = counters.enter(key, bound.most())?;
                    Some((place, bound.delays(count)))
                })
            });
            match entered {
                Ok(Some((place, delays))) => {
                    session.keep(place);
                    delay = delay.saturating_add(self.delay.saturating_mul(delays));
                }
                Ok(None) => return Phase::reject(self.rejected_code),
                Err(error) => match self.failed(session, &error) {
                    Flow::Next => {}
                    flow => return Phase::Now(flow),
                },
            }
        }
        if delay.is_zero() { Phase::NEXT } else { Phase::Delay(delay) }
    }

    fn wait<'a>(&'a self, session: &'a mut Session, client: &'a mut Client<'_>) -> Later<'a, Flow> {
        Box::pin(async move {
            let Counting::Redis(remote) = &self.counters else { return Flow::Next };
            let mut delay = Duration::ZERO;
            for rule in &self.rules {
                match self.ask(rule, remote, session, client).await {
                    Ok(Some((place, delays))) => {
                        session.keep(place);
                        delay = delay.saturating_add(self.delay.saturating_mul(delays));
                    }
                    Ok(None) => return Flow::Reject(self.rejected_code),
                    Err(error) => match self.failed(session, &error) {
                        Flow::Next => {}
                        flow => return flow,
                    },
                }
            }
            client.sleep(delay).await;
            Flow::Next
        })
    }
}

impl LimitConn {
    /// What `f` makes of the full key of a session.
    fn with_key<T>(&self, rule: &Rule, session: &Session, f: impl FnOnce(&[u8]) -> T) -> T {
        BUFFER.with_borrow_mut(|key| {
            key.clear();
            key.extend_from_slice(self.prefix.as_bytes());
            rule.key.write(session, key);
            tracing::info!(conn = session.number, "limit key: {}", String::from_utf8_lossy(key));
            f(key)
        })
    }

    async fn ask(
        &self,
        rule: &Rule,
        remote: &Arc<Remote>,
        session: &Session,
        client: &Client<'_>,
    ) -> Result<Option<(RemotePlace, u32)>, String> {
        let bound = rule.bound(session)?;
        if !client.can_wait() {
            return Err("a UDP flow cannot wait for the answer of Redis".to_owned());
        }
        let entering = self.with_key(rule, session, |key| remote.enter(key, bound.most()));
        let mut place = entering?;
        let answer = client.within(remote.patience, place.answer()).await;
        let answer = answer.unwrap_or_else(|| Err("no answer of Redis in time".to_owned()))?;
        Ok(answer.map(|count| (place, bound.delays(count))))
    }

    /// What becomes of a session whose limit cannot be worked out.
    fn failed(&self, session: &Session, error: &str) -> Flow {
        if let Some(suppressed) = FAILED.check(Instant::now()) {
            let degraded = self.allow_degradation;
            tracing::error!(
                conn = session.number,
                degraded,
                suppressed,
                "failed to limit conn: {error}"
            );
        }
        if self.allow_degradation { Flow::Next } else { Flow::Reject(500) }
    }
}

/// `conn` and `burst` of one session.
#[derive(Debug, Clone, Copy)]
struct Bound {
    conn: u64,
    burst: u64,
}

impl Bound {
    const fn most(self) -> u64 {
        self.conn.saturating_add(self.burst)
    }

    /// How many delays the n-th session waits.
    fn delays(self, count: u64) -> u32 {
        let delays = if count > self.conn { (count - 1) / self.conn } else { 0 };
        u32::try_from(delays).unwrap_or(u32::MAX)
    }
}

impl Rule {
    fn bound(&self, session: &Session) -> Result<Bound, String> {
        let (conn, burst) = (self.conn.of(session)?.max(1), self.burst.of(session)?);
        tracing::info!(conn = session.number, "limit conn: {conn}, burst: {burst}");
        Ok(Bound { conn, burst })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugin::build_for_test;

    fn plugin(conf: Value) -> LimitConn {
        build_for_test::<LimitConn>(&DEF, conf).unwrap()
    }

    fn conf(more: Value) -> Value {
        let mut conf =
            json!({"conn": 1, "burst": 0, "default_conn_delay": 0.1, "key": "remote_addr"});
        conf.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        conf
    }

    /// The answers to sessions that all stay open.
    fn answers(plugin: &LimitConn, clients: &[&str]) -> (Vec<Phase>, Vec<Session>) {
        let mut sessions: Vec<_> = clients.iter().map(|client| Session::of(client)).collect();
        let answers = sessions.iter_mut().map(|session| plugin.preread(session)).collect();
        (answers, sessions)
    }

    const A: &str = "198.51.100.7:1000";
    const A2: &str = "198.51.100.7:1001";
    const B: &str = "198.51.100.8:1000";
    const FULL: Phase = Phase::Now(Flow::Reject(503));

    #[test]
    fn counts_by_key_and_gives_back() {
        let plugin = plugin(conf(json!({})));
        let (seen, sessions) = answers(&plugin, &[A, A2, B]);
        assert_eq!(seen, [Phase::NEXT, FULL, Phase::NEXT]);
        drop(sessions);
        assert_eq!(answers(&plugin, &[A2]).0, [Phase::NEXT]);
    }

    #[test]
    fn a_burst_waits_in_steps() {
        let plugin = plugin(conf(json!({"conn": 2, "burst": 3, "rejected_code": 429})));
        let (seen, _sessions) = answers(&plugin, &[A; 6]);
        let wait = |steps: u64| Phase::Delay(Duration::from_millis(100 * steps));
        assert_eq!(seen, [Phase::NEXT, Phase::NEXT, wait(1), wait(1), wait(2), Phase::reject(429)]);
    }

    #[test]
    fn a_combination_or_the_address() {
        for (key, key_type, expected) in [
            ("$remote_addr:$remote_port", "var_combination", [Phase::NEXT, Phase::NEXT]),
            ("$server_port", "var_combination", [Phase::NEXT, FULL]),
            ("$none", "var_combination", [Phase::NEXT, FULL]),
            ("constant", "var_combination", [Phase::NEXT, FULL]),
            ("none", "var", [Phase::NEXT, FULL]),
            ("remote_port", "var", [Phase::NEXT, Phase::NEXT]),
        ] {
            let plugin = plugin(conf(json!({"key": key, "key_type": key_type})));
            assert_eq!(answers(&plugin, &[A, A2]).0, expected, "{key}");
        }
        let plugin = plugin(conf(json!({"key": "none"})));
        assert_eq!(answers(&plugin, &[A, B]).0, [Phase::NEXT; 2], "the client's address counts");
    }

    #[test]
    fn every_rule_holds() {
        let rules = json!([{"conn": 2, "burst": 0, "key": "$remote_addr"},
                           {"conn": 3, "burst": 0, "key": "all"}]);
        let plugin = plugin(json!({"default_conn_delay": 1, "rules": rules}));
        let (seen, sessions) = answers(&plugin, &[A, A, A, B, B]);
        assert_eq!(seen, [Phase::NEXT, Phase::NEXT, FULL, Phase::NEXT, FULL]);
        drop(sessions);
        assert_eq!(answers(&plugin, &[B, B]).0, [Phase::NEXT; 2], "a refusal keeps nothing");
    }

    #[test]
    fn numbers_may_come_from_variables() {
        let plugin = plugin(conf(json!({"conn": "${none ?? 2}"})));
        assert_eq!(answers(&plugin, &[A; 3]).0, [Phase::NEXT, Phase::NEXT, FULL]);
    }

    #[test]
    fn no_number_is_an_error_unless_degraded() {
        for (allowed, expected) in [(false, Phase::reject(500)), (true, Phase::NEXT)] {
            let more = json!({"conn": "$remote_addr", "allow_degradation": allowed});
            assert_eq!(answers(&plugin(conf(more)), &[A]).0, [expected]);
        }
    }

    #[test]
    fn the_key_names_resource_and_version() {
        let one = plugin(conf(json!({})));
        let two = plugin(conf(json!({"burst": 1})));
        assert!(one.prefix.starts_with("/apisix/stream_routes/1:"), "{}", one.prefix);
        assert_ne!(one.prefix, two.prefix);
    }
}
