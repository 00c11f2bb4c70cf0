//! One direction of a relay: read from a source, write to a sink, stop when either cannot go on.

use std::io;

use headgate_net::Socket;

/// Size of the scratch buffer and of the buffers for what a short write left, bytes.
const BUFFER: usize = 64 * 1024;
/// Reads in one turn before other sessions get their share.
const READS_PER_TURN: usize = 8;
/// Empty buffers kept for the next short write.
const SPARE: usize = 64;

/// Buffers of a core.
#[derive(Debug)]
pub(super) struct Buffers {
    scratch: Vec<u8>,
    spare: Vec<Vec<u8>>,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { scratch: vec![0; BUFFER], spare: Vec::new() }
    }
}

impl Buffers {
    fn keep(spare: &mut Vec<Vec<u8>>, rest: &[u8]) -> Vec<u8> {
        let mut buffer = spare.pop().unwrap_or_else(|| Vec::with_capacity(BUFFER));
        buffer.extend_from_slice(rest);
        buffer
    }

    fn give_back(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < SPARE {
            buffer.clear();
            self.spare.push(buffer);
        }
    }
}

/// How far a direction got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pumped {
    /// One of the sockets is not ready; its next edge tells.
    Waiting,
    /// The budget is used up.
    MoreToDo,
    /// The source finished and the sink was told.
    Finished,
    /// The source broke.
    SourceReset,
    /// The sink broke.
    SinkReset,
}

/// What one call of [`Direction::pump`] did.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    pub(super) read: u64,
    pub(super) written: u64,
    pub(super) end: Pumped,
}

/// State of one direction; without pending bytes it owns no memory.
#[derive(Debug, Default)]
pub(super) struct Direction {
    /// Bytes that the sink did not take, and how many of them it has taken since.
    pending: Option<(Vec<u8>, usize)>,
    source_finished: bool,
    sink_finished: bool,
}

impl Direction {
    pub(super) fn pump(
        &mut self,
        source: &Socket,
        sink: &Socket,
        buffers: &mut Buffers,
    ) -> Progress {
        let mut progress = Progress { read: 0, written: 0, end: Pumped::MoreToDo };
        for _ in 0..READS_PER_TURN {
            if let Some(end) = self.turn(source, sink, buffers, &mut progress) {
                progress.end = end;
                break;
            }
        }
        progress
    }

    /// Gives the buffer back when the relay ends.
    pub(super) fn release(self, buffers: &mut Buffers) {
        if let Some((buffer, _)) = self.pending {
            buffers.give_back(buffer);
        }
    }

    /// One read and what follows from it; `Some` when the direction cannot go on now.
    fn turn(
        &mut self,
        source: &Socket,
        sink: &Socket,
        buffers: &mut Buffers,
        progress: &mut Progress,
    ) -> Option<Pumped> {
        if self.sink_finished {
            // A reset after the end of the stream still ends the session.
            return Some(if source.has_error() { Pumped::SourceReset } else { Pumped::Finished });
        }
        if let Err(blocked) = self.flush(sink, buffers, progress) {
            // A source that broke while the sink blocks would otherwise go unnoticed.
            let broke = blocked == Pumped::Waiting && source.has_error();
            return Some(if broke { Pumped::SourceReset } else { blocked });
        }
        if self.source_finished {
            sink.finish_writing();
            self.sink_finished = true;
            return Some(Pumped::Finished);
        }
        if !source.is_readable() {
            return Some(Pumped::Waiting);
        }
        let count = match source.read(&mut buffers.scratch) {
            Ok(0) => {
                self.source_finished = true;
                return None;
            }
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Some(Pumped::Waiting);
            }
            Err(_) => return Some(Pumped::SourceReset),
        };
        progress.read += count as u64;
        let Buffers { scratch, spare } = buffers;
        let bytes = scratch.get(..count)?;
        let sent = if sink.is_writable() { sink.write(bytes) } else { Ok(0) };
        let taken = match sent {
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => return Some(Pumped::SinkReset),
        };
        progress.written += taken as u64;
        if let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            self.pending = Some((Buffers::keep(spare, rest), 0));
        }
        None
    }

    /// Writes what is pending; an error says why something still is.
    fn flush(
        &mut self,
        sink: &Socket,
        buffers: &mut Buffers,
        progress: &mut Progress,
    ) -> Result<(), Pumped> {
        while let Some((buffer, done)) = &mut self.pending {
            if !sink.is_writable() {
                return Err(Pumped::Waiting);
            }
            match sink.write(buffer.get(*done..).unwrap_or_default()) {
                Ok(count) => {
                    *done += count;
                    progress.written += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(Pumped::Waiting);
                }
                Err(_) => return Err(Pumped::SinkReset),
            }
            if *done == buffer.len()
                && let Some((buffer, _)) = self.pending.take()
            {
                buffers.give_back(buffer);
            }
        }
        Ok(())
    }
}
