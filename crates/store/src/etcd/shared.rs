//! What the store and the tasks that follow etcd share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use headgate_model::Problem;
use serde_json::{Value, json};
use tracing::{error, warn};

use super::cache::Cache;
use super::client::{Client, Repeat};
use super::mirror::Mirror;
use super::nodes::Lease;
use super::wire::{self, prefix_range};
use crate::{Health, Loaded, Revision, Stale, StoreError, Unreadable};

/// The same failure is logged again after so long.
const REMINDER: Duration = Duration::from_secs(30);

/// Keys that are read with one request.
const PAGE: u32 = 1000;

pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) prefix: String,
    pub(super) watch_timeout: Duration,
    pub(super) resync_delay: Duration,
    pub(super) cache: Option<Cache>,
    /// Why there should be one and is none.
    no_cache: Option<Stale>,
    health: Mutex<Health>,
    /// Unix time at which what is served was last known to be what etcd has.
    agreed: AtomicU64,
    /// Unix time at which it was first asked.
    started: u64,
    /// A configuration has come from etcd itself.
    pub(super) has_loaded: AtomicBool,
    /// Keys of the last load, for the watch that follows it.
    pub(super) mirror: Mutex<Option<(Revision, Mirror)>>,
    logged: Mutex<Option<(String, Instant)>>,
    /// What this node says about itself, and the lease it is under.
    pub(super) published: tokio::sync::Mutex<Option<(Lease, Value)>>,
}

impl Shared {
    /// `cache` may be none because the disk does not allow it, and then says why.
    pub(super) fn new(
        client: Client,
        options: &super::EtcdOptions,
        cache: Result<Option<Cache>, StoreError>,
    ) -> Self {
        let (cache, no_cache) = match cache {
            Ok(cache) => (cache, None),
            Err(error) => (None, Some(Stale { since: unix_time(), reason: error.to_string() })),
        };
        let mut health = Health::waiting();
        health.unready_when_stale = options.unready_when_stale;
        Self {
            client,
            prefix: options.prefix.clone(),
            watch_timeout: options.watch_timeout,
            resync_delay: options.resync_delay,
            cache,
            no_cache,
            health: Mutex::new(health),
            agreed: AtomicU64::new(0),
            started: unix_time(),
            has_loaded: AtomicBool::new(false),
            mirror: Mutex::new(None),
            logged: Mutex::new(None),
            published: tokio::sync::Mutex::new(None),
        }
    }

    /// A key of the store for a key of etcd, if it is one of the configuration: not a placeholder
    /// of a directory, not the counter for ids, not what instances report about themselves.
    pub(super) fn own_key<'a>(&self, key: &'a str) -> Option<&'a str> {
        let key = key.strip_prefix(&self.prefix)?;
        let other = key.ends_with('/')
            || key == "/gen_id"
            || key.starts_with("/data_plane/")
            || key.starts_with(super::nodes::DIRECTORY);
        (!other && key.starts_with('/')).then_some(key)
    }

    /// Reads everything, a page at a time: all of it shows one revision, and only one page is in
    /// memory as etcd writes it, which is several times as large as what it says.
    pub(super) async fn load(&self) -> Result<Loaded, StoreError> {
        let mut range = prefix_range(&format!("{}/", self.prefix));
        range.insert("limit".to_owned(), PAGE.to_string().into());
        let mut loaded = Loaded::default();
        let mut mirror = Mirror::default();
        loop {
            let body = Value::Object(range.clone());
            let answer = self.client.call("/v3/kv/range", &body, Repeat::Read).await?;
            if loaded.revision == 0 {
                loaded.revision = wire::revision(&answer);
                range.insert("revision".to_owned(), loaded.revision.to_string().into());
            }
            let mut last = None;
            for found in wire::key_values(&answer) {
                last = Some(found.key.clone());
                let Some(key) = self.own_key(&found.key) else { continue };
                mirror.put(key, found.modified);
                match found.parse(&self.prefix) {
                    Ok(stored) => loaded.values.push(stored),
                    Err(reason) => {
                        let reason = format!("not JSON: {reason}");
                        loaded.unreadable.push(Unreadable { key: key.to_owned(), reason });
                    }
                }
            }
            let has_more = answer.get("more") == Some(&Value::Bool(true));
            match last.filter(|_| has_more) {
                Some(last) => {
                    range.insert("key".to_owned(), wire::encode(&format!("{last}\0")).into())
                }
                None => break,
            };
        }
        *lock(&self.mirror) = Some((loaded.revision, mirror));
        Ok(loaded)
    }

    /// Keys and revisions of the configuration, without values, and the revision that shows them.
    pub(super) async fn keys(&self) -> Result<(Revision, Vec<(String, Revision)>), StoreError> {
        let mut range = prefix_range(&format!("{}/", self.prefix));
        range.insert("keys_only".to_owned(), true.into());
        let answer = self.client.call("/v3/kv/range", &range.into(), Repeat::Read).await?;
        let keys = wire::key_values(&answer).filter_map(|found| {
            let key = self.own_key(&found.key)?.to_owned();
            Some((key, found.modified))
        });
        Ok((wire::revision(&answer), keys.collect()))
    }

    /// The revision of the cluster, with the least work for it.
    pub(super) async fn revision(&self, limit: Duration) -> Result<Revision, StoreError> {
        let range = json!({"key": wire::encode(&format!("{}/", self.prefix)), "count_only": true});
        let path = "/v3/kv/range";
        let answer = self.client.call_within(path, &range, Repeat::Read, limit).await?;
        Ok(wire::revision(&answer))
    }

    pub(super) fn health(&self) -> Health {
        let mut health = lock(&self.health).clone();
        health.confirmed = Some(self.agreed.load(Relaxed).max(self.started));
        health.disk = match &self.cache {
            Some(cache) => cache.failure(),
            None => self.no_cache.clone(),
        };
        if let Some(disk) = &health.disk {
            let message = format!(
                "the local copy of the configuration is not what is served: {}",
                disk.reason
            );
            let problem = Problem::warning("store/local-copy", "", message);
            health.problems.push(problem.help(
                "make room on the disk, or make the folder writable; without a copy this node \
                 cannot start while etcd is away",
            ));
        }
        health
    }

    pub(super) fn report(&self, change: impl FnOnce(&mut Health)) {
        change(&mut lock(&self.health));
    }

    /// What is served is what etcd has.
    pub(super) fn agrees(&self) {
        self.agreed.store(unix_time(), Relaxed);
        let was_stale = lock(&self.health).stale.take();
        if let Some(stale) = was_stale {
            *lock(&self.logged) = None;
            match stale.since {
                0 => warn!("etcd answers; the configuration is up to date"),
                since => {
                    let seconds = unix_time().saturating_sub(since);
                    warn!(seconds, "etcd answers again; the configuration is up to date");
                }
            }
        }
    }

    /// What is served may be older than what etcd has.
    pub(super) fn is_stale(&self, reason: &str) {
        let since = self.agreed.load(Relaxed);
        lock(&self.health).stale = Some(Stale { since, reason: reason.to_owned() });
        let mut logged = lock(&self.logged);
        if let Some((told, at)) = &*logged
            && told == reason
            && at.elapsed() < REMINDER
        {
            return;
        }
        error!("failed to fetch data from etcd: {reason},  etcd key: {}/", self.prefix);
        *logged = Some((reason.to_owned(), Instant::now()));
    }
}

pub(super) fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
