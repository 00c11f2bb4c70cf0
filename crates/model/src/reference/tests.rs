//! Who uses whom, by table and against a naive scan.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn ask(kind: Kind, id: &str, all: &[(Kind, &str, Value)]) -> Option<String> {
    in_use(kind, id, &mut all.iter().map(|(kind, id, value)| (*kind, *id, value)))
}

#[test]
fn every_use_has_its_message() {
    let split = json!({"plugins": {"traffic-split": {"rules": [
        {"weighted_upstreams": [{"weight": 1}, {"upstream_id": 1}]}
    ]}}});
    let subordinate = json!({"protocol": {"name": "redis", "superior_id": "1"}});
    let rows = [
        (
            Kind::Upstream,
            Kind::Route,
            json!({"upstream_id": "1"}),
            "upstream, route [9] is still using it now",
        ),
        (
            Kind::Upstream,
            Kind::Service,
            json!({"upstream_id": 1}),
            "upstream, service [9] is still using it now",
        ),
        (
            Kind::Upstream,
            Kind::Route,
            split.clone(),
            "upstream, plugin in route [9] is still using it now",
        ),
        (
            Kind::Upstream,
            Kind::Service,
            split.clone(),
            "upstream, plugin in service [9] is still using it now",
        ),
        (
            Kind::Upstream,
            Kind::PluginConfig,
            split.clone(),
            "upstream, plugin in plugin_config [9] is still using it now",
        ),
        (
            Kind::Upstream,
            Kind::Consumer,
            split.clone(),
            "upstream, plugin in consumer [9] is still using it now",
        ),
        (
            Kind::Upstream,
            Kind::ConsumerGroup,
            split.clone(),
            "upstream, plugin in consumer_group [9] is still using it now",
        ),
        (
            Kind::Upstream,
            Kind::GlobalRule,
            split,
            "upstream, plugin in global_rules [9] is still using it now",
        ),
        (
            Kind::Service,
            Kind::Route,
            json!({"service_id": "1"}),
            "service directly, route [9] is still using it now",
        ),
        (
            Kind::Service,
            Kind::StreamRoute,
            json!({"service_id": "1"}),
            "service directly, stream_route [9] is still using it now",
        ),
        (
            Kind::StreamRoute,
            Kind::StreamRoute,
            subordinate,
            "stream route directly, stream route [9] is still using it as superior_id",
        ),
    ];
    for (kind, user, value, message) in rows {
        let all = [(user, "8", json!({})), (user, "9", value)];
        assert_eq!(ask(kind, "1", &all), Some(format!("can not delete this {message}")));
        assert_eq!(ask(kind, "2", &all), None);
    }
}

#[test]
fn stream_routes_do_not_keep_an_upstream() {
    let all = [(Kind::StreamRoute, "9", json!({"upstream_id": "1"}))];
    assert_eq!(ask(Kind::Upstream, "1", &all), None);
}

#[test]
fn routes_are_asked_before_services() {
    let value = json!({"upstream_id": "1"});
    let all = [(Kind::Service, "s", value.clone()), (Kind::Route, "r", value)];
    assert!(ask(Kind::Upstream, "1", &all).unwrap().contains("route [r]"));
}

#[test]
fn references_of_documents() {
    let text = |kind, value: Value| {
        let all = checked(kind, &value).into_iter();
        all.map(|one| format!("{} {}", one.kind, one.id)).collect::<Vec<_>>().join(", ")
    };
    let route = json!({
        "upstream_id": 1, "service_id": "s", "protocol": {"name": "redis", "superior_id": "r"},
        "upstream": {"tls": {"client_cert_id": "c"}},
    });
    assert_eq!(text(Kind::StreamRoute, route.clone()), "upstream 1, service s, stream route r");
    assert_eq!(text(Kind::Service, route.clone()), "upstream 1, ssl c");
    assert_eq!(text(Kind::Upstream, route["upstream"].clone()), "ssl c");
    assert_eq!(text(Kind::Ssl, route), "");
}

#[test]
fn global_rules_do_not_share_plugins() {
    let rule = json!({"plugins": {"cors": {}, "echo": {}}});
    let all = [(Kind::GlobalRule, "2", &rule), (Kind::Route, "3", &rule)];
    let ask =
        |id| global_rule_conflict(id, &json!({"plugins": {"echo": {}}}), &mut all.into_iter());
    assert_eq!(
        ask("1").as_deref(),
        Some("plugin 'echo' already exists in global rule with id '2'")
    );
    assert_eq!(ask("2"), None);
}

/// Kinds with references and small ids, so that uses happen.
fn resources() -> impl Strategy<Value = Vec<(Kind, String, Value)>> {
    let kinds = vec![
        Kind::Route,
        Kind::Service,
        Kind::StreamRoute,
        Kind::Upstream,
        Kind::PluginConfig,
        Kind::Consumer,
    ];
    let id = || prop_oneof![Just(json!("1")), Just(json!(1)), Just(json!("2")), Just(json!(null))];
    let one = (prop::sample::select(kinds), "[1-3]", id(), id(), id(), id()).prop_map(
        |(kind, own, upstream, service, superior, target)| {
            let value = json!({
                "upstream_id": upstream,
                "service_id": service,
                "protocol": {"superior_id": superior},
                "plugins": {"traffic-split": {"rules": [
                    {"weighted_upstreams": [{"upstream_id": target}]}
                ]}},
            });
            (kind, own, value)
        },
    );
    prop::collection::vec(one, 0..8)
}

fn is(value: &Value, id: &str) -> bool {
    value.as_str() == Some(id) || value.as_u64().is_some_and(|number| number.to_string() == id)
}

fn naive(kind: Kind, id: &str, all: &[(Kind, String, Value)]) -> bool {
    all.iter().any(|(user, _, value)| {
        let target = &value["plugins"]["traffic-split"]["rules"][0]["weighted_upstreams"][0];
        match (kind, user) {
            (Kind::Upstream, Kind::Route | Kind::Service) => {
                is(&value["upstream_id"], id) || is(&target["upstream_id"], id)
            }
            (Kind::Upstream, Kind::PluginConfig | Kind::Consumer) => is(&target["upstream_id"], id),
            (Kind::Service, Kind::Route | Kind::StreamRoute) => is(&value["service_id"], id),
            (Kind::StreamRoute, Kind::StreamRoute) => is(&value["protocol"]["superior_id"], id),
            _ => false,
        }
    })
}

proptest! {
    #[test]
    fn in_use_is_what_a_naive_scan_finds(all in resources()) {
        for kind in [Kind::Upstream, Kind::Service, Kind::StreamRoute, Kind::Ssl] {
            for id in ["1", "2", "3"] {
                let mut each = all.iter().map(|(kind, id, value)| (*kind, id.as_str(), value));
                prop_assert_eq!(in_use(kind, id, &mut each).is_some(), naive(kind, id, &all));
            }
        }
    }
}
