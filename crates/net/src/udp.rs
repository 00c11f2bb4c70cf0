//! UDP sockets: batches of datagrams in, datagrams out with a chosen source address.
//!
//! `recvmmsg` and control messages have no safe wrapper, so this file holds all `unsafe` code of
//! the crate. Why not a crate: `docs/adr/0003-udp-system-calls.md`.

use std::io;
use std::mem::{MaybeUninit, size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

use crate::event_loop::EventLoop;
use crate::reactor::{Readiness, Source};

/// Largest UDP payload over IPv4 (RFC 768 with RFC 791): 65,535 - 20 - 8.
pub const MAX_PAYLOAD: usize = 65_507;
const BATCH: usize = 32;
/// Most datagrams that one call receives from a server.
pub const REPLIES: usize = 4;
/// Room for one datagram; IPv6 allows 65,527 bytes of payload.
const ROOM: usize = 65_536;
const CONTROL: usize = 64;

/// Asks the kernel to report the local address that each datagram was sent to (ip(7), ipv6(7)).
pub(crate) fn report_destination(socket: impl AsFd, is_ipv6: bool) -> io::Result<()> {
    let (level, option) = if is_ipv6 {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
    } else {
        (libc::IPPROTO_IP, libc::IP_PKTINFO)
    };
    let on: libc::c_int = 1;
    // SAFETY: the option value points to a live c_int whose size is passed; the descriptor is
    // open for the duration of the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL]);

/// Buffers for one batch of incoming datagrams, reused for all sockets of a core. Memory is only
/// touched as far as datagrams fill it.
pub struct Batch {
    payloads: Vec<u8>,
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<Control>,
    headers: Vec<libc::mmsghdr>,
    parts: Vec<libc::iovec>,
    received: usize,
}

/// One datagram of a [`Batch`].
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    /// Who sent it.
    pub from: SocketAddr,
    /// The local address it was sent to, if the kernel said so.
    pub to: Option<IpAddr>,
    /// Its bytes.
    pub payload: &'a [u8],
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("received", &self.received).finish_non_exhaustive()
    }
}

impl Default for Batch {
    fn default() -> Self {
        // SAFETY: all-zero bytes are a valid value of these plain C structures.
        let (name, header) = unsafe { (zeroed(), zeroed()) };
        Self {
            payloads: vec![0; BATCH * ROOM],
            names: vec![name; BATCH],
            controls: vec![Control([0; CONTROL]); BATCH],
            headers: vec![header; BATCH],
            parts: vec![libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH],
            received: 0,
        }
    }
}

impl Batch {
    /// The payloads received last, whoever sent them.
    pub fn payloads(&self) -> impl Iterator<Item = &[u8]> {
        let rooms = self.payloads.chunks_exact(ROOM);
        self.headers
            .iter()
            .take(self.received)
            .zip(rooms)
            .filter_map(|(header, room)| room.get(..(header.msg_len as usize).min(ROOM)))
    }

    /// The datagrams received last.
    pub fn iter(&self) -> impl Iterator<Item = Datagram<'_>> {
        let senders = self.headers.iter().zip(&self.names);
        self.payloads().zip(senders).filter_map(|(payload, (header, name))| {
            let (from, to) = (address(name)?, destination(&header.msg_hdr));
            Some(Datagram { from, to, payload })
        })
    }

    /// Receives up to `most` datagrams; 0 when none is waiting.
    fn receive_ready(&mut self, source: &Source, most: usize) -> io::Result<usize> {
        match self.receive(source.as_fd(), most) {
            Ok(count) => {
                if count < most {
                    source.clear(Readiness::READABLE);
                }
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                source.clear(Readiness::READABLE);
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }

    fn receive(&mut self, socket: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        self.received = 0;
        let most = most.min(BATCH);
        for (index, room) in self.payloads.chunks_exact_mut(ROOM).take(most).enumerate() {
            self.parts[index] =
                libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            let header = &mut self.headers[index].msg_hdr;
            header.msg_name = (&raw mut self.names[index]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut self.parts[index];
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut self.controls[index]).cast();
            header.msg_controllen = CONTROL;
        }
        // SAFETY: every header points into vectors of this batch that live past the call and are
        // not moved during it; lengths are those of the pointed-to buffers; `most` headers exist.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                most as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        if count < 0 {
            return Err(io::Error::last_os_error());
        }
        self.received = count as usize;
        Ok(self.received)
    }
}

