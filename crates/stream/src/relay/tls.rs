//! A relay with TLS on one side or both: the same state machine, with rustls between socket and
//! scratch buffer. While it is idle it owns nothing but the states of its connections.

use std::io;

use headgate_net::Socket;
use headgate_net::tls::Connection;
use headgate_net::tls::transfer::{
    self, CIPHERTEXT, Flushed, Next, PLAINTEXT, ReadError, flush, is_readable,
};

use super::direction::{Progress, Pumped, Terms};

/// Reads in one turn before other sessions get their share.
const READS_PER_TURN: usize = 8;
/// Empty buffers kept for the next short write.
const SPARE: usize = 16;

/// Buffers of a core; made when the first TLS session is relayed.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    cipher: Vec<u8>,
    plain: Vec<u8>,
    spare: Vec<Vec<u8>>,
}

impl Buffers {
    fn prepare(&mut self) {
        if self.plain.is_empty() {
            self.cipher = vec![0; CIPHERTEXT];
            self.plain = vec![0; PLAINTEXT];
        }
    }

    /// Frees the buffers that wait for their next use.
    pub(super) fn drop_spare(&mut self) {
        self.spare = Vec::new();
    }

    fn give_back(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < SPARE {
            buffer.clear();
            self.spare.push(buffer);
        }
    }
}

/// The TLS of a relay.
#[derive(Debug)]
pub(super) struct Tls {
    client: Option<Box<Connection>>,
    server: Option<Box<Connection>>,
    up: Flow,
    down: Flow,
}

/// What one step did.
pub(super) struct Stepped {
    pub(super) up: Progress,
    pub(super) down: Progress,
}

/// One direction.
#[derive(Debug, Default)]
struct Flow {
    /// Bytes that a plain sink did not take, and how many of them it has taken since.
    pending: Option<(Vec<u8>, usize)>,
    source: Source,
    /// The sink was told that nothing more comes; the telling may still be on its way.
    is_told: bool,
    is_finished: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Source {
    #[default]
    Open,
    Finished,
    /// It ended without saying so.
    Truncated,
}

/// One side: its socket, and TLS on it.
struct Side<'a> {
    socket: &'a Socket,
    tls: Option<&'a mut Connection>,
}

impl Tls {
    /// TLS on at least one side; `first` goes to the server before anything else.
    pub(super) fn new(
        client: Option<Box<Connection>>,
        mut server: Option<Box<Connection>>,
        first: Vec<u8>,
    ) -> Self {
        let mut up = Flow::default();
        match &mut server {
            Some(server) => drop(transfer::write(server, &first)),
            None if first.is_empty() => {}
            None => up.pending = Some((first, 0)),
        }
        Self { client, server, up, down: Flow::default() }
    }

    /// Whether a side ended its stream without a `close_notify`.
    pub(super) fn was_truncated(&self) -> bool {
        self.up.source == Source::Truncated || self.down.source == Source::Truncated
    }

    /// Bytes of memory that wait for a receiver.
    pub(super) fn held(&self) -> usize {
        let pending = [&self.up, &self.down].into_iter().filter_map(|flow| flow.pending.as_ref());
        let pending: usize = pending.map(|(buffer, _)| buffer.capacity()).sum();
        let sides = [&self.client, &self.server].into_iter().flatten();
        pending + sides.filter(|side| side.wants_write()).count() * CIPHERTEXT
    }

    /// Moves what can be moved in both directions.
    pub(super) fn step(
        &mut self,
        client: &Socket,
        server: &Socket,
        buffers: &mut Buffers,
        (up_terms, down_terms): (&mut Terms<'_>, &mut Terms<'_>),
    ) -> Stepped {
        buffers.prepare();
        let mut client = Side { socket: client, tls: self.client.as_deref_mut() };
        let mut server = Side { socket: server, tls: self.server.as_deref_mut() };
        // Answers of rustls itself (key updates, tickets) belong to no direction.
        let up = match client.flush() {
            Err(_) => Progress::of(Pumped::SourceReset),
            Ok(_) => {
                let is_last = self.down.is_finished;
                self.up.pump(&mut client, &mut server, buffers, is_last, up_terms)
            }
        };
        let down = match server.flush() {
            Err(_) => Progress::of(Pumped::SourceReset),
            Ok(_) => {
                let is_last = self.up.is_finished;
                self.down.pump(&mut server, &mut client, buffers, is_last, down_terms)
            }
        };
        Stepped { up, down }
    }

    /// Gives buffers back when the relay ends.
    pub(super) fn release(self, buffers: &mut Buffers) {
        for flow in [self.up, self.down] {
            if let Some((buffer, _)) = flow.pending {
                buffers.give_back(buffer);
            }
        }
    }
}

impl Side<'_> {
    fn flush(&mut self) -> io::Result<Flushed> {
        match &mut self.tls {
            Some(tls) => flush(tls, self.socket),
            None => Ok(Flushed::All),
        }
    }

    fn has_something(&mut self) -> bool {
        self.socket.is_readable() || self.tls.as_mut().is_some_and(|tls| is_readable(tls))
    }

    /// Bytes read into `plain`, and what is behind them. No more than `most` bytes are taken off the
    /// socket; the plaintext may be more, because a record is only readable whole.
    fn read(
        &mut self,
        cipher: &mut [u8],
        plain: &mut [u8],
        most: usize,
    ) -> Result<(usize, Next), Pumped> {
        let most = most.min(CIPHERTEXT);
        let cipher = cipher.get_mut(..most).unwrap_or_default();
        let Some(tls) = &mut self.tls else {
            let room = plain.get_mut(..most).unwrap_or_default();
            return match self.socket.read(room) {
                Ok(0) => Ok((0, Next::Closed)),
                Ok(count) => Ok((count, Next::More)),
                Err(error) => Err(source_ended(&error)),
            };
        };
        match transfer::read(tls, self.socket, cipher, plain) {
            Ok(read) => Ok(read),
            Err(ReadError::Io(error)) => Err(source_ended(&error)),
            Err(ReadError::Tls(error)) => {
                tracing::info!("TLS connection broken: {error}");
                let _ = flush(tls, self.socket); // the alert
                Err(Pumped::SourceReset)
            }
        }
    }
}

