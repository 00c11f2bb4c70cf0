//! One core: a thread that accepts, routes, relays and logs on its own.
//!
//! [`Core::spawn`] starts it; a [`CoreHandle`] sends it [`Command`]s. Everything that cores share
//! is in [`Shared`].

mod drain;
mod lend;
mod listeners;
mod shed;
mod spare;
mod tag;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use headgate_model::listen::ListenerSpec;
use headgate_net::executor::Doorbell;
use headgate_net::limits::SessionLimit;
use headgate_net::{EventLoop, Pulse};
use headgate_telemetry::access_log::Sink;
use headgate_telemetry::time_text::TimeText;

use crate::access::{AccessFormat, AccessLog};
use crate::cap::ConnectionCap;
use crate::handshakes::Handshakes;
use crate::mirror::Mirrors;
use crate::outcome::{CloseReason, End, Event};
use crate::pressure::Pressure;
use crate::relay::{self, Relays};
use crate::secure::challenges::Challenges;
use crate::session::Session;
use crate::snapshot::Snapshot;
use crate::stats::{CoreStats, Stats};
use crate::trust::TrustedPeers;
use crate::udp::UdpPlane;
use drain::Drains;
pub use drain::{DrainOrder, Remaining, Scope};
pub(crate) use drain::{Ending, Moment};
pub use lend::Lent;
use listeners::Listeners;
pub(crate) use listeners::note_full;
pub(crate) use shed::Weight;
use spare::Spare;
pub(crate) use tag::Tag;
pub use tag::doing;

/// Access-log lines wait at most this long in a core's buffer.
const FLUSH_AFTER: Duration = Duration::from_millis(200);

/// What all cores share.
#[derive(Debug)]
pub struct Shared {
    /// The current configuration.
    pub snapshot: ArcSwap<Snapshot>,
    /// Bound on open sessions.
    pub sessions: SessionLimit,
    /// Counters.
    pub stats: Stats,
    /// Format of the access log; `None`: off.
    pub access_format: ArcSwapOption<AccessFormat>,
    /// Peers whose PROXY header names the client.
    pub trusted_peers: ArcSwap<TrustedPeers>,
    /// Certificates that answer challenges of ACME.
    pub challenges: Challenges,
    /// How short memory is.
    pub pressure: Pressure,
    /// The bound on TCP connections that the operator set.
    pub(crate) cap: OnceLock<Arc<ConnectionCap>>,
    /// Closed listeners that still have clients in their accept queues.
    closing: AtomicUsize,
    /// Most UDP flows of one core.
    pub(crate) udp_flows_per_core: AtomicUsize,
    /// Longest time for a ClientHello and the handshake after it, milliseconds.
    handshake_limit: AtomicU64,
    /// Most connections of one core that are being set up.
    pub(crate) handshakes_per_core: AtomicUsize,
    cores: usize,
    next_session: AtomicU64,
}

impl Shared {
    /// State for `cores` cores whose sessions hold at most `descriptors` descriptors.
    #[must_use]
    pub fn new(cores: usize, descriptors: usize, udp_flows: usize) -> Self {
        let shared = Self {
            snapshot: ArcSwap::default(),
            sessions: SessionLimit::new(descriptors),
            stats: Stats::new(cores),
            access_format: ArcSwapOption::empty(),
            trusted_peers: ArcSwap::default(),
            challenges: Challenges::default(),
            pressure: Pressure::default(),
            cap: OnceLock::new(),
            closing: AtomicUsize::new(0),
            udp_flows_per_core: AtomicUsize::new(1),
            handshake_limit: AtomicU64::new(60_000),
            handshakes_per_core: AtomicUsize::new(usize::MAX),
            cores,
            next_session: AtomicU64::new(1),
        };
        shared.set_udp_flows(udp_flows);
        shared
    }

    /// Changes the bound on UDP flows, all cores together. Flows above it end as new ones come.
    pub fn set_udp_flows(&self, most: usize) {
        let per_core = (most / self.cores.max(1)).max(1);
        self.udp_flows_per_core.store(per_core, Ordering::Relaxed);
    }

    /// Changes the longest time for a ClientHello and the handshake after it; handshakes that have
    /// begun keep theirs.
    pub fn set_handshake_limit(&self, limit: Duration) {
        let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        self.handshake_limit.store(limit, Ordering::Relaxed);
    }