fn address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that the storage holds a sockaddr_in, which is smaller.
            let v4 = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that the storage holds a sockaddr_in6, which is smaller.
            let v6 = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            Some(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

fn destination(header: &libc::msghdr) -> Option<IpAddr> {
    // SAFETY: the kernel filled msg_control with well-formed control messages of msg_controllen
    // bytes; the CMSG macros stay inside them; the data is read without alignment assumptions.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            let data = libc::CMSG_DATA(message);
            match ((*message).cmsg_level, (*message).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    // The local address, also for datagrams sent to a broadcast address.
                    return Some(Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr)).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    return Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                }
                _ => message = libc::CMSG_NXTHDR(header, message),
            }
        }
    }
    None
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
        let source = owner.register(fd)?;
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
        batch.receive_ready(&self.source, BATCH)
    }

    /// Sends one datagram to `to`; it leaves from the local address `from` when given, so that
    /// the client hears from the address it spoke to.
    ///
    /// # Errors
    /// `WouldBlock` when the send buffer is full; an unreachable client.
    pub fn send(&self, payload: &[u8], to: SocketAddr, from: Option<IpAddr>) -> io::Result<usize> {
        let (name, name_length) = storage(to);
        let mut part =
            libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
        let mut control = Control([0; CONTROL]);
        // SAFETY: all-zero bytes are a valid msghdr.
        let mut header: libc::msghdr = unsafe { zeroed() };
        header.msg_name = (&raw const name).cast_mut().cast();
        header.msg_namelen = name_length;
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        if let Some(from) = from {
            header.msg_control = (&raw mut control).cast();
            header.msg_controllen = write_source(&mut control, from);
        }
        // SAFETY: name, part, payload and control outlive the call and have the stated lengths;
        // sendmsg only reads them.
        let sent = unsafe {
            libc::sendmsg(
                self.source.as_fd().as_raw_fd(),
                &raw const header,
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
    }
}

impl AsFd for UdpListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}

fn storage(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    let mut name = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let length = match address {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from(*v4.ip()).to_be() },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage is larger than and aligned for sockaddr_in.
            unsafe { name.as_mut_ptr().cast::<libc::sockaddr_in>().write(raw) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: sockaddr_storage is larger than and aligned for sockaddr_in6.
            unsafe { name.as_mut_ptr().cast::<libc::sockaddr_in6>().write(raw) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    // SAFETY: the storage was zeroed, which is valid, and then partly written.
    (unsafe { name.assume_init() }, length as libc::socklen_t)
}

/// Writes a packet-info control message and returns its length.
fn write_source(control: &mut Control, from: IpAddr) -> usize {
    // SAFETY: the buffer is CONTROL bytes, aligned for cmsghdr, zeroed, and larger than
    // CMSG_SPACE of either packet-info structure; the header lies at its start.
    unsafe {
        let message = (&raw mut *control).cast::<libc::cmsghdr>();
        match from {
            IpAddr::V4(ip) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from(ip).to_be() },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                let size = size_of::<libc::in_pktinfo>() as libc::c_uint;
                (*message).cmsg_level = libc::IPPROTO_IP;
                (*message).cmsg_type = libc::IP_PKTINFO;
                (*message).cmsg_len = libc::CMSG_LEN(size) as usize;
                libc::CMSG_DATA(message).cast::<libc::in_pktinfo>().write_unaligned(info);
                libc::CMSG_SPACE(size) as usize
            }
            IpAddr::V6(ip) => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: ip.octets() },
                    ipi6_ifindex: 0,
                };
                let size = size_of::<libc::in6_pktinfo>() as libc::c_uint;
                (*message).cmsg_level = libc::IPPROTO_IPV6;
                (*message).cmsg_type = libc::IPV6_PKTINFO;
                (*message).cmsg_len = libc::CMSG_LEN(size) as usize;
                libc::CMSG_DATA(message).cast::<libc::in6_pktinfo>().write_unaligned(info);
                libc::CMSG_SPACE(size) as usize
            }
        }
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
        let family = match server {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
        rustix::net::connect(&fd, &server)?;
        let source = owner.register(fd)?;
        source.drive_as(tag);
        Ok(Self { source })
    }

    /// Whether a datagram or an error may be waiting.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.source.is_ready(Readiness::READABLE)
    }

    /// Receives up to [`REPLIES`] datagrams; 0 when none is waiting.
    ///
    /// # Errors
    /// `ConnectionRefused` when the server answered with ICMP; the error is used up.
    pub fn receive(&self, batch: &mut Batch) -> io::Result<usize> {
        batch.receive_ready(&self.source, REPLIES)
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// `WouldBlock` when the send buffer is full; `ConnectionRefused` when the server answered an
    /// earlier one with ICMP (this one is not sent then).
    pub fn send(&self, payload: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(&self.source, payload, SendFlags::NOSIGNAL)?)
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
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
