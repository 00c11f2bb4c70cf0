//! A [`Whole`] that is written as its owners write it: with every change the whole content anew.

use async_trait::async_trait;
use headgate_store::{
    HistoryEntry, Loaded, Revision, Store, StoreError, Stored, Watch, Whole, WholeItem,
    WriteOptions, Written,
};
use serde_json::Value;
use tokio::sync::Mutex;

pub(crate) struct Replaced {
    whole: Whole,
    items: Mutex<Vec<WholeItem>>,
}

impl Default for Replaced {
    fn default() -> Self {
        Self { whole: Whole::new("it is replaced as a whole"), items: Mutex::default() }
    }
}

#[async_trait]
impl Store for Replaced {
    async fn load(&self) -> Result<Loaded, StoreError> {
        self.whole.load().await
    }

    async fn get(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        self.whole.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Stored>, StoreError> {
        self.whole.list(prefix).await
    }

    async fn put(&self, key: &str, value: Value, _: WriteOptions) -> Result<Written, StoreError> {
        let mut items = self.items.lock().await;
        let previous = self.whole.get(key).await?;
        let item = WholeItem { key: key.to_owned(), value };
        match items.iter_mut().find(|known| known.key == key) {
            Some(known) => *known = item,
            None => items.push(item),
        }
        let revision = self.whole.replace(items.clone());
        let stored = self.whole.get(key).await?.expect("what was just written");
        Ok(Written { stored, revision, previous })
    }

    async fn delete(&self, key: &str, _: WriteOptions) -> Result<Option<Written>, StoreError> {
        let mut items = self.items.lock().await;
        let Some(stored) = self.whole.get(key).await? else { return Ok(None) };
        items.retain(|known| known.key != key);
        let revision = self.whole.replace(items.clone());
        Ok(Some(Written { previous: Some(stored.clone()), stored, revision }))
    }

    async fn next_id(&self) -> Result<Revision, StoreError> {
        self.whole.next_id().await
    }

    fn watch(&self, from: Revision) -> Watch {
        self.whole.watch(from)
    }

    async fn history(&self, _: Option<&str>, _: usize) -> Result<Vec<HistoryEntry>, StoreError> {
        Ok(Vec::new())
    }
}
