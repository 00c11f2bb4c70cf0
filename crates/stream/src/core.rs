//! One core: a thread that accepts, routes, relays and logs on its own.
//!
//! [`Core::spawn`] starts it; a [`CoreHandle`] sends it [`Command`]s. Everything that cores share
//! is in [`Shared`].

mod drain;
mod lend;
mod listeners;
mod orders;
mod record;
mod shared;
mod shed;
mod spare;
mod tag;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use headgate_net::EventLoop;
use headgate_telemetry::access_log::Sink;
use headgate_telemetry::time_text::TimeText;

use crate::access::{AccessFormat, AccessLog};
use crate::handshakes::Handshakes;
use crate::mirror::Mirrors;
use crate::relay::{self, Relays};
use crate::snapshot::Snapshot;
use crate::stats::CoreStats;
use crate::udp::UdpPlane;
use drain::Drains;
pub use drain::{DrainOrder, Remaining, Scope};
pub(crate) use drain::{Ending, Moment};
pub use lend::Lent;
use listeners::Listeners;
pub(crate) use listeners::note_full;
pub use orders::{Command, CoreHandle};
pub use shared::Shared;
pub(crate) use shared::{Pinned, SharedHere};
pub(crate) use shed::Weight;
use spare::Spare;
pub(crate) use tag::Tag;
pub use tag::doing;

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
