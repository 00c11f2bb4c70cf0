//! Ports of the demo: the ones from the manuals when they are free, others when not.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

/// Where the gateway of the demo listens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub(super) tcp: SocketAddr,
    /// Not the port number of `tcp`: routes tell ports apart, not TCP from UDP.
    pub(super) udp: SocketAddr,
    pub(super) admin: SocketAddr,
}

impl Ports {
    /// Finds ports that nothing listens on. All are held until all are found.
    pub(super) fn choose() -> io::Result<Self> {
        let tcp = preferred(9100, TcpListener::bind)?;
        let admin = preferred(9180, TcpListener::bind)?;
        let tcp_address = tcp.local_addr()?;
        let udp = loop {
            let udp = preferred(9200, UdpSocket::bind)?;
            if udp.local_addr()?.port() != tcp_address.port() {
                break udp;
            }
        };
        Ok(Self { tcp: tcp_address, udp: udp.local_addr()?, admin: admin.local_addr()? })
    }
}

fn preferred<T>(port: u16, bind: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    bind(at(port)).or_else(|_| bind(at(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_avoided() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let other = preferred(port, TcpListener::bind).unwrap();
        assert_ne!(other.local_addr().unwrap().port(), port);
    }
}
