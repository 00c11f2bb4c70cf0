//! The thread that owns the access log: a file, or the socket towards a syslog server.

use std::fmt;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::sink::{Counts, Message, Shared, Sink};
use super::syslog::{Link, Syslog};
use crate::LogLimit;
use crate::output::{self, from_line_start};

/// Buffers that may wait for the writer thread: 4 MiB of lines.
const QUEUE: usize = 256;
/// Pause after a failed write.
const RETRY: Duration = Duration::from_secs(1);
/// How long `Drop` waits for the thread when the file cannot be written.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// Owns the log. Cores write through [`Sink`]s.
///
/// Dropping it writes everything handed over so far. Drop (or flush) the sinks first.
pub struct Writer {
    channel: SyncSender<Message>,
    shared: Arc<Shared>,
    flags: Arc<Flags>,
    thread: Thread,
    ended: Receiver<()>,
}

#[derive(Default)]
struct Flags {
    reopen: AtomicBool,
    stop: AtomicBool,
}

impl Writer {
    /// Opens `path` for appending and starts the thread. Missing directories are created.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().to_owned();
        let file = output::open(&path)?;
        Self::start(Output::File(path, file))
    }

    /// Starts the thread that sends lines to a syslog server. Whether that is there shows later.
    pub fn to_syslog(to: Syslog) -> io::Result<Self> {
        Self::start(Output::Syslog(Link::new(to)))
    }

    fn start(output: Output) -> io::Result<Self> {
        let (channel, messages) = mpsc::sync_channel(QUEUE);
        let (end, ended) = mpsc::sync_channel(1);
        let shared = Arc::new(Shared::default());
        let flags = Arc::new(Flags::default());
        let mut worker = Worker {
            output,
            shared: Arc::clone(&shared),
            flags: Arc::clone(&flags),
            limit: LogLimit::per_minute(6),
        };
        let handle = thread::Builder::new().name("access-log".into()).spawn(move || {
            worker.run(&messages);
            let _ = end.send(());
        })?;
        Ok(Self { channel, shared, flags, thread: handle.thread().clone(), ended })
    }

    /// A sink for one core.
    #[must_use]
    pub fn sink(&self) -> Sink {
        Sink::new(self.channel.clone(), Arc::clone(&self.shared))
    }

    /// Closes the file and opens its path again, after what was handed over before (`SIGUSR1`).
    /// Returns at once.
    pub fn reopen(&self) {
        self.flags.reopen.store(true, Ordering::Release);
        self.wake();
    }

    /// Counters for the metrics endpoint.
    #[must_use]
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.shared.counts)
    }

    /// Makes the thread look at the flags. When the queue is full it is about to do so anyway.
    fn wake(&self) {
        let _ = self.channel.try_send(Message::Wake);
        self.thread.unpark();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.flags.stop.store(true, Ordering::Release);
        self.wake();
        // A pipe nobody reads would hold the thread in write(2) for ever; the process has to end.
        let _ = self.ended.recv_timeout(STOP_WAIT);
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("counts", &self.shared.counts).finish_non_exhaustive()
    }
}

enum Output {
    File(PathBuf, File),
    Syslog(Link),
}

struct Worker {
    output: Output,
    shared: Arc<Shared>,
    flags: Arc<Flags>,
    limit: LogLimit,
}

impl Worker {
    fn run(&mut self, messages: &Receiver<Message>) {
        while let Ok(message) = messages.recv() {
            self.handle(message);
            if self.flags.reopen.load(Ordering::Acquire) || self.is_stopping() {
                // First what was queued before the request; its amount is bounded by the queue.
                messages.try_iter().take(QUEUE).for_each(|message| self.handle(message));
                self.reopen_if_asked();
            }
            if self.is_stopping() {
                messages.try_iter().for_each(|message| self.handle(message));
                return;
            }
        }
    }

    fn handle(&mut self, message: Message) {
        if let Message::Lines(buffer, lines) = message {
            if matches!(self.output, Output::Syslog(_)) {
                self.send(&buffer);
            } else if self.write(&buffer) {
                self.shared.counts.written.add(lines);
            } else {
                self.shared.counts.dropped.add(lines);
            }
            self.shared.give_back(buffer);
        }
    }

    /// Sends each line of a buffer, once.
    fn send(&mut self, buffer: &[u8]) {
        for line in buffer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let Output::Syslog(link) = &mut self.output else { return };
            match link.send(line) {
                Ok(()) => self.shared.counts.written.add(1),
                Err(error) => {
                    self.shared.counts.dropped.add(1);
                    self.failed(&error);
                }
            }
        }
    }

    /// Writes a buffer, retrying until it is written. Gives up only when the program stops.
    fn write(&mut self, buffer: &[u8]) -> bool {
        let mut rest = buffer;
        while !rest.is_empty() {
            let Output::File(_, file) = &mut self.output else { return false };
            match file.write(rest) {
                Ok(0) => self.failed(&io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    rest = rest.get(written..).unwrap_or_default();
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => self.failed(&error),
            }
            if self.is_stopping() {
                return false;
            }
            thread::park_timeout(RETRY);
            if self.reopen_if_asked() {
                rest = from_line_start(buffer, rest);
            }
        }
        true
    }

    fn reopen_if_asked(&mut self) -> bool {
        if !self.flags.reopen.swap(false, Ordering::AcqRel) {
            return false;
        }
        let path = match &mut self.output {
            Output::File(path, _) => path.clone(),
            Output::Syslog(link) => {
                link.reopen();
                return true;
            }
        };
        match output::open(&path) {
            Ok(file) => {
                self.output = Output::File(path, file);
                true
            }
            Err(error) => {
                self.failed(&error);
                false
            }
        }
    }

    fn failed(&self, error: &io::Error) {
        self.shared.counts.errors.add(1);
        if let Some(suppressed) = self.limit.check(Instant::now()) {
            match &self.output {
                Output::File(path, _) => {
                    let path = path.display();
                    tracing::error!(%path, %error, suppressed, "access log cannot be written");
                }
                Output::Syslog(link) => {
                    let server = &link.to.server;
                    tracing::error!(%server, %error, suppressed, "access log cannot be sent");
                }
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.flags.stop.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests;
