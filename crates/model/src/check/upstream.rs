//! Upstreams (`spec/schemas.md`, section 4). The upstream inside a stream route is not checked
//! this way; only the schema looks at it.

use std::net::Ipv6Addr;

use serde_json::Value;

use super::{Checker, Found, invalid, pem};
use crate::Kind;
use crate::reference::id_member;
use crate::schema::{Registry, lua_number};

/// All checks of a write.
///
/// # Errors
/// The reference's message.
pub(super) fn check(
    checker: &Checker,
    value: &Value,
    found: Option<Found<'_>>,
) -> Result<(), String> {
    if has_bare_ipv6_host(value) {
        let message = "IPv6 address must be enclosed with '[' and ']'";
        return Err(invalid(message.to_owned()));
    }
    checker.schema(Kind::Upstream, value).map_err(invalid)?;
    ports_of_keys(value)?;
    if let Some(found) = found {
        client_certificate_object(value, found)?;
    }
    let is = |name: &str, wanted: &str| value.get(name).and_then(Value::as_str) == Some(wanted);
    let host = value.get("upstream_host").and_then(Value::as_str).unwrap_or_default();
    if is("pass_host", "rewrite") && host.is_empty() {
        return Err("`upstream_host` can't be empty when `pass_host` is `rewrite`".to_owned());
    }
    load(checker, value)
}

/// The checks that are repeated when a stored upstream is loaded, after the schema.
///
/// # Errors
/// The reference's message.
pub(super) fn load(checker: &Checker, value: &Value) -> Result<(), String> {
    if let Some(tls) = value.get("tls") {
        let text = |name: &str| tls.get(name).and_then(Value::as_str);
        if let (Some(cert), Some(key)) = (text("client_cert"), text("client_key")) {
            pem::pair(checker, cert, key)?;
        }
    }
    if let Some("chash" | "maglev") = value.get("type").and_then(Value::as_str) {
        hash_key(value)?;
    }
    Ok(())
}

fn has_bare_ipv6_host(value: &Value) -> bool {
    let nodes = value.get("nodes").and_then(Value::as_array).into_iter().flatten();
    let mut hosts = nodes.filter_map(|node| node.get("host")?.as_str());
    hosts.any(|host| host.parse::<Ipv6Addr>().is_ok())
}

/// Ports that are part of a node's key, where the schema does not see them.
fn ports_of_keys(value: &Value) -> Result<(), String> {
    let nodes = value.get("nodes").and_then(Value::as_object).into_iter().flatten();
    for port in nodes.filter_map(|(key, _)| port_of_key(key)) {
        if !(1.0..=65535.0).contains(&port) {
            return Err(format!("invalid port {}", lua_number(port)));
        }
    }
    Ok(())
}

/// The number after the colon. What is not a number counts as no port.
fn port_of_key(key: &str) -> Option<f64> {
    let port = match key.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.1.strip_prefix(':')?,
        None => match key.split_once(':')?.1 {
            // A second colon: an IPv6 address without port.
            rest if rest.contains(':') => return None,
            rest => rest,
        },
    };
    port.trim().parse().ok().filter(|port: &f64| port.is_finite())
}

fn client_certificate_object(value: &Value, found: Found<'_>) -> Result<(), String> {
    let Some(id) = value.get("tls").and_then(|tls| id_member(tls, "client_cert_id")) else {
        return Ok(());
    };
    let problem = match found(Kind::Ssl, &id) {
        None => "response code: 404",
        Some(ssl) if ssl.get("type").and_then(Value::as_str) != Some("client") => "wrong ssl type",
        Some(_) => return Ok(()),
    };
    Err(format!("failed to fetch ssl info by ssl id [{id}], {problem}"))
}

/// What consistent hashing takes its key from.
fn hash_key(value: &Value) -> Result<(), String> {
    let hash_on = value.get("hash_on").and_then(Value::as_str).unwrap_or("vars");
    if hash_on == "consumer" {
        return Ok(());
    }
    let key = value.get("key").ok_or("missing key")?;
    let schema = match hash_on {
        "vars" => "upstream_hash_vars_schema",
        "header" | "cookie" => "upstream_hash_header_schema",
        _ => "upstream_hash_vars_combinations_schema",
    };
    Registry::get().named(schema).map_or(Ok(()), |schema| schema.validate(key)).map_err(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_node_keys() {
        for (key, port) in [
            ("a:80", Some(80.0)),
            ("a:0", Some(0.0)),
            ("a:65536", Some(65536.0)),
            ("[::1]:99999", Some(99999.0)),
            ("[::1]", None),
            ("::1", None),
            ("a", None),
            ("a:x", None),
            ("[::1", None),
        ] {
            assert_eq!(port_of_key(key), port, "{key}");
        }
    }
}
