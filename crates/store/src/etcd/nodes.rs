//! What the nodes of a cluster say about themselves: small records that vanish with their node.

use std::time::Duration;

use serde_json::{Value, json};

use super::client::Repeat;
use super::shared::Shared;
use super::wire::{self, encode, prefix_range};
use crate::StoreError;

/// Where the records are, below the prefix. The reference keeps nothing there and reads nothing.
pub(super) const DIRECTORY: &str = "/headgate/";

/// A record under a lease that has to be kept alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lease(String);

impl Shared {
    /// Asks for a lease.
    pub(super) async fn grant(&self, seconds: u64) -> Result<Lease, StoreError> {
        let body = json!({"TTL": seconds.to_string()});
        let answer = self.client.call("/v3/lease/grant", &body, Repeat::Read).await?;
        match answer.get("ID") {
            Some(Value::String(id)) => Ok(Lease(id.clone())),
            Some(Value::Number(id)) => Ok(Lease(id.to_string())),
            _ => Err(StoreError::Unavailable("etcd granted no lease".to_owned())),
        }
    }

    /// Writes the record of a node, or only keeps it alive when it is the same as before.
    pub(super) async fn publish_node(
        &self,
        id: &str,
        record: Value,
        ttl: Duration,
    ) -> Result<(), StoreError> {
        let mut published = self.published.lock().await;
        let known = match published.take() {
            Some((lease, known)) if self.keep_alive(&lease).await? => Some((lease, known)),
            _ => None,
        };
        let (lease, is_same) = match known {
            Some((lease, known)) => (lease, known == record),
            None => (self.grant(ttl.as_secs()).await?, false),
        };
        if !is_same {
            let key = self.key(&format!("{DIRECTORY}nodes/{id}"));
            let body = json!({
                "key": encode(&key),
                "value": encode(&record.to_string()),
                "lease": lease.0,
            });
            self.client.call("/v3/kv/put", &body, Repeat::Read).await?;
        }
        *published = Some((lease, record));
        Ok(())
    }

    /// Whether the lease was still alive, and now is for its whole time again.
    async fn keep_alive(&self, lease: &Lease) -> Result<bool, StoreError> {
        let body = json!({"ID": lease.0});
        let answer = self.client.call("/v3/lease/keepalive", &body, Repeat::Read).await?;
        Ok(answer.get("result").is_some_and(|result| wire::number(result, "TTL") > 0))
    }

    /// The records of all nodes.
    pub(super) async fn nodes(&self) -> Result<Vec<Value>, StoreError> {
        let range = prefix_range(&format!("{}{DIRECTORY}nodes/", self.prefix));
        let answer = self.client.call("/v3/kv/range", &range.into(), Repeat::Read).await?;
        let records = wire::key_values(&answer);
        Ok(records.filter_map(|found| serde_json::from_slice(&found.value).ok()).collect())
    }
}

impl Lease {
    pub(super) fn id(&self) -> &str {
        &self.0
    }
}
