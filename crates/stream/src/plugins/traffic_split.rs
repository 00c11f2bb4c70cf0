//! traffic-split: divides the sessions of a route among upstreams by weight and condition.

use std::sync::Arc;
use std::time::Instant;

use headgate_model::expr;
use headgate_model::plugin::{Phases, PluginMeta};
use headgate_telemetry::LogLimit;
use headgate_upstream::Upstream;
use headgate_upstream::balancer::Round;
use serde::Deserialize;
use serde_json::Value;

use crate::plugin::{Build, Condition, Phase, Plugin, PluginDef};
use crate::session::Session;

static UNUSABLE: LogLimit = LogLimit::per_second(10);

pub(super) static DEF: PluginDef = PluginDef::of::<TrafficSplit>(PluginMeta {
    name: "traffic-split",
    priority: 966,
    version: "0.1",
    default_enabled: true,
    phases: Phases::Preread,
    executed: false,
    schema: r#"{
        "type": "object",
        "properties": {
            "rules": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "match": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "properties": { "vars": { "type": "array" } }
                            }
                        },
                        "weighted_upstreams": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": 20,
                            "items": {
                                "type": "object",
                                "properties": {
                                    "upstream_id": { "$ref": "id_schema" },
                                    "upstream": { "$ref": "upstream" },
                                    "weight": { "type": "integer", "minimum": 0, "default": 1 }
                                }
                            },
                            "default": [{ "weight": 1 }]
                        }
                    }
                }
            }
        }
    }"#,
    metadata_schema: None,
    check: Some(check),
    good: &[
        r#"{}"#,
        r#"{"rules":[{"weighted_upstreams":[{"upstream_id":1,"weight":9},{"weight":1}]}]}"#,
        r#"{"rules":[{"match":[{"vars":[["server_port","==",9100]]}],
            "weighted_upstreams":[{"upstream":{"nodes":{"127.0.0.1:1980":1}},"weight":1}]}]}"#,
    ],
    bad: &[
        r#"{"rules":{"a":1}}"#,
        r#"{"rules":[{"weighted_upstreams":[]}]}"#,
        r#"{"rules":[{"weighted_upstreams":[{"weight":-1}]}]}"#,
        r#"{"rules":[{"weighted_upstreams":[{"upstream":{"type":"roundrobin"}}]}]}"#,
        r#"{"rules":[{"match":[{"vars":[["server_port","=",9100]]}]}]}"#,
        r#"{"rules":[{"match":[{"vars":["server_port","==",9100]}]}]}"#,
    ],
});

fn check(conf: &Value) -> Result<(), String> {
    let rules = conf.get("rules").and_then(Value::as_array).into_iter().flatten();
    let matches = rules.filter_map(|rule| rule.get("match")?.as_array()).flatten();
    for vars in matches.filter_map(|one| one.get("vars")) {
        expr::check(vars)
            .map_err(|error| format!("failed to validate the 'vars' expression: {error}"))?;
    }
    Ok(())
}

#[derive(Debug, Deserialize)]
pub(super) struct Config {
    #[serde(default)]
    rules: Vec<RuleConfig>,
}

#[derive(Debug, Deserialize)]
struct RuleConfig {
    #[serde(default, rename = "match")]
    matches: Vec<MatchConfig>,
    weighted_upstreams: Vec<EntryConfig>,
}

#[derive(Debug, Deserialize)]
struct MatchConfig {
    vars: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct EntryConfig {
    upstream_id: Option<Value>,
    upstream: Option<Value>,
    weight: u64,
}

#[derive(Debug)]
pub(super) struct TrafficSplit {
    rules: Vec<Rule>,
}

/// The first rule that matches decides.
#[derive(Debug)]
struct Rule {
    /// An id in it that names no upstream: sessions that come to this rule are refused.
    dangling: Option<String>,
    /// One of them must hold; none at all holds always.
    matches: Vec<Condition>,
    entries: Vec<Entry>,
    /// Whose turn it is, for all cores together.
    round: Round,
}

#[derive(Debug)]
enum Entry {
    /// The route's own upstream.
    Own,
    To(Arc<Upstream>),
    /// Why its sessions are refused.
    Unusable(String),
}

impl Plugin for TrafficSplit {
    type Config = Config;

    fn new(config: Config, build: &mut Build<'_>) -> Result<Self, String> {
        let rules = config.rules.into_iter().enumerate();
        let rules = rules.map(|(number, rule)| Rule::new(number, rule, build));
        Ok(Self { rules: rules.collect::<Result<_, _>>()? })
    }

