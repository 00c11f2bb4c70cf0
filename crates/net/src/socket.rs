//! A connected stream socket on the reactor.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType};

use crate::event_loop::EventLoop;
use crate::origin;
use crate::reactor::{Readiness, Source};

/// Where a stream socket can connect to.
#[derive(Debug, Clone, Copy)]
pub enum Peer<'a> {
    /// TCP.
    Ip(SocketAddr),
    /// A Unix stream socket.
    Unix(&'a Path),
}

/// A non-blocking stream socket.
#[derive(Debug)]
pub struct Socket {
    source: Source,
    delays: Cell<Delays>,
}

/// Whether small writes may have to wait for an acknowledgement (Nagle's algorithm, RFC 896).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delays {
    /// `TCP_NODELAY` is set, or the socket is not TCP.
    Never,
    /// Nothing has been written yet, and what goes first goes at once: many sessions write to their
    /// upstream once, and need no system call to say that they are in a hurry.
    NotFirst,
    /// From now on.
    Next,
}

impl Socket {
    /// Takes an accepted, non-blocking descriptor.
    ///
    /// # Errors
    /// The reactor refuses it.
    pub fn accepted(owner: &EventLoop, fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { source: owner.register(fd)?, delays: Cell::new(Delays::Never) })
    }

    /// Connects without a time limit of its own (the kernel's is minutes; wrap it in
    /// [`EventLoop::within`]).
    ///
    /// # Errors
    /// Refused, unreachable, reset, or no descriptor or local port left.
    pub fn connect<'a>(
        owner: &'a EventLoop,
        peer: Peer<'a>,
    ) -> impl Future<Output = io::Result<Self>> + 'a {
        Self::connect_from(owner, None, peer)
    }

    /// As [`Socket::connect`], TCP from the local address `from`.
    ///
    /// # Errors
    /// Also: `from` is no address of this machine.
    pub async fn connect_from(
        owner: &EventLoop,
        from: Option<IpAddr>,
        peer: Peer<'_>,
    ) -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (fd, started, delays) = match peer {
            Peer::Ip(address) => {
                let family = match address {
                    SocketAddr::V4(_) => AddressFamily::INET,
                    SocketAddr::V6(_) => AddressFamily::INET6,
                };
                let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
                if let Some(from) = from {
                    origin::bind_without_port(&fd, from)?;
                }
                let started = rustix::net::connect(&fd, &address);
                (fd, started, Delays::NotFirst)
            }
            Peer::Unix(path) => {
                let address = rustix::net::SocketAddrUnix::new(path)?;
                let fd =
                    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
                let started = rustix::net::connect(&fd, &address);
                (fd, started, Delays::Never)
            }
        };
        match started {
            Ok(()) => {}
            Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let socket = Self { source: owner.register(fd)?, delays: Cell::new(delays) };
        poll_fn(|context| socket.source.poll_writable(context)).await;
        if socket.source.is_ready(Readiness::ERROR) {
            rustix::net::sockopt::socket_error(&socket.source)??;
        }
        Ok(socket)
    }

    /// Reads what is there.
    ///
    /// Fewer bytes than asked means the socket is empty now, unless its peer has finished: then
    /// readiness stays so that the end is read too.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; a reset.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            return match rustix::net::recv(&self.source, &mut *buffer, RecvFlags::empty()) {
                Ok((count, _)) => {
                    if count < buffer.len() && !self.source.is_ready(Readiness::READ_ON) {
                        self.source.clear(Readiness::READABLE);
                    }
                    Ok(count)
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    self.source.clear(Readiness::READABLE);
                    Err(io::ErrorKind::WouldBlock.into())
                }
                Err(error) => Err(error.into()),
            };
        }
    }

    /// Looks at what is there without taking it.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; a reset.
    pub fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let peeked = rustix::net::recv(&self.source, buffer, RecvFlags::PEEK);
        peeked.map(|(count, _)| count).map_err(io::Error::from)
    }

    /// Writes what fits.
    ///
    /// # Errors
    /// `WouldBlock` when nothing fits; a reset.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.do_not_delay();
        loop {
            return match rustix::net::send(&self.source, bytes, SendFlags::NOSIGNAL) {
                Ok(count) => {
                    if count < bytes.len() {
                        self.source.clear(Readiness::WRITABLE);
                    }
                    Ok(count)
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    self.source.clear(Readiness::WRITABLE);
                    Err(io::ErrorKind::WouldBlock.into())
                }
                Err(error) => Err(error.into()),
            };
        }
    }

    /// Writes what fits of several pieces, in one system call.
    ///
    /// # Errors
    /// As [`Socket::write`].
    pub fn write_vectored(&self, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.do_not_delay();
        let asked: usize = pieces.iter().map(|piece| piece.len()).sum();
        loop {
            let mut no_control = rustix::net::SendAncillaryBuffer::default();
            let sent =
                rustix::net::sendmsg(&self.source, pieces, &mut no_control, SendFlags::NOSIGNAL);
            return match sent {
                Ok(count) => {
                    if count < asked {
                        self.source.clear(Readiness::WRITABLE);
                    }
                    Ok(count)
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    self.source.clear(Readiness::WRITABLE);
                    Err(io::ErrorKind::WouldBlock.into())
                }
                Err(error) => Err(error.into()),
            };
        }
    }

    /// To be called before each write.
    pub(crate) fn do_not_delay(&self) {
        match self.delays.get() {
            Delays::Never => {}
            Delays::NotFirst => self.delays.set(Delays::Next),
            Delays::Next => {
                self.delays.set(Delays::Never);
                // Fails on a socket that has been reset; the write will say so.
                let _ = rustix::net::sockopt::set_tcp_nodelay(&self.source, true);
            }
        }
    }

    /// Notes that a read by other means found nothing.
    pub(crate) fn nothing_to_read(&self) {
        self.source.clear(Readiness::READABLE);
    }

    /// Notes that a write by other means found no room.
    pub(crate) fn nothing_to_write(&self) {
        self.source.clear(Readiness::WRITABLE);
    }

    /// Ready when a read may succeed.
    pub async fn readable(&self) {
        poll_fn(|context| self.source.poll_readable(context)).await;
    }

    /// Ready when a write may succeed.
    pub async fn writable(&self) {
        poll_fn(|context| self.source.poll_writable(context)).await;
    }

    /// Ready when the connection broke, even while unread bytes are there.
    pub async fn broken(&self) {
        poll_fn(|context| self.source.poll_error(context)).await;
    }

    /// Whether a read may succeed.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.source.is_ready(Readiness::READABLE)
    }

    /// Whether a write may succeed.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.source.is_ready(Readiness::WRITABLE)
    }

    /// Whether the kernel reported an error, such as a reset, even when nobody reads.
    #[must_use]
    pub fn has_error(&self) -> bool {
        self.source.is_ready(Readiness::ERROR)
    }

    /// Tells the peer that no more bytes will come.
    pub fn finish_writing(&self) {
        // ENOTCONN after a reset: the next read reports it.
        let _ = rustix::net::shutdown(&self.source, Shutdown::Write);
    }

    /// Closes with a reset instead of an orderly end.
    pub fn reset(self) {
        let _ = rustix::net::sockopt::set_socket_linger(&self.source, Some(Duration::ZERO));
    }

    /// From now on readiness is reported as `tag`.
    pub fn drive_as(&self, tag: u64) {
        self.source.drive_as(tag);
    }

    /// The local address; `None` for Unix sockets.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        local_addr(self)
    }
}

