//! Copies of what clients send, to a second upstream. Lossy by design: a copy has a bounded buffer,
//! and whatever happens to it neither slows its session down nor ends it.
//!
//! A copy of a TCP session is a connection of its own, driven by its own events, that outlives the
//! session for a moment. When it falls behind by more than its buffer it ends with a reset: a
//! stream with a hole in it is worth nothing. Copies of datagrams are sent and forgotten.

mod copy;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use headgate_net::limits::Cost;
use headgate_net::udp::UdpSocket;
use headgate_telemetry::LogLimit;
use headgate_upstream::connector::{self, Connected};
use headgate_upstream::{Address, Lease, Opening, Tried, Upstream};

use crate::core::{Core, Tag};
use crate::hash_key;
use crate::session::{Place, Session};
use crate::slots::{Key, Slots};
use crate::udp;
use copy::{Buffers, Copy};

/// Most copies of TCP sessions on one core.
const MOST: usize = 4096;
/// How long a copy may take for what is left when its session has ended, milliseconds.
const LINGER: u64 = 5000;

static FAILED: LogLimit = LogLimit::per_second(5);

/// Where a session is to be copied to.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) upstream: Arc<Upstream>,
    /// Most bytes that may wait for the mirror.
    pub(crate) buffer: usize,
}

/// How a copy ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Everything was delivered.
    Complete,
    /// No node could be connected to.
    Unreachable,
    /// The mirror ended or reset the connection.
    Broken,
    /// It did not keep up.
    Behind,
    /// There are too many copies.
    NoPlace,
}

impl Ending {
    /// Every ending.
    pub(crate) const ALL: [Self; 5] =
        [Self::Complete, Self::Unreachable, Self::Broken, Self::Behind, Self::NoPlace];

    /// As in metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Unreachable => "unreachable",
            Self::Broken => "broken",
            Self::Behind => "behind",
            Self::NoPlace => "no_place",
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Complete => "the mirror got everything",
            Self::Unreachable => "the mirror cannot be reached",
            Self::Broken => "the mirror ended the connection",
            Self::Behind => "the mirror does not keep up",
            Self::NoPlace => "too many sessions are mirrored",
        }
    }
}

/// All copies of TCP sessions of a core.
#[derive(Debug, Default)]
pub(crate) struct Mirrors {
    all: RefCell<Slots<Copy>>,
    buffers: RefCell<Buffers>,
}

/// Where the relay puts what it read of a client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tap<'a> {
    core: &'a Core,
    key: Key,
}

impl<'a> Tap<'a> {
    /// The tap of a session, if it is copied.
    pub(crate) fn of(core: &'a Core, session: &Session) -> Option<Self> {
        session.copy.map(|key| Self { core, key })
    }

    /// Copies bytes.
    pub(crate) fn push(&self, bytes: &[u8]) {
        self.core.mirrors.push(self.core, self.key, bytes);
    }
}

/// Begins the copy of a session whose plugins asked for one; `first` are the bytes that its client
/// sent so far.
pub(crate) fn begin(core: &Rc<Core>, session: &mut Session, first: &[u8]) {
    let Some(plan) = session.mirror.take() else { return };
    let Plan { upstream, buffer } = *plan;
    let mut all = core.mirrors.all.borrow_mut();
    let place = Place::take(&core.shared, Cost::COPY).filter(|_| all.len() < MOST);
    let Some(place) = place else {
        return note(core, session.number, &upstream, Ending::NoPlace);
    };
    let copy = Copy::new(session.number, Arc::clone(&upstream), buffer, place);
    let key = all.insert_with(|_| copy);
    drop(all);
    session.copy = Some(key);
    core.mirrors.push(core, key, first);
    let hash = hash_key::of(&upstream, session);
    let sni = session.tls.as_ref().and_then(|tls| tls.sni.clone());
    let owner = Rc::clone(core);
    core.events.spawn(async move {
        let opening = Opening { preface: &[], sni: sni.as_deref() };
        let on_failure = |endpoint: &Address, error: &std::io::Error| {
            tracing::debug!(upstream = upstream.key(), %endpoint, %error, "cannot reach a mirror");
        };
        let events = &owner.events;
        let connected = connector::connect(events, &upstream, hash, opening, |_| {}, on_failure);
        let connected = connected.await;
        owner.mirrors.connected(&owner, key, connected.ok());
    });
}

impl Mirrors {
    fn push(&self, core: &Core, key: Key, bytes: &[u8]) {
        let mut all = self.all.borrow_mut();
        let result = match all.get_mut(key) {
            Some(copy) => copy.push(bytes),
            None => {
                drop(all);
                return core.stats().mirror_dropped.add(bytes.len() as u64);
            }
        };
        drop(all);
        self.after(core, key, result);
    }

