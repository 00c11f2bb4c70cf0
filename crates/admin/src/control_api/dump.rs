//! `/v1/routes`, `/v1/route/{id}` and the like: resources with schema defaults filled in.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use headgate_model::Kind;
use headgate_model::redact::redact;
use headgate_model::resource_set::Collection;
use headgate_model::schema::fill_defaults;
use headgate_store::{StoreError, Stored};
use serde_json::{Map, Value, json};

use super::{Control, Shared, not_found, ok, plain};
use crate::answer::Refused;

/// The kinds that can be looked at: path of the list, path of one.
const KINDS: [(&str, &str, Kind); 4] = [
    ("routes", "route", Kind::Route),
    ("stream_routes", "stream_route", Kind::StreamRoute),
    ("services", "service", Kind::Service),
    ("upstreams", "upstream", Kind::Upstream),
];

pub(super) async fn list(State(control): Shared, Path(name): Path<String>) -> Response {
    let Some((.., kind)) = KINDS.into_iter().find(|(list, ..)| *list == name) else {
        return not_found().await;
    };
    match resources(&control, kind).await {
        Ok(all) => ok(&all.into_iter().map(|stored| show(&control, kind, stored)).collect()),
        Err(error) => Refused::from(error).into_response(),
    }
}

pub(super) async fn one(
    State(control): Shared,
    Path((name, id)): Path<(String, String)>,
) -> Response {
    let Some((.., kind)) = KINDS.into_iter().find(|(_, one, _)| *one == name) else {
        return not_found().await;
    };
    let key = kind.key(&id);
    match resources(&control, kind).await {
        Ok(all) => match all.into_iter().find(|stored| stored.key == key) {
            Some(stored) => ok(&show(&control, kind, stored)),
            None => plain(StatusCode::NOT_FOUND, format!("{name}[{id}] not found")),
        },
        Err(error) => Refused::from(error).into_response(),
    }
}

/// What runs; HTTP routes do not run here and come from the store.
pub(super) async fn resources(control: &Control, kind: Kind) -> Result<Vec<Stored>, StoreError> {
    let running = control.live.resources();
    Ok(match kind {
        Kind::StreamRoute => documents(kind, &running.stream_routes),
        Kind::Service => documents(kind, &running.services),
        Kind::Upstream => documents(kind, &running.upstreams),
        _ => control.store.list(&format!("/{}/", kind.segment())).await?,
    })
}

fn documents<T>(kind: Kind, collection: &Collection<T>) -> Vec<Stored> {
    let stored = |entry: &std::sync::Arc<headgate_model::Entry<T>>| Stored {
        key: kind.key(&entry.id),
        value: entry.document.value(),
        created: entry.created,
        modified: entry.modified,
    };
    collection.iter().map(stored).collect()
}

fn show(control: &Control, kind: Kind, stored: Stored) -> Value {
    let Stored { key, mut value, created, modified } = stored;
    fill_defaults(kind, &mut value);
    redact(kind, &mut value);
    if let (Some((_, id)), Some(members)) = (Kind::parse_key(&key), value.as_object_mut()) {
        members.insert("id".to_owned(), id.into());
    }
    let upstream =
        if kind == Kind::Upstream { Some(&mut value) } else { value.get_mut("upstream") };
    let has_domain = upstream.is_some_and(spread_nodes);
    json!({
        "key": format!("{}{key}", control.prefix),
        "value": value,
        "createdIndex": created,
        "modifiedIndex": modified,
        "has_domain": has_domain,
    })
}

/// Writes nodes as an array; whether one of them is a name.
fn spread_nodes(upstream: &mut Value) -> bool {
    let Some(nodes) = upstream.get_mut("nodes") else { return false };
    if let Value::Object(members) = nodes {
        *nodes = members.iter().map(|(address, weight)| node(address, weight)).collect();
    }
    nodes.as_array().into_iter().flatten().any(|node| {
        let host = node.get("host").and_then(Value::as_str).unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        address.parse::<std::net::IpAddr>().is_err() && !host.starts_with("unix:")
    })
}

/// `host:port`, `host`, `[v6]:port`, `[v6]`, an IPv6 address without port, or `unix:path`.
fn node(address: &str, weight: &Value) -> Value {
    let bare_ipv6 = !address.starts_with('[') && address.matches(':').count() > 1;
    let has_no_port = bare_ipv6 || address.starts_with("unix:");
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !has_no_port && !port.ends_with(']') => {
            (host, port.parse::<u16>().ok())
        }
        _ => (address, None),
    };
    let mut node = Map::new();
    node.insert("host".to_owned(), host.into());
    if let Some(port) = port {
        node.insert("port".to_owned(), port.into());
    }
    node.insert("weight".to_owned(), weight.clone());
    // As the schema's default has it for nodes that are written as an array.
    node.insert("priority".to_owned(), 0.into());
    Value::Object(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_become_an_array() {
        for (address, host, port, domain) in [
            ("10.0.0.1:80", "10.0.0.1", Some(80), false),
            ("db.local:5432", "db.local", Some(5432), true),
            ("db.local", "db.local", None, true),
            ("[::1]:80", "[::1]", Some(80), false),
            ("[::1]", "[::1]", None, false),
            ("::1", "::1", None, false),
            ("unix:/run/db.sock", "unix:/run/db.sock", None, false),
        ] {
            let mut upstream = json!({"nodes": {address: 1}});
            assert_eq!(spread_nodes(&mut upstream), domain, "{address}");
            let mut expected = json!({"host": host, "weight": 1, "priority": 0});
            if let Some(port) = port {
                expected["port"] = port.into();
            }
            assert_eq!(upstream["nodes"], json!([expected]), "{address}");
        }
        assert!(!spread_nodes(&mut json!({"nodes": [{"host": "127.0.0.1"}]})));
        assert!(!spread_nodes(&mut json!({"nodes": [{"host": "unix:/run/db.sock"}]})));
    }
}
