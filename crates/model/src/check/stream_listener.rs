//! What the schema of a stream listener cannot say: the grammar of its address, and what is only
//! for TCP.

use serde::Deserialize as _;
use serde_json::Value;

use crate::listen::{ListenDefaults, Transport};
use crate::resource::StreamListener;
use crate::resource::stream_listener::CONFIGURED;

/// Members that have no meaning for datagrams.
const TCP_ONLY: [&str; 3] = ["tls", "tls_passthrough", "proxy_protocol"];

/// Checks a listener that fits the schema.
pub(super) fn check(id: &str, value: &Value) -> Result<(), String> {
    if id.starts_with(CONFIGURED) {
        return Err(format!(
            "stream listener [{id}] is part of config.yaml (fix: change it there and reload; other \
             ids must not begin with {CONFIGURED})"
        ));
    }
    let listener = StreamListener::deserialize(value)
        .map_err(|error| format!("invalid configuration: {error}"))?;
    listener
        .specs(&ListenDefaults::default())
        .map_err(|reason| format!("invalid stream listener addr: {reason}"))?;
    let is_on = |name: &&&str| value.get(**name) == Some(&Value::Bool(true));
    if listener.transport() == Transport::Udp
        && let Some(name) = TCP_ONLY.iter().find(is_on)
    {
        return Err(format!("{name} is only for listeners with protocol tcp (fix: remove it)"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_refused_says_how_to_mend_it() {
        assert_eq!(check("1", &json!({"addr": 9100, "tls": true})), Ok(()));
        assert_eq!(check("1", &json!({"addr": 53, "protocol": "udp", "tls": false})), Ok(()));
        for (id, value, part) in [
            ("config.tcp.0", json!({"addr": 1}), "is part of config.yaml (fix:"),
            (
                "1",
                json!({"addr": "80.5"}),
                "invalid stream listener addr: invalid port format: 80.5",
            ),
            ("1", json!({"addr": "unix:/x", "protocol": "udp"}), "Unix sockets are only for TCP"),
            ("1", json!({"addr": 1, "protocol": "udp", "tls": true}), "tls is only for listeners"),
        ] {
            let message = check(id, &value).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }
}