impl Flow {
    fn pump(
        &mut self,
        source: &mut Side<'_>,
        sink: &mut Side<'_>,
        buffers: &mut Buffers,
        is_last: bool,
        terms: &mut Terms<'_>,
    ) -> Progress {
        let mut progress = Progress::of(Pumped::MoreToDo);
        for _ in 0..READS_PER_TURN {
            if let Err(end) = self.turn(source, sink, buffers, is_last, terms, &mut progress) {
                progress.end = end;
                break;
            }
        }
        progress
    }

    /// One read and what follows from it; an error when the direction cannot go on now.
    fn turn(
        &mut self,
        source: &mut Side<'_>,
        sink: &mut Side<'_>,
        buffers: &mut Buffers,
        is_last: bool,
        terms: &mut Terms<'_>,
        progress: &mut Progress,
    ) -> Result<(), Pumped> {
        if self.is_finished {
            let is_broken = source.socket.has_error();
            return Err(if is_broken { Pumped::SourceReset } else { Pumped::Finished });
        }
        if let Err(blocked) = self.flush(sink, buffers, progress) {
            let is_broken = blocked == Pumped::Waiting && source.socket.has_error();
            return Err(if is_broken { Pumped::SourceReset } else { blocked });
        }
        if self.source != Source::Open {
            return self.finish(sink, is_last);
        }
        if !source.has_something() {
            return Err(Pumped::Waiting);
        }
        let most = terms.allowance(source.socket)?;
        let Buffers { cipher, plain, spare } = buffers;
        let (count, next) = source.read(cipher, plain, most)?;
        progress.read += count as u64;
        terms.spend(count);
        let bytes = plain.get(..count).unwrap_or_default();
        if !bytes.is_empty() {
            if let Some(tap) = &terms.tap {
                tap.push(bytes);
            }
            self.pass_on(sink, bytes, spare, progress)?;
        }
        match next {
            Next::More => {}
            Next::Closed => self.source = Source::Finished,
            Next::Truncated => self.source = Source::Truncated,
        }
        Ok(())
    }

    /// Gives bytes to the sink; what it does not take at once is kept.
    fn pass_on(
        &mut self,
        sink: &mut Side<'_>,
        bytes: &[u8],
        spare: &mut Vec<Vec<u8>>,
        progress: &mut Progress,
    ) -> Result<(), Pumped> {
        if let Some(tls) = &mut sink.tls {
            transfer::write(tls, bytes).map_err(|error| sink_ended(&error))?;
            progress.written += bytes.len() as u64;
            return flush(tls, sink.socket).map(drop).map_err(|error| sink_ended(&error));
        }
        let taken = if sink.socket.is_writable() {
            match sink.socket.write(bytes) {
                Ok(taken) => taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(_) => return Err(Pumped::SinkReset),
            }
        } else {
            0
        };
        progress.written += taken as u64;
        if let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            let mut buffer = spare.pop().unwrap_or_default();
            buffer.extend_from_slice(rest);
            self.pending = Some((buffer, 0));
        }
        Ok(())
    }

    /// Sends what is on its way; an error says why something still is.
    fn flush(
        &mut self,
        sink: &mut Side<'_>,
        buffers: &mut Buffers,
        progress: &mut Progress,
    ) -> Result<(), Pumped> {
        if sink.flush().map_err(|error| sink_ended(&error))? == Flushed::Blocked {
            return Err(Pumped::Waiting);
        }
        while let Some((buffer, done)) = &mut self.pending {
            if !sink.socket.is_writable() {
                return Err(Pumped::Waiting);
            }
            let rest = buffer.get(*done..).unwrap_or_default();
            let count = sink.socket.write(rest).map_err(|error| sink_ended(&error))?;
            *done += count;
            progress.written += count as u64;
            if *done == buffer.len()
                && let Some((buffer, _)) = self.pending.take()
            {
                buffers.give_back(buffer);
            }
        }
        Ok(())
    }

    /// Tells the sink that nothing more comes. A stream that was cut is passed on as one: without
    /// `close_notify`.
    fn finish(&mut self, sink: &mut Side<'_>, is_last: bool) -> Result<(), Pumped> {
        if let Some(tls) = &mut sink.tls
            && !self.is_told
        {
            self.is_told = true;
            if self.source == Source::Finished {
                tls.send_close_notify();
            }
            if flush(tls, sink.socket).map_err(|error| sink_ended(&error))? == Flushed::Blocked {
                return Err(Pumped::Waiting);
            }
        }
        if !is_last {
            sink.socket.finish_writing();
        }
        self.is_finished = true;
        Err(Pumped::Finished)
    }
}

fn source_ended(error: &io::Error) -> Pumped {
    match error.kind() {
        io::ErrorKind::WouldBlock => Pumped::Waiting,
        _ => Pumped::SourceReset,
    }
}

fn sink_ended(error: &io::Error) -> Pumped {
    match error.kind() {
        io::ErrorKind::WouldBlock => Pumped::Waiting,
        _ => Pumped::SinkReset,
    }
}
