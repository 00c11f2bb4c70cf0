//! Moving bytes from socket to socket inside the kernel, through a pipe (splice(2)).
//!
//! A pipe is only filled while it is empty: then `EAGAIN` can only mean that the socket has
//! nothing. With bytes in the pipe it could also mean "pipe full", and a relay would wait for an
//! edge that never comes.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags};

use crate::socket::Socket;

/// Room asked for in a pipe, bytes. The kernel may refuse (`fs.pipe-user-pages-soft`); then the
/// default of 64 KiB serves.
const PIPE_SIZE: usize = 512 * 1024;

/// A pipe and what is in it.
#[derive(Debug)]
pub struct Pipe {
    exit: OwnedFd,
    entry: OwnedFd,
    filled: usize,
}

impl Pipe {
    fn open() -> io::Result<Self> {
        let (exit, entry) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let _ = rustix::pipe::fcntl_setpipe_size(&entry, PIPE_SIZE);
        Ok(Self { exit, entry, filled: 0 })
    }

    /// Whether nothing is in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Bytes that are in it.
    #[must_use]
    pub const fn filled(&self) -> usize {
        self.filled
    }

    /// Fills the empty pipe from a socket with at most `most` bytes; 0 means that its peer has
    /// finished.
    ///
    /// # Errors
    /// `WouldBlock` when the socket has nothing; a reset.
    pub fn fill(&mut self, source: &Socket, most: usize) -> io::Result<usize> {
        debug_assert!(self.is_empty(), "EAGAIN would be ambiguous");
        match transfer(source, &self.entry, most.min(PIPE_SIZE)) {
            Ok(count) => {
                self.filled = count;
                Ok(count)
            }
            Err(Errno::AGAIN) => {
                source.nothing_to_read();
                Err(io::ErrorKind::WouldBlock.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Empties the pipe into a socket as far as that takes it.
    ///
    /// # Errors
    /// `WouldBlock` when it takes nothing; a reset.
    pub fn drain(&mut self, sink: &Socket) -> io::Result<usize> {
        sink.do_not_delay();
        match transfer(&self.exit, sink, self.filled) {
            Ok(count) => {
                self.filled -= count.min(self.filled);
                Ok(count)
            }
            Err(Errno::AGAIN) => {
                sink.nothing_to_write();
                Err(io::ErrorKind::WouldBlock.into())
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn transfer(
    from: impl std::os::fd::AsFd,
    to: impl std::os::fd::AsFd,
    most: usize,
) -> Result<usize, Errno> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    loop {
        match rustix::pipe::splice(&from, None, &to, None, most, flags) {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

/// The pipes of a core: few, and used again.
#[derive(Debug)]
pub struct Pipes {
    spare: Vec<Pipe>,
    open: usize,
    most: usize,
}

impl Pipes {
    /// At most `most` pipes at once; each costs two descriptors.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self { spare: Vec::new(), open: 0, most }
    }

    /// An empty pipe, or `None` when all are in use or no descriptor is left.
    pub fn take(&mut self) -> Option<Pipe> {
        if let Some(pipe) = self.spare.pop() {
            return Some(pipe);
        }
        if self.open == self.most {
            return None;
        }
        let pipe = Pipe::open().ok()?;
        self.open += 1;
        Some(pipe)
    }

    /// Takes a pipe back; one with bytes in it is closed.
    pub fn give_back(&mut self, pipe: Pipe) {
        if pipe.is_empty() {
            self.spare.push(pipe);
        } else {
            self.open -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_loop::EventLoop;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    #[test]
    fn bytes_pass_and_used_pipes_are_not_reused() {
        let owner = EventLoop::new().unwrap();
        let (mut client, here) = UnixStream::pair().unwrap();
        let (there, mut server) = UnixStream::pair().unwrap();
        for socket in [&here, &there] {
            socket.set_nonblocking(true).unwrap();
        }
        let source = Socket::accepted(&owner, here.into()).unwrap();
        let sink = Socket::accepted(&owner, there.into()).unwrap();
        let mut pipes = Pipes::new(1);
        let mut pipe = pipes.take().unwrap();
        assert!(pipes.take().is_none(), "the bound holds");
        let blocked = pipe.fill(&source, PIPE_SIZE).unwrap_err();
        assert_eq!(blocked.kind(), io::ErrorKind::WouldBlock);
        client.write_all(b"hello").unwrap();
        assert_eq!(pipe.fill(&source, PIPE_SIZE).unwrap(), 5);
        assert!(!pipe.is_empty());
        assert_eq!(pipe.drain(&sink).unwrap(), 5);
        let mut seen = [0; 5];
        server.read_exact(&mut seen).unwrap();
        assert_eq!(&seen, b"hello");
        drop(client);
        assert_eq!(pipe.fill(&source, PIPE_SIZE).unwrap(), 0, "the end of the stream");
        pipes.give_back(pipe);
        let mut pipe = pipes.take().unwrap();
        pipe.filled = 1;
        pipes.give_back(pipe);
        assert!(pipes.take().is_some_and(|pipe| pipe.is_empty()));
    }
}
