//! An etcd of one member for a test, and what makes its revisions begin at 0.

use std::time::Duration;

use async_trait::async_trait;
use headgate_store::{
    Change, Etcd, EtcdOptions, HistoryEntry, Loaded, Revision, Store, StoreError, Stored, Watch,
    WatchError, WriteOptions, Written,
};
use serde_json::Value;

/// Ends when it is dropped.
pub(crate) struct Server(headgate_testkit::Etcd);

impl Server {
    /// Starts a member; `None` when none is installed and that was allowed.
    pub(crate) fn start() -> Option<Self> {
        headgate_testkit::Etcd::start().map(Self)
    }

    /// The same of the second version of etcd that is tested with.
    pub(crate) fn second_version() -> Option<Self> {
        headgate_testkit::Etcd::second_version().map(Self)
    }

    pub(crate) fn compact(&self, revision: Revision) {
        self.0.compact(revision);
    }

    pub(crate) fn options(&self) -> EtcdOptions {
        EtcdOptions {
            hosts: vec![self.0.url(0)],
            prefix: "/apisix".to_owned(),
            timeout: Duration::from_secs(10),
            watch_timeout: Duration::from_secs(50),
            resync_delay: Duration::from_secs(1),
            health_check_timeout: Duration::from_secs(10),
            user: None,
            trusted: None,
            client: None,
            verify: true,
            sni: None,
            cache: None,
            may_start_empty: false,
            unready_when_stale: false,
        }
    }
}

/// A store whose revisions are smaller by a constant.
pub(crate) struct Shifted {
    pub(crate) store: Etcd,
    pub(crate) by: Revision,
}

impl Shifted {
    fn stored(&self, mut stored: Stored) -> Stored {
        stored.created -= self.by;
        stored.modified -= self.by;
        stored
    }

    fn written(&self, written: Written) -> Written {
        Written {
            stored: self.stored(written.stored),
            revision: written.revision - self.by,
            previous: written.previous.map(|previous| self.stored(previous)),
        }
    }

    fn error(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Conflict { current } => StoreError::Conflict {
                current: current.map(|current| Box::new(self.stored(*current))),
            },
            other => other,
        }
    }

    fn options(&self, mut options: WriteOptions) -> WriteOptions {
        use headgate_store::Precondition::Modified;
        if let Modified(revision @ 1..) = options.precondition {
            options.precondition = Modified(revision + self.by);
        }
        options
    }
}

#[async_trait]
impl Store for Shifted {
    async fn load(&self) -> Result<Loaded, StoreError> {
        let loaded = self.store.load().await?;
        Ok(Loaded {
            revision: loaded.revision - self.by,
            values: loaded.values.into_iter().map(|stored| self.stored(stored)).collect(),
            unreadable: loaded.unreadable,
        })
    }

    async fn get(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        Ok(self.store.get(key).await?.map(|stored| self.stored(stored)))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Stored>, StoreError> {
        let all = self.store.list(prefix).await?;
        Ok(all.into_iter().map(|stored| self.stored(stored)).collect())
    }

    async fn put(
        &self,
        key: &str,
        value: Value,
        options: WriteOptions,
    ) -> Result<Written, StoreError> {
        let written = self.store.put(key, value, self.options(options)).await;
        written.map(|written| self.written(written)).map_err(|error| self.error(error))
    }

    async fn delete(
        &self,
        key: &str,
        options: WriteOptions,
    ) -> Result<Option<Written>, StoreError> {
        let written = self.store.delete(key, self.options(options)).await;
        let written = written.map_err(|error| self.error(error))?;
        Ok(written.map(|written| self.written(written)))
    }

    async fn next_id(&self) -> Result<Revision, StoreError> {
        Ok(self.store.next_id().await? - self.by)
    }

    fn watch(&self, from: Revision) -> Watch {
        let mut inner = self.store.watch(from + self.by);
        // Not larger than what it passes on: a slow reader must be seen by the store.
        let (sender, watch) = tokio::sync::mpsc::channel(1);
        let by = self.by;
        tokio::spawn(async move {
            while let Some(batch) = inner.recv().await {
                let shifted = batch.map_err(|error| match error {
                    WatchError::Compacted(revision) => WatchError::Compacted(revision - by),
                    lost => lost,
                });
                let shifted = shifted.map(|changes| {
                    let shift = |change| match change {
                        Change::Put(mut stored) => {
                            stored.created -= by;
                            stored.modified -= by;
                            Change::Put(stored)
                        }
                        Change::Delete { key, revision } => {
                            Change::Delete { key, revision: revision - by }
                        }
                    };
                    changes.into_iter().map(shift).collect()
                });
                if sender.send(shifted).await.is_err() {
                    return;
                }
            }
        });
        watch
    }

    async fn history(
        &self,
        key: Option<&str>,
        limit: usize,
    ) -> Result<Vec<HistoryEntry>, StoreError> {
        self.store.history(key, limit).await
    }
}
