//! `GET /v1/cluster`: the nodes that share the store, and how far each has come.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use super::{Shared, ok};
use crate::answer::Refused;

pub(super) async fn nodes(State(control): Shared) -> Response {
    match control.store.nodes().await {
        Ok(Some(nodes)) => ok(&json!({"nodes": compared(nodes)})),
        Ok(None) => {
            let message = "the store of this process is shared with nobody";
            Refused::new(StatusCode::NOT_FOUND, message).into_response()
        }
        Err(error) => Refused::from(error).into_response(),
    }
}

/// Adds to each node how many revisions it is behind the newest, and whether it serves the same.
fn compared(mut nodes: Vec<Value>) -> Vec<Value> {
    let applied = |node: &Value| node.get("applied").and_then(Value::as_u64).unwrap_or(0);
    let newest = nodes.iter().max_by_key(|node| applied(node));
    let (most, hash) = newest.map_or((0, None), |node| (applied(node), node.get("hash").cloned()));
    for node in &mut nodes {
        let in_sync = node.get("hash") == hash.as_ref();
        let lag = if in_sync { 0 } else { most - applied(node) };
        if let Some(members) = node.as_object_mut() {
            members.insert("lag".to_owned(), lag.into());
            members.insert("in_sync".to_owned(), in_sync.into());
        }
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_what_others_are_compared_with() {
        let nodes = compared(vec![
            json!({"id": "a", "applied": 7, "hash": "x"}),
            json!({"id": "b", "applied": 9, "hash": "y"}),
            json!({"id": "c", "applied": 8, "hash": "y"}),
        ]);
        let seen: Vec<_> =
            nodes.iter().map(|node| (node["lag"].as_u64(), &node["in_sync"])).collect();
        assert_eq!(
            seen,
            [(Some(2), &json!(false)), (Some(0), &json!(true)), (Some(0), &json!(true))]
        );
        assert!(compared(Vec::new()).is_empty());
    }
}