    fn preread(&self, session: &mut Session) -> Phase {
        for rule in &self.rules {
            if let Some(id) = &rule.dangling {
                return refused(
                    session,
                    &format!("failed to fetch upstream info by upstream id: {id}"),
                );
            }
            if !rule.is_for(session) {
                continue;
            }
            match rule.round.turn().and_then(|turn| rule.entries.get(turn)) {
                Some(Entry::To(upstream)) => session.redirect_to(Arc::clone(upstream)),
                Some(Entry::Unusable(why)) => return refused(session, why),
                Some(Entry::Own) | None => {}
            }
            break;
        }
        Phase::NEXT
    }
}

impl Rule {
    fn new(number: usize, config: RuleConfig, build: &mut Build<'_>) -> Result<Self, String> {
        let weights: Vec<_> = config
            .weighted_upstreams
            .iter()
            .map(|entry| u32::try_from(entry.weight).unwrap_or(u32::MAX))
            .collect();
        let mut dangling = None;
        let mut entries = Vec::with_capacity(weights.len());
        for (index, entry) in config.weighted_upstreams.into_iter().enumerate() {
            let id = entry
                .upstream_id
                .map(|id| id.as_str().map_or_else(|| id.to_string(), str::to_owned));
            entries.push(match (id, entry.upstream) {
                (Some(id), _) => match build.upstream(&id) {
                    Ok(Some(upstream)) => Entry::To(upstream),
                    Ok(None) => {
                        dangling.get_or_insert(id);
                        Entry::Own // never chosen: the rule refuses
                    }
                    Err(why) => Entry::Unusable(why),
                },
                (None, Some(conf)) => {
                    match build.inline_upstream(&format!("{number}/{index}"), &conf) {
                        Ok(upstream) => Entry::To(upstream),
                        Err(why) => Entry::Unusable(why),
                    }
                }
                (None, None) => Entry::Own,
            });
        }
        let everything = Value::Array(Vec::new());
        let conditions = config.matches.iter().map(|one| {
            build
                .condition(one.vars.as_ref().unwrap_or(&everything))
                .map_err(|error| format!("failed to validate the 'vars' expression: {error}"))
        });
        let matches = conditions.collect::<Result<_, _>>()?;
        Ok(Self { dangling, matches, entries, round: Round::new(&weights) })
    }

    fn is_for(&self, session: &Session) -> bool {
        self.matches.is_empty() || self.matches.iter().any(|condition| condition.holds(session))
    }
}

fn refused(session: &Session, why: &str) -> Phase {
    if let Some(suppressed) = UNUSABLE.check(Instant::now()) {
        let route = session.route.as_ref().map(|route| route.id.as_str());
        tracing::error!(conn = session.number, route, suppressed, "{why}");
    }
    Phase::reject(500)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugin::build_for_test;

    fn inline() -> Value {
        json!({"nodes": {"127.0.0.1:1": 1}})
    }

    /// Where sessions go, or the answer that refuses them.
    fn went(rules: Value, sessions: usize) -> Vec<String> {
        let plugin: TrafficSplit = build_for_test(&DEF, json!({"rules": rules})).unwrap();
        let one = |_| {
            let mut session = Session::of("198.51.100.7:1000");
            match plugin.preread(&mut session) {
                Phase::NEXT => session.redirect.map_or("own".into(), |it| it.key().to_owned()),
                other => format!("{other:?}"),
            }
        };
        (0..sessions).map(one).collect()
    }

    #[test]
    fn nine_to_one_is_exact() {
        let entries = json!([{"upstream": inline(), "weight": 9}, {"weight": 1}]);
        let went = went(json!([{"weighted_upstreams": entries}]), 100);
        let own = went.iter().filter(|to| *to == "own").count();
        assert_eq!(own, 10);
        assert!(went.contains(&"stream_routes/1#traffic-split/0/0".to_owned()));
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let to = |number: i32| json!([{"upstream": inline(), "weight": number}]);
        let no = json!({"vars": [["server_port", "==", 1]]});
        let yes = json!({"vars": [["remote_addr", "ipmatch", ["198.51.100.0/24"]]]});
        let rules = json!([
            {"match": [no], "weighted_upstreams": to(1)},
            {"match": [no, yes], "weighted_upstreams": to(2)},
            {"weighted_upstreams": to(3)},
        ]);
        assert_eq!(went(rules, 1), ["stream_routes/1#traffic-split/1/0"]);
        assert_eq!(went(json!([{"match": [no], "weighted_upstreams": to(1)}]), 1), ["own"]);
        assert_eq!(went(json!([{"match": [], "weighted_upstreams": to(1)}]), 1).len(), 1);
        assert_eq!(went(json!([]), 1), ["own"]);
        assert_eq!(went(json!([{}]), 1), ["own"], "the default entry");
    }

    #[test]
    fn a_dangling_id_refuses_before_the_match_is_looked_at() {
        let no = json!([{"vars": [["server_port", "==", 1]]}]);
        let rule = json!({"match": no, "weighted_upstreams": [{"upstream_id": 9}, {"weight": 1}]});
        assert_eq!(went(json!([rule]), 1), ["Now(Reject(500))"]);
    }

    #[test]
    fn an_unusable_upstream_refuses_only_its_share() {
        let bad = json!({"type": "fastest", "nodes": {"127.0.0.1:1": 1}});
        let entries = json!([{"upstream": bad}, {"weight": 1}]);
        let went = went(json!([{"weighted_upstreams": entries}]), 4);
        assert_eq!(went.iter().filter(|to| *to == "own").count(), 2, "{went:?}");
    }
}
