//! Reading a PROXY protocol header off a connection, within a time limit.

use std::io;
use std::pin::pin;
use std::time::Duration;

use headgate_wire::proxy_header::{BrokenHeader, Decoded, Header, MOST, decode};

use crate::event_loop::EventLoop;
use crate::socket::Socket;

/// Bytes read at once; longer than most headers.
const CHUNK: usize = 1024;

/// Why no header was read.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// The bytes are not a header.
    #[error(transparent)]
    Broken(#[from] BrokenHeader),
    /// The peer did not send a whole header in time.
    #[error("no complete PROXY protocol header within {0:?}")]
    TimedOut(Duration),
    /// The peer finished before it sent anything: a health check, most likely.
    #[error("the connection ended without a PROXY protocol header")]
    Empty,
    /// The peer finished before the header was complete.
    #[error("the connection ended inside the PROXY protocol header")]
    Ended,
    /// The connection broke.
    #[error(transparent)]
    Io(io::Error),
}

/// Reads a header and returns it with the bytes behind it that were read along.
///
/// # Errors
/// See [`HeaderError`]. `limit` is for the whole header, not for each read.
pub async fn read(
    owner: &EventLoop,
    socket: &Socket,
    limit: Duration,
) -> Result<(Header, Vec<u8>), HeaderError> {
    let reading = pin!(read_all(socket));
    owner.within(limit, reading).await.unwrap_or(Err(HeaderError::TimedOut(limit)))
}

async fn read_all(socket: &Socket) -> Result<(Header, Vec<u8>), HeaderError> {
    let mut bytes = Vec::with_capacity(CHUNK);
    let mut chunk = [0; CHUNK];
    loop {
        socket.readable().await;
        match socket.read(&mut chunk) {
            Ok(0) if bytes.is_empty() => return Err(HeaderError::Empty),
            Ok(0) => return Err(HeaderError::Ended),
            Ok(count) => bytes.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(HeaderError::Io(error)),
        }
        if let Decoded::Done { header, length } = decode(&bytes)? {
            bytes.drain(..length.min(bytes.len()));
            return Ok((header, bytes));
        }
        debug_assert!(bytes.len() <= MOST + CHUNK, "decode refuses what is too long");
    }
}
