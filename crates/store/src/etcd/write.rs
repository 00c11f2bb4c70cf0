//! Writes: transactions that compare the revision and answer with what was there before.

use std::time::Duration;

use serde_json::{Value, json};

use super::client::Repeat;
use super::shared::Shared;
use super::wire::{self, encode, previous, response, transaction};
use crate::{StoreError, Stored, WriteOptions, Written};

/// Longest time to live that etcd takes, in seconds.
const LONGEST_TTL: u64 = 9_000_000_000;

impl Shared {
    pub(super) async fn put(
        &self,
        key: &str,
        value: &Value,
        options: &WriteOptions,
    ) -> Result<Written, StoreError> {
        let full = self.key(key);
        let mut put = json!({
            "key": encode(&full),
            "value": encode(&value.to_string()),
            "prev_kv": true,
        });
        if let Some(lease) = self.lease(options.ttl).await? {
            put["lease"] = lease.into();
        }
        let transaction = transaction(&full, options.precondition, &json!({"request_put": put}));
        let answer = self.transact(&transaction).await?;
        let revision = wire::revision(&answer);
        let before = response(&answer, "response_put").and_then(previous);
        let created = before.as_ref().map_or(revision, |before| before.created);
        Ok(Written {
            stored: Stored {
                key: key.to_owned(),
                value: value.clone(),
                created,
                modified: revision,
            },
            revision,
            previous: before.and_then(|before| before.parse(&self.prefix).ok()),
        })
    }

    pub(super) async fn delete(
        &self,
        key: &str,
        options: &WriteOptions,
    ) -> Result<Option<Written>, StoreError> {
        let full = self.key(key);
        let delete = json!({"request_delete_range": {"key": encode(&full), "prev_kv": true}});
        let answer = self.transact(&transaction(&full, options.precondition, &delete)).await?;
        let deleted = response(&answer, "response_delete_range").and_then(previous);
        let Some(deleted) = deleted else { return Ok(None) };
        let previous = deleted.parse(&self.prefix).ok();
        let stored = previous.clone().unwrap_or_else(|| Stored {
            key: key.to_owned(),
            value: Value::Null,
            created: deleted.created,
            modified: deleted.modified,
        });
        Ok(Some(Written { stored, revision: wire::revision(&answer), previous }))
    }

    /// The key of etcd for a key of the store.
    pub(super) fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    async fn lease(&self, ttl: Option<Duration>) -> Result<Option<String>, StoreError> {
        let Some(ttl) = ttl else { return Ok(None) };
        let seconds = ttl.as_secs().clamp(1, LONGEST_TTL);
        Ok(Some(self.grant(seconds).await?.id().to_owned()))
    }

    /// The answer to a transaction that took place; else the conflict.
    async fn transact(&self, transaction: &Value) -> Result<Value, StoreError> {
        let answer = self.client.call("/v3/kv/txn", transaction, Repeat::Write).await?;
        if answer.get("succeeded") == Some(&Value::Bool(true)) {
            return Ok(answer);
        }
        let range = response(&answer, "response_range");
        let current = range.and_then(|range| wire::key_values(range).next());
        let current = current.and_then(|found| found.parse(&self.prefix).ok());
        Err(StoreError::Conflict { current: current.map(Box::new) })
    }
}
