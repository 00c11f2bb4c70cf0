//! Bytes through an established TLS connection, without waiting and without a task.

use std::io::{self, IoSlice, Read as _, Write as _};

use rustls::Connection;

use crate::socket::Socket;

/// Room that [`read`] needs for plaintext when it is given [`CIPHERTEXT`] bytes to read into: a
/// record that was begun earlier, and what the connection holds, come on top.
pub const PLAINTEXT: usize = CIPHERTEXT + 40 * 1024;
/// Ciphertext read at once, bytes.
pub const CIPHERTEXT: usize = 64 * 1024;

/// How a flush went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flushed {
    /// Nothing is left.
    All,
    /// The socket takes no more now.
    Blocked,
}

/// What came behind the bytes that were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing yet; the socket is empty, or was not asked.
    More,
    /// The peer said that it is done (`close_notify`).
    Closed,
    /// The stream ended without that: it may have been cut (RFC 8446, section 6.1).
    Truncated,
}

/// Why reading ended.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The peer broke the protocol, or sent a fatal alert.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// Whether decrypted bytes, or the end of the stream, wait in the connection; then no readiness of
/// the socket tells.
#[must_use]
pub fn is_readable(connection: &mut Connection) -> bool {
    use std::io::BufRead as _;
    connection.reader().fill_buf().is_ok()
}

/// Reads once: what was decrypted before, or what one read of the socket gives. Returns how many
/// bytes of `plain` were filled, and what is behind them.
///
/// # Errors
/// `WouldBlock` when there is nothing; see [`ReadError`]. An alert may have to be flushed then.
pub fn read(
    connection: &mut Connection,
    socket: &Socket,
    cipher: &mut [u8],
    plain: &mut [u8],
) -> Result<(usize, Next), ReadError> {
    let (mut filled, mut next) = take_plaintext(connection, plain)?;
    if filled > 0 || next != Next::More {
        return Ok((filled, next));
    }
    let count = socket.read(cipher)?;
    if count == 0 {
        return Ok((0, Next::Truncated));
    }
    let mut rest = cipher.get(..count).unwrap_or_default();
    while !rest.is_empty() && next == Next::More {
        if connection.read_tls(&mut rest)? == 0 {
            break;
        }
        connection.process_new_packets()?;
        let room = plain.get_mut(filled..).unwrap_or_default();
        let taken = take_plaintext(connection, room)?;
        filled += taken.0;
        next = taken.1;
    }
    Ok((filled, next))
}

fn take_plaintext(connection: &mut Connection, plain: &mut [u8]) -> io::Result<(usize, Next)> {
    let mut filled = 0;
    loop {
        let room = plain.get_mut(filled..).unwrap_or_default();
        if room.is_empty() {
            return Ok((filled, Next::More));
        }
        match connection.reader().read(room) {
            Ok(0) => return Ok((filled, Next::Closed)),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok((filled, Next::More));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Encrypts `bytes`; [`flush`] sends them.
///
/// # Errors
/// Never for an established connection without a buffer limit.
pub fn write(connection: &mut Connection, bytes: &[u8]) -> io::Result<()> {
    connection.writer().write_all(bytes)
}

/// Sends what is encrypted, many records in one system call.
///
/// # Errors
/// The connection broke.
pub fn flush(connection: &mut Connection, socket: &Socket) -> io::Result<Flushed> {
    while connection.wants_write() {
        if !socket.is_writable() {
            return Ok(Flushed::Blocked);
        }
        match connection.write_tls(&mut To(socket)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok(Flushed::Blocked);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Flushed::All)
}

struct To<'a>(&'a Socket);

impl io::Write for To<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
