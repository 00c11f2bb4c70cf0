//! Datagrams handed from one process to its successor while both serve one socket: the older one
//! reads, keeps those of its flows, and passes the others on (`docs/adr/0012`).

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};

use super::Datagram;
use crate::event_loop::EventLoop;
use crate::fdpass;
use crate::reactor::{Readiness, Source};

/// Bytes in front of each payload: the sender's address and port, scope, the local address.
const HEADER: usize = 1 + 16 + 2 + 4 + 1 + 16;
/// Send buffer of a channel, bytes; the kernel may grant less (`net.core.wmem_max`).
const BUFFER: usize = 4 << 20;

/// The ends of a channel for datagrams: for whoever passes them on, and for whoever takes them.
///
/// # Errors
/// No descriptors left.
pub fn channel() -> io::Result<(Outgoing, OwnedFd)> {
    let (out, into) = fdpass::pair()?;
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&out, BUFFER);
    Ok((Outgoing { fd: out }, into))
}

/// Passes datagrams on.
#[derive(Debug)]
pub struct Outgoing {
    fd: OwnedFd,
}

impl Outgoing {
    /// Whether a batch of common size will be taken now; costs a system call.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::OUT)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // An error or the end of the other side is seen by the next `pass`.
        poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0)
    }

    /// Hands one datagram over.
    ///
    /// # Errors
    /// `WouldBlock` when the other side is behind; anything else when it is gone.
    pub fn pass(&self, datagram: &Datagram<'_>) -> io::Result<()> {
        let header = encode(datagram.from, datagram.to);
        let parts = [IoSlice::new(&header), IoSlice::new(datagram.payload)];
        let mut none = SendAncillaryBuffer::default();
        rustix::net::sendmsg(&self.fd, &parts, &mut none, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

/// Takes datagrams that the predecessor passes on.
#[derive(Debug)]
pub struct Incoming {
    source: Source,
}

/// What [`Incoming::receive`] found.
#[derive(Debug)]
pub enum Received<'a> {
    /// A datagram.
    One(Datagram<'a>),
    /// Nothing for now.
    Nothing,
    /// The predecessor is gone: whatever comes next is on the socket itself.
    End,
}

impl Incoming {
    /// Takes one end of a [`channel`] and reports its readiness as `tag`.
    ///
    /// # Errors
    /// The reactor refuses it.
    pub fn new(owner: &EventLoop, fd: OwnedFd, tag: u64) -> io::Result<Self> {
        let source = owner.register_for_reading(fd)?;
        source.drive_as(tag);
        Ok(Self { source })
    }

    /// Whether something may be waiting.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.source.is_ready(Readiness::READABLE)
    }

    /// Receives one datagram into `room`, which should hold [`ROOM`] bytes.
    pub fn receive<'a>(&self, room: &'a mut [u8]) -> Received<'a> {
        match rustix::net::recv(self.source.as_fd(), &mut *room, RecvFlags::empty()) {
            Ok((0, _)) => Received::End,
            Ok((count, _)) => match room.get(..count).and_then(decode) {
                Some(datagram) => Received::One(datagram),
                None => Received::Nothing,
            },
            Err(rustix::io::Errno::AGAIN) => {
                self.source.clear(Readiness::READABLE);
                Received::Nothing
            }
            Err(_) => Received::End,
        }
    }
}

/// Room for one datagram that was passed on.
pub const ROOM: usize = super::batch::ROOM + HEADER;

fn encode(from: SocketAddr, to: Option<IpAddr>) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    let (family, ip) = octets(from.ip());
    let scope = match from {
        SocketAddr::V6(v6) => v6.scope_id(),
        SocketAddr::V4(_) => 0,
    };
    header[0] = family;
    header[1..17].copy_from_slice(&ip);
    header[17..19].copy_from_slice(&from.port().to_be_bytes());
    header[19..23].copy_from_slice(&scope.to_be_bytes());
    if let Some((family, ip)) = to.map(octets) {
        header[23] = family;
        header[24..].copy_from_slice(&ip);
    }
    header
}

fn octets(ip: IpAddr) -> (u8, [u8; 16]) {
    let mut octets = [0; 16];
    match ip {
        IpAddr::V4(v4) => {
            octets[..4].copy_from_slice(&v4.octets());
            (4, octets)
        }
        IpAddr::V6(v6) => (6, v6.octets()),
    }
}

fn decode(packet: &[u8]) -> Option<Datagram<'_>> {
    let (header, payload) = packet.split_first_chunk::<HEADER>()?;
    let address = |family: u8, at: usize| {
        let octets = header.get(at..)?.first_chunk::<16>()?;
        match family {
            4 => Some(IpAddr::V4(Ipv4Addr::from(*octets.first_chunk::<4>()?))),
            6 => Some(IpAddr::V6(Ipv6Addr::from(*octets))),
            _ => None,
        }
    };
    let port = u16::from_be_bytes([header[17], header[18]]);
    let scope = u32::from_be_bytes([header[19], header[20], header[21], header[22]]);
    let from = match address(header[0], 1)? {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), port),
        IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, scope).into(),
    };
    Some(Datagram { from, to: address(header[23], 24), payload })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_datagram_arrives_as_it_was_sent(
            from: SocketAddr, to: Option<IpAddr>, payload in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let from = match from {
                SocketAddr::V6(v6) => SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()).into(),
                v4 => v4,
            };
            let packet = [encode(from, to).as_slice(), &payload].concat();
            let datagram = decode(&packet).unwrap();
            prop_assert_eq!((datagram.from, datagram.to), (from, to));
            prop_assert_eq!(datagram.payload, payload);
        }

        #[test]
        fn nonsense_is_no_datagram_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn the_largest_and_the_empty_datagram_pass_and_the_end_is_seen() {
        let owner = EventLoop::new().unwrap();
        let (out, into) = channel().unwrap();
        let incoming = Incoming::new(&owner, into, 1).unwrap();
        let from = "192.0.2.7:5353".parse().unwrap();
        let large = vec![7; crate::udp::MAX_PAYLOAD];
        let mut room = vec![0; ROOM];
        for payload in [&large[..], &[]] {
            assert!(out.has_room());
            out.pass(&Datagram { from, to: None, payload }).unwrap();
            let Received::One(datagram) = incoming.receive(&mut room) else { panic!() };
            assert_eq!((datagram.from, datagram.payload.len()), (from, payload.len()));
        }
        assert!(matches!(incoming.receive(&mut room), Received::Nothing));
        drop(out);
        assert!(matches!(incoming.receive(&mut room), Received::End));
    }

    #[test]
    fn a_batch_fits_whenever_there_is_room() {
        let (out, into) = channel().unwrap();
        let from = "192.0.2.7:5353".parse().unwrap();
        let payload = [7; 1_472];
        let mut passed = 0;
        while out.has_room() {
            for _ in 0..super::super::BATCH {
                out.pass(&Datagram { from, to: None, payload: &payload }).unwrap();
                passed += 1;
            }
        }
        assert!(passed >= super::super::BATCH);
        drop(into);
        let error = out.pass(&Datagram { from, to: None, payload: &payload }).unwrap_err();
        assert_ne!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
