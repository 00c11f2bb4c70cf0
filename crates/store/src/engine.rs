//! What all back ends share: one thread that writes, readers that never wait for it.
//!
//! A write is a [`Request`] in a bounded queue. The writer thread takes everything that is queued,
//! works out the changes against what is stored ([`Plan`]), makes them durable with one commit of
//! the [`Journal`], then shows them to readers and watchers and answers. Readers see only what is
//! durable, from an in-memory copy.

mod lending;
mod plan;
mod published;
pub(crate) mod watchers;
mod writer;

use std::fmt;
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use headgate_model::Problem;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use self::lending::Fate;
use self::published::Published;
use self::watchers::Watchers;
use self::writer::WriterThread;
use crate::journal::{Contents, Journal, Retention};
use crate::{
    Clock, Health, HistoryEntry, Loaded, Revision, Stale, StoreError, Stored, Watch, WriteOptions,
    Written,
};

/// Writes that may wait for the writer thread.
const QUEUE: usize = 1024;

/// A running store. Dropping it finishes the queued writes and joins the thread.
pub(crate) struct Engine {
    shared: Arc<Shared>,
    journal: Arc<dyn Journal>,
    room: Arc<Semaphore>,
    requests: Option<SyncSender<Request>>,
    thread: Option<JoinHandle<()>>,
    /// What the writer thread is told while a successor has the files.
    fate: Mutex<Option<mpsc::Sender<Fate>>>,
}

/// What readers and the writer thread see.
struct Shared {
    published: Published,
    watchers: Mutex<Watchers>,
    /// Since when and why the journal takes no writes.
    failure: Mutex<Option<Stale>>,
}

/// A write waiting for its turn.
struct Request {
    write: Write,
    /// The place in the queue, given back when the request leaves it.
    _room: OwnedSemaphorePermit,
}

/// What to write, and whom to tell.
enum Write {
    Put {
        key: String,
        value: Value,
        options: WriteOptions,
        answer: Answer<Written>,
    },
    Delete {
        key: String,
        options: WriteOptions,
        answer: Answer<Option<Written>>,
    },
    NextId {
        answer: Answer<Revision>,
    },
    /// Not a write: closes the journal and waits for what is said next.
    LetGo {
        answer: Answer<()>,
        fates: mpsc::Receiver<Fate>,
    },
}

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

