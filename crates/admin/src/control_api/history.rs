//! `/v1/history`: who changed what, newest first (extension).

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use headgate_model::Kind;
use headgate_model::redact::redact;
use headgate_store::HistoryEntry;
use serde_json::{Value, json};

use super::{Shared, ok};
use crate::answer::Refused;
use crate::request::Query;

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

pub(super) async fn history(State(control): Shared, RawQuery(query): RawQuery) -> Response {
    let query = Query::parse(query.as_deref());
    let limit = match query.get("limit").map(str::parse) {
        None => DEFAULT_LIMIT,
        Some(Ok(limit @ 1..=MAX_LIMIT)) => limit,
        Some(_) => {
            return Refused::bad(format!("limit must be between 1 and {MAX_LIMIT}"))
                .into_response();
        }
    };
    // Keys are understood with and without the prefix that answers show.
    let key = query.get("key").map(|key| key.strip_prefix(&control.prefix).unwrap_or(key));
    match control.store.history(key, limit).await {
        Ok(entries) => ok(&entries.into_iter().map(|entry| show(&control.prefix, entry)).collect()),
        Err(error) => Refused::from(error).into_response(),
    }
}

fn show(prefix: &str, entry: HistoryEntry) -> Value {
    let HistoryEntry { revision, time_ms, author, key, mut value } = entry;
    if let (Some((kind, _)), Some(value)) = (Kind::parse_key(&key), &mut value) {
        redact(kind, value);
    }
    json!({
        "revision": revision,
        "time_ms": time_ms,
        "author": author,
        "key": format!("{prefix}{key}"),
        "value": value,
    })
}
