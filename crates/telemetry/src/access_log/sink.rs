//! The side of the access log that lives on a data core.

use std::fmt;
use std::mem;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};

use crate::SharedCounter;

/// A buffer is handed over when it holds this much.
pub(super) const BUFFER: usize = 16 * 1024;
/// Buffers kept for reuse.
const SPARE: usize = 64;

/// What a [`Sink`] sends to the writer thread.
pub(super) enum Message {
    /// Complete lines and how many there are.
    Lines(Vec<u8>, u64),
    /// Look at the flags.
    Wake,
}

/// State shared by the sinks and the writer thread.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) counts: Arc<Counts>,
    spare: Mutex<Vec<Vec<u8>>>,
}

/// How many lines went which way since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Lines written to the file.
    pub written: SharedCounter,
    /// Lines dropped because the writer could not keep up.
    pub dropped: SharedCounter,
    /// Failed attempts to write or open the file.
    pub errors: SharedCounter,
}

/// Collects the lines of one core. Cloning makes an empty sink for another core.
pub struct Sink {
    buffer: Vec<u8>,
    lines: u64,
    channel: SyncSender<Message>,
    shared: Arc<Shared>,
}

impl Sink {
    pub(super) const fn new(channel: SyncSender<Message>, shared: Arc<Shared>) -> Self {
        Self { buffer: Vec::new(), lines: 0, channel, shared }
    }

    /// Adds one line; `write` appends it (see [`Format::write`](super::Format::write)). Hands the
    /// buffer over when it is full. Never waits.
    pub fn line(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.buffer.capacity() == 0 {
            self.buffer = self.shared.take_buffer();
        }
        write(&mut self.buffer);
        self.lines += 1;
        if self.buffer.len() >= BUFFER {
            self.flush();
        }
    }

    /// Hands over what has been collected. The core calls this every few seconds. Never waits.
    pub fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let lines = mem::take(&mut self.lines);
        let message = Message::Lines(mem::take(&mut self.buffer), lines);
        if let Err(error) = self.channel.try_send(message) {
            self.shared.counts.dropped.add(lines);
            let (std::sync::mpsc::TrySendError::Full(message)
            | std::sync::mpsc::TrySendError::Disconnected(message)) = error;
            if let Message::Lines(mut buffer, _) = message {
                buffer.clear();
                self.buffer = buffer;
            }
        }
    }
}

impl Clone for Sink {
    fn clone(&self) -> Self {
        Self::new(self.channel.clone(), Arc::clone(&self.shared))
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.flush();
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").field("lines", &self.lines).finish_non_exhaustive()
    }
}

impl Shared {
    /// A used buffer, or a new one. A core that finds the pool busy allocates instead of waiting.
    fn take_buffer(&self) -> Vec<u8> {
        let spare = self.spare.try_lock().ok().and_then(|mut spare| spare.pop());
        spare.unwrap_or_else(|| Vec::with_capacity(BUFFER + BUFFER / 4))
    }

    /// Called by the writer thread when a buffer is on disk.
    pub(super) fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        if let Ok(mut spare) = self.spare.lock()
            && spare.len() < SPARE
            && buffer.capacity() <= 4 * BUFFER
        {
            spare.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn sink(capacity: usize) -> (Sink, mpsc::Receiver<Message>) {
        let (sender, receiver) = mpsc::sync_channel(capacity);
        (Sink::new(sender, Arc::default()), receiver)
    }

    fn text(receiver: &mpsc::Receiver<Message>) -> Option<(String, u64)> {
        match receiver.try_recv().ok()? {
            Message::Lines(bytes, lines) => Some((String::from_utf8(bytes).unwrap(), lines)),
            Message::Wake => None,
        }
    }

    #[test]
    fn keeps_lines_until_flushed_or_full() {
        let (mut sink, receiver) = sink(4);
        sink.line(|out| out.extend_from_slice(b"one\n"));
        sink.line(|out| out.extend_from_slice(b"two\n"));
        assert_eq!(text(&receiver), None);
        sink.flush();
        assert_eq!(text(&receiver), Some(("one\ntwo\n".to_owned(), 2)));
        sink.flush();
        assert_eq!(text(&receiver), None, "nothing collected, nothing sent");
        sink.line(|out| out.resize(BUFFER, b'x'));
        assert_eq!(text(&receiver).unwrap().0.len(), BUFFER);
    }

    #[test]
    fn drops_and_counts_when_the_writer_is_behind() {
        let (mut sink, receiver) = sink(1);
        let mut other = sink.clone();
        sink.line(|out| out.extend_from_slice(b"kept\n"));
        sink.flush();
        for _ in 0..3 {
            other.line(|out| out.extend_from_slice(b"lost\n"));
        }
        other.flush();
        assert_eq!(sink.shared.counts.dropped.get(), 3);
        assert_eq!(text(&receiver), Some(("kept\n".to_owned(), 1)));
        other.line(|out| out.extend_from_slice(b"later\n"));
        drop(other);
        assert_eq!(text(&receiver), Some(("later\n".to_owned(), 1)), "drop flushes");
    }

    #[test]
    fn buffers_are_used_again() {
        let shared = Shared::default();
        let mut buffer = Vec::with_capacity(BUFFER * 2);
        buffer.push(1);
        shared.give_back(buffer);
        let again = shared.take_buffer();
        assert!(again.is_empty());
        assert_eq!(again.capacity(), BUFFER * 2);
    }
}
