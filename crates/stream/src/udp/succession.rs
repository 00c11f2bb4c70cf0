//! Two processes at one UDP socket. The older one reads it, keeps the datagrams of its flows and
//! passes all others on; both send replies through it. Nothing is lost and no flow is served
//! twice, because only one process reads at any time (`docs/adr/0012`).

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;

use headgate_net::udp::forward::{Incoming, Outgoing, ROOM, Received, channel};
use headgate_net::udp::{BATCH, Datagram};

use super::{BUDGET, Listener, UdpPlane};
use crate::core::{Core, Lent, Tag};
use crate::slots::Key;
use crate::stats::DropCause;

/// What ties a listener to the same one of another process.
#[derive(Debug)]
pub(super) struct Ties {
    /// Still reads the socket, and sends what is not for its own flows.
    predecessor: RefCell<Option<(Incoming, Box<[u8]>)>>,
    /// Gets what belongs to no flow here, once `passes_on`.
    successor: RefCell<Option<Outgoing>>,
    passes_on: Cell<bool>,
}

impl Ties {
    pub(super) fn new(core: &Core, predecessor: Option<OwnedFd>, tag: u64) -> io::Result<Self> {
        let incoming = predecessor.map(|fd| Incoming::new(&core.events, fd, tag)).transpose()?;
        let predecessor = incoming.map(|incoming| (incoming, vec![0; ROOM].into_boxed_slice()));
        let (successor, passes_on) = (RefCell::new(None), Cell::new(false));
        Ok(Self { predecessor: RefCell::new(predecessor), successor, passes_on })
    }

    /// Whether the successor has yet to take what it was given.
    pub(super) fn successor_is_behind(&self) -> bool {
        self.passes_on.get() && self.successor.borrow().as_ref().is_some_and(|it| !it.has_room())
    }

    /// Hands a datagram to the successor; `false` if it is for this process.
    pub(super) fn pass_on(&self, core: &Core, datagram: &Datagram<'_>) -> bool {
        if !self.passes_on.get() {
            return false;
        }
        let sent = match self.successor.borrow().as_ref() {
            Some(successor) => successor.pass(datagram),
            None => return false,
        };
        match sent {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                core.stats().drop_datagrams(DropCause::NoPlace, 1);
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the new process takes no datagrams; they are served here");
                self.cut();
                false
            }
        }
    }

    /// Whether another process reads the socket still.
    fn has_predecessor(&self) -> bool {
        self.predecessor.borrow().is_some()
    }

    fn cut(&self) {
        self.passes_on.set(false);
        self.successor.borrow_mut().take();
    }
}

impl UdpPlane {
    /// Duplicates of all sockets, each with a channel for what will be passed on.
    pub(crate) fn lend(&self) -> io::Result<Vec<Lent>> {
        self.listeners()
            .map(|(_, listener)| {
                let (outgoing, passed_on) = channel()?;
                *listener.ties.successor.borrow_mut() = Some(outgoing);
                let fd = listener.socket.as_fd().try_clone_to_owned()?;
                let spec = (**listener.inlet.borrow()).clone();
                Ok(Lent { spec, fd, passed_on: Some(passed_on) })
            })
            .collect()
    }

    /// From now on datagrams that belong to no flow here go to the successor.
    pub(crate) fn pass_on(&self) {
        self.listeners().for_each(|(_, listener)| listener.ties.passes_on.set(true));
    }

    /// The successor failed.
    pub(crate) fn take_back(&self) {
        self.listeners().for_each(|(_, listener)| listener.ties.cut());
    }

    /// The successor stays.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
        self.close_if_retired();
    }

    /// Ends reading once no flow needs it; the successor reads on, from the same socket.
    pub(super) fn close_if_retired(&self) {
        if !self.retired.get() || self.flows.borrow().len() > 0 {
            return;
        }
        for (key, listener) in self.listeners() {
            if listener.ties.passes_on.get() && !listener.ties.has_predecessor() {
                self.listeners.borrow_mut().remove(key);
            }
        }
    }

    /// Takes what the predecessor passed on. `true`: it still reads the socket itself.
    pub(super) fn receive_passed_on(&self, core: &Core, key: Key, listener: &Rc<Listener>) -> bool {
        let taken = listener.ties.predecessor.borrow_mut().take();
        let Some((incoming, mut room)) = taken else { return false };
        for _ in 0..BUDGET * BATCH {
            match incoming.receive(&mut room) {
                Received::One(datagram) => {
                    self.forward(core, key, listener, std::iter::once(datagram));
                }
                Received::Nothing => {
                    *listener.ties.predecessor.borrow_mut() = Some((incoming, room));
                    return true;
                }
                Received::End => {
                    self.close_if_retired();
                    return false;
                }
            }
        }
        *listener.ties.predecessor.borrow_mut() = Some((incoming, room));
        core.go_on_later(Tag::UdpListener(key));
        true
    }

    fn listeners(&self) -> impl Iterator<Item = (Key, Rc<Listener>)> {
        let all = self.listeners.borrow();
        let listeners: Vec<_> = all
            .keys()
            .into_iter()
            .filter_map(|key| Some((key, Rc::clone(all.get(key)?))))
            .collect();
        listeners.into_iter()
    }
}
