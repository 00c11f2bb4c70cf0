//! The access log as datagrams to a syslog server, in the form of RFC 3164 that nginx sends:
//! `<PRI>Nov 25 19:01:54 host tag: line`.
//!
//! Nothing is kept for a server that does not take a line: it is lost and counted, as datagrams are.

use std::fmt;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Pause between attempts to reach a server.
const RETRY: Duration = Duration::from_secs(1);

/// Where to send lines, and what stands before them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Syslog {
    /// The server.
    pub server: Server,
    /// Facility times 8 plus severity.
    pub priority: u8,
    /// What names this program.
    pub tag: String,
    /// The name of this machine; `None` leaves it out.
    pub hostname: Option<String>,
}

/// Where a syslog server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// `host:port`, by UDP.
    Udp(String),
    /// A Unix datagram socket, such as `/dev/log`.
    Unix(PathBuf),
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

enum Socket {
    Udp(UdpSocket),
    Unix(UnixDatagram),
}

/// The socket towards a server, made when it is needed.
pub(super) struct Link {
    pub(super) to: Syslog,
    socket: Option<Socket>,
    /// No attempt to make a socket before.
    not_before: Option<Instant>,
    datagram: Vec<u8>,
}

impl Link {
    pub(super) const fn new(to: Syslog) -> Self {
        Self { to, socket: None, not_before: None, datagram: Vec::new() }
    }

    /// Makes the socket anew with the next line.
    pub(super) fn reopen(&mut self) {
        (self.socket, self.not_before) = (None, None);
    }

    /// Sends one line; never waits for the server.
    ///
    /// # Errors
    /// The server cannot be reached, or takes nothing now. The line is lost.
    pub(super) fn send(&mut self, line: &[u8]) -> io::Result<()> {
        let now = jiff::Zoned::now();
        let mut datagram = std::mem::take(&mut self.datagram);
        datagram.clear();
        head(&self.to, &now, &mut datagram);
        datagram.extend_from_slice(line);
        let sent = self.socket().and_then(|socket| match socket {
            Socket::Udp(socket) => socket.send(&datagram),
            Socket::Unix(socket) => socket.send(&datagram),
        });
        self.datagram = datagram;
        match sent {
            Ok(_) => Ok(()),
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    self.socket = None;
                }
                Err(error)
            }
        }
    }

    fn socket(&mut self) -> io::Result<&Socket> {
        if self.socket.is_none() {
            let now = Instant::now();
            if self.not_before.is_some_and(|at| now < at) {
                return Err(io::ErrorKind::NotConnected.into());
            }
            self.not_before = Some(now + RETRY);
            self.socket = Some(connect(&self.to.server)?);
        }
        self.socket.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

fn connect(server: &Server) -> io::Result<Socket> {
    match server {
        Server::Udp(address) => {
            let to = address.to_socket_addrs()?.next();
            let to = to.ok_or_else(|| io::Error::other("the name has no address"))?;
            let any: SocketAddr = match to {
                SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            let socket = UdpSocket::bind(any)?;
            socket.connect(to)?;
            socket.set_nonblocking(true)?;
            Ok(Socket::Udp(socket))
        }
        Server::Unix(path) => {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            socket.set_nonblocking(true)?;
            Ok(Socket::Unix(socket))
        }
    }
}

/// What stands before a line.
fn head(to: &Syslog, now: &jiff::Zoned, out: &mut Vec<u8>) {
    let _ = write!(out, "<{}>{} ", to.priority, now.strftime("%b %e %H:%M:%S"));
    if let Some(hostname) = &to.hostname {
        let _ = write!(out, "{hostname} ");
    }
    let _ = write!(out, "{}: ", to.tag);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_rfc_3164() {
        let mut to = Syslog {
            server: Server::Udp("127.0.0.1:514".into()),
            priority: 190,
            tag: "nginx".into(),
            hostname: Some("gate".into()),
        };
        let now = jiff::civil::date(2026, 11, 5).at(9, 1, 4, 0);
        let now = now.to_zoned(jiff::tz::TimeZone::UTC).unwrap();
        let text = |to: &Syslog| {
            let mut out = Vec::new();
            head(to, &now, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(&to), "<190>Nov  5 09:01:04 gate nginx: ");
        to.hostname = None;
        assert_eq!(text(&to), "<190>Nov  5 09:01:04 nginx: ");
    }

    #[test]
    fn servers_have_names() {
        assert_eq!(Server::Unix("/dev/log".into()).to_string(), "unix:/dev/log");
        let none = Server::Unix("/nonexistent/socket".into());
        let to = Syslog { server: none, priority: 190, tag: "t".into(), hostname: None };
        let mut link = Link::new(to);
        assert_eq!(link.send(b"x").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(link.send(b"x").unwrap_err().kind(), io::ErrorKind::NotConnected, "a pause");
    }
}