    pub(crate) fn handshake_limit(&self) -> Duration {
        Duration::from_millis(self.handshake_limit.load(Ordering::Relaxed))
    }

    /// Bounds TCP connections, before the first one comes.
    pub fn set_cap(&self, cap: ConnectionCap) {
        let _ = self.cap.set(Arc::new(cap));
    }

    /// Changes the bound on connections that are being set up, all cores together.
    pub fn set_handshakes(&self, most: usize) {
        let per_core = (most / self.cores.max(1)).max(1);
        self.handshakes_per_core.store(per_core, Ordering::Relaxed);
    }

    /// Whether any session is open, or about to be taken from a closed listener's queue.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.closing.load(Ordering::Acquire) > 0 || self.sessions.open() > 0
    }

    /// Whether nobody new is to be accepted for want of memory. Without sessions one may still
    /// try: what fills the memory then does not go by waiting.
    pub(crate) fn is_short_of_memory(&self) -> bool {
        self.pressure.is_tight() && self.sessions.open() > 0
    }

    pub(crate) fn note_closing(&self) {
        self.closing.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn note_closed(&self) {
        self.closing.fetch_sub(1, Ordering::AcqRel);
    }

    pub(crate) fn next_session(&self) -> u64 {
        self.next_session.fetch_add(1, Ordering::Relaxed)
    }
}

/// What all cores share, as one of them holds it: its sessions do not count themselves where those
/// of the others do.
#[derive(Debug)]
pub(crate) struct SharedHere(Arc<Shared>);

impl std::ops::Deref for SharedHere {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// A snapshot that a core holds; its sessions share it without traffic between cores.
#[derive(Debug)]
pub(crate) struct Pinned(Arc<Snapshot>);

impl std::ops::Deref for Pinned {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.0
    }
}

/// An order to a core.
#[derive(Debug)]
pub enum Command {
    /// Serve this bound socket.
    Open {
        /// What it is.
        spec: ListenerSpec,
        /// The socket.
        fd: OwnedFd,
    },
    /// The listener is the same socket with other switches from now on. Its sessions keep what they
    /// began with.
    Change {
        /// As it is.
        from: ListenerSpec,
        /// As it is to be.
        to: ListenerSpec,
    },
    /// Serve this socket of a predecessor.
    Adopt {
        /// What it is.
        spec: ListenerSpec,
        /// The socket.
        fd: OwnedFd,
        /// UDP: where the predecessor passes datagrams on, for as long as it reads the socket.
        predecessor: Option<OwnedFd>,
    },
    /// Send duplicates of all listening sockets, for a successor.
    Lend(Sender<io::Result<Lent>>),
    /// The successor serves: accept nothing more, and pass it the datagrams of flows not known
    /// here.
    PassOn,
    /// The successor failed: everything as before [`Command::PassOn`].
    TakeBack,
    /// The successor stays: close the listeners without another look at them; those of UDP when
    /// the last flow has ended.
    Retire,
    /// Take what waits in the accept queue, then close the listener. Its sessions go on. A UDP
    /// socket takes no new flows and closes with the last one, because replies leave through it.
    Close(ListenerSpec),
    /// Let sessions end.
    Drain(DrainOrder),
    /// Memory is short: end sessions that hold so many bytes together (0: none), and give back
    /// what the allocator keeps.
    Shed(u64),
    /// Say what is left of everything that drains.
    Remaining(Sender<Vec<Remaining>>),
    /// Lower the counter once all earlier orders are carried out.
    Reached(Arc<AtomicUsize>),
    /// End all sessions, write their log lines, and finish the thread.
    Stop,
}

/// The outside of a running core.
#[derive(Debug)]
pub struct CoreHandle {
    commands: Sender<Command>,
    bell: Arc<Doorbell>,
    pulse: Arc<Pulse>,
    thread: JoinHandle<()>,
}

impl CoreHandle {
    /// Sends an order. Orders to a core that has ended are dropped.
    pub fn send(&self, command: Command) {
        if self.commands.send(command).is_ok() {
            self.bell.ring();
        }
    }

