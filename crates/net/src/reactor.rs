//! One epoll instance of one core.
//!
//! Every descriptor is registered once, edge-triggered, for all that anybody waits for, and never
//! changed again; closing it removes it. A slot remembers what epoll said and who is waiting: a *task* (futures
//! that set a connection up) or a *tag* (a state machine that the owner of the loop drives).

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};

/// What the kernel said about a descriptor and nobody has used up yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Readiness(u8);

impl Readiness {
    /// A read may succeed.
    pub const READABLE: Self = Self(1);
    /// A write may succeed.
    pub const WRITABLE: Self = Self(2);
    /// A short read does not mean "empty": the peer finished sending, the connection is gone, or
    /// there is urgent data, at which reads stop (RFC 6093). Read until it blocks or ends.
    pub const READ_ON: Self = Self(4);
    /// An error is pending on the socket.
    pub const ERROR: Self = Self(8);

    /// Whether all flags of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    fn from_epoll(flags: EventFlags) -> Self {
        let mut ready = 0;
        let readable = EventFlags::IN
            | EventFlags::PRI
            | EventFlags::RDHUP
            | EventFlags::HUP
            | EventFlags::ERR;
        if flags.intersects(readable) {
            ready |= Self::READABLE.0;
        }
        if flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR) {
            ready |= Self::WRITABLE.0;
        }
        let until_blocked = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR | EventFlags::PRI;
        if flags.intersects(until_blocked) {
            ready |= Self::READ_ON.0;
        }
        if flags.contains(EventFlags::ERR) {
            ready |= Self::ERROR.0;
        }
        Self(ready)
    }
}

/// Who hears of readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// Futures waiting in the slot.
    Task,
    /// The loop's owner, under this tag.
    Tag(u64),
}

struct Slot {
    ready: Cell<u8>,
    owner: Cell<Owner>,
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
}

#[derive(Default)]
struct Table {
    slots: Vec<(u32, Option<Rc<Slot>>)>,
    free: Vec<u32>,
}

/// The epoll instance; cheap to clone.
#[derive(Clone)]
pub struct Reactor {
    inner: Rc<Inner>,
}

struct Inner {
    epoll: OwnedFd,
    table: RefCell<Table>,
}

impl Reactor {
    /// Opens an epoll instance.
    ///
    /// # Errors
    /// The kernel refuses (descriptor limit).
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { inner: Rc::new(Inner { epoll, table: RefCell::default() }) })
    }

    /// Registers a descriptor for life; it starts with nothing ready and owned by tasks.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn register(&self, fd: OwnedFd) -> io::Result<Source> {
        self.register_for(
            fd,
            EventFlags::IN | EventFlags::PRI | EventFlags::OUT | EventFlags::RDHUP,
        )
    }

    /// Registers a descriptor that nobody waits on to write. A datagram socket would otherwise
    /// report after each datagram sent that it may send another.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn register_for_reading(&self, fd: OwnedFd) -> io::Result<Source> {
        self.register_for(fd, EventFlags::IN)
    }

    fn register_for(&self, fd: OwnedFd, events: EventFlags) -> io::Result<Source> {
        let slot = Rc::new(Slot {
            ready: Cell::new(0),
            owner: Cell::new(Owner::Task),
            reader: RefCell::new(None),
            writer: RefCell::new(None),
        });
        let mut table = self.inner.table.borrow_mut();
        let index = table.free.pop().unwrap_or_else(|| {
            table.slots.push((0, None));
            table.slots.len() as u32 - 1
        });
        let Some(entry) = table.slots.get_mut(index as usize) else {
            return Err(io::Error::other("reactor slot table is damaged"));
        };
        entry.1 = Some(Rc::clone(&slot));
        let token = u64::from(entry.0) << 32 | u64::from(index);
        drop(table);
        let source = Source { slot, index, reactor: Rc::clone(&self.inner), fd };
        let events = events | EventFlags::ET;
        epoll::add(&self.inner.epoll, &source.fd, EventData::new_u64(token), events)?;
        Ok(source)
    }

    /// Waits for events, wakes tasks, and appends the tags that became ready to `tags`.
    ///
    /// # Errors
    /// Anything but an interrupted wait.
    pub fn poll(
        &self,
        timeout: Option<Duration>,
        events: &mut Vec<epoll::Event>,
        tags: &mut Vec<u64>,
    ) -> io::Result<()> {
        let timeout = timeout.map(|time| rustix::time::Timespec {
            tv_sec: time.as_secs() as i64,
            tv_nsec: i64::from(time.subsec_nanos()),
        });
        events.clear();
        let space = rustix::buffer::spare_capacity(events);
        match epoll::wait(&self.inner.epoll, space, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let table = self.inner.table.borrow();
        for event in events.iter() {
            let token = event.data.u64();
            let (index, generation) = (token as u32 as usize, (token >> 32) as u32);
            let Some((current, Some(slot))) = table.slots.get(index) else { continue };
            if *current != generation {
                continue; // closed earlier in this turn
            }
            let ready = Readiness::from_epoll(event.flags);
            slot.ready.set(slot.ready.get() | ready.0);
            match slot.owner.get() {
                Owner::Tag(tag) => tags.push(tag),
                Owner::Task => slot.wake(ready),
            }
        }
        Ok(())
    }
}

