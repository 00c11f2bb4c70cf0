//! etcd v3, with the keys and values of the reference, so that both can share one cluster.
//!
//! It is spoken to through its JSON interface, as the reference does (`docs/adr`). Reads and writes
//! go to the cluster; what is served is loaded once and then followed ([`follow`]), compared with the
//! cluster again and again, and copied to the local disk ([`cache`]).

mod cache;
mod client;
mod follow;
mod http;
mod mirror;
mod nodes;
mod shared;
mod tls;
mod wire;
mod write;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use self::cache::Cache;
use self::client::{Client, Repeat, unavailable};
use self::follow::Follower;
use self::mirror::Mirror;
use self::shared::{Shared, lock};
use self::wire::{encode, prefix_range};
use crate::{
    Health, HistoryEntry, Loaded, Revision, Store, StoreError, Stored, Watch, WriteOptions, Written,
};

/// Batches a reader may be behind before it is cut off.
const BACKLOG: usize = 256;
/// Directories that get a placeholder, as the reference's start gives them.
const DIRECTORIES: [&str; 13] = [
    "routes",
    "services",
    "upstreams",
    "consumers",
    "ssls",
    "protos",
    "global_rules",
    "stream_routes",
    "plugin_metadata",
    "plugins",
    "plugin_configs",
    "consumer_groups",
    "secrets",
];

/// Where the cluster is and how to deal with it (`deployment.etcd`).
#[derive(Debug, Clone)]
pub struct EtcdOptions {
    /// `scheme://name[:port]` of each member.
    pub hosts: Vec<String>,
    /// What all keys begin with, without a slash at the end.
    pub prefix: String,
    /// Limit of one request.
    pub timeout: Duration,
    /// A watch without news is opened again after this time.
    pub watch_timeout: Duration,
    /// Longest pause after an error of a watch.
    pub resync_delay: Duration,
    /// How long a member that failed is left out.
    pub health_check_timeout: Duration,
    /// Name and password.
    pub user: Option<(String, String)>,
    /// Bundle of CAs; `None` is the system's.
    pub trusted: Option<PathBuf>,
    /// Client certificate and key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Check the server's certificate.
    pub verify: bool,
    /// Name to expect in it instead of the host's.
    pub sni: Option<String>,
    /// Directory of the local copy; `None`: there is none.
    pub cache: Option<PathBuf>,
    /// Start without any configuration when neither cluster nor copy has one.
    pub may_start_empty: bool,
    /// Ask for no traffic while the cluster does not answer.
    pub unready_when_stale: bool,
}

/// A cluster of etcd.
pub struct Etcd {
    shared: Arc<Shared>,
    may_start_empty: bool,
    /// Dropped with the store: ends its watches.
    open: watch::Sender<()>,
}

impl Etcd {
    /// Prepares everything; asks the cluster nothing yet.
    ///
    /// # Errors
    /// A certificate cannot be read, or another process uses the local copy.
    pub fn new(options: &EtcdOptions) -> Result<Self, StoreError> {
        let client = Client::new(options).map_err(unavailable)?;
        let cache = match &options.cache {
            None => Ok(None),
            Some(directory) => match Cache::open(directory) {
                Ok(cache) => Ok(Some(cache)),
                Err(error) if error.to_string().contains("in use by another process") => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::error!(%error, "no local copy of the configuration can be kept; without etcd this node could not start again");
                    Err(error)
                }
            },
        };
        let shared = Arc::new(Shared::new(client, options, cache));
        Ok(Self { shared, may_start_empty: options.may_start_empty, open: watch::Sender::new(()) })
    }

    /// What the reference does before it starts anything: are the members well and recent enough,
    /// and do the directories exist?
    ///
    /// # Errors
    /// In the reference's words.
    pub async fn initialize(&self, attempts: u32) -> Result<(), StoreError> {
        let client = &self.shared.client;
        let (errors, well) = client.versions(attempts).await;
        for error in &errors {
            tracing::error!("{error}");
        }
        if let Some(old) = errors.iter().find(|error| error.starts_with("etcd cluster version")) {
            return Err(unavailable(old));
        }
        if well == 0 {
            return Err(unavailable("all etcd nodes are unavailable"));
        }
        if client.size() > 1 && well * 2 <= client.size() {
            let message = "the etcd cluster needs at least 50% and above healthy nodes";
            return Err(unavailable(message));
        }
        for directory in DIRECTORIES {
            let key = encode(&format!("{}/{directory}/", self.shared.prefix));
            let body = json!({"key": key, "value": encode("init_dir")});
            client.call("/v3/kv/put", &body, Repeat::Read).await?;
        }
        Ok(())
    }

    /// Whether a copy of an earlier run is there to start from.
    #[must_use]
    pub fn has_copy(&self) -> bool {
        self.shared.cache.as_ref().is_some_and(Cache::has_found)
    }
}

