//! Letting a successor process have the files, and taking them back when it fails.
//!
//! While they are away nothing is written. Writes wait at first, because the successor may fail
//! before it has done anything; once it serves they are refused, and the client finds it instead.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, PoisonError, mpsc};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::RecvError;

use super::writer::WriterThread;
use super::{Engine, Request, Write, closed};
use crate::StoreError;

/// How long a write waits while the files are away.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a thread that refuses everything looks whether it has to go on.
const LOOK: Duration = Duration::from_millis(20);

/// What becomes of files that were let go.
#[derive(Debug)]
pub(super) enum Fate {
    /// The successor works with them.
    Gone,
    /// It failed; says when the files are open again.
    Back(Sender<()>),
}

impl Engine {
    /// Finishes what is queued and closes the journal.
    pub(crate) async fn let_go(&self) -> Result<(), StoreError> {
        let (fate, fates) = mpsc::channel();
        let answered = self.queue(|answer| Write::LetGo { answer, fates }).await?;
        *self.fate.lock().unwrap_or_else(PoisonError::into_inner) = Some(fate);
        answered.await.map_err(|_| closed())?
    }

    pub(crate) fn refuse_writes(&self) {
        self.tell(Fate::Gone);
    }

    /// Opens the journal again. Blocks until that is done or has failed; a journal that cannot be
    /// opened is tried again as after a failed write.
    pub(crate) fn take_back(&self) {
        let (done, wait) = mpsc::channel();
        self.tell(Fate::Back(done));
        self.forget_fate();
        let _ = wait.recv_timeout(PATIENCE);
    }

    pub(super) fn forget_fate(&self) {
        self.fate.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn tell(&self, what: Fate) {
        if let Some(fate) = &*self.fate.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = fate.send(what);
        }
    }

    /// The answer to a write; not for ever while the files are away.
    pub(super) async fn answered<T>(
        &self,
        mut answer: oneshot::Receiver<Result<T, StoreError>>,
    ) -> Result<Result<T, StoreError>, RecvError> {
        loop {
            if self.fate.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
                return answer.await;
            }
            if let Ok(answered) = tokio::time::timeout(PATIENCE, &mut answer).await {
                return answered;
            }
            if self.fate.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
                return Ok(Err(StoreError::Moving));
            }
        }
    }
}

impl WriterThread {
    /// Carries out an order to let go, if `writes` begins with one; the others come after it.
    pub(super) fn let_go(&mut self, writes: Vec<Write>, queue: &Receiver<Request>) {
        let mut writes = writes.into_iter();
        let Some(Write::LetGo { answer, fates }) = writes.next() else { return };
        let journal = Arc::clone(&self.journal);
        journal.close();
        let is_wanted = answer.send(Ok(())).is_ok();
        let mut waiting: Vec<_> = writes.collect();
        if !is_wanted {
            self.is_in_doubt = true; // opens it again
            return self.turn(waiting);
        }
        let back = match fates.recv() {
            Ok(Fate::Back(done)) => Some(done),
            Ok(Fate::Gone) | Err(_) => {
                waiting.drain(..).for_each(|write| write.refuse(&StoreError::Moving));
                refuse_until_back(&fates, queue)
            }
        };
        let Some(done) = back else { return };
        // What the successor wrote is read, and told to readers and watchers.
        self.is_in_doubt = true;
        self.turn(Vec::new());
        let _ = done.send(());
        waiting.extend(queue.try_iter().map(|request| request.write));
        // Whoever was told to try again must not find it done as well.
        waiting.retain(|write| !write.is_abandoned());
        self.turn(waiting);
    }
}

/// Refuses all writes; `None` when the store is dropped.
fn refuse_until_back(fates: &Receiver<Fate>, queue: &Receiver<Request>) -> Option<Sender<()>> {
    loop {
        if let Ok(Fate::Back(done)) = fates.try_recv() {
            return Some(done);
        }
        match queue.recv_timeout(LOOK) {
            Ok(request) => request.write.refuse(&StoreError::Moving),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
}
