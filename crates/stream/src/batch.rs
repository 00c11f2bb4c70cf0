//! The batch processor of logging plugins (`spec/plugins.md`, section 8): entries of finished
//! sessions go over a bounded queue to a task on the control side, which delivers them in batches.
//!
//! A core only formats its entry and puts it into the queue. It never waits: when the queue is
//! full, because the receiver is down or slow, the entry is dropped and counted.

mod buffer;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use headgate_telemetry::{LogLimit, SharedCounter};
use serde::Deserialize;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use crate::plugin::Background;
use buffer::Buffer;

/// Entries that may wait, unless the plugin's metadata says otherwise.
pub const MAX_PENDING: usize = 8192;
/// While entries keep coming the task looks for them this often, so that a session does not have
/// to wake it.
const GATHER: Duration = Duration::from_millis(20);
/// Time for what is left when the process ends.
const LAST_MOMENT: Duration = Duration::from_secs(3);

static FULL: LogLimit = LogLimit::per_second(1);

/// The members of a plugin's configuration that concern batches; defaults are in its schema.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BatchConf {
    /// Label in the process log.
    pub name: String,
    /// Attempts after the first one.
    pub max_retry_count: u32,
    /// Seconds between them.
    pub retry_delay: u64,
    /// Seconds after which the oldest entry is delivered.
    pub buffer_duration: u64,
    /// Seconds without a new entry after which the others are delivered.
    pub inactive_timeout: u64,
    /// Entries in a batch.
    pub batch_max_size: usize,
}

/// Bounds of what waits for delivery, the batch that is being delivered included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Number of entries.
    pub entries: usize,
    /// Their bytes.
    pub bytes: usize,
}

/// What became of the entries of all plugins of one name, since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Delivered.
    pub delivered: SharedCounter,
    /// Dropped because the queue was full.
    pub overflowed: SharedCounter,
    /// Dropped after the last attempt to deliver them.
    pub failed: SharedCounter,
}

impl Counts {
    /// Nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        let zero = SharedCounter::new;
        Self { delivered: zero(), overflowed: zero(), failed: zero() }
    }
}

/// Why a batch was not delivered.
#[derive(Debug)]
pub struct Failed {
    /// For the process log.
    pub error: String,
    /// How many of its entries were delivered before.
    pub delivered: usize,
}

/// Where batches go.
pub trait Target: Send + 'static {
    /// Delivers entries, oldest first. Takes no longer than a bounded time.
    fn deliver(&mut self, entries: &[Vec<u8>]) -> impl Future<Output = Result<(), Failed>> + Send;
}

/// The cores' end of a batch processor. When the last clone is dropped what is left is delivered and
/// the task ends.
#[derive(Clone)]
pub struct Batches {
    queue: UnboundedSender<Vec<u8>>,
    pending: Arc<Pending>,
}

struct Pending {
    entries: AtomicUsize,
    bytes: AtomicUsize,
    bounds: Bounds,
    counts: &'static Counts,
}

impl Batches {
    /// Starts a processor that delivers to `target`.
    pub fn start(
        conf: BatchConf,
        bounds: Bounds,
        counts: &'static Counts,
        target: impl Target,
        background: &Arc<dyn Background>,
    ) -> Self {
        let (queue, entries) = mpsc::unbounded_channel();
        let (waiting, bytes) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let pending = Arc::new(Pending { entries: waiting, bytes, bounds, counts });
        let worker = Worker {
            buffer: Buffer::new(&conf),
            conf,
            pending: Arc::clone(&pending),
            target,
            entries,
        };
        let stop = Stop { signal: background.stopping(), came: false };
        background.spawn(Box::pin(worker.run(stop)));
        Self { queue, pending }
    }

    /// Hands an entry over, or drops it when too many wait. Never waits.
    pub fn push(&self, entry: Vec<u8>) {
        let Pending { entries, bytes, bounds, counts } = &*self.pending;
        let size = entry.len();
        // A few more than the bound may get in from several cores at once; that harms nobody.
        let is_full = entries.load(Ordering::Relaxed) >= bounds.entries
            || bytes.load(Ordering::Relaxed).saturating_add(size) > bounds.bytes;
        if is_full {
            counts.overflowed.increment();
            if let Some(suppressed) = FULL.check(Instant::now()) {
                tracing::error!(
                    suppressed,
                    pending = entries.load(Ordering::Relaxed),
                    "max pending entries limit exceeded. discarding entry"
                );
            }
            return;
        }
        entries.fetch_add(1, Ordering::Relaxed);
        bytes.fetch_add(size, Ordering::Relaxed);
        if self.queue.send(entry).is_err() {
            self.pending.done(1, size); // the process ends
            counts.overflowed.increment();
        }
    }
}