/// A write that happens even when nobody waits for it any more.
async fn unabandoned<T: Send + 'static>(
    write: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::spawn(write).await {
        Ok(result) => result,
        Err(_) => Err(unavailable("the write was interrupted")),
    }
}

#[async_trait]
impl Store for Etcd {
    async fn load(&self) -> Result<Loaded, StoreError> {
        let shared = &self.shared;
        match shared.load().await {
            Ok(loaded) => {
                shared.has_loaded.store(true, Relaxed);
                shared.report(|health| health.is_loaded = true);
                shared.agrees();
                if let Some(cache) = &shared.cache {
                    cache.replace(&loaded);
                }
                Ok(loaded)
            }
            Err(error) if !shared.has_loaded.load(Relaxed) => {
                shared.is_stale(&error.to_string());
                let found = shared.cache.as_ref().and_then(Cache::take_found);
                if let Some(found) = found {
                    tracing::warn!(
                        revision = found.revision,
                        objects = found.values.len(),
                        "etcd does not answer; starting from the local copy, which may be old"
                    );
                    let mut mirror = Mirror::default();
                    for stored in &found.values {
                        mirror.put(&stored.key, stored.modified);
                    }
                    *lock(&shared.mirror) = Some((found.revision, mirror));
                    shared.report(|health| health.is_loaded = true);
                    return Ok(found);
                }
                if self.may_start_empty {
                    tracing::error!("failed to load the configuration: {error}");
                    return Ok(Loaded::default());
                }
                Err(error)
            }
            Err(error) => {
                shared.is_stale(&error.to_string());
                Err(error)
            }
        }
    }

    async fn get(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        let range = json!({"key": encode(&self.shared.key(key))});
        let answer = self.shared.client.call("/v3/kv/range", &range, Repeat::Read).await?;
        Ok(wire::key_values(&answer).next().and_then(|found| found.parse(&self.shared.prefix).ok()))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Stored>, StoreError> {
        let at_least = if prefix.is_empty() { "/" } else { prefix };
        let range = Value::Object(prefix_range(&self.shared.key(at_least)));
        let answer = self.shared.client.call("/v3/kv/range", &range, Repeat::Read).await?;
        let found = wire::key_values(&answer);
        let own = found.filter(|found| self.shared.own_key(&found.key).is_some());
        Ok(own.filter_map(|found| found.parse(&self.shared.prefix).ok()).collect())
    }

    async fn put(
        &self,
        key: &str,
        value: Value,
        options: WriteOptions,
    ) -> Result<Written, StoreError> {
        let (shared, key) = (Arc::clone(&self.shared), key.to_owned());
        unabandoned(async move { shared.put(&key, &value, &options).await }).await
    }

    async fn delete(
        &self,
        key: &str,
        options: WriteOptions,
    ) -> Result<Option<Written>, StoreError> {
        let (shared, key) = (Arc::clone(&self.shared), key.to_owned());
        unabandoned(async move { shared.delete(&key, &options).await }).await
    }

    async fn next_id(&self) -> Result<Revision, StoreError> {
        let body = json!({"key": encode(&self.shared.key("/gen_id")), "value": encode("1")});
        let answer = self.shared.client.call("/v3/kv/put", &body, Repeat::Read).await?;
        Ok(wire::revision(&answer))
    }

    fn watch(&self, from: Revision) -> Watch {
        let (sender, watch) = mpsc::channel(BACKLOG + 1);
        let follower = Follower::new(Arc::clone(&self.shared), sender, from);
        tokio::spawn(follower.run(self.open.subscribe()));
        watch
    }

    /// etcd keeps no history for people: it forgets by compaction and knows no authors.
    async fn history(&self, _: Option<&str>, _: usize) -> Result<Vec<HistoryEntry>, StoreError> {
        Ok(Vec::new())
    }

    /// The local copy belongs to one process; a successor keeps it from now on. When that fails
    /// there is no copy until the next start.
    async fn let_go(&self) -> Result<(), StoreError> {
        if let Some(cache) = &self.shared.cache {
            cache.close();
        }
        Ok(())
    }

    async fn take_back(&self) -> Result<(), StoreError> {
        if self.shared.cache.as_ref().is_some_and(Cache::is_closed) {
            tracing::warn!("no local copy of etcd is kept until the next start");
        }
        Ok(())
    }

    fn health(&self) -> Health {
        self.shared.health()
    }

    async fn publish_node(&self, id: &str, record: Value, ttl: Duration) -> Result<(), StoreError> {
        self.shared.publish_node(id, record, ttl).await
    }

    async fn nodes(&self) -> Result<Option<Vec<Value>>, StoreError> {
        self.shared.nodes().await.map(Some)
    }
}

impl std::fmt::Debug for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Etcd").field("prefix", &self.shared.prefix).finish_non_exhaustive()
    }
}
