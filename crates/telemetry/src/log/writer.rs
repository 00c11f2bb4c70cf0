//! The thread that writes the process log, and the bounded queue in front of it.
//!
//! The threads that log only copy their line into memory; none of them ever waits for the file. A
//! pipe nobody reads therefore costs lines, which are counted and reported, but no traffic.

use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

use super::look::Look;
use crate::SharedCounter;
use crate::output::from_line_start;

/// Bytes of lines that may wait, besides those the thread is writing.
pub(super) const QUEUE: usize = 1024 * 1024;
/// Pause after a failed write.
const RETRY: Duration = Duration::from_secs(1);
/// Pause when a non-blocking descriptor takes no more; its reader is slow, nothing is broken.
const RETRY_FULL: Duration = Duration::from_millis(10);

/// What lines are written to.
pub(super) type Output = Box<dyn Write + Send>;

/// Takes the lines of all threads. The writer thread ends with the last clone.
#[derive(Clone)]
pub(super) struct Sink(Arc<Inlet>);

/// Closes the queue when the last [`Sink`] is gone.
struct Inlet(Arc<Queue>);

struct Queue {
    limit: usize,
    state: Mutex<State>,
    work: Condvar,
    written: Condvar,
    /// Lines dropped since the start.
    dropped: SharedCounter,
}

/// Everything under the lock, which is held to move memory and never during I/O.
struct State {
    /// Lines that wait for the thread.
    lines: Vec<u8>,
    /// Lines dropped after `lines`. While there are any, nothing more is queued, so that the gap is
    /// where the report says it is.
    dropped: u64,
    /// The output to use from this position in `lines` on.
    replacement: Option<(usize, Output)>,
    /// Lines (dropped ones too) and replacements so far, and how many of them are done.
    queued: u64,
    done: u64,
    /// The thread sleeps until something is queued.
    is_idle: bool,
    is_closed: bool,
}

impl Sink {
    /// Starts the thread. At most `limit` bytes of lines wait for it.
    pub(super) fn start(output: Output, look: Look, limit: usize) -> io::Result<Self> {
        let queue = Arc::new(Queue::new(limit));
        let worker = Worker { queue: Arc::clone(&queue), output, replacement: None, look };
        thread::Builder::new().name("process-log".into()).spawn(move || worker.run())?;
        Ok(Self(Arc::new(Inlet(queue))))
    }

    /// Uses `output` for the lines that are logged from now on. Of two replacements the thread has
    /// not reached yet only the later one counts.
    pub(super) fn replace(&self, output: Output) {
        let queue = &self.0.0;
        let mut state = queue.lock();
        let position = state.replacement.take().map_or(state.lines.len(), |(position, _)| position);
        state.replacement = Some((position, output));
        state.queued += 1;
        drop(state);
        queue.work.notify_one();
    }

    /// Lines dropped since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.0.0.dropped.get()
    }

    /// Waits until what has been queued so far is written; `false` when `limit` passed before.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let queue = &self.0.0;
        let state = queue.lock();
        let target = state.queued;
        let is_open = |state: &mut State| state.done < target;
        let waited = queue.written.wait_timeout_while(state, limit, is_open);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

/// The subscriber hands over whole lines. A dropped line is no error: the subscriber could only
/// report it on standard error.
impl Write for &Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.0.lock().is_closed = true;
        self.0.work.notify_one();
    }
}

impl Queue {
    /// Both buffers, this one and the worker's, are allocated once: a line allocates nothing.
    fn new(limit: usize) -> Self {
        let state = State {
            lines: Vec::with_capacity(limit),
            dropped: 0,
            replacement: None,
            queued: 0,
            done: 0,
            is_idle: false,
            is_closed: false,
        };
        Self {
            limit,
            state: Mutex::new(state),
            work: Condvar::new(),
            written: Condvar::new(),
            dropped: SharedCounter::new(),
        }
    }

    fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        state.queued += 1;
        if state.dropped > 0 || line.len() > self.limit - state.lines.len() {
            state.dropped += 1;
            self.dropped.increment();
        } else {
            state.lines.extend_from_slice(line);
        }
        // Waking is a system call even when nobody sleeps.
        let is_idle = mem::take(&mut state.is_idle);
        drop(state);
        if is_idle {
            self.work.notify_one();
        }
    }

    /// Ends what was taken last and waits for more. Puts the lines into `lines`; `None` when the
    /// queue is closed and empty.
    fn take(&self, lines: &mut Vec<u8>, done: u64) -> Option<Batch> {
        lines.clear();
        let mut state = self.lock();
        if state.done < done {
            state.done = done;
            self.written.notify_all();
        }
        while state.queued == state.done {
            if state.is_closed {
                return None;
            }
            state.is_idle = true;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.is_idle = false;
        mem::swap(&mut state.lines, lines);
        let dropped = mem::take(&mut state.dropped);
        Some(Batch { replacement: state.replacement.take(), dropped, last: state.queued })
    }

    /// Waits after a failed write. A new output ends the wait.
    fn pause(&self, pause: Duration) -> Next {
        let is_same = |state: &mut State| state.replacement.is_none() && !state.is_closed;
        let waited = self.work.wait_timeout_while(self.lock(), pause, is_same);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match state.replacement.take() {
            Some((_, output)) => Next::Replace(output),
            None if state.is_closed => Next::GiveUp,
            None => Next::Retry,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was queued, besides the lines.
struct Batch {
    replacement: Option<(usize, Output)>,
    dropped: u64,
    last: u64,
}

/// What to do after a failed write.
enum Next {
    Retry,
    Replace(Output),
    GiveUp,
}

struct Worker {
    queue: Arc<Queue>,
    output: Output,
    /// The output for the lines behind those being written.
    replacement: Option<Output>,
    look: Look,
}

impl Worker {
    fn run(mut self) {
        let mut lines = Vec::with_capacity(self.queue.limit);
        let mut done = 0;
        while let Some(batch) = self.queue.take(&mut lines, done) {
            let position = batch.replacement.as_ref().map_or(0, |(position, _)| *position);
            self.replacement = batch.replacement.map(|(_, output)| output);
            let (before, after) = lines.split_at(position.min(lines.len()));
            self.write(before);
            if let Some(output) = self.replacement.take() {
                self.output = output;
            }
            self.write(after);
            if batch.dropped > 0 {
                self.write(self.look.dropped(batch.dropped).as_bytes());
            }
            done = batch.last;
        }
    }

    /// Writes whole lines, retrying until they are written or the log is closed.
    fn write(&mut self, lines: &[u8]) {
        let mut rest = lines;
        while !rest.is_empty() {
            let pause = match self.output.write(rest) {
                Ok(0) => RETRY,
                Ok(written) => {
                    rest = rest.get(written..).unwrap_or_default();
                    continue;
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => continue,
                    io::ErrorKind::WouldBlock => RETRY_FULL,
                    _ => RETRY,
                },
            };
            let next = self.replacement.take().map(Next::Replace);
            match next.unwrap_or_else(|| self.queue.pause(pause)) {
                Next::Retry => {}
                Next::Replace(output) => {
                    self.output = output;
                    rest = from_line_start(lines, rest);
                }
                Next::GiveUp => return,
            }
        }
    }
}

#[cfg(test)]
mod tests;