impl fmt::Debug for Batches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pending = self.pending.entries.load(Ordering::Relaxed);
        f.debug_struct("Batches").field("pending", &pending).finish_non_exhaustive()
    }
}

impl Pending {
    fn done(&self, entries: usize, bytes: usize) {
        self.entries.fetch_sub(entries, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

struct Worker<T> {
    conf: BatchConf,
    buffer: Buffer,
    pending: Arc<Pending>,
    target: T,
    entries: UnboundedReceiver<Vec<u8>>,
}

/// The end of the process.
struct Stop {
    signal: Pin<Box<dyn Future<Output = ()> + Send>>,
    came: bool,
}

impl Stop {
    /// Resolves when it comes, once.
    async fn comes(&mut self) {
        if self.came {
            std::future::pending::<()>().await;
        }
        self.signal.as_mut().await;
        self.came = true;
    }
}

impl<T: Target> Worker<T> {
    async fn run(mut self, mut stop: Stop) {
        while !stop.came {
            tokio::select! {
                goes_on = self.gather() => if !goes_on { break },
                () = stop.comes() => break,
            }
            while !stop.came
                && let Some(batch) = self.buffer.take_due(Instant::now())
            {
                self.deliver(batch, &mut stop).await;
            }
        }
        self.finish(stop).await;
    }

    /// Takes entries into the buffer until there may be something to deliver; `false` when nobody is
    /// left who could bring more.
    async fn gather(&mut self) -> bool {
        let now = Instant::now();
        let first = match self.buffer.next_check(now) {
            None => self.entries.recv().await,
            Some(wait) => match tokio::time::timeout(wait, self.entries.recv()).await {
                Ok(entry) => entry,
                Err(_) => return true,
            },
        };
        let Some(first) = first else { return false };
        self.buffer.push(first, Instant::now());
        if self.conf.batch_max_size > 1 {
            tokio::time::sleep(GATHER).await;
        }
        while let Ok(entry) = self.entries.try_recv() {
            self.buffer.push(entry, Instant::now());
        }
        true
    }

    /// Delivers a batch, with all attempts that the configuration grants, or one when the process
    /// is about to end.
    async fn deliver(&mut self, mut batch: Vec<Vec<u8>>, stop: &mut Stop) {
        let mut failures = 0;
        while let Err(Failed { error, delivered }) = self.target.deliver(&batch).await {
            let name = &self.conf.name;
            let total = batch.len();
            let done: Vec<_> = batch.drain(..delivered.min(total)).collect();
            self.settle(&done, &self.pending.counts.delivered);
            if done.is_empty() {
                tracing::error!("Batch Processor[{name}] failed to process entries: {error}");
            } else {
                let done = done.len();
                tracing::error!(
                    "Batch Processor[{name}] failed to process entries [{done}/{total}]: {error}"
                );
            }
            failures += 1;
            if failures > self.conf.max_retry_count || stop.came {
                let entries = batch.len();
                tracing::error!(
                    entries,
                    "Batch Processor[{name}] exceeded the max_retry_count[{failures}] dropping the \
                     entries"
                );
                self.settle(&batch, &self.pending.counts.failed);
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(self.conf.retry_delay)) => {}
                () = stop.comes() => {}
            }
        }
        tracing::debug!("Batch Processor[{}] successfully processed the entries", self.conf.name);
        self.settle(&batch, &self.pending.counts.delivered);
    }

    fn settle(&self, entries: &[Vec<u8>], counter: &SharedCounter) {
        counter.add(entries.len() as u64);
        self.pending.done(entries.len(), entries.iter().map(Vec::len).sum());
    }

    /// Delivers what is left, once and within a moment.
    async fn finish(mut self, mut stop: Stop) {
        self.entries.close();
        while let Ok(entry) = self.entries.try_recv() {
            self.buffer.push(entry, Instant::now());
        }
        let all = async {
            while let Some(batch) = self.buffer.take_any() {
                self.deliver(batch, &mut stop).await;
            }
        };
        let is_late = tokio::time::timeout(LAST_MOMENT, all).await.is_err();
        let left = self.pending.entries.load(Ordering::Relaxed);
        if is_late && left > 0 {
            self.pending.counts.failed.add(left as u64);
            tracing::error!(
                entries = left,
                "Batch Processor[{}] ended before these were delivered",
                self.conf.name
            );
        }
    }
}

#[cfg(test)]
mod tests;
