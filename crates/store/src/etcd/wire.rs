//! Requests and answers of etcd's JSON interface: keys and values in base64, 64-bit numbers as
//! strings, members that are zero left out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::{Precondition, Revision, Stored};

/// One key of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyValue {
    pub(super) key: String,
    pub(super) value: Vec<u8>,
    pub(super) created: Revision,
    pub(super) modified: Revision,
}

/// An answer to a watch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct WatchAnswer {
    /// Revision of the cluster when it was sent.
    pub(super) revision: Revision,
    pub(super) created: bool,
    pub(super) canceled: Option<String>,
    /// 0 unless the start is compacted.
    pub(super) compacted: Revision,
    /// Puts and deletes; `None` as value is a delete.
    pub(super) events: Vec<(KeyValue, bool)>,
}

impl KeyValue {
    fn read(value: &Value) -> Option<Self> {
        let bytes = |name: &str| match value.get(name) {
            None => Some(Vec::new()),
            Some(text) => STANDARD.decode(text.as_str()?).ok(),
        };
        Some(Self {
            // A key that is not text belongs to nobody here.
            key: String::from_utf8(bytes("key")?).ok()?,
            value: bytes("value")?,
            created: number(value, "create_revision"),
            modified: number(value, "mod_revision"),
        })
    }

    /// The value as JSON, or why it is none.
    pub(super) fn parse(&self, prefix: &str) -> Result<Stored, String> {
        let value = serde_json::from_slice(&self.value).map_err(|error| error.to_string())?;
        Ok(Stored {
            key: self.key.strip_prefix(prefix).unwrap_or(&self.key).to_owned(),
            value,
            created: self.created,
            modified: self.modified,
        })
    }
}

/// A number that may be a string, or left out.
pub(super) fn number(value: &Value, name: &str) -> u64 {
    match value.get(name) {
        Some(Value::String(text)) => text.parse().unwrap_or(0),
        Some(number) => number.as_u64().unwrap_or(0),
        None => 0,
    }
}

/// `header.revision`.
pub(super) fn revision(answer: &Value) -> Revision {
    answer.get("header").map_or(0, |header| number(header, "revision"))
}

/// The keys of an answer to a range.
pub(super) fn key_values(answer: &Value) -> impl Iterator<Item = KeyValue> + '_ {
    let all = answer.get("kvs").and_then(Value::as_array).into_iter().flatten();
    all.filter_map(KeyValue::read)
}

pub(super) fn encode(text: &str) -> String {
    STANDARD.encode(text)
}

/// Everything that begins with `prefix`.
pub(super) fn prefix_range(prefix: &str) -> Map<String, Value> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    if end.is_empty() {
        end.push(0);
    }
    let start = if prefix.is_empty() { "\0" } else { prefix };
    let mut range = Map::new();
    range.insert("key".to_owned(), encode(start).into());
    range.insert("range_end".to_owned(), STANDARD.encode(end).into());
    range
}

/// A transaction: `then` if the precondition holds for `key`, else a read of it.
pub(super) fn transaction(key: &str, precondition: Precondition, then: &Value) -> Value {
    let key = encode(key);
    let compare = match precondition {
        Precondition::None => None,
        Precondition::Absent => Some(0),
        Precondition::Modified(revision) => Some(revision),
    };
    let compare: Vec<_> = compare
        .map(|revision| {
            json!({"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision.to_string()})
        })
        .into_iter()
        .collect();
    json!({
        "compare": compare,
        "success": [then],
        "failure": [{"request_range": {"key": key}}],
    })
}

/// The first answer of a transaction, by its name.
pub(super) fn response<'a>(answer: &'a Value, name: &str) -> Option<&'a Value> {
    answer.get("responses")?.get(0)?.get(name)
}

/// `prev_kv` of a put, or of a delete of one key.
pub(super) fn previous(response: &Value) -> Option<KeyValue> {
    let single = response.get("prev_kv");
    let of_delete = response.get("prev_kvs").and_then(|all| all.get(0));
    single.or(of_delete).and_then(KeyValue::read)
}

/// Reads one line of a watch.
///
/// # Errors
/// It is an error of etcd, or nothing that is understood.
pub(super) fn watch_answer(line: &[u8]) -> Result<WatchAnswer, String> {
    let value: Value = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    if let Some(error) = value.get("error") {
        let message = error.get("message").unwrap_or(error);
        return Err(message.as_str().map_or_else(|| message.to_string(), str::to_owned));
    }
    let result = value.get("result").ok_or("no result in it")?;
    let is = |name: &str| result.get(name) == Some(&Value::Bool(true));
    let reason = result.get("cancel_reason").and_then(Value::as_str).unwrap_or("without a reason");
    let events = result.get("events").and_then(Value::as_array).into_iter().flatten();
    let events = events.filter_map(|event| {
        let is_delete = event.get("type").and_then(Value::as_str) == Some("DELETE");
        Some((KeyValue::read(event.get("kv")?)?, is_delete))
    });
    Ok(WatchAnswer {
        revision: revision(result),
        created: is("created"),
        canceled: is("canceled").then(|| reason.to_owned()),
        compacted: number(result, "compact_revision"),
        events: events.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_end_behind_the_prefix() {
        let range = prefix_range("/apisix/");
        assert_eq!(range["key"], encode("/apisix/"));
        assert_eq!(range["range_end"], encode("/apisix0"));
        assert_eq!(prefix_range("")["range_end"], STANDARD.encode([0]));
    }

    #[test]
    fn answers_of_a_watch() {
        let created = br#"{"result":{"header":{"revision":"7"},"created":true}}"#;
        let answer = watch_answer(created).unwrap();
        assert_eq!((answer.revision, answer.created), (7, true));
        let events = br#"{"result":{"header":{"revision":"9"},"events":[
            {"kv":{"key":"L2E=","create_revision":"8","mod_revision":"8","value":"MQ=="}},
            {"type":"DELETE","kv":{"key":"L2E=","mod_revision":"9"}}]}}"#;
        let answer = watch_answer(events).unwrap();
        assert_eq!(answer.events.len(), 2);
        assert_eq!(answer.events[0].0.parse("").unwrap().value, 1);
        assert!(answer.events[1].1);
        let gone =
            br#"{"result":{"header":{"revision":"9"},"canceled":true,"compact_revision":"5"}}"#;
        let answer = watch_answer(gone).unwrap();
        assert!(answer.canceled.is_some());
        assert_eq!(answer.compacted, 5);
        let error = watch_answer(br#"{"error":{"grpc_code":14,"message":"no leader"}}"#);
        assert_eq!(error.unwrap_err(), "no leader");
        assert!(watch_answer(b"<html>").is_err());
    }

    #[test]
    fn transactions_compare_the_revision() {
        let then = json!({"request_put": {}});
        let txn = transaction("/a", Precondition::Absent, &then);
        assert_eq!(txn["compare"][0]["mod_revision"], "0");
        let txn = transaction("/a", Precondition::None, &then);
        assert_eq!(txn["compare"], json!([]));
    }
}
