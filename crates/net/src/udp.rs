//! UDP sockets: batches of datagrams in, batches out with a chosen source address.
//!
//! `recvmmsg`, `sendmmsg` and control messages have no safe wrapper, so this folder holds the
//! `unsafe` code of the crate. Why not a crate: `docs/adr/0003-udp-system-calls.md`.

mod batch;
pub mod forward;
mod message;
mod replies;

use std::io;
use std::mem::zeroed;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

use crate::event_loop::EventLoop;
use crate::reactor::{Readiness, Source};
pub use batch::{BATCH, Batch, Datagram};
use message::Control;
pub(crate) use message::report_destination;
pub use replies::{Recipient, Replies, Taken};

/// Largest UDP payload over IPv4 (RFC 768 with RFC 791): 65,535 - 20 - 8.
pub const MAX_PAYLOAD: usize = 65_507;
/// Most datagrams that one message is cut into: 45 of the largest size below fill a message, and
/// kernels before 6.9 cut into 64 at most.
const MOST_SEGMENTS: usize = 45;
/// Larger datagrams would be cut into fragments on an Ethernet, which `UDP_SEGMENT` refuses.
const LARGEST_SEGMENT: usize = 1_452;

/// Whether datagrams of this size may travel as one message that the kernel cuts.
const fn can_be_cut(size: usize) -> bool {
    size > 0 && size <= LARGEST_SEGMENT
}

/// An unconnected UDP socket that takes datagrams of many clients.
#[derive(Debug)]
pub struct UdpListener {
    source: Source,
}

impl UdpListener {
    /// Takes a bound socket and reports its readiness as `tag`.
    ///
    /// # Errors
    /// The reactor refuses it.
    pub fn new(owner: &EventLoop, fd: OwnedFd, tag: u64) -> io::Result<Self> {
        let source = owner.register_for_reading(fd)?;
        source.drive_as(tag);
        Ok(Self { source })
    }

    /// Whether datagrams may be waiting.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.source.is_ready(Readiness::READABLE)
    }

    /// Receives a batch; 0 when nothing is waiting.
    ///
    /// # Errors
    /// An error pending on the socket; it is used up.
    pub fn receive(&self, batch: &mut Batch) -> io::Result<usize> {
        batch.receive_ready(&self.source)
    }

    /// Sends one datagram to `to`; it leaves from the local address `from` when given, so that
    /// the client hears from the address it spoke to.
    ///
    /// # Errors
    /// `WouldBlock` when the send buffer is full; an unreachable client.
    pub fn send(&self, payload: &[u8], to: SocketAddr, from: Option<IpAddr>) -> io::Result<usize> {
        let (mut name, name_length) = message::name_of(to);
        let mut control = Control::leaving_from(from);
        // SAFETY: all-zero bytes are a valid msghdr.
        let mut header: libc::msghdr = unsafe { zeroed() };
        header.msg_name = (&raw mut name).cast();
        header.msg_namelen = name_length;
        control.attach_to(&mut header);
        send_message(self.as_fd(), &mut header, &[payload])
    }
}

impl Drop for UdpListener {
    fn drop(&mut self) {
        self.source.forget();
    }
}

impl AsFd for UdpListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}

/// A UDP socket connected to one server: the kernel maps replies to its flow.
#[derive(Debug)]
pub struct UdpSocket {
    source: Source,
}

impl UdpSocket {
    /// Opens a socket connected to `server` and reports its readiness as `tag`.
    ///
    /// # Errors
    /// No descriptor or local port left; the server is unreachable.
    pub fn connect(owner: &EventLoop, server: SocketAddr, tag: u64) -> io::Result<Self> {
        Self::connect_from(owner, None, server, tag)
    }

    /// As [`UdpSocket::connect`], from the local address `from`. Its port is its own: unlike TCP,
    /// two sockets of an address cannot share one.
    ///
    /// # Errors
    /// Also: `from` is no address of this machine.
    pub fn connect_from(
        owner: &EventLoop,
        from: Option<IpAddr>,
        server: SocketAddr,
        tag: u64,
    ) -> io::Result<Self> {
        let family = match server {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
        if let Some(from) = from {
            crate::origin::bind(&fd, from)?;
        }
        rustix::net::connect(&fd, &server)?;
        let source = owner.register_for_reading(fd)?;
        source.drive_as(tag);
        Ok(Self { source })
    }

    /// Whether a datagram or an error may be waiting.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.source.is_ready(Readiness::READABLE)
    }

