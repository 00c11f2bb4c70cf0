//! What a client sees when the store fails, or when somebody else writes at the same moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use headgate_admin::Limits;
use headgate_store::{
    HistoryEntry, Loaded, Memory, Revision, Store, StoreError, Stored, Watch, WriteOptions, Written,
};
use serde_json::Value;

use crate::bench::{Bench, KEY, Planes, memory, settings};

const UPSTREAM: &str = r#"{"nodes":{"10.0.0.1:80":1}}"#;

/// A store in which every value that was just read is written again by somebody else, or which
/// cannot be reached.
struct Troubled {
    inner: Arc<Memory>,
    racing: AtomicBool,
    gone: AtomicBool,
}

impl Troubled {
    fn reach(&self) -> Result<&Memory, StoreError> {
        if self.gone.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable(
                "has no healthy etcd endpoint available".to_owned(),
            ));
        }
        Ok(&self.inner)
    }
}

#[async_trait]
impl Store for Troubled {
    async fn load(&self) -> Result<Loaded, StoreError> {
        self.reach()?.load().await
    }
    async fn get(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        let found = self.reach()?.get(key).await?;
        if let Some(stored) = &found
            && self.racing.load(Ordering::SeqCst)
        {
            self.inner.put(key, stored.value.clone(), WriteOptions::default()).await?;
        }
        Ok(found)
    }
    async fn list(&self, prefix: &str) -> Result<Vec<Stored>, StoreError> {
        self.reach()?.list(prefix).await
    }
    async fn put(
        &self,
        key: &str,
        value: Value,
        options: WriteOptions,
    ) -> Result<Written, StoreError> {
        self.reach()?.put(key, value, options).await
    }
    async fn delete(
        &self,
        key: &str,
        options: WriteOptions,
    ) -> Result<Option<Written>, StoreError> {
        self.reach()?.delete(key, options).await
    }
    async fn next_id(&self) -> Result<Revision, StoreError> {
        self.reach()?.next_id().await
    }
    fn watch(&self, from: Revision) -> Watch {
        self.inner.watch(from)
    }
    async fn history(
        &self,
        key: Option<&str>,
        limit: usize,
    ) -> Result<Vec<HistoryEntry>, StoreError> {
        self.reach()?.history(key, limit).await
    }
}

fn bench() -> (Bench, Arc<Troubled>) {
    let inner = memory();
    let store = Arc::new(Troubled {
        inner: Arc::clone(&inner),
        racing: AtomicBool::new(false),
        gone: AtomicBool::new(false),
    });
    let shared = Arc::clone(&store) as Arc<dyn Store>;
    (Bench::over(shared, inner, settings(), Planes::default(), Limits::default()), store)
}

#[tokio::test]
async fn a_lost_race() {
    let (bench, store) = bench();
    let path = "/apisix/admin/upstreams/1";
    bench.put("upstreams/1", UPSTREAM).await;
    store.racing.store(true, Ordering::SeqCst);
    bench.refuse("PATCH", path, "{}", (503, "value changed before overwritten")).await;
    // PUT replaces whatever is there, unless it says what it expects.
    bench.put("upstreams/1", UPSTREAM).await;
    for method in ["PUT", "PATCH", "DELETE"] {
        let headers = [("x-api-key", KEY), ("if-match", "*")];
        let reply = bench.call_with(method, path, UPSTREAM, &headers).await;
        assert_eq!(reply.status, 412, "{method} {reply:?}");
    }
    assert_eq!(bench.call("DELETE", path, "").await.status, 200);
}

#[tokio::test]
async fn a_store_out_of_reach() {
    let (bench, store) = bench();
    store.gone.store(true, Ordering::SeqCst);
    let path = "/apisix/admin/upstreams/1";
    let refusal = (503, "has no healthy etcd endpoint available");
    for (method, path, body) in [
        ("GET", path, ""),
        ("GET", "/apisix/admin/upstreams", ""),
        ("PUT", path, UPSTREAM),
        ("POST", "/apisix/admin/upstreams", UPSTREAM),
        ("PATCH", path, "{}"),
        ("DELETE", path, ""),
    ] {
        bench.refuse(method, path, body, refusal).await;
    }
    assert_eq!(bench.control("GET", "/v1/history").await.status, 503);
    assert_eq!(bench.control("GET", "/v1/upstreams").await.status, 200);
}