impl Engine {
    pub(crate) fn start(
        journal: impl Journal,
        contents: Contents,
        retention: Retention,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        let journal: Arc<dyn Journal> = Arc::new(journal);
        let shared = Arc::new(Shared {
            published: Published::new(contents),
            watchers: Mutex::new(Watchers::default()),
            failure: Mutex::default(),
        });
        let (requests, queue) = mpsc::sync_channel(QUEUE);
        let mut writer =
            WriterThread::new(Arc::clone(&shared), Arc::clone(&journal), retention, clock);
        writer.expire_overdue();
        let thread = thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(&queue))
            .map_err(|error| StoreError::Unavailable(format!("starting the writer: {error}")))?;
        let room = Arc::new(Semaphore::new(QUEUE));
        let (requests, thread, fate) = (Some(requests), Some(thread), Mutex::default());
        Ok(Self { shared, journal, room, requests, thread, fate })
    }

    pub(crate) fn load(&self) -> Loaded {
        self.shared.published.load()
    }

    pub(crate) fn get(&self, key: &str) -> Option<Stored> {
        self.shared.published.get(key)
    }

    pub(crate) fn list(&self, prefix: &str) -> Vec<Stored> {
        self.shared.published.list(prefix)
    }

    pub(crate) async fn put(
        &self,
        key: &str,
        value: Value,
        options: WriteOptions,
    ) -> Result<Written, StoreError> {
        let key = key.to_owned();
        self.write(|answer| Write::Put { key, value, options, answer }).await
    }

    pub(crate) async fn delete(
        &self,
        key: &str,
        options: WriteOptions,
    ) -> Result<Option<Written>, StoreError> {
        let key = key.to_owned();
        self.write(|answer| Write::Delete { key, options, answer }).await
    }

    pub(crate) async fn next_id(&self) -> Result<Revision, StoreError> {
        self.write(|answer| Write::NextId { answer }).await
    }

    /// Changes after `from`: what is known already as one batch, then what follows.
    pub(crate) fn watch(&self, from: Revision) -> Watch {
        // The writer publishes while it holds this lock: no change falls between replay and follow.
        let mut watchers = self.watchers();
        let revision = self.shared.published.revision();
        if from > revision {
            return Watchers::refuse(crate::WatchError::Lost(format!(
                "revision {from} is ahead of the store, which is at {revision}"
            )));
        }
        if from == revision {
            return watchers.add(Vec::new());
        }
        match self.journal.replay(from, revision) {
            Ok(changes) => watchers.add(changes),
            Err(error) => Watchers::refuse(error.into()),
        }
    }

    pub(crate) fn history(
        &self,
        key: Option<&str>,
        limit: usize,
    ) -> Result<Vec<HistoryEntry>, StoreError> {
        self.journal.newest(key, limit)
    }

    /// It is the source itself; only its disk can be in a bad way.
    pub(crate) fn health(&self) -> Health {
        let disk = self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut health = Health::default();
        if let Some(disk) = &disk {
            let message = format!("the store cannot be written: {}", disk.reason);
            let problem = Problem::error("store/disk", "", message);
            let help = "make room on the disk, or make it writable; writes are refused until then, \
                        and what is served stays";
            health.problems.push(problem.help(help));
        }
        Health { disk, ..health }
    }

    /// Queues a write and waits for the answer. The write happens even when the caller stops
    /// waiting.
    async fn write<T>(&self, write: impl FnOnce(Answer<T>) -> Write) -> Result<T, StoreError> {
        let answered = self.queue(write).await?;
        self.answered(answered).await.map_err(|_| closed())?
    }

    /// Queues a write.
    async fn queue<T>(
        &self,
        write: impl FnOnce(Answer<T>) -> Write,
    ) -> Result<oneshot::Receiver<Result<T, StoreError>>, StoreError> {
        let room = Arc::clone(&self.room).acquire_owned().await.map_err(|_| closed())?;
        let (answer, answered) = oneshot::channel();
        let request = Request { write: write(answer), _room: room };
        // There is room for every permit, so this fails only when the thread is gone.
        let requests = self.requests.as_ref().ok_or_else(closed)?;
        requests.try_send(request).map_err(|_| closed())?;
        Ok(answered)
    }

    fn watchers(&self) -> std::sync::MutexGuard<'_, Watchers> {
        self.shared.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".to_owned())
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.requests = None;
        self.forget_fate();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.watchers().close("the store was closed");
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let revision = self.shared.published.revision();
        f.debug_struct("Engine").field("revision", &revision).finish_non_exhaustive()
    }
}

/// Implements [`Store`](crate::Store) for a type with a field `engine`.
macro_rules! impl_store {
    ($name:ty $(, { $($more:tt)* })?) => {
        #[async_trait::async_trait]
        impl $crate::Store for $name {
            $($($more)*)?
            async fn load(&self) -> Result<$crate::Loaded, $crate::StoreError> {
                Ok(self.engine.load())
            }
            async fn get(&self, key: &str) -> Result<Option<$crate::Stored>, $crate::StoreError> {
                Ok(self.engine.get(key))
            }
            async fn list(&self, prefix: &str) -> Result<Vec<$crate::Stored>, $crate::StoreError> {
                Ok(self.engine.list(prefix))
            }
            async fn put(
                &self,
                key: &str,
                value: serde_json::Value,
                options: $crate::WriteOptions,
            ) -> Result<$crate::Written, $crate::StoreError> {
                self.engine.put(key, value, options).await
            }
            async fn delete(
                &self,
                key: &str,
                options: $crate::WriteOptions,
            ) -> Result<Option<$crate::Written>, $crate::StoreError> {
                self.engine.delete(key, options).await
            }
            async fn next_id(&self) -> Result<$crate::Revision, $crate::StoreError> {
                self.engine.next_id().await
            }
            fn watch(&self, from: $crate::Revision) -> $crate::Watch {
                self.engine.watch(from)
            }
            async fn history(
                &self,
                key: Option<&str>,
                limit: usize,
            ) -> Result<Vec<$crate::HistoryEntry>, $crate::StoreError> {
                self.engine.history(key, limit)
            }
            fn health(&self) -> $crate::Health {
                self.engine.health()
            }
        }
    };
}
pub(crate) use impl_store;
