//! One copy of a TCP session: what waits for the mirror, and the connection to it.

use std::io;
use std::sync::Arc;

use headgate_net::Socket;
use headgate_net::timer::TimerId;
use headgate_net::tls::Connection;
use headgate_net::tls::transfer::{self, CIPHERTEXT, Flushed, Next, PLAINTEXT};
use headgate_upstream::{Lease, Upstream};

use super::Ending;
use crate::session::Place;

/// Reads of answers in one turn.
const READS_PER_TURN: usize = 4;
/// Bytes given to TLS at once, so that what it holds stays bounded.
const PIECE: usize = 64 * 1024;
/// An empty buffer larger than this is given back.
const KEPT: usize = 128 * 1024;

/// Where answers go, which nobody reads.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    cipher: Vec<u8>,
    plain: Vec<u8>,
}

/// A copy.
#[derive(Debug)]
pub(super) struct Copy {
    /// Number of the session.
    pub(super) conn: u64,
    pub(super) upstream: Arc<Upstream>,
    /// Bytes that the mirror has taken.
    pub(super) sent: u64,
    /// Set when the session has ended.
    pub(super) timer: Option<TimerId>,
    /// What waits, and how much of it has been sent since.
    pending: Vec<u8>,
    done: usize,
    most: usize,
    link: Option<Link>,
    is_finished: bool,
    /// The mirror was told that nothing more comes.
    is_told: bool,
    /// The mirror said so.
    has_ended: bool,
    _place: Place,
}

#[derive(Debug)]
struct Link {
    socket: Socket,
    tls: Option<Box<Connection>>,
    _lease: Lease,
}

impl Copy {
    /// A copy that is not connected yet; at most `most` bytes wait.
    pub(super) const fn new(conn: u64, upstream: Arc<Upstream>, most: usize, place: Place) -> Self {
        Self {
            conn,
            upstream,
            sent: 0,
            timer: None,
            pending: Vec::new(),
            done: 0,
            most,
            link: None,
            is_finished: false,
            is_told: false,
            has_ended: false,
            _place: place,
        }
    }

    /// The mirror is connected.
    pub(super) fn open(&mut self, socket: Socket, tls: Option<Box<Connection>>, lease: Lease) {
        self.link = Some(Link { socket, tls, _lease: lease });
    }

    /// Takes more bytes.
    ///
    /// # Errors
    /// It is over; the bytes count as unsent.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), Ending> {
        let waiting = self.pending.len() - self.done;
        if self.done > 0 && self.pending.len() + bytes.len() > self.most {
            self.pending.drain(..self.done);
            self.done = 0;
        }
        self.pending.extend_from_slice(bytes);
        if waiting + bytes.len() > self.most {
            return Err(Ending::Behind);
        }
        self.send()
    }

    /// Sends what waits, and reads answers away.
    ///
    /// # Errors
    /// It is over.
    pub(super) fn drive(&mut self, buffers: &mut Buffers) -> Result<(), Ending> {
        self.read_away(buffers)?;
        self.send()?;
        if self.is_told && self.has_ended { Err(Ending::Complete) } else { Ok(()) }
    }

    /// The session has ended: what waits is the last.
    ///
    /// # Errors
    /// It is over.
    pub(super) fn finish(&mut self, buffers: &mut Buffers) -> Result<(), Ending> {
        self.is_finished = true;
        self.drive(buffers)
    }

    /// How it ends when nobody waits any longer. A mirror that got everything need not answer.
    pub(super) const fn ending_now(&self) -> Ending {
        match (self.is_told, &self.link) {
            (true, _) => Ending::Complete,
            (false, Some(_)) => Ending::Behind,
            (false, None) => Ending::Unreachable,
        }
    }

    /// Whether answers are left to be read away.
    pub(super) fn has_more(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.socket.is_readable()) && !self.has_ended
    }

    /// Bytes that the mirror did not get.
    pub(super) const fn unsent(&self) -> u64 {
        (self.pending.len() - self.done) as u64
    }

    /// Closes the connection; with a reset when something is missing, so that nobody takes the copy
    /// for a whole one.
    pub(super) fn close(self, ending: Ending) {
        if let Some(link) = self.link
            && ending != Ending::Complete
        {
            link.socket.reset();
        }
    }

    fn send(&mut self) -> Result<(), Ending> {
        let Some(link) = &mut self.link else { return Ok(()) };
        loop {
            let rest = self.pending.get(self.done..).unwrap_or_default();
            let count = match link.write(rest) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(Ending::Broken),
            };
            self.done += count;
            self.sent += count as u64;
            if self.done == self.pending.len() {
                break;
            }
        }
        self.pending.clear();
        self.done = 0;
        if self.pending.capacity() > KEPT {
            self.pending = Vec::new();
        }
        if self.is_finished && !self.is_told {
            match link.end() {
                Ok(()) => self.is_told = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Ending::Broken),
            }
        }
        Ok(())
    }

    fn read_away(&mut self, buffers: &mut Buffers) -> Result<(), Ending> {
        let Some(link) = &mut self.link else { return Ok(()) };
        for _ in 0..READS_PER_TURN {
            if self.has_ended || !link.socket.is_readable() {
                break;
            }
            match link.read(buffers) {
                Ok(true) => {}
                Ok(false) => self.has_ended = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return Err(Ending::Broken),
            }
        }
        Ok(())
    }
}

impl Link {
    /// Writes what fits.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return match bytes {
                [] => Ok(0),
                _ if !self.socket.is_writable() => Err(io::ErrorKind::WouldBlock.into()),
                bytes => self.socket.write(bytes),
            };
        };
        if transfer::flush(tls, &self.socket)? == Flushed::Blocked {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let piece = bytes.get(..bytes.len().min(PIECE)).unwrap_or_default();
        transfer::write(tls, piece)?;
        transfer::flush(tls, &self.socket)?;
        Ok(piece.len())
    }

    /// Says that nothing more comes.
    fn end(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            if transfer::flush(tls, &self.socket)? == Flushed::Blocked {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        self.socket.finish_writing();
        Ok(())
    }

    /// Reads answers away; `false` at their end.
    fn read(&mut self, buffers: &mut Buffers) -> io::Result<bool> {
        if buffers.plain.is_empty() {
            buffers.plain = vec![0; PLAINTEXT];
        }
        let Some(tls) = &mut self.tls else { return Ok(self.socket.read(&mut buffers.plain)? > 0) };
        if buffers.cipher.is_empty() {
            buffers.cipher = vec![0; CIPHERTEXT];
        }
        let Buffers { cipher, plain } = buffers;
        match transfer::read(tls, &self.socket, cipher, plain) {
            Ok((_, next)) => Ok(next == Next::More),
            Err(transfer::ReadError::Io(error)) => Err(error),
            Err(error) => Err(io::Error::other(error.to_string())),
        }
    }
}