impl Slot {
    fn wake(&self, ready: Readiness) {
        if ready.contains(Readiness::READABLE)
            && let Some(waker) = self.reader.borrow_mut().take()
        {
            waker.wake();
        }
        if ready.contains(Readiness::WRITABLE)
            && let Some(waker) = self.writer.borrow_mut().take()
        {
            waker.wake();
        }
    }
}

/// A registered descriptor. Dropping it closes and forgets it.
pub struct Source {
    slot: Rc<Slot>,
    index: u32,
    reactor: Rc<Inner>,
    fd: OwnedFd,
}

impl Source {
    /// What is ready and not used up.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        Readiness(self.slot.ready.get())
    }

    /// Whether all of `flags` are ready.
    #[must_use]
    pub fn is_ready(&self, flags: Readiness) -> bool {
        self.readiness().contains(flags)
    }

    /// Notes that `flags` are used up; the next edge sets them again.
    pub fn clear(&self, flags: Readiness) {
        self.slot.ready.set(self.slot.ready.get() & !flags.0);
    }

    /// Takes it out of epoll. Closing does that only when no other process has the socket too
    /// (epoll(7), question 6), which may be so for listeners.
    pub(crate) fn forget(&self) {
        let _ = epoll::delete(&self.reactor.epoll, &self.fd);
    }

    /// From now on readiness is reported as `tag` by [`Reactor::poll`].
    pub fn drive_as(&self, tag: u64) {
        self.slot.owner.set(Owner::Tag(tag));
        self.slot.reader.borrow_mut().take();
        self.slot.writer.borrow_mut().take();
    }

    /// Ready when a read may succeed.
    pub fn poll_readable(&self, context: &Context<'_>) -> Poll<()> {
        self.poll_ready(Readiness::READABLE, &self.slot.reader, context)
    }

    /// Ready when the kernel reported an error, whether or not there is something to read.
    pub fn poll_error(&self, context: &Context<'_>) -> Poll<()> {
        if self.is_ready(Readiness::ERROR) {
            return Poll::Ready(());
        }
        *self.slot.reader.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }

    /// Ready when a write may succeed.
    pub fn poll_writable(&self, context: &Context<'_>) -> Poll<()> {
        self.poll_ready(Readiness::WRITABLE, &self.slot.writer, context)
    }

    fn poll_ready(
        &self,
        wanted: Readiness,
        place: &RefCell<Option<Waker>>,
        context: &Context<'_>,
    ) -> Poll<()> {
        if self.is_ready(wanted) {
            return Poll::Ready(());
        }
        let mut place = place.borrow_mut();
        match place.as_mut() {
            Some(waker) => waker.clone_from(context.waker()),
            None => *place = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("fd", &self.fd).field("ready", &self.readiness()).finish()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // The descriptor closes right after this body, which takes it out of epoll. The new
        // generation makes events that are already fetched point nowhere.
        let mut table = self.reactor.table.borrow_mut();
        if let Some(entry) = table.slots.get_mut(self.index as usize) {
            entry.0 = entry.0.wrapping_add(1);
            entry.1 = None;
            table.free.push(self.index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    fn turn(reactor: &Reactor) -> Vec<u64> {
        let (mut events, mut tags) = (Vec::with_capacity(8), Vec::new());
        reactor.poll(Some(Duration::ZERO), &mut events, &mut tags).unwrap();
        tags
    }

    #[test]
    fn tags_are_reported_once_per_edge_and_never_after_close() {
        let reactor = Reactor::new().unwrap();
        let (here, mut there) = UnixStream::pair().unwrap();
        let source = reactor.register(here.into()).unwrap();
        source.drive_as(7);
        turn(&reactor);
        there.write_all(b"x").unwrap();
        assert_eq!(turn(&reactor), [7]);
        assert!(source.is_ready(Readiness::READABLE));
        assert!(turn(&reactor).is_empty());
        drop(there);
        assert_eq!(turn(&reactor), [7]);
        assert!(source.is_ready(Readiness::READ_ON));
        drop(source);
        assert!(turn(&reactor).is_empty());
    }

    #[test]
    fn a_socket_for_reading_is_not_told_that_it_may_write() {
        let reactor = Reactor::new().unwrap();
        let peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(peer.local_addr().unwrap()).unwrap();
        let sender = socket.try_clone().unwrap();
        let source = reactor.register_for_reading(socket.into()).unwrap();
        source.drive_as(7);
        sender.send(b"x").unwrap();
        let mut buffer = [0; 8];
        let (_, from) = peer.recv_from(&mut buffer).unwrap();
        assert!(turn(&reactor).is_empty());
        peer.send_to(b"y", from).unwrap();
        assert_eq!(turn(&reactor), [7]);
    }

    #[test]
    fn a_slot_is_used_again_under_a_new_generation() {
        let reactor = Reactor::new().unwrap();
        let (first, _a) = UnixStream::pair().unwrap();
        let (second, mut peer) = UnixStream::pair().unwrap();
        let one = reactor.register(first.into()).unwrap();
        let index = one.index;
        drop(one);
        let two = reactor.register(second.into()).unwrap();
        assert_eq!(two.index, index);
        two.drive_as(9);
        peer.write_all(b"x").unwrap();
        assert_eq!(turn(&reactor), [9]);
    }

    #[test]
    fn urgent_data_makes_a_short_read_inconclusive() {
        let reactor = Reactor::new().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        let source = reactor.register(accepted.into()).unwrap();
        source.drive_as(7);
        turn(&reactor);
        assert!(!source.is_ready(Readiness::READ_ON));
        let client = socket2::Socket::from(client);
        assert_eq!(client.send(b"abc").unwrap(), 3);
        assert_eq!(client.send_out_of_band(b"!").unwrap(), 1);
        assert_eq!(client.send(b"defgh").unwrap(), 5);
        assert_eq!(turn(&reactor), [7]);
        assert!(source.is_ready(Readiness::READABLE) && source.is_ready(Readiness::READ_ON));
        // That is why: there is more behind a read that returned less than it was asked for.
        let mut buffer = [0; 64];
        let (first, _) =
            rustix::net::recv(&source, &mut buffer, rustix::net::RecvFlags::empty()).unwrap();
        let (second, _) =
            rustix::net::recv(&source, &mut buffer, rustix::net::RecvFlags::empty()).unwrap();
        assert_eq!((first, second), (3, 5));
    }

    #[test]
    fn an_error_is_seen_even_while_unread_bytes_are_there() {
        let reactor = Reactor::new().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let source = reactor.register(accepted.into()).unwrap();
        let client = socket2::Socket::from(client);
        assert_eq!(client.send(b"unread").unwrap(), 6);
        turn(&reactor);
        let context = Context::from_waker(Waker::noop());
        assert!(source.poll_readable(&context).is_ready());
        assert!(source.poll_error(&context).is_pending());
        client.set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        turn(&reactor);
        assert!(source.poll_error(&context).is_ready());
    }
}