    /// Whether it works, and since when.
    #[must_use]
    pub const fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    /// Waits for the thread; `false` if it panicked.
    #[must_use]
    pub fn join(self) -> bool {
        self.thread.join().is_ok()
    }
}

/// One core, owned by its thread.
pub struct Core {
    number: usize,
    pub(crate) events: EventLoop,
    pub(crate) shared: Rc<SharedHere>,
    pub(crate) relays: Relays,
    pub(crate) mirrors: Mirrors,
    pub(crate) udp: UdpPlane,
    pub(crate) drains: Drains,
    pub(crate) handshakes: Handshakes,
    listeners: Listeners,
    /// The snapshot for new sessions; sessions share it by `Rc` so that a connection costs no
    /// traffic between cores.
    snapshot: RefCell<Rc<Pinned>>,
    /// Tags that used up their budget and go on in the next turn.
    again: RefCell<Vec<u64>>,
    access: Option<AccessLog>,
    /// Texts of the current second for log lines.
    times: RefCell<TimeText>,
    flush_at: Cell<Option<u64>>,
    spare: Spare,
    stopping: Cell<bool>,
}

impl Core {
    /// Starts a core on a thread of its own. `setup` runs first on that thread (CPU affinity).
    ///
    /// # Errors
    /// No thread or descriptors left.
    pub fn spawn(
        number: usize,
        shared: Arc<Shared>,
        access: Option<Sink>,
        setup: impl FnOnce() + Send + 'static,
    ) -> io::Result<CoreHandle> {
        let (commands, orders) = mpsc::channel();
        let (report, started) = mpsc::channel();
        let thread =
            std::thread::Builder::new().name(format!("core-{number}")).spawn(move || {
                setup();
                match Self::new(number, shared, access) {
                    Ok(core) => {
                        let _ = report
                            .send(Ok((core.events.doorbell(), Arc::clone(core.events.pulse()))));
                        core.run(&orders);
                    }
                    Err(error) => {
                        let _ = report.send(Err(error));
                    }
                }
            })?;
        let (bell, pulse) =
            started.recv().map_err(|_| io::Error::other("the core ended at once"))??;
        Ok(CoreHandle { commands, bell, pulse, thread })
    }

    fn new(number: usize, shared: Arc<Shared>, access: Option<Sink>) -> io::Result<Rc<Self>> {
        let snapshot = shared.snapshot.load_full();
        Ok(Rc::new(Self {
            number,
            events: EventLoop::new()?,
            relays: Relays::default(),
            mirrors: Mirrors::default(),
            udp: UdpPlane::default(),
            drains: Drains::default(),
            handshakes: Handshakes::default(),
            listeners: Listeners::default(),
            snapshot: RefCell::new(Rc::new(Pinned(snapshot))),
            again: RefCell::default(),
            access: access.map(AccessLog::new),
            times: RefCell::default(),
            flush_at: Cell::new(None),
            spare: Spare::default(),
            stopping: Cell::new(false),
            shared: Rc::new(SharedHere(shared)),
        }))
    }

    fn run(self: &Rc<Self>, orders: &Receiver<Command>) {
        let (mut ready, mut expired) = (Vec::new(), Vec::new());
        while !self.stopping.get() {
            let turn = self.events.turn(|| self.longest_wait(), &mut ready, &mut expired);
            if let Err(error) = turn {
                // The other cores cannot take over this one's sockets: better a restart by the
                // supervisor than a part of the clients unserved.
                // The log's own thread would not get to write this.
                eprintln!("headgate: core {}: the event loop failed: {error}", self.number);
                std::process::abort();
            }
            // Whoever has more to do than its budget allowed goes on; an edge of the same socket
            // must not give it a second budget.
            ready.append(&mut self.again.borrow_mut());
            ready.sort_unstable();
            ready.dedup();
            for tag in ready.drain(..).chain(expired.drain(..)) {
                self.dispatch(tag);
            }
            self.udp.send_replies(self);
            while let Ok(command) = orders.try_recv() {
                self.obey(command);
            }
            if self.events.take_starved() {
                self.shared.sessions.lower();
            }
            self.flush_when_due();
            self.note_spare_memory();
            self.note_panics();
        }
        self.end_all();
        self.events.pulse().rest();
    }

