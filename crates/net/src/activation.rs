//! Listening sockets that the service manager opened (sd_listen_fds(3)).

use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Socket, Type};

/// The first descriptor that is passed.
const FIRST: RawFd = 3;
/// Most sockets that are believed to be there.
const MOST: usize = 4096;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Where a socket listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// An address and a port.
    Ip(SocketAddr),
    /// A file.
    Unix(PathBuf),
}

/// A socket of the service manager.
#[derive(Debug)]
pub struct Activated {
    /// Its name (`FileDescriptorName=`).
    pub name: String,
    /// Connections, or datagrams.
    pub is_stream: bool,
    /// Where it listens.
    pub at: At,
    /// The socket.
    pub fd: OwnedFd,
}

/// Takes the sockets that were passed to this process, the first time; an `Err` for each that is
/// none to listen on. `variable` reads the environment.
pub fn take(variable: impl Fn(&str) -> Option<String>) -> Vec<io::Result<Activated>> {
    let number = |name| variable(name)?.trim().parse::<usize>().ok();
    // The variables reach children of the process that they were meant for.
    let is_meant = number("LISTEN_PID") == usize::try_from(std::process::id()).ok();
    let count = number("LISTEN_FDS").unwrap_or_default().min(MOST);
    if !is_meant || count == 0 || TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    let names = names.split(':').map(str::to_owned).chain(std::iter::repeat(String::new()));
    let fds = (FIRST..).take(count);
    fds.zip(names)
        .map(|(fd, name)| {
            // A number that is not open must not become an owned descriptor.
            if !std::fs::exists(format!("/proc/self/fd/{fd}"))? {
                return Err(io::Error::other(format!("descriptor {fd} is not open")));
            }
            // SAFETY: the descriptor is open, as just seen. The service manager passed it to this
            // process, which LISTEN_PID says, to be owned by whoever asks first, which TAKEN says.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            describe(name, fd)
        })
        .collect()
}

/// Finds out what a socket is, and sets it up as one of our own.
fn describe(name: String, fd: OwnedFd) -> io::Result<Activated> {
    let socket = Socket::from(fd);
    let is_stream = match socket.r#type()? {
        Type::STREAM => true,
        Type::DGRAM => false,
        other => return Err(io::Error::other(format!("socket {name} is of type {other:?}"))),
    };
    let address = socket.local_addr()?;
    let at = match (address.as_socket(), address.as_pathname()) {
        (Some(address), _) => At::Ip(address),
        (None, Some(path)) => At::Unix(path.to_owned()),
        (None, None) => {
            return Err(io::Error::other(format!("socket {name} has no address or path")));
        }
    };
    socket.set_cloexec(true)?;
    socket.set_nonblocking(true)?;
    match (&at, is_stream) {
        (At::Ip(_), true) => socket.set_tcp_nodelay(true)?, // accepted sockets inherit it
        (At::Ip(address), false) => crate::udp::report_destination(&socket, *address)?,
        (At::Unix(path), false) => {
            let path = path.as_os_str();
            return Err(io::Error::other(format!("no datagrams at {}", OsStr::display(path))));
        }
        (At::Unix(_), true) => {}
    }
    Ok(Activated { name, is_stream, at, fd: socket.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_another_process_are_left_alone() {
        let pid = (std::process::id() + 1).to_string();
        let variable = |name: &str| match name {
            "LISTEN_PID" => Some(pid.clone()),
            _ => Some("2".to_owned()),
        };
        assert!(take(variable).is_empty());
        assert!(take(|_| None).is_empty());
    }

    #[test]
    fn what_can_be_listened_on_is_described() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let found = describe("web".into(), tcp.into()).unwrap();
        assert_eq!((found.is_stream, found.at), (true, At::Ip(address)));
        let udp = std::net::UdpSocket::bind("[::1]:0").unwrap();
        let address = udp.local_addr().unwrap();
        let found = describe("dns".into(), udp.into()).unwrap();
        assert_eq!((found.is_stream, found.at), (false, At::Ip(address)));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(describe("file".into(), file.into()).is_err());
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(describe("pair".into(), one.into()).is_err());
    }
}
