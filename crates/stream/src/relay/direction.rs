//! One direction of a relay: read from a source, write to a sink, stop when either cannot go on.
//!
//! Small traffic is copied through the core's scratch buffer. A direction that keeps delivering
//! large reads continues through a pipe (splice), and goes back to copying when it calms down.

use std::io;

use headgate_net::Socket;
use headgate_net::splice::{Pipe, Pipes};

use crate::mirror::Tap;
use crate::throttle::Lane;
use crate::throttle::bucket;

/// Size of the scratch buffer and of the buffers for what a short write left, bytes.
const BUFFER: usize = 64 * 1024;
/// Reads in one turn before other sessions get their share.
const READS_PER_TURN: usize = 8;
/// Empty buffers kept for the next short write.
const SPARE: usize = 64;
/// Most pipes of a core.
const PIPES: usize = 32;
/// A read of at least this many bytes is large.
const LARGE: usize = 32 * 1024;
/// Consecutive large reads after which a pipe is taken.
const LARGE_READS: u8 = 8;
/// A transfer below this many bytes is small.
const SMALL: usize = 16 * 1024;
/// Consecutive small transfers after which the pipe is given back.
const SMALL_TRANSFERS: u8 = 4;

/// Buffers and pipes of a core.
#[derive(Debug)]
pub(super) struct Buffers {
    scratch: Vec<u8>,
    spare: Vec<Vec<u8>>,
    pipes: Pipes,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { scratch: vec![0; BUFFER], spare: Vec::new(), pipes: Pipes::new(PIPES) }
    }
}

impl Buffers {
    /// The bytes of the only read that a [`Direction::pump`] made, `count` of them; nothing if one
    /// read cannot have made so many.
    pub(super) fn last_read(&self, count: u64) -> &[u8] {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        self.scratch.get(..count).unwrap_or_default()
    }

    fn keep(spare: &mut Vec<Vec<u8>>, rest: &[u8]) -> Vec<u8> {
        let mut buffer = spare.pop().unwrap_or_else(|| Vec::with_capacity(BUFFER));
        buffer.extend_from_slice(rest);
        buffer
    }

    /// Frees the buffers that wait for their next use.
    pub(super) fn drop_spare(&mut self) {
        self.spare = Vec::new();
    }

    fn give_back(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < SPARE && buffer.capacity() >= BUFFER {
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
    /// Its bandwidth limit lets nothing pass now; a timer tells.
    Paused,
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

impl Progress {
    /// Nothing was moved.
    pub(super) const fn of(end: Pumped) -> Self {
        Self { read: 0, written: 0, end }
    }
}

/// What a direction is subject to besides its sockets: nothing, for most sessions.
#[derive(Debug, Default)]
pub(super) struct Terms<'a> {
    /// Its bandwidth limits.
    pub(super) lane: Option<&'a mut Lane>,
    /// Its bytes are copied here; then they cannot be spliced.
    pub(super) tap: Option<Tap<'a>>,
}

impl Terms<'_> {
    /// How many bytes may be read from `source` now.
    pub(super) fn allowance(&mut self, source: &Socket) -> Result<usize, Pumped> {
        let Some(lane) = &mut self.lane else { return Ok(usize::MAX) };
        match lane.allowance(bucket::now()) {
            // A source that broke meanwhile would otherwise go unnoticed.
            0 => Err(if source.has_error() { Pumped::SourceReset } else { Pumped::Paused }),
            bytes => Ok(usize::try_from(bytes).unwrap_or(usize::MAX)),
        }
    }

    /// Bytes were read.
    pub(super) fn spend(&mut self, bytes: usize) {
        if let Some(lane) = &mut self.lane {
            lane.spend(bytes as u64, bucket::now());
        }
    }
}

/// State of one direction; without bytes on their way it owns no memory.
#[derive(Debug, Default)]
pub(super) struct Direction {
    /// Bytes that the sink did not take, and how many of them it has taken since.
    pending: Option<(Vec<u8>, usize)>,
    /// In use while the direction carries bulk.
    pipe: Option<Pipe>,
    /// Consecutive large reads while copying, small transfers while splicing.
    streak: u8,
    source_finished: bool,
    sink_finished: bool,
}

impl Direction {
    /// A direction with bytes on their way already.
    pub(super) fn starting_with(bytes: Vec<u8>) -> Self {
        Self { pending: (!bytes.is_empty()).then_some((bytes, 0)), ..Self::default() }
    }

    /// Moves bytes until one of the sockets is not ready or the budget is used up. `is_last`: the
    /// other direction has finished, so closing the sockets will tell the sink.
    pub(super) fn pump(
        &mut self,
        source: &Socket,
        sink: &Socket,
        buffers: &mut Buffers,
        is_last: bool,
        terms: &mut Terms<'_>,
    ) -> Progress {
        let mut progress = Progress { read: 0, written: 0, end: Pumped::MoreToDo };
        for _ in 0..READS_PER_TURN {
            if self.is_at_rest() && !source.is_readable() {
                progress.end = Pumped::Waiting;
                break;
            }
            if let Err(end) = self.turn(source, sink, buffers, is_last, terms, &mut progress) {
                progress.end = end;
                break;
            }
        }
        progress
    }

    /// Whether there is nothing to do until the source has something.
    const fn is_at_rest(&self) -> bool {
        self.pending.is_none() && self.pipe.is_none() && !self.source_finished
    }

