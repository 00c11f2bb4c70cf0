//! Listening sockets that another process opened.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use headgate_model::listen::{ListenAddr, Transport};
use headgate_net::activation::{self, Activated, At};

use crate::cores::Place;

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) fd: OwnedFd,
    /// UDP: where the process that still reads it passes datagrams on.
    pub(crate) predecessor: Option<OwnedFd>,
}

impl From<OwnedFd> for Socket {
    fn from(fd: OwnedFd) -> Self {
        Self { fd, predecessor: None }
    }
}

/// Sockets by what they listen on. A place may have several, which share its clients
/// (`SO_REUSEPORT`): all have to be served.
#[derive(Debug, Default)]
pub(crate) struct Inherited(HashMap<Place, Vec<Socket>>);

impl Inherited {
    pub(crate) fn add(&mut self, place: Place, socket: Socket) {
        self.0.entry(place).or_default().push(socket);
    }

    /// The sockets that the service manager opened, if it did.
    pub(crate) fn activated() -> Self {
        let mut all = Self::default();
        for found in activation::take(|name| std::env::var(name).ok()) {
            match found {
                Ok(Activated { name, is_stream, at, fd }) => {
                    let transport = if is_stream { Transport::Tcp } else { Transport::Udp };
                    let at = match at {
                        At::Ip(address) => ListenAddr::Ip(address),
                        At::Unix(path) => ListenAddr::Unix(path),
                    };
                    tracing::info!(name, listener = %at, "the service manager opened a socket");
                    all.add((transport, at), fd.into());
                }
                Err(error) => tracing::warn!(%error, "a socket of the service manager is unfit"),
            }
        }
        all
    }

    /// The socket of a management server.
    pub(crate) fn take_server(&mut self, at: SocketAddr) -> Option<OwnedFd> {
        let sockets = self.0.remove(&(Transport::Tcp, ListenAddr::Ip(at)))?;
        sockets.into_iter().next().map(|socket| socket.fd)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    pub(crate) fn into_places(self) -> HashMap<Place, Vec<Socket>> {
        self.0
    }
}

/// A place as it is written in messages.
pub(super) fn write_place((transport, address): &Place) -> (String, String) {
    (transport.as_str().to_ascii_lowercase(), address.to_string())
}

/// Reads what [`write_place`] wrote.
pub(super) fn read_place(transport: &str, address: &str) -> Option<Place> {
    let transport = match transport {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        _ => return None,
    };
    let address = match address.strip_prefix("unix:") {
        Some(path) => ListenAddr::Unix(PathBuf::from(path)),
        None => ListenAddr::Ip(address.parse().ok()?),
    };
    Some((transport, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_written() {
        for (transport, address) in [
            (Transport::Tcp, ListenAddr::Ip("0.0.0.0:9100".parse().unwrap())),
            (Transport::Udp, ListenAddr::Ip("[fe80::1%3]:53".parse().unwrap())),
            (Transport::Tcp, ListenAddr::Unix("/run/a b.sock".into())),
        ] {
            let place = (transport, address);
            let (transport, address) = write_place(&place);
            assert_eq!(read_place(&transport, &address), Some(place));
        }
        assert_eq!(read_place("tcp", "nowhere"), None);
    }
}
