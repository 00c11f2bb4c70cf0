//! Private keys: encrypted before they are stored, left out of what is read.

use headgate_model::Kind;
use serde_json::Value;

/// Encrypts every private key that is still in clear, that is, starts with `---`. References to
/// secrets and keys that are already encrypted pass.
pub(super) fn encrypt(kind: Kind, value: &mut Value, encrypt: &dyn Fn(&str) -> String) {
    match kind {
        Kind::Ssl => {
            for slot in value.get_mut("key").into_iter() {
                encrypt_one(slot, encrypt);
            }
            for slot in value.get_mut("keys").and_then(Value::as_array_mut).into_iter().flatten() {
                encrypt_one(slot, encrypt);
            }
        }
        Kind::Upstream => encrypt_client_key(Some(value), encrypt),
        Kind::StreamRoute | Kind::Service | Kind::Route => {
            encrypt_client_key(value.get_mut("upstream"), encrypt);
        }
        _ => {}
    }
}

/// Removes what GET must not answer.
pub(super) fn hide(kind: Kind, value: &mut Value) {
    if kind == Kind::Ssl
        && let Some(members) = value.as_object_mut()
    {
        members.shift_remove("key");
        members.shift_remove("keys");
    }
}

fn encrypt_client_key(upstream: Option<&mut Value>, encrypt: &dyn Fn(&str) -> String) {
    if let Some(slot) = upstream
        .and_then(|upstream| upstream.get_mut("tls"))
        .and_then(|tls| tls.get_mut("client_key"))
    {
        encrypt_one(slot, encrypt);
    }
}

fn encrypt_one(slot: &mut Value, encrypt: &dyn Fn(&str) -> String) {
    if let Some(key) = slot.as_str().filter(|key| key.starts_with("---")) {
        *slot = encrypt(key).into();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_keys_in_clear_are_encrypted() {
        let reverse = |key: &str| key.chars().rev().collect::<String>();
        let mut ssl =
            json!({"key": "---a", "keys": ["---b", "cipher", "$secret://x"], "cert": "---c"});
        encrypt(Kind::Ssl, &mut ssl, &reverse);
        assert_eq!(
            ssl,
            json!({"key": "a---", "keys": ["b---", "cipher", "$secret://x"], "cert": "---c"})
        );
        hide(Kind::Ssl, &mut ssl);
        assert_eq!(ssl, json!({"cert": "---c"}));

        let mut route = json!({"upstream": {"tls": {"client_key": "---k", "client_cert": "---c"}}});
        encrypt(Kind::StreamRoute, &mut route, &reverse);
        assert_eq!(
            route,
            json!({"upstream": {"tls": {"client_key": "k---", "client_cert": "---c"}}})
        );
        let mut upstream = json!({"tls": {"client_key": "---k"}});
        encrypt(Kind::Upstream, &mut upstream, &reverse);
        assert_eq!(upstream, json!({"tls": {"client_key": "k---"}}));
    }
}