    fn connected(&self, core: &Core, key: Key, connected: Option<Connected>) {
        let mut all = self.all.borrow_mut();
        let Some(copy) = all.get_mut(key) else { return };
        let result = match connected {
            None => Err(Ending::Unreachable),
            Some(Connected { socket, tls, lease, .. }) => {
                socket.drive_as(Tag::Mirror(key).to_bits());
                copy.open(socket, tls, lease);
                copy.drive(&mut self.buffers.borrow_mut())
            }
        };
        drop(all);
        self.after(core, key, result);
    }

    /// The socket of a copy is ready.
    pub(crate) fn drive(&self, core: &Core, key: Key) {
        let mut all = self.all.borrow_mut();
        let Some(copy) = all.get_mut(key) else { return };
        let result = copy.drive(&mut self.buffers.borrow_mut());
        let has_more = copy.has_more();
        drop(all);
        if has_more && result.is_ok() {
            core.go_on_later(Tag::Mirror(key));
        }
        self.after(core, key, result);
    }

    /// Its session has ended.
    pub(crate) fn finish(&self, core: &Core, key: Key) {
        let mut all = self.all.borrow_mut();
        let Some(copy) = all.get_mut(key) else { return };
        copy.timer = Some(core.events.set_timer(LINGER, Tag::MirrorTimer(key).to_bits()));
        let result = copy.finish(&mut self.buffers.borrow_mut());
        drop(all);
        self.after(core, key, result);
    }

    /// It has lingered long enough.
    pub(crate) fn time_is_over(&self, core: &Core, key: Key) {
        let ending = self.all.borrow().get(key).map(Copy::ending_now);
        if let Some(ending) = ending {
            self.end(core, key, ending);
        }
    }

    /// Ends all (stop).
    pub(crate) fn end_all(&self, core: &Core) {
        let keys = self.all.borrow().keys();
        keys.into_iter().for_each(|key| self.time_is_over(core, key));
    }

    /// Drops one whose state cannot be trusted.
    pub(crate) fn discard(&self, core: &Core, key: Key) {
        if self.all.try_borrow_mut().is_ok() {
            self.end(core, key, Ending::Broken);
        }
    }

    fn after(&self, core: &Core, key: Key, result: Result<(), Ending>) {
        if let Err(ending) = result {
            self.end(core, key, ending);
        }
    }

    fn end(&self, core: &Core, key: Key, ending: Ending) {
        let Some(copy) = self.all.borrow_mut().remove(key) else { return };
        if let Some(timer) = copy.timer {
            core.events.cancel_timer(timer);
        }
        core.stats().mirror_sent.add(copy.sent);
        core.stats().mirror_dropped.add(copy.unsent());
        note(core, copy.conn, &copy.upstream, ending);
        copy.close(ending);
    }
}

fn note(core: &Core, conn: u64, upstream: &Upstream, ending: Ending) {
    core.stats().mirrored(ending);
    if ending != Ending::Complete
        && let Some(suppressed) = FAILED.check(Instant::now())
    {
        tracing::warn!(
            conn,
            upstream = upstream.key(),
            suppressed,
            "{}; the session goes on without it",
            ending.text()
        );
    }
}

/// The copy of a UDP flow.
#[derive(Debug)]
pub(crate) struct DatagramCopy {
    socket: UdpSocket,
    _lease: Lease,
    _place: Place,
}

impl DatagramCopy {
    /// The copy of a flow whose plugins asked for one. What the mirror answers is reported as
    /// `tag`, and may be left lying.
    pub(crate) fn begin(core: &Core, session: &mut Session, tag: Tag) -> Option<Self> {
        let Plan { upstream, .. } = *session.mirror.take()?;
        let Some(place) = Place::take(&core.shared, Cost::COPY) else {
            note(core, session.number, &upstream, Ending::NoPlace);
            return None;
        };
        let hash = hash_key::of(&upstream, session);
        let lease = upstream.endpoints().pick(hash, &mut Tried::default());
        let opened = lease.and_then(|lease| {
            let Address::Ip(address) = lease.endpoint().address else { return None };
            let socket = udp::connect(core, &upstream, address, tag).ok()?;
            Some(Self { socket, _lease: lease, _place: place })
        });
        if opened.is_none() {
            note(core, session.number, &upstream, Ending::Unreachable);
        }
        opened
    }

    /// Sends datagrams of one size; those that do not fit are dropped.
    pub(crate) fn send(&self, core: &Core, datagrams: &[&[u8]]) {
        match self.socket.send(datagrams) {
            Ok(sent) => core.stats().mirror_sent.add(sent as u64),
            Err(_) => {
                let bytes: usize = datagrams.iter().map(|datagram| datagram.len()).sum();
                core.stats().mirror_dropped.add(bytes as u64);
            }
        }
    }
}
