//! What servers answer in one turn of the loop: received into rooms (recvmmsg(2)), sent on to the
//! clients together (sendmmsg(2)), and cut by the kernel where one client gets several of a size.

use std::io;
use std::mem::zeroed;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use super::batch::ROOM;
use super::message::{self, Control};
use super::{MOST_SEGMENTS, UdpListener, UdpSocket, can_be_cut};
use crate::reactor::Readiness;

/// Most datagrams that one call receives from a server.
const TAKE: usize = 4;
/// Datagrams that may wait to be sent.
const ROOMS: usize = 64;

/// Where a reply goes.
#[derive(Debug, Clone, Copy)]
pub struct Recipient {
    /// The client.
    pub to: SocketAddr,
    /// The address it spoke to: replies leave from there.
    pub from: Option<IpAddr>,
    /// Says to [`Replies::send`] whose they were.
    pub owner: u64,
}

/// A datagram in the room of the same number.
struct Queued {
    recipient: Recipient,
    length: usize,
}

/// What [`Replies::take`] received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Datagrams; 0 when none was waiting.
    pub datagrams: usize,
    /// Bytes in them.
    pub bytes: usize,
}

/// Replies of all flows of one listener, on their way. Memory is only touched as far as datagrams
/// fill it.
pub struct Replies {
    rooms: Vec<u8>,
    queued: Vec<Queued>,
    arriving: [libc::mmsghdr; TAKE],
    arriving_parts: [libc::iovec; TAKE],
    leaving: Vec<Leaving>,
    parts: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

/// One message for the kernel: a run of datagrams of one size to one client.
struct Leaving {
    first: usize,
    count: usize,
    name: message::Name,
    name_length: libc::socklen_t,
    control: Control,
}

impl std::fmt::Debug for Replies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replies").field("queued", &self.queued.len()).finish_non_exhaustive()
    }
}

impl Default for Replies {
    fn default() -> Self {
        let no_part = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Self {
            rooms: vec![0; ROOMS * ROOM],
            queued: Vec::with_capacity(ROOMS),
            // SAFETY: all-zero bytes are a valid value of this plain C structure.
            arriving: unsafe { zeroed() },
            arriving_parts: [no_part; TAKE],
            leaving: Vec::with_capacity(ROOMS),
            parts: Vec::with_capacity(ROOMS),
            headers: Vec::with_capacity(ROOMS),
        }
    }
}