    fn longest_wait(&self) -> Option<Duration> {
        if !self.again.borrow().is_empty() {
            return Some(Duration::ZERO);
        }
        let flush_at = self.flush_at.get()?;
        Some(Duration::from_millis(flush_at.saturating_sub(self.events.now_ms())))
    }

    fn dispatch(self: &Rc<Self>, bits: u64) {
        let Some(tag) = Tag::from_bits(bits) else { return };
        self.events.pulse().note(bits);
        self.contain(tag, || match tag {
            Tag::Accept(key) => self.listeners.accept(self, key),
            Tag::AcceptAgain(key) => self.listeners.resume(self, key),
            Tag::Relay(key) => relay::drive(self, key),
            Tag::RelayIdle(key) => relay::check_idle(self, key),
            Tag::RelayResume(key) => relay::resume(self, key),
            Tag::Mirror(key) => self.mirrors.drive(self, key),
            Tag::MirrorTimer(key) => self.mirrors.time_is_over(self, key),
            Tag::MirroredFlow(_) => {}
            Tag::UdpListener(key) => self.udp.receive(self, key),
            Tag::Flow(key) => self.udp.answer(self, key),
            Tag::FlowIdle(key) => self.udp.check_idle(self, key),
            Tag::GiveBack => self.give_memory_back(),
        });
    }

