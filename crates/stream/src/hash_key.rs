//! The key by which a session is hashed to an endpoint. Upstreams compile it once and remember the
//! variables of [`vars`](crate::vars) by number.

use std::cell::RefCell;
use std::time::Instant;

use headgate_telemetry::LogLimit;
use headgate_upstream::{HashKey, KeyHash, Upstream};

use crate::session::Session;
use crate::vars::{self, Var};

static NO_KEY: LogLimit = LogLimit::per_second(10);

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The number of a variable.
pub(crate) fn number(name: &str) -> Option<u16> {
    vars::find(name)?.number()
}

fn variable(number: u16) -> Option<Var> {
    Var::from_number(number)
}

/// Whether sessions of the upstream are hashed by the address that they connected to, which costs
/// a system call on wildcard listeners. Their port is always known.
pub(crate) fn needs_server(upstream: &Upstream) -> bool {
    let mut variables = upstream.hash_key().into_iter().flat_map(HashKey::variables);
    variables.any(|number| variable(number).is_some_and(|var| var.needs_server()))
}

/// The hashed key of a session that is about to choose an endpoint.
pub(crate) fn of(upstream: &Upstream, session: &Session) -> KeyHash {
    let Some(key) = upstream.hash_key() else { return KeyHash::default() };
    BUFFER.with_borrow_mut(|text| {
        text.clear();
        let value = |number: u16, out: &mut Vec<u8>| {
            variable(number).is_some_and(|var| var.write(session, None, out))
        };
        if !key.write(value, text) {
            text.clear();
            text.extend(
                session.client.map_or_else(|| "unix:".to_owned(), |it| it.ip().to_string()).bytes(),
            );
            if let Some(suppressed) = NO_KEY.check(Instant::now()) {
                let (upstream, client) = (upstream.key(), String::from_utf8_lossy(text));
                tracing::warn!(
                    upstream,
                    suppressed,
                    "chash_key fetch is nil, use default chash_key remote_addr: {client}"
                );
            }
        }
        KeyHash::of(text)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    fn upstream(key: Value) -> Arc<Upstream> {
        let mut object = json!({"type": "chash", "nodes": {"127.0.0.1:1": 1}});
        object.as_object_mut().unwrap().extend(key.as_object().unwrap().clone());
        let resource = serde_json::from_value(object).unwrap();
        Upstream::new("upstreams/1".into(), 1, &resource, &Arc::default(), number, None, None)
            .unwrap()
    }

    #[test]
    fn values_and_the_fallback() {
        let session = Session::of("198.51.100.7:4000");
        for (key, expected) in [
            (json!({"key": "remote_addr"}), "198.51.100.7"),
            (json!({"key": "remote_port"}), "4000"),
            (json!({"hash_on": "vars", "key": "server_addr"}), "192.0.2.1"),
            (json!({"key": "server_port"}), "9100"),
            (
                json!({"hash_on": "vars_combinations", "key": "$remote_addr:${server_port}"}),
                "198.51.100.7:9100",
            ),
            // No value before the session ends, or none at all: the client's address.
            (json!({"key": "status"}), "198.51.100.7"),
            (json!({"key": "mqtt_client_id"}), "198.51.100.7"),
            (json!({"key": "uri"}), "198.51.100.7"),
            (json!({"hash_on": "header", "key": "host"}), "198.51.100.7"),
            (json!({}), "198.51.100.7"),
        ] {
            let upstream = upstream(key.clone());
            assert_eq!(of(&upstream, &session), KeyHash::of(expected.as_bytes()), "{key}");
        }
    }

    #[test]
    fn only_the_address_needs_a_system_call() {
        assert!(needs_server(&upstream(json!({"key": "server_addr"}))));
        let both = json!({"hash_on": "vars_combinations", "key": "$remote_addr$server_addr"});
        assert!(needs_server(&upstream(both)));
        assert!(!needs_server(&upstream(json!({"key": "remote_addr"}))));
        assert!(!needs_server(&upstream(json!({"key": "server_port"}))));
    }
}
