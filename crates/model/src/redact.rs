//! Replaces secrets in resources by `***`.

use serde_json::Value;

use crate::Kind;

const HIDDEN: &str = "***";
/// Members of secrets and credentials that hold no secret.
const OPEN: [&str; 4] = ["id", "create_time", "update_time", "username"];

/// Hides private keys, what opens secret managers, and what consumers identify themselves with.
pub fn redact(kind: Kind, value: &mut Value) {
    match kind {
        Kind::Ssl => {
            hide_member(value, "key");
            hide_member(value, "keys");
        }
        Kind::Secret => {
            for (name, member) in value.as_object_mut().into_iter().flatten() {
                if !OPEN.contains(&name.as_str()) {
                    hide_all(member);
                }
            }
        }
        Kind::Consumer | Kind::Credential | Kind::ConsumerGroup => hide_member(value, "plugins"),
        // Upstreams stand in routes, services and the plugin traffic-split too; limit-conn may
        // have a password.
        _ => hide_client_keys(value),
    }
}

fn hide_client_keys(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(hide_client_keys),
        Value::Object(members) => {
            for (name, member) in members {
                let is_secret = matches!(name.as_str(), "client_key" | "redis_password");
                if is_secret { hide_all(member) } else { hide_client_keys(member) }
            }
        }
        _ => {}
    }
}

fn hide_member(value: &mut Value, name: &str) {
    if let Some(member) = value.get_mut(name) {
        hide_all(member);
    }
}

/// Hides every value below; the shape stays.
fn hide_all(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(hide_all),
        Value::Object(members) => members.values_mut().for_each(hide_all),
        other => *other = HIDDEN.into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_do_not_show() {
        let cases = [
            (
                Kind::Ssl,
                json!({"key": "k", "keys": ["a", "b"], "cert": "c"}),
                json!({"key": "***", "keys": ["***", "***"], "cert": "c"}),
            ),
            (
                Kind::StreamRoute,
                json!({"upstream": {"tls": {"client_key": "k", "client_cert": "c"}}}),
                json!({"upstream": {"tls": {"client_key": "***", "client_cert": "c"}}}),
            ),
            (
                Kind::StreamRoute,
                json!({"plugins": {"traffic-split": [{"tls": {"client_key": "k"}}]}}),
                json!({"plugins": {"traffic-split": [{"tls": {"client_key": "***"}}]}}),
            ),
            (
                Kind::Upstream,
                json!({"tls": {"client_key": "k"}}),
                json!({"tls": {"client_key": "***"}}),
            ),
            (
                Kind::Secret,
                json!({"id": "gcp/1", "auth_config": {"private_key": "k"}, "ssl_verify": true}),
                json!({"id": "gcp/1", "auth_config": {"private_key": "***"}, "ssl_verify": "***"}),
            ),
            (
                Kind::Consumer,
                json!({"username": "jack", "plugins": {"key-auth": {"key": "k"}}}),
                json!({"username": "jack", "plugins": {"key-auth": {"key": "***"}}}),
            ),
        ];
        for (kind, mut value, expected) in cases {
            redact(kind, &mut value);
            assert_eq!(value, expected, "{kind}");
        }
    }
}