    /// Does some work; a panic in it ends the session that it was for, and nothing else.
    fn contain(&self, tag: Tag, work: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            self.stats().panics.increment();
            tracing::error!(core = self.number, ?tag, "a session panicked; only it ends");
            match tag {
                Tag::Relay(key) | Tag::RelayIdle(key) | Tag::RelayResume(key) => {
                    relay::discard(self, key);
                }
                Tag::Mirror(key) | Tag::MirrorTimer(key) => self.mirrors.discard(self, key),
                Tag::Flow(key) | Tag::FlowIdle(key) => self.udp.discard(self, key),
                _ => {}
            }
        }
    }

    fn obey(self: &Rc<Self>, command: Command) {
        match command {
            Command::Open { spec, fd } => {
                self.drains.reopened(&spec);
                let opened = match spec.transport {
                    headgate_model::listen::Transport::Tcp => {
                        self.listeners.open(self, spec.clone(), fd)
                    }
                    headgate_model::listen::Transport::Udp => self.udp.open(self, spec.clone(), fd),
                };
                if let Err(error) = opened {
                    tracing::error!(core = self.number, listener = %spec, %error, "cannot serve");
                }
            }
            Command::Change { from, to } => {
                self.listeners.change(self, &from, &to);
                self.udp.change(self, &from, &to);
            }
            Command::Adopt { spec, fd, predecessor } => self.adopt(spec, fd, predecessor),
            Command::Lend(to) => self.lend(&to),
            Command::PassOn => self.pass_on(),
            Command::TakeBack => self.take_back(),
            Command::Retire => self.retire(),
            Command::Close(spec) => {
                self.listeners.close(self, &spec);
                self.udp.close(&spec);
            }
            Command::Drain(order) => self.drain(&order),
            Command::Shed(bytes) => self.shed(bytes),
            Command::Remaining(answer) => drop(answer.send(self.remaining())),
            Command::Reached(left) => drop(left.fetch_sub(1, Ordering::AcqRel)),
            Command::Stop => self.stopping.set(true),
        }
    }

    fn end_all(&self) {
        self.listeners.close_all();
        self.events.drop_tasks();
        relay::end_all(self);
        self.udp.end_all(self);
        self.mirrors.end_all(self);
        if let Some(access) = &self.access {
            access.flush();
        }
    }

    /// The configuration for a session that begins now.
    pub(crate) fn snapshot(&self) -> Rc<Pinned> {
        let current = self.shared.snapshot.load();
        let mut pinned = self.snapshot.borrow_mut();
        if !Arc::ptr_eq(&pinned.0, &current) {
            *pinned = Rc::new(Pinned(arc_swap::Guard::into_inner(current)));
        }
        Rc::clone(&pinned)
    }

    /// Its number, from 0.
    pub(crate) const fn number(&self) -> usize {
        self.number
    }

    pub(crate) fn stats(&self) -> &CoreStats {
        self.shared.stats.core(self.number)
    }

    /// Whether anything of a session needs the local address.
    pub(crate) fn wants_server(&self, snapshot: &Snapshot) -> bool {
        snapshot.routes.needs_server()
            || snapshot.wants_server
            || self.writes_lines(AccessFormat::needs_server)
    }

    /// Reports `tag` again in the next turn.
    pub(crate) fn go_on_later(&self, tag: Tag) {
        self.again.borrow_mut().push(tag.to_bits());
    }

    /// Whether the core is about to end.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// The last stage of every session: counters, the log phase of its plugins, and its log line.
    pub(crate) fn finish(&self, session: &Session, reason: CloseReason) {
        self.stats().finished(session, reason);
        let retries = session.upstream.tried.len().saturating_sub(1) as u64;
        let by_route = session.route.as_ref().map_or(&self.shared.stats.unrouted, |it| &it.stats);
        by_route.closed(self.number, reason, retries);
        session.note_end(reason);
        if let Some(copy) = session.copy {
            self.mirrors.finish(self, copy);
        }
        tracing::debug!(
            conn = session.number,
            client = %session.client_text(),
            listener = %session.listener,
            reason = reason.code(),
            "session ended"
        );
        let plugins = session.route.as_ref().map(|route| &route.plugins);
        let plugins = plugins.filter(|plugins| !plugins.is_empty());
        if self.access.is_none() && plugins.is_none() {
            return; // nobody asks for the time
        }
        let end = End::now(reason, &self.times);
        if let Some(plugins) = plugins {
            plugins.log(session, &end);
        }
        self.write_line(session, &end);
    }

    /// A line of the access log when a session's upstream is connected, if it is asked for.
    pub(crate) fn note_start(&self, session: &Session) {
        if self.writes_lines(|format| format.at_start) {
            self.write_line(session, &End::not_yet(Event::Start, &self.times));
        }
    }

    /// A line of the access log about a session that lasts.
    pub(crate) fn note_progress(&self, session: &Session) {
        if self.writes_lines(|format| format.every.is_some()) {
            self.write_line(session, &End::not_yet(Event::Progress, &self.times));
        }
    }

    /// Milliseconds after which a session that lasts writes a line; the maximum when it does not.
    pub(crate) fn line_every(&self) -> u64 {
        let format = self.access.as_ref().map(|_| self.shared.access_format.load());
        let every = format.and_then(|format| format.as_ref().and_then(|it| it.every));
        every.map_or(u64::MAX, |every| every.as_millis().try_into().unwrap_or(u64::MAX))
    }

    /// Whether the access log is on and has lines of that kind.
    fn writes_lines(&self, of_a_kind: impl FnOnce(&AccessFormat) -> bool) -> bool {
        self.access.is_some()
            && self.shared.access_format.load().as_ref().is_some_and(|format| of_a_kind(format))
    }

    fn write_line(&self, session: &Session, moment: &End<'_>) {
        let Some(access) = &self.access else { return };
        if let Some(format) = self.shared.access_format.load().as_ref() {
            access.record(format, session, moment);
            if self.flush_at.get().is_none() {
                let at = self.events.now_ms() + FLUSH_AFTER.as_millis() as u64;
                self.flush_at.set(Some(at));
            }
        }
    }

    fn flush_when_due(&self) {
        if self.flush_at.get().is_some_and(|at| self.events.now_ms() >= at) {
            self.flush_at.set(None);
            if let Some(access) = &self.access {
                access.flush();
            }
        }
    }

    fn note_panics(&self) {
        let counter = &self.stats().panics;
        let unseen = self.events.take_panics();
        if unseen > 0 {
            counter.add(unseen);
        }
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("number", &self.number).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::Key;

    #[test]
    fn a_panic_is_contained_and_counted() {
        let shared = Arc::new(Shared::new(1, 2, 1));
        let core = Core::new(0, Arc::clone(&shared), None).unwrap();
        let key = Key::from_bits(0);
        for tag in [Tag::Accept(key), Tag::Relay(key), Tag::FlowIdle(key)] {
            core.contain(tag, || panic!("on purpose"));
        }
        assert_eq!(shared.stats.sum(|core| core.panics.get()), 3);
    }
}