impl Replies {
    /// Whether nothing waits to be sent.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.queued.is_empty()
    }

    /// Whether there may be no room for what the next [`Replies::take`] receives.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.queued.len() + TAKE > ROOMS
    }

    /// Receives up to four datagrams and queues them for `recipient`. Without room (see
    /// [`Replies::is_full`]) nothing is received.
    ///
    /// # Errors
    /// `ConnectionRefused` when the server answered with ICMP; the error is used up.
    pub fn take(&mut self, socket: &UdpSocket, recipient: &Recipient) -> io::Result<Taken> {
        let nothing = Taken { datagrams: 0, bytes: 0 };
        let first = self.queued.len();
        let rooms = self.rooms.chunks_exact_mut(ROOM).skip(first);
        let mut offered = 0;
        for ((room, part), header) in rooms.zip(&mut self.arriving_parts).zip(&mut self.arriving) {
            *part = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            header.msg_hdr.msg_iov = &raw mut *part;
            header.msg_hdr.msg_iovlen = 1;
            offered += 1;
        }
        if offered == 0 {
            return Ok(nothing);
        }
        // SAFETY: `offered` headers point to parts and rooms of this value, which live past the
        // call, are not moved during it, and have the stated lengths; they ask for no names and no
        // control messages.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                self.arriving.as_mut_ptr(),
                offered as libc::c_uint,
                libc::MSG_DONTWAIT as _, // unsigned in musl
                std::ptr::null_mut(),
            )
        };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::WouldBlock {
                socket.source.clear(Readiness::READABLE);
                return Ok(nothing);
            }
            return Err(error);
        };
        if count < offered {
            socket.source.clear(Readiness::READABLE);
        }
        let mut taken = Taken { datagrams: count, bytes: 0 };
        for header in self.arriving.iter().take(count) {
            let length = (header.msg_len as usize).min(ROOM);
            taken.bytes += length;
            self.queued.push(Queued { recipient: *recipient, length });
        }
        Ok(taken)
    }

    /// Of the last `count` datagrams that were queued, keeps those before the first whose size
    /// `passes` refuses, and returns how many are dropped.
    pub fn keep_last(&mut self, count: usize, passes: impl FnMut(usize) -> bool) -> usize {
        let first = self.queued.len().saturating_sub(count);
        let last = self.queued.get(first..).unwrap_or_default();
        let kept =
            last.iter().map(|one| one.length).map(passes).take_while(|passes| *passes).count();
        let dropped = last.len() - kept;
        self.queued.truncate(first + kept);
        dropped
    }

    /// Sends everything that waits through `listener`, and tells for each datagram its owner and
    /// its size, or `None` if it was lost (the send buffer is full, the client is unreachable).
    pub fn send(&mut self, listener: &UdpListener, mut told: impl FnMut(u64, Option<usize>)) {
        self.group();
        let mut next = 0;
        while next < self.leaving.len() {
            let sent = self.send_from(listener, next);
            for run in self.leaving.iter().skip(next).take(sent) {
                for one in self.queued.iter().skip(run.first).take(run.count) {
                    told(one.recipient.owner, Some(one.length));
                }
            }
            next += sent;
            if sent == 0 {
                self.send_singly(listener, next, &mut told);
                next += 1;
            }
        }
        self.queued.clear();
        self.leaving.clear();
    }

    /// Forms the messages: neighbours of one owner and one size go together; the last of a run
    /// may be shorter (udp(7), UDP_SEGMENT).
    fn group(&mut self) {
        let mut first = 0;
        while let Some(head) = self.queued.get(first) {
            let mut count = 1;
            if can_be_cut(head.length) {
                let mut last = head.length;
                for one in self.queued.iter().skip(first + 1).take(MOST_SEGMENTS - 1) {
                    let fits = one.recipient.owner == head.recipient.owner
                        && last == head.length
                        && (1..=head.length).contains(&one.length);
                    if !fits {
                        break;
                    }
                    last = one.length;
                    count += 1;
                }
            }
            let (name, name_length) = message::name_of(head.recipient.to);
            let mut control = Control::leaving_from(head.recipient.from);
            if count > 1 {
                control = control.cut_into(head.length);
            }
            self.leaving.push(Leaving { first, count, name, name_length, control });
            first += count;
        }
    }

    /// Hands the messages from `next` on to the kernel; how many it took before it stopped.
    fn send_from(&mut self, listener: &UdpListener, next: usize) -> usize {
        self.parts.clear();
        self.headers.clear();
        // The vectors have room for every datagram, so that nothing moves once it is pointed to.
        let rooms = self.rooms.chunks_exact_mut(ROOM).zip(&self.queued);
        self.parts.extend(rooms.map(|(room, one)| libc::iovec {
            iov_base: room.as_mut_ptr().cast(),
            iov_len: one.length,
        }));
        for run in self.leaving.iter_mut().skip(next) {
            // SAFETY: all-zero bytes are a valid value of this plain C structure.
            let mut header: libc::mmsghdr = unsafe { zeroed() };
            header.msg_hdr.msg_name = (&raw mut run.name).cast();
            header.msg_hdr.msg_namelen = run.name_length;
            if let Some(part) = self.parts.get_mut(run.first..run.first + run.count) {
                header.msg_hdr.msg_iov = part.as_mut_ptr();
                header.msg_hdr.msg_iovlen = part.len() as _;
            }
            run.control.attach_to(&mut header.msg_hdr);
            self.headers.push(header);
        }
        // SAFETY: every header points to a name, a control and parts of this value, which live
        // past the call and are not moved during it; sendmmsg only reads payloads and writes
        // msg_len of the headers, all of which exist.
        let sent = unsafe {
            libc::sendmmsg(
                listener.as_fd().as_raw_fd(),
                self.headers.as_mut_ptr(),
                self.headers.len() as libc::c_uint,
                (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
            )
        };
        usize::try_from(sent).unwrap_or(0)
    }

    /// A message was refused. A run may have been too large for the way it takes; its datagrams
    /// may fit one by one. A single datagram is lost.
    fn send_singly(
        &mut self,
        listener: &UdpListener,
        refused: usize,
        told: &mut impl FnMut(u64, Option<usize>),
    ) {
        let Some(run) = self.leaving.get(refused) else { return };
        let datagrams = self.rooms.chunks_exact(ROOM).zip(&self.queued).skip(run.first);
        for (room, one) in datagrams.take(run.count) {
            let Recipient { to, from, owner } = one.recipient;
            let payload = room.get(..one.length).unwrap_or_default();
            let sent = run.count > 1 && listener.send(payload, to, from).is_ok();
            told(owner, sent.then_some(one.length));
        }
    }
}

#[cfg(test)]
mod tests;