/// Sends what fits of `bytes`, without waiting, on a connection that is about to be closed.
pub fn say_last(socket: impl AsFd, bytes: &[u8]) {
    // Whoever has gone already, or does not read, misses nothing that it waits for.
    let _ = rustix::net::send(&socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    let _ = rustix::net::shutdown(&socket, Shutdown::Write);
}

/// The local address of a socket; `None` for Unix sockets.
pub fn local_addr(socket: impl AsFd) -> Option<SocketAddr> {
    let address: SocketAddr = rustix::net::getsockname(socket).ok()?.try_into().ok()?;
    Some(canonical(address))
}

/// An address without the IPv4-in-IPv6 disguise.
#[must_use]
pub const fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[test]
    fn only_who_writes_twice_says_that_it_is_in_a_hurry() {
        let node = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = node.local_addr().unwrap();
        let owner = Rc::new(EventLoop::new().unwrap());
        let (inner, opened) = (Rc::clone(&owner), Rc::new(Cell::new(None)));
        let place = Rc::clone(&opened);
        owner.spawn(async move {
            place.set(Socket::connect(&inner, Peer::Ip(address)).await.ok());
        });
        let (mut ready, mut expired) = (Vec::new(), Vec::new());
        let socket = loop {
            owner.turn(|| Some(Duration::from_secs(1)), &mut ready, &mut expired).unwrap();
            if let Some(socket) = opened.take() {
                break socket;
            }
        };
        let is_in_a_hurry = || rustix::net::sockopt::tcp_nodelay(&socket.source).unwrap();
        assert!(!is_in_a_hurry());
        assert_eq!(socket.write(b"a").unwrap(), 1);
        assert!(!is_in_a_hurry());
        assert_eq!(socket.write_vectored(&[io::IoSlice::new(b"b")]).unwrap(), 1);
        assert!(is_in_a_hurry());
    }
}