    /// Sends datagrams of one size, the last of which may be shorter, and returns their bytes.
    /// Several travel as one message that the kernel cuts, where their size allows it.
    ///
    /// # Errors
    /// `WouldBlock` when the send buffer is full; `ConnectionRefused` when the server answered an
    /// earlier one with ICMP (these are not sent then).
    pub fn send(&self, datagrams: &[&[u8]]) -> io::Result<usize> {
        if let [one] = datagrams {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            return Ok(rustix::net::send(self.as_fd(), one, flags)?);
        }
        // SAFETY: all-zero bytes are a valid msghdr.
        let mut header: libc::msghdr = unsafe { zeroed() };
        let size = datagrams.first().map_or(0, |first| first.len());
        let mut control = Control::EMPTY.cut_into(size);
        control.attach_to(&mut header);
        match send_message(self.as_fd(), &mut header, datagrams) {
            // The way to the server may not take a message that large, but each datagram.
            Err(error) if is_refused_cut(&error) => {
                datagrams.iter().try_fold(0, |sum, one| Ok(sum + self.send(&[one])?))
            }
            result => result,
        }
    }
}

impl UdpSocket {
    /// Sends one datagram of two parts and returns its size.
    ///
    /// # Errors
    /// As [`UdpSocket::send`]; `InvalidInput` when both are too large for one datagram.
    pub fn send_behind(&self, header: &[u8], payload: &[u8]) -> io::Result<usize> {
        // SAFETY: all-zero bytes are a valid msghdr.
        let mut message: libc::msghdr = unsafe { zeroed() };
        send_message(self.as_fd(), &mut message, &[header, payload])
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}

/// Datagrams of one size that may leave as one message, in the order in which they came.
#[derive(Debug)]
pub struct Run<'a> {
    datagrams: [&'a [u8]; MOST_SEGMENTS],
    count: usize,
}

impl Default for Run<'_> {
    fn default() -> Self {
        Self { datagrams: [&[]; MOST_SEGMENTS], count: 0 }
    }
}

impl<'a> Run<'a> {
    /// Adds a datagram if it may travel with those before it; an empty run takes any.
    #[must_use]
    pub fn accepts(&mut self, datagram: &'a [u8]) -> bool {
        if let [first, .., last] | [first @ last] = self.datagrams() {
            let fits = can_be_cut(first.len())
                && last.len() == first.len()
                && (1..=first.len()).contains(&datagram.len());
            if !fits {
                return false;
            }
        }
        let Some(place) = self.datagrams.get_mut(self.count) else { return false };
        *place = datagram;
        self.count += 1;
        true
    }

    /// The datagrams.
    #[must_use]
    pub fn datagrams(&self) -> &[&'a [u8]] {
        self.datagrams.get(..self.count).unwrap_or_default()
    }

    /// Forgets them.
    pub const fn clear(&mut self) {
        self.count = 0;
    }
}

/// What the kernel says when it cannot cut a message: no such offload, or fragments needed.
fn is_refused_cut(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EIO | libc::EMSGSIZE | libc::ENOPROTOOPT)
    )
}

/// Sends `parts` as one message; `header` says where to and how.
fn send_message(
    socket: BorrowedFd<'_>,
    header: &mut libc::msghdr,
    parts: &[&[u8]],
) -> io::Result<usize> {
    let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; MOST_SEGMENTS];
    let mut count = 0;
    for (vector, part) in vectors.iter_mut().zip(parts) {
        *vector = libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() };
        count += 1;
    }
    header.msg_iov = vectors.as_mut_ptr();
    header.msg_iovlen = count;
    // SAFETY: name and control of the header live in the caller's frame, vectors in this one, the
    // parts are borrowed; all have the stated lengths, and sendmsg only reads them.
    let sent = unsafe {
        libc::sendmsg(
            socket.as_raw_fd(),
            &raw const *header,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_leaves_from_the_address_the_client_spoke_to() {
        let owner = EventLoop::new().unwrap();
        let fd = crate::listener::bind_udp("0.0.0.0:0".parse().unwrap(), true).unwrap();
        let port = crate::socket::local_addr(&fd).unwrap().port();
        let listener = UdpListener::new(&owner, fd, 1).unwrap();
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(("127.0.0.9", port)).unwrap();
        client.send(&[7; 65_507]).unwrap();
        client.send(&[]).unwrap();
        let (mut ready, mut expired) = (Vec::new(), Vec::new());
        let mut batch = Batch::default();
        let mut lengths = Vec::new();
        while lengths.len() < 2 {
            owner.turn(|| None, &mut ready, &mut expired).unwrap();
            while listener.receive(&mut batch).unwrap() > 0 {
                for datagram in batch.iter() {
                    assert_eq!(datagram.to, Some("127.0.0.9".parse().unwrap()));
                    lengths.push(datagram.payload.len());
                    listener.send(datagram.payload, datagram.from, datagram.to).unwrap();
                }
            }
        }
        assert_eq!(lengths, [65_507, 0]);
        // The connected client only hears datagrams from 127.0.0.9.
        let mut buffer = vec![0; 70_000];
        assert_eq!(client.recv(&mut buffer).unwrap(), 65_507);
        assert_eq!(client.recv(&mut buffer).unwrap(), 0);
    }
}
