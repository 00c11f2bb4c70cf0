//! How values are wrapped in answers: `admin_api_version` v3, or v2 for everything else.

use axum::http::HeaderValue;
use headgate_store::Stored;
use serde_json::{Map, Value, json};

/// The two forms of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Envelope {
    V3,
    V2,
}

/// What a write did, as v2 names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Set,
    Create,
    CompareAndSwap,
}

impl Action {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Create => "create",
            Self::CompareAndSwap => "compareAndSwap",
        }
    }
}

impl Envelope {
    /// Value of the header `X-API-VERSION`.
    pub(crate) const fn header(self) -> HeaderValue {
        match self {
            Self::V3 => HeaderValue::from_static("v3"),
            Self::V2 => HeaderValue::from_static("v2"),
        }
    }

    /// Answer to GET of one value.
    pub(crate) fn one(self, key: &str, stored: Stored) -> Value {
        match self {
            Self::V3 => node(key, stored),
            Self::V2 => json!({"action": "get", "node": {"key": key, "value": stored.value}}),
        }
    }

    /// Answer to GET of a directory. `total` counts what the filters left, before paging; `None`
    /// for `nodes` is a page past the end.
    pub(crate) fn list(self, directory: &str, total: usize, nodes: Option<Vec<Value>>) -> Value {
        match self {
            // A page past the end is an object, not an array: clients of the reference see that.
            Self::V3 => {
                json!({"total": total, "list": nodes.map_or_else(|| json!({}), Value::from)})
            }
            Self::V2 => json!({
                "action": "get",
                "node": {"key": directory, "dir": true, "nodes": nodes.unwrap_or_default()},
            }),
        }
    }

    /// Answer to PUT, POST and PATCH.
    pub(crate) fn written(self, action: Action, key: &str, value: Value) -> Map<String, Value> {
        let mut body = Map::new();
        match self {
            Self::V3 => {
                body.insert("key".to_owned(), key.into());
                body.insert("value".to_owned(), value);
            }
            Self::V2 => {
                body.insert("action".to_owned(), action.as_str().into());
                body.insert("node".to_owned(), json!({"key": key, "value": value}));
            }
        }
        body
    }

    /// Answer to DELETE. `deleted` counts keys, as a string.
    pub(crate) fn deleted(self, key: &str) -> Value {
        match self {
            Self::V3 => json!({"deleted": "1", "key": key}),
            Self::V2 => json!({"action": "delete", "deleted": "1", "key": key, "node": {}}),
        }
    }
}

/// One value of a list, or the answer of v3 to GET.
pub(crate) fn node(key: &str, stored: Stored) -> Value {
    json!({
        "key": key,
        "value": stored.value,
        "createdIndex": stored.created,
        "modifiedIndex": stored.modified,
    })
}