    /// Whether everything was passed on, the end included.
    pub(super) const fn is_finished(&self) -> bool {
        self.sink_finished
    }

    /// Bytes of memory that it owns, in the process or in a pipe.
    pub(super) fn held(&self) -> usize {
        let pending = self.pending.as_ref().map_or(0, |(buffer, _)| buffer.capacity());
        pending + self.pipe.as_ref().map_or(0, Pipe::filled)
    }

    /// Gives buffer and pipe back when the relay ends.
    pub(super) fn release(self, buffers: &mut Buffers) {
        if let Some((buffer, _)) = self.pending {
            buffers.give_back(buffer);
        }
        if let Some(pipe) = self.pipe {
            buffers.pipes.give_back(pipe);
        }
    }

    /// One read and what follows from it; an error when the direction cannot go on now.
    fn turn(
        &mut self,
        source: &Socket,
        sink: &Socket,
        buffers: &mut Buffers,
        is_last: bool,
        terms: &mut Terms<'_>,
        progress: &mut Progress,
    ) -> Result<(), Pumped> {
        if self.sink_finished {
            // A reset after the end of the stream still ends the session.
            return Err(if source.has_error() { Pumped::SourceReset } else { Pumped::Finished });
        }
        if let Err(blocked) = self.flush(sink, buffers, progress) {
            // A source that broke while the sink blocks would otherwise go unnoticed.
            let broke = blocked == Pumped::Waiting && source.has_error();
            return Err(if broke { Pumped::SourceReset } else { blocked });
        }
        if self.source_finished {
            if !is_last {
                sink.finish_writing();
            }
            self.sink_finished = true;
            return Err(Pumped::Finished);
        }
        if !source.is_readable() {
            return Err(Pumped::Waiting);
        }
        let most = terms.allowance(source)?;
        let before = progress.read;
        let result = match &mut self.pipe {
            Some(_) => self.splice(source, sink, buffers, most, progress),
            None => self.copy(source, sink, buffers, (most, terms.tap), progress),
        };
        terms.spend((progress.read - before) as usize);
        result
    }

    fn copy(
        &mut self,
        source: &Socket,
        sink: &Socket,
        buffers: &mut Buffers,
        (most, tap): (usize, Option<Tap<'_>>),
        progress: &mut Progress,
    ) -> Result<(), Pumped> {
        let room = buffers.scratch.get_mut(..most.min(BUFFER)).unwrap_or_default();
        let count = source.read(room).map_err(source_ended)?;
        if count == 0 {
            self.source_finished = true;
            return Ok(());
        }
        progress.read += count as u64;
        let Buffers { scratch, spare, pipes } = buffers;
        let bytes = scratch.get(..count).unwrap_or_default();
        if let Some(tap) = &tap {
            tap.push(bytes);
        }
        let taken = if sink.is_writable() { or_zero(sink.write(bytes))? } else { 0 };
        progress.written += taken as u64;
        if let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            self.pending = Some((Buffers::keep(spare, rest), 0));
        }
        self.streak = if count >= LARGE { self.streak.saturating_add(1) } else { 0 };
        if self.streak == LARGE_READS && tap.is_none() {
            self.streak = 0;
            self.pipe = pipes.take();
        }
        Ok(())
    }

    fn splice(
        &mut self,
        source: &Socket,
        sink: &Socket,
        buffers: &mut Buffers,
        most: usize,
        progress: &mut Progress,
    ) -> Result<(), Pumped> {
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        let count = pipe.fill(source, most).map_err(source_ended)?;
        if count == 0 {
            self.source_finished = true;
            return Ok(());
        }
        progress.read += count as u64;
        if sink.is_writable() {
            progress.written += or_zero(pipe.drain(sink))? as u64;
        }
        self.streak = if count < SMALL { self.streak.saturating_add(1) } else { 0 };
        if self.streak >= SMALL_TRANSFERS
            && let Some(pipe) = self.pipe.take_if(|pipe| pipe.is_empty())
        {
            self.streak = 0;
            buffers.pipes.give_back(pipe);
        }
        Ok(())
    }

    /// Writes what is on its way; an error says why something still is.
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
            let count = sink.write(buffer.get(*done..).unwrap_or_default()).map_err(sink_ended)?;
            *done += count;
            progress.written += count as u64;
            if *done == buffer.len()
                && let Some((buffer, _)) = self.pending.take()
            {
                buffers.give_back(buffer);
            }
        }
        while let Some(pipe) = self.pipe.as_mut().filter(|pipe| !pipe.is_empty()) {
            if !sink.is_writable() {
                return Err(Pumped::Waiting);
            }
            progress.written += pipe.drain(sink).map_err(sink_ended)? as u64;
        }
        Ok(())
    }
}

fn source_ended(error: io::Error) -> Pumped {
    match error.kind() {
        io::ErrorKind::WouldBlock => Pumped::Waiting,
        _ => Pumped::SourceReset,
    }
}

fn sink_ended(error: io::Error) -> Pumped {
    match error.kind() {
        io::ErrorKind::WouldBlock => Pumped::Waiting,
        _ => Pumped::SinkReset,
    }
}

fn or_zero(written: io::Result<usize>) -> Result<usize, Pumped> {
    match written.map_err(sink_ended) {
        Err(Pumped::Waiting) => Ok(0),
        result => result,
    }
}
