//! Who still uses a resource that is to be deleted.
//!
//! Beyond what the reference asks, stream routes keep their upstreams, and upstreams their client
//! certificates, and IP sets those who let clients in by them: without them every connection would fail.

use headgate_model::Kind;
use headgate_model::reference::in_use;
use headgate_store::Stored;
use serde_json::Value;

/// Why `kind/id` must not be deleted.
pub(super) fn refusal(kind: Kind, id: &str, all: &[Stored]) -> Option<String> {
    let resources = || {
        all.iter().filter_map(|stored| {
            let (kind, id) = Kind::parse_key(&stored.key)?;
            Some((kind, id, &stored.value))
        })
    };
    in_use(kind, id, &mut resources()).or_else(|| {
        resources().find_map(|(user, user_id, value)| {
            let user = stream_user(kind, id, user, value)?;
            Some(format!("can not delete this {kind}, {user} [{user_id}] is still using it now"))
        })
    })
}

/// The user as the message names it, if `value` uses the resource.
fn stream_user(kind: Kind, id: &str, user: Kind, value: &Value) -> Option<&'static str> {
    match (kind, user) {
        (Kind::Upstream, Kind::StreamRoute) if refers(value, "upstream_id", id) => {
            Some("stream_route")
        }
        (Kind::Upstream, Kind::StreamRoute) if splits_to(value, id) => {
            Some("plugin in stream_route")
        }
        (Kind::IpSet, Kind::StreamRoute) if names_set(value, id) => Some("plugin in stream_route"),
        (Kind::IpSet, Kind::Service) if names_set(value, id) => Some("plugin in service"),
        (Kind::Ssl, Kind::Upstream) if has_certificate(Some(value), id) => Some("upstream"),
        (Kind::Ssl, Kind::StreamRoute) if has_certificate(value.get("upstream"), id) => {
            Some("stream_route")
        }
        (Kind::Ssl, Kind::Service) if has_certificate(value.get("upstream"), id) => Some("service"),
        (Kind::Ssl, Kind::Route) if has_certificate(value.get("upstream"), id) => Some("route"),
        _ => None,
    }
}

fn has_certificate(upstream: Option<&Value>, id: &str) -> bool {
    upstream
        .and_then(|upstream| upstream.get("tls"))
        .is_some_and(|tls| refers(tls, "client_cert_id", id))
}

/// Whether the plugin ip-set of a route or service names the set.
fn names_set(value: &Value, id: &str) -> bool {
    value.pointer("/plugins/ip-set").is_some_and(|conf| refers(conf, "set", id))
}

/// Whether the traffic-split plugin of a route names the upstream.
fn splits_to(route: &Value, id: &str) -> bool {
    let rules = route.pointer("/plugins/traffic-split/rules").and_then(Value::as_array);
    rules
        .into_iter()
        .flatten()
        .filter_map(|rule| rule.get("weighted_upstreams")?.as_array())
        .flatten()
        .any(|target| refers(target, "upstream_id", id))
}

/// Whether a member is that id; ids may be written as integers.
fn refers(holder: &Value, member: &str, id: &str) -> bool {
    match holder.get(member) {
        Some(Value::String(found)) => found == id,
        Some(Value::Number(found)) => found.to_string() == id,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn stream_routes_keep_what_they_use() {
        let stored = |key: &str, value: Value| Stored {
            key: key.to_owned(),
            value,
            created: 1,
            modified: 1,
        };
        let split = json!({"plugins": {"traffic-split": {"rules": [
            {"weighted_upstreams": [{"weight": 1}, {"upstream_id": "b"}]},
        ]}}});
        let all = [
            stored("/stream_routes/1", json!({"upstream_id": 7})),
            stored("/stream_routes/2", split),
            stored("/stream_routes/3", json!({"upstream": {"tls": {"client_cert_id": "c"}}})),
            stored("/services/4", json!({"plugins": {"ip-set": {"set": "banned"}}})),
            stored("/upstreams/7", json!({"tls": {"client_cert_id": "d"}})),
        ];
        for (kind, id, expected) in [
            (Kind::Upstream, "7", Some("upstream, stream_route [1]")),
            (Kind::Upstream, "b", Some("upstream, plugin in stream_route [2]")),
            (Kind::Upstream, "x", None),
            (Kind::Ssl, "c", Some("ssl, stream_route [3]")),
            (Kind::Ssl, "d", Some("ssl, upstream [7]")),
            (Kind::Ssl, "7", None),
            (Kind::IpSet, "banned", Some("ip set, plugin in service [4]")),
            (Kind::IpSet, "7", None),
        ] {
            let expected =
                expected.map(|who| format!("can not delete this {who} is still using it now"));
            assert_eq!(refusal(kind, id, &all), expected, "{kind} {id}");
        }
    }
}
