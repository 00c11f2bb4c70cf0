//! Datagrams of many clients, received together (recvmmsg(2)).

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::message::{self, Control};
use crate::reactor::{Readiness, Source};

/// Most datagrams of one batch.
pub const BATCH: usize = 64;
/// Room for one datagram; IPv6 allows 65,527 bytes of payload.
pub(super) const ROOM: usize = 65_536;

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
        let mut batch = Self {
            payloads: vec![0; BATCH * ROOM],
            names: vec![name; BATCH],
            controls: vec![Control::EMPTY; BATCH],
            headers: vec![header; BATCH],
            parts: vec![libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH],
            received: BATCH,
        };
        batch.prepare();
        batch
    }
}

impl Batch {
    /// Points the headers that were used last to their buffers, which never move: the kernel wrote
    /// into them what it received.
    fn prepare(&mut self) {
        let rooms = self.payloads.chunks_exact_mut(ROOM);
        for (index, room) in rooms.enumerate().take(self.received.max(1)) {
            self.parts[index] =
                libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            let header = &mut self.headers[index].msg_hdr;
            header.msg_name = (&raw mut self.names[index]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut self.parts[index];
            header.msg_iovlen = 1;
            self.controls[index].receive_into(header);
        }
        self.received = 0;
    }

    /// The datagrams received last.
    pub fn iter(&self) -> impl Iterator<Item = Datagram<'_>> {
        let rooms = self.payloads.chunks_exact(ROOM);
        let senders = self.headers.iter().zip(&self.names);
        rooms.zip(senders).take(self.received).filter_map(|(room, (header, name))| {
            let payload = room.get(..(header.msg_len as usize).min(ROOM))?;
            let (from, to) = (message::address(name)?, message::destination(&header.msg_hdr));
            Some(Datagram { from, to, payload })
        })
    }

    /// Receives what is waiting on `source`; 0 when nothing is.
    pub(super) fn receive_ready(&mut self, source: &Source) -> io::Result<usize> {
        match self.receive(source.as_fd()) {
            Ok(count) => {
                if count < BATCH {
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

    fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.prepare();
        // SAFETY: every header points into vectors of this batch that live past the call and are
        // not moved during it; lengths are those of the pointed-to buffers; BATCH headers exist.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT as _, // unsigned in musl
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
