//! The local address that a connection is made from.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd as _};

use rustix::io::Errno;

/// The address is none of this machine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no address of this machine (source_addresses of the upstream)")]
pub struct NotHere(pub IpAddr);

/// Gives a socket that is about to connect its address, not its port: the kernel then chooses one
/// that is free towards that peer, instead of one that nobody else uses (ip(7),
/// `IP_BIND_ADDRESS_NO_PORT`).
///
/// # Errors
/// It is no address of this machine ([`NotHere`]).
pub fn bind_without_port(socket: impl AsFd, from: IpAddr) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option value points to a live c_int whose size is passed; the descriptor is
    // open for the duration of the call. Where the kernel does not know the option, a port is
    // chosen now.
    let _ = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    bind(socket, from)
}

/// Gives a socket its address and a port that is free.
///
/// # Errors
/// It is no address of this machine ([`NotHere`]), or has no port left.
pub fn bind(socket: impl AsFd, from: IpAddr) -> io::Result<()> {
    match rustix::net::bind(socket, &SocketAddr::new(from, 0)) {
        // bind(2): the kernel has one word for both, but here a lack of ports is EADDRINUSE.
        Err(Errno::ADDRNOTAVAIL) => {
            Err(io::Error::new(io::ErrorKind::AddrNotAvailable, NotHere(from)))
        }
        result => result.map_err(io::Error::from),
    }
}

/// Whether an error of `bind` or `connect` says that no local port is left: `EADDRNOTAVAIL` of
/// connect(2), `EADDRINUSE` of bind(2).
#[must_use]
pub fn is_out_of_ports(error: &io::Error) -> bool {
    let codes = [Errno::ADDRNOTAVAIL, Errno::ADDRINUSE];
    error.raw_os_error().is_some_and(|raw| codes.iter().any(|known| known.raw_os_error() == raw))
}

/// Whether it says that the address is none of this machine's.
#[must_use]
pub fn is_not_here(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<NotHere>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    use rustix::net::{AddressFamily, SocketType};

    #[test]
    fn an_address_comes_first_and_the_port_with_connect() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind_without_port(&socket, "127.0.0.9".parse().unwrap()).unwrap();
        let local = SocketAddr::try_from(rustix::net::getsockname(&socket).unwrap()).unwrap();
        assert_eq!(local, "127.0.0.9:0".parse().unwrap());
        rustix::net::connect(&socket, &listener.local_addr().unwrap()).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip().to_string(), "127.0.0.9");
        assert_ne!(peer.port(), 0);
    }

    #[test]
    fn a_foreign_address_is_not_a_lack_of_ports() {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
        let error = bind(&socket, "192.0.2.77".parse().unwrap()).unwrap_err();
        assert!(is_not_here(&error) && !is_out_of_ports(&error));
        assert!(error.to_string().contains("192.0.2.77"), "{error}");
        assert!(is_out_of_ports(&io::Error::from_raw_os_error(libc::EADDRINUSE)));
        assert!(!is_out_of_ports(&io::Error::from_raw_os_error(libc::ECONNREFUSED)));
    }
}
