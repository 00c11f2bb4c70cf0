//! The client as a plugin sees it in its preread phase: bytes to peek at, and time.

use std::io;
use std::pin::pin;
use std::time::Duration;

use headgate_net::tls::Connection;
use headgate_net::tls::transfer::{self, Next, ReadError};
use headgate_net::{EventLoop, Socket};

/// Most bytes that are peeked at, as in the reference's preread buffer (`spec/routing.md`,
/// section 6).
pub(crate) const PREREAD_SIZE: usize = 16 * 1024;
/// Longest wait for bytes of the client in one session, all plugins together.
pub(crate) const PREREAD_LIMIT: Duration = Duration::from_secs(30);
/// Bytes read at once.
const CHUNK: usize = 4096;

/// Why there are fewer bytes than asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeekError {
    /// The client finished sending.
    #[error("the client finished")]
    Ended,
    /// The client did not send them in time.
    #[error("no answer of the client within {PREREAD_LIMIT:?}")]
    TimedOut,
    /// More than the preread buffer holds.
    #[error("preread buffer full")]
    TooMuch,
    /// A datagram that ends before.
    #[error("the datagram is too short")]
    Datagram,
}

/// The client of a session that has no upstream yet. Bytes that are peeked at go to the upstream
/// afterwards, unchanged.
pub struct Client<'a> {
    events: Option<&'a EventLoop>,
    socket: Option<&'a Socket>,
    tls: Option<&'a mut Connection>,
    peeked: Vec<u8>,
    /// Milliseconds of the event loop's clock.
    until: Option<u64>,
}

impl<'a> Client<'a> {
    /// A connected client, of which `peeked` was read already; with `tls` its bytes are decrypted.
    pub(crate) const fn connected(
        events: &'a EventLoop,
        socket: &'a Socket,
        tls: Option<&'a mut Connection>,
        peeked: Vec<u8>,
    ) -> Self {
        Self { events: Some(events), socket: Some(socket), tls, peeked, until: None }
    }

    /// The sender of a flow's first datagram.
    pub(crate) fn datagram(payload: &[u8]) -> Self {
        Self { events: None, socket: None, tls: None, peeked: payload.to_vec(), until: None }
    }

    /// The bytes read so far.
    #[must_use]
    pub fn peeked(&self) -> &[u8] {
        &self.peeked
    }

    pub(crate) fn into_peeked(self) -> Vec<u8> {
        self.peeked
    }

    /// The first bytes of the client, once there are at least `count` of them.
    ///
    /// # Errors
    /// See [`PeekError`].
    pub async fn peek(&mut self, count: usize) -> Result<&[u8], PeekError> {
        if self.peeked.len() < count {
            if count > PREREAD_SIZE {
                return Err(PeekError::TooMuch);
            }
            let (Some(events), Some(socket)) = (self.events, self.socket) else {
                return Err(PeekError::Datagram);
            };
            let now = events.now_ms();
            let limit = PREREAD_LIMIT.as_millis() as u64;
            let until = *self.until.get_or_insert(now.saturating_add(limit));
            let left = Duration::from_millis(until.saturating_sub(now));
            let tls = self.tls.as_deref_mut();
            let read = pin!(read_until(socket, tls, &mut self.peeked, count));
            let read = events.within(left, read).await;
            read.unwrap_or(Err(PeekError::TimedOut))?;
        }
        Ok(&self.peeked)
    }

    /// Whether something can be waited for: not for a UDP flow.
    #[must_use]
    pub const fn can_wait(&self) -> bool {
        self.events.is_some()
    }

    /// The result of `future`, or `None` if it takes longer than `limit`. What is awaited must not
    /// belong to tokio's runtime; its channels do not.
    pub async fn within<F: Future>(&self, limit: Duration, future: F) -> Option<F::Output> {
        match self.events {
            Some(events) => events.within(limit, pin!(future)).await,
            None => Some(future.await),
        }
    }

    /// Lets time pass; for a UDP flow it does not.
    pub async fn sleep(&self, time: Duration) {
        if let Some(events) = self.events {
            events.sleep(time).await;
        }
    }
}

async fn read_until(
    socket: &Socket,
    mut tls: Option<&mut Connection>,
    peeked: &mut Vec<u8>,
    count: usize,
) -> Result<(), PeekError> {
    while peeked.len() < count {
        if !tls.as_mut().is_some_and(|tls| transfer::is_readable(tls)) {
            socket.readable().await;
        }
        let tls = tls.as_deref_mut();
        match read_some(socket, tls, peeked) {
            Ok(0) => return Err(PeekError::Ended),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // A broken connection ends the session by itself, with its own close reason.
            Err(_) => std::future::pending().await,
        }
    }
    Ok(())
}

/// Not part of the future, so that waiting for bytes costs no buffers.
fn read_some(
    socket: &Socket,
    tls: Option<&mut Connection>,
    peeked: &mut Vec<u8>,
) -> io::Result<usize> {
    let mut chunk = [0; CHUNK];
    let count = match tls {
        None => socket.read(&mut chunk)?,
        Some(tls) => {
            let mut cipher = [0; CHUNK];
            let read = transfer::read(tls, socket, &mut cipher, &mut chunk);
            let (count, next) = read.map_err(|error| match error {
                ReadError::Io(error) => error,
                ReadError::Tls(error) => io::Error::other(error),
            })?;
            if count == 0 && next == Next::More {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            count
        }
    };
    peeked.extend_from_slice(chunk.get(..count).unwrap_or_default());
    Ok(count)
}
