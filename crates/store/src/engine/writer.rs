//! The writer thread: the only place where a store changes.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tracing::{error, info, warn};

use super::plan::Plan;
use super::{Request, Shared, Write};
use crate::journal::{Batch, Journal, Record, Retention};
use crate::{Change, Clock, Stale, StoreError, WriteOptions};

/// Writes that share one commit.
const BATCH: usize = 256;
/// Longest sleep, so that a step of the system clock delays nothing for long.
const NAP: Duration = Duration::from_secs(30);
/// Pause of expiry and pruning after a failed commit.
const RETRY: Duration = Duration::from_secs(1);
/// Author of deletions by time-to-live.
const TTL_AUTHOR: &str = "ttl";

pub(super) struct WriterThread {
    shared: Arc<Shared>,
    pub(super) journal: Arc<dyn Journal>,
    retention: Retention,
    clock: Clock,
    /// The last commit failed: what the journal holds is unknown.
    pub(super) is_in_doubt: bool,
}

/// Sends the answer of one write once the commit is through, or the reason why it is not.
type Reply = Box<dyn FnOnce(Result<(), &StoreError>)>;

impl WriterThread {
    pub(super) const fn new(
        shared: Arc<Shared>,
        journal: Arc<dyn Journal>,
        retention: Retention,
        clock: Clock,
    ) -> Self {
        Self { shared, journal, retention, clock, is_in_doubt: false }
    }

    /// Runs until the last sender is gone and the queue is empty.
    pub(super) fn run(mut self, queue: &Receiver<Request>) {
        loop {
            let first = match queue.recv_timeout(self.nap()) {
                Ok(request) => Some(request),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let writes = first.into_iter().chain(queue.try_iter()).take(BATCH);
            let mut writes: Vec<_> = writes.map(|request| request.write).collect();
            let letting_go = writes.iter().position(|write| matches!(write, Write::LetGo { .. }));
            let later = letting_go.map(|at| writes.split_off(at)).unwrap_or_default();
            self.turn(writes);
            self.let_go(later, queue);
        }
    }

    /// Deletes what expired while nobody looked, before the store is first read.
    pub(super) fn expire_overdue(&mut self) {
        while !self.is_in_doubt
            && self.shared.published.next_expiry().is_some_and(|at| at <= self.clock.now_ms())
        {
            self.turn(Vec::new());
        }
    }

    /// One commit: expired values, then the given writes.
    pub(super) fn turn(&mut self, writes: Vec<Write>) {
        if self.is_in_doubt
            && let Err(error) = self.recover()
        {
            let error = StoreError::Unavailable(format!("store cannot be written: {error}"));
            writes.into_iter().for_each(|write| write.refuse(&error));
            return;
        }
        let now_ms = self.clock.now_ms();
        let shared = Arc::clone(&self.shared);
        let mut plan = Plan::new(&shared.published, now_ms);
        for key in shared.published.expired(now_ms, BATCH) {
            let options = WriteOptions { author: TTL_AUTHOR.to_owned(), ..WriteOptions::default() };
            // Without a precondition this cannot fail.
            let _ = plan.delete(key, options);
        }
        let replies: Vec<_> = writes.into_iter().map(|write| write.plan(&mut plan)).collect();
        let batch = plan.into_batch();
        let result = self.commit(&batch);
        for reply in replies {
            reply(result.as_ref().copied());
        }
    }

    /// Makes a batch durable and shows it, if there is anything to do.
    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        if batch.revision == self.shared.published.revision()
            && !self.journal.wants_pruning(batch.now_ms, self.retention)
        {
            return Ok(());
        }
        if let Err(error) = self.journal.commit(batch, self.retention) {
            error!(%error, "store cannot be written");
            self.is_in_doubt = true;
            self.tell(Some(&error));
            return Err(StoreError::Unavailable(format!("store cannot be written: {error}")));
        }
        let mut watchers = self.shared.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.published.apply(&batch.records, batch.revision);
        let changes: Vec<Change> = batch.records.iter().map(Record::change).collect();
        if !changes.is_empty() {
            watchers.send(&changes);
        }
        Ok(())
    }

    /// After a failed commit: reads the journal again. The batch may have become durable after
    /// all, and then readers and watchers have to learn of it.
    fn recover(&mut self) -> Result<(), StoreError> {
        let contents = self.journal.reopen()?;
        let mut watchers = self.shared.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, after) = (self.shared.published.revision(), contents.revision);
        match self.journal.replay(before, after) {
            Ok(changes) if changes.is_empty() => {}
            Ok(changes) => watchers.send(&changes),
            Err(error) => {
                warn!(%error, "watches cannot continue");
                watchers.close("the store was opened again");
            }
        }
        self.shared.published.replace(contents);
        self.is_in_doubt = false;
        self.tell(None);
        info!(before, after, "store can be written again");
        Ok(())
    }

    /// Notes whether writes fail, for [`crate::Health`].
    fn tell(&self, error: Option<&StoreError>) {
        let mut failure = self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner);
        let since = failure.as_ref().map_or_else(|| self.clock.now_ms() / 1000, |it| it.since);
        *failure = error.map(|error| Stale { since, reason: error.to_string() });
    }

    /// How long the thread may sleep when nobody writes.
    fn nap(&self) -> Duration {
        if self.is_in_doubt {
            return RETRY;
        }
        let now_ms = self.clock.now_ms();
        let expiry = self.shared.published.next_expiry();
        expiry.map_or(NAP, |at| NAP.min(Duration::from_millis(at.saturating_sub(now_ms))))
    }
}

impl Write {
    /// Adds the write to the plan; the reply waits for the commit.
    fn plan(self, plan: &mut Plan<'_>) -> Reply {
        match self {
            Self::Put { key, value, options, answer } => {
                reply(answer, plan.put(key, value, options))
            }
            Self::Delete { key, options, answer } => reply(answer, plan.delete(key, options)),
            Self::NextId { answer } => reply(answer, Ok(plan.next_revision())),
            // The thread takes these out first.
            Self::LetGo { answer, .. } => reply(answer, Err(StoreError::Moving)),
        }
    }

    pub(super) fn refuse(self, error: &StoreError) {
        match self {
            Self::Put { answer, .. } => drop(answer.send(Err(again(error)))),
            Self::Delete { answer, .. } => drop(answer.send(Err(again(error)))),
            Self::NextId { answer } => drop(answer.send(Err(again(error)))),
            Self::LetGo { answer, .. } => drop(answer.send(Err(again(error)))),
        }
    }

    /// Whether whoever asked for it has stopped waiting.
    pub(super) fn is_abandoned(&self) -> bool {
        match self {
            Self::Put { answer, .. } => answer.is_closed(),
            Self::Delete { answer, .. } => answer.is_closed(),
            Self::NextId { answer } => answer.is_closed(),
            Self::LetGo { answer, .. } => answer.is_closed(),
        }
    }
}

fn reply<T: 'static>(answer: super::Answer<T>, outcome: Result<T, StoreError>) -> Reply {
    Box::new(move |committed| {
        // A caller that stopped waiting is no error.
        let _ = answer.send(match committed {
            Ok(()) => outcome,
            Err(error) => Err(again(error)),
        });
    })
}

/// The same error for one more caller.
fn again(error: &StoreError) -> StoreError {
    match error {
        StoreError::Moving => StoreError::Moving,
        error => StoreError::Unavailable(error.to_string()),
    }
}
