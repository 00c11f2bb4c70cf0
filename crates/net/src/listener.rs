//! Binding listening sockets and accepting from them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::SocketFlags;
use socket2::{Domain, Protocol, Socket as RawSocket, Type};

use crate::event_loop::EventLoop;
use crate::reactor::{Readiness, Source};
use crate::socket::canonical;

const BACKLOG: i32 = 4096;
/// Receive buffer of a UDP listener, bytes; the kernel may grant less (`net.core.rmem_max`).
const UDP_RECEIVE_BUFFER: usize = 4 << 20;

/// Opens a TCP listener. IPv6 sockets never take IPv4 traffic.
///
/// # Errors
/// The address is in use, not local, or not allowed.
pub fn bind_tcp(address: SocketAddr, reuse_port: bool) -> io::Result<OwnedFd> {
    let socket = open(address, Type::STREAM, Protocol::TCP)?;
    socket.set_reuse_address(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    socket.set_tcp_nodelay(true)?; // accepted sockets inherit it
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Opens a UDP listener that reports the address each datagram was sent to.
///
/// # Errors
/// The address is in use, not local, or not allowed.
pub fn bind_udp(address: SocketAddr, reuse_port: bool) -> io::Result<OwnedFd> {
    let socket = open(address, Type::DGRAM, Protocol::UDP)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    let _ = socket.set_recv_buffer_size(UDP_RECEIVE_BUFFER);
    crate::udp::report_destination(&socket, address)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Opens a Unix stream listener; a socket file that nobody listens on any more is replaced.
///
/// # Errors
/// The path is in use or cannot be written.
pub fn bind_unix(path: &Path) -> io::Result<OwnedFd> {
    let address = socket2::SockAddr::unix(path)?;
    let socket = RawSocket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    if let Err(error) = socket.bind(&address) {
        let probe = RawSocket::new(Domain::UNIX, Type::STREAM, None)?;
        probe.set_nonblocking(true)?; // a full backlog means that somebody lives there
        let is_stale = error.kind() == io::ErrorKind::AddrInUse
            && probe
                .connect(&address)
                .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        if !is_stale {
            return Err(error);
        }
        std::fs::remove_file(path)?;
        socket.bind(&address)?;
    }
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn open(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<RawSocket> {
    let socket = RawSocket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// Why [`Acceptor::accept`] returned no connection.
#[derive(Debug)]
pub enum NoConnection {
    /// Nobody is waiting; the next edge tells.
    Empty,
    /// This one was lost, or the network failed for it; try again.
    Lost,
    /// No descriptors or memory: pause.
    Exhausted(io::Error),
    /// The listener is broken.
    Broken(io::Error),
}

/// An accepted connection.
#[derive(Debug)]
pub struct Accepted {
    /// The non-blocking socket.
    pub fd: OwnedFd,
    /// The peer; `None` for Unix sockets.
    pub peer: Option<SocketAddr>,
}

/// A stream listener on the reactor.
#[derive(Debug)]
pub struct Acceptor {
    source: Source,
    unix_path: Option<PathBuf>,
}

impl Acceptor {
    /// Takes a bound listener and reports its readiness as `tag`.
    ///
    /// # Errors
    /// The reactor refuses it.
    pub fn new(
        owner: &EventLoop,
        fd: OwnedFd,
        unix_path: Option<PathBuf>,
        tag: u64,
    ) -> io::Result<Self> {
        let source = owner.register_for_reading(fd)?;
        source.drive_as(tag);
        Ok(Self { source, unix_path })
    }

    /// Whether somebody may be waiting.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.source.is_ready(Readiness::READABLE)
    }

    /// Asks the kernel whether somebody is waiting; costs a system call.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(&self.source, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let waiting = poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0);
        if !waiting {
            self.source.clear(Readiness::READABLE);
        }
        waiting
    }

    /// Takes one waiting connection.
    ///
    /// # Errors
    /// See [`NoConnection`].
    pub fn accept(&self) -> Result<Accepted, NoConnection> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        if self.unix_path.is_some() {
            return match rustix::net::accept_with(&self.source, flags) {
                Ok(fd) => Ok(Accepted { fd, peer: None }),
                Err(error) => Err(self.judge(error)),
            };
        }
        match rustix::net::acceptfrom_with(&self.source, flags) {
            Ok((fd, peer)) => {
                let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok()).map(canonical);
                Ok(Accepted { fd, peer })
            }
            Err(error) => Err(self.judge(error)),
        }
    }

    fn judge(&self, error: Errno) -> NoConnection {
        match error {
            Errno::AGAIN => {
                self.source.clear(Readiness::READABLE);
                NoConnection::Empty
            }
            Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM => {
                NoConnection::Exhausted(error.into())
            }
            Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::OPNOTSUPP | Errno::FAULT => {
                self.source.clear(Readiness::READABLE);
                NoConnection::Broken(error.into())
            }
            // Linux passes pending network errors of the new socket on (accept(2)).
            _ => NoConnection::Lost,
        }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.source.forget();
    }
}

impl AsFd for Acceptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;
    use std::time::Duration;

    fn turn(owner: &EventLoop) -> Vec<u64> {
        let (mut ready, mut expired) = (Vec::new(), Vec::new());
        owner.turn(|| Some(Duration::ZERO), &mut ready, &mut expired).unwrap();
        ready
    }

    #[test]
    fn who_is_waiting_can_be_asked_without_accepting() {
        let owner = EventLoop::new().unwrap();
        let fd = bind_tcp("127.0.0.1:0".parse().unwrap(), true).unwrap();
        let address = crate::socket::local_addr(&fd).unwrap();
        let acceptor = Acceptor::new(&owner, fd, None, 5).unwrap();
        assert!(!acceptor.has_waiting());
        let first = TcpStream::connect(address).unwrap();
        let _second = TcpStream::connect(address).unwrap();
        assert!(turn(&owner).contains(&5));
        assert!(acceptor.has_waiting());
        let accepted = acceptor.accept().unwrap();
        assert_eq!(accepted.peer, Some(first.local_addr().unwrap()));
        assert!(acceptor.has_waiting() && acceptor.is_ready());
        acceptor.accept().unwrap();
        // The last one is gone, and the loop knows without another call of accept.
        assert!(!acceptor.has_waiting());
        assert!(!acceptor.is_ready());
        assert!(matches!(acceptor.accept(), Err(NoConnection::Empty)));
        let _third = TcpStream::connect(address).unwrap();
        assert!(turn(&owner).contains(&5));
        assert!(acceptor.is_ready() && acceptor.has_waiting());
    }

    /// One descriptor of a shared listener may be told of a client that another took.
    #[test]
    fn a_shared_queue_may_be_emptied_by_another() {
        let owner = EventLoop::new().unwrap();
        let fd = bind_tcp("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let address = crate::socket::local_addr(&fd).unwrap();
        let other = Acceptor::new(&owner, fd.try_clone().unwrap(), None, 6).unwrap();
        let acceptor = Acceptor::new(&owner, fd, None, 5).unwrap();
        let _client = TcpStream::connect(address).unwrap();
        turn(&owner);
        assert!(acceptor.is_ready() && other.is_ready());
        other.accept().unwrap();
        assert!(acceptor.is_ready(), "nobody told it");
        assert!(!acceptor.has_waiting() && !acceptor.is_ready());
    }
}
