//! TCP and Unix listeners of one core: accept within a budget, pause when places or descriptors
//! run out, never spin.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use std::time::Instant;

use headgate_model::listen::{ListenAddr, ListenerSpec};
use headgate_net::limits::Cost;
use headgate_net::listener::{Accepted, Acceptor, NoConnection};
use headgate_net::socket::local_addr;
use headgate_telemetry::LogLimit;

use super::{Core, Shared, Tag};
use crate::cap::Seat;
use crate::connection;
use crate::outcome::CloseReason;
use crate::session::{Place, Session};
use crate::slots::{Key, Slots};
use crate::stats::Inlet;

/// Connections accepted in one turn before others get their share.
const ACCEPTS_PER_TURN: usize = 64;
/// Pause after running out of places or descriptors, milliseconds.
const PAUSE_MS: u64 = 50;

static EXHAUSTED: LogLimit = LogLimit::per_minute(6);
static FULL: LogLimit = LogLimit::per_minute(6);
static REFUSED: LogLimit = LogLimit::per_minute(6);

#[derive(Debug)]
struct Listener {
    /// As new sessions see it.
    inlet: RefCell<Rc<Inlet>>,
    acceptor: Acceptor,
    /// The local address of all its connections, unless it listens on a wildcard.
    address: Option<SocketAddr>,
    paused: Cell<bool>,
    /// Takes who is waiting, then goes away.
    closing: Cell<bool>,
    /// A successor accepts in its place.
    passed_on: Cell<bool>,
}

impl Listener {
    fn inlet(&self) -> Rc<Inlet> {
        Rc::clone(&self.inlet.borrow())
    }

    /// Whether it is the open listener that `spec` describes.
    fn is_open(&self, spec: &ListenerSpec) -> bool {
        !self.closing.get() && ***self.inlet.borrow() == *spec
    }
}

#[derive(Debug, Default)]
pub(super) struct Listeners {
    all: RefCell<Slots<Rc<Listener>>>,
}

impl Listeners {
    /// Serves a bound socket.
    pub(super) fn open(&self, core: &Core, spec: ListenerSpec, fd: OwnedFd) -> io::Result<()> {
        let (path, address) = match &spec.addr {
            ListenAddr::Ip(at) => (None, (!at.ip().is_unspecified()).then_some(*at)),
            ListenAddr::Unix(path) => (Some(path.clone()), None),
        };
        self.all.borrow_mut().try_insert_with(|key| {
            let acceptor = Acceptor::new(&core.events, fd, path, Tag::Accept(key).to_bits())?;
            let inlet = Rc::new(core.shared.stats.listeners.inlet(spec, core.number));
            let inlet = RefCell::new(inlet);
            let [paused, closing, passed_on] = [const { Cell::new(false) }; 3];
            let listener = Listener { inlet, acceptor, address, paused, closing, passed_on };
            Ok::<_, io::Error>(Rc::new(listener))
        })?;
        Ok(())
    }

    /// New sessions see it as `to` from now on.
    pub(super) fn change(&self, core: &Core, from: &ListenerSpec, to: &ListenerSpec) {
        for key in self.all.borrow().keys() {
            let listener = self.all.borrow().get(key).filter(|it| it.is_open(from)).cloned();
            if let Some(listener) = listener {
                let inlet = core.shared.stats.listeners.inlet(to.clone(), core.number);
                listener.inlet.replace(Rc::new(inlet));
            }
        }
    }

    /// Serves who has been accepted by the kernel already, then closes.
    pub(super) fn close(&self, core: &Rc<Core>, spec: &ListenerSpec) {
        let keys = self.all.borrow().keys();
        for key in keys {
            let listener = self.all.borrow().get(key).filter(|it| it.is_open(spec)).cloned();
            if let Some(listener) = listener {
                core.shared.note_closing();
                listener.closing.set(true);
                self.accept(core, key);
            }
        }
    }

    /// Duplicates of all sockets that stay open.
    pub(super) fn duplicates(&self) -> io::Result<Vec<(ListenerSpec, OwnedFd)>> {
        let all = self.all.borrow();
        let open = all.keys().into_iter().filter_map(|key| all.get(key));
        open.filter(|listener| !listener.closing.get())
            .map(|it| Ok(((**it.inlet()).clone(), it.acceptor.as_fd().try_clone_to_owned()?)))
            .collect()
    }

    /// Leaves accepting to a successor, or takes it up again.
    pub(super) fn pass_on(&self, core: &Rc<Core>, passed_on: bool) {
        let keys = self.all.borrow().keys();
        for key in keys {
            let listener = self.all.borrow().get(key).cloned();
            if let Some(listener) = listener.filter(|it| !it.closing.get()) {
                listener.passed_on.set(passed_on);
                self.accept(core, key);
            }
        }
    }

    /// Closes what a successor accepts from now. Who waits is served: the successor may have no
    /// use for a listener.
    pub(super) fn close_passed_on(&self, core: &Rc<Core>) {
        let keys = self.all.borrow().keys();
        for key in keys {
            let listener = self.all.borrow().get(key).filter(|it| it.passed_on.get()).cloned();
            if let Some(listener) = listener {
                core.shared.note_closing();
                listener.passed_on.set(false);
                listener.closing.set(true);
                self.accept(core, key);
            }
        }
    }

    pub(super) fn close_all(&self) {
        *self.all.borrow_mut() = Slots::default();
    }

    /// Goes on after a pause.
    pub(super) fn resume(&self, core: &Rc<Core>, key: Key) {
        if let Some(listener) = self.all.borrow().get(key) {
            listener.paused.set(false);
        }
        core.shared.sessions.raise_if_possible();
        self.accept(core, key);
    }

    /// Accepts who is waiting, within the budget of a turn.
    pub(super) fn accept(&self, core: &Rc<Core>, key: Key) {
        let Some(listener) = self.all.borrow().get(key).cloned() else { return };
        if listener.paused.get() || listener.passed_on.get() {
            return;
        }
        for taken in 0..ACCEPTS_PER_TURN {
            // Most come alone. An accept that finds nobody has made a socket in vain, and costs six
            // times as much as asking.
            if taken == 1 && !listener.acceptor.has_waiting() {
                return self.remove_if_closing(core, &listener, key);
            }
            let seat = match seat(&core.shared) {
                Ok(seat) => seat,
                Err(why) if listener.acceptor.has_waiting() => {
                    return pause(core, &listener, key, &why);
                }
                Err(_) => return self.remove_if_closing(core, &listener, key),
            };
            let Some(place) = Place::take(&core.shared, Cost::CONNECTION) else {
                if !listener.acceptor.has_waiting() {
                    return self.remove_if_closing(core, &listener, key);
                }
                let (held, most) = (core.shared.sessions.held(), core.shared.sessions.bound());
                return pause(
                    core,
                    &listener,
                    key,
                    &format!(
                        "all session places are taken: connections, two descriptors each, and flows hold {held} of {most}"
                    ),
                );
            };
            match listener.acceptor.accept() {
                Ok(connection) => begin(core, &listener, connection, place, seat),
                Err(NoConnection::Empty) => return self.remove_if_closing(core, &listener, key),
                Err(NoConnection::Lost) => {}
                Err(NoConnection::Exhausted(error)) => {
                    drop(place);
                    core.shared.sessions.lower();
                    return pause(core, &listener, key, &error.to_string());
                }
                Err(NoConnection::Broken(error)) => {
                    tracing::error!(listener = %listener.inlet(), %error, "accept failed for good");
                    return self.remove_if_closing(core, &listener, key);
                }
            }
        }
        core.go_on_later(Tag::Accept(key));
    }

    fn remove_if_closing(&self, core: &Core, listener: &Listener, key: Key) {
        if listener.closing.get() && self.all.borrow_mut().remove(key).is_some() {
            core.shared.note_closed();
        }
    }
}

/// Leaves waiting clients in the kernel's queue for a moment.
fn pause(core: &Core, listener: &Listener, key: Key, why: &str) {
    listener.paused.set(true);
    core.stats().accept_paused.increment();
    core.events.set_timer(PAUSE_MS, Tag::AcceptAgain(key).to_bits());
    if let Some(suppressed) = EXHAUSTED.check(Instant::now()) {
        tracing::warn!(
            listener = %listener.inlet(),
            reason = why,
            suppressed,
            "accepting is paused; clients wait in the kernel's queue"
        );
    }
}

/// Says that a listener has all the sessions it may have.
pub(crate) fn note_full(session: &Session) {
    if let Some(suppressed) = FULL.check(Instant::now()) {
        tracing::warn!(
            listener = %session.listener, client = %session.client_text(), suppressed,
            "the listener has max_connections sessions; further ones are refused"
        );
    }
}

/// Where a connection counts besides its listener.
enum Counted {
    /// Nowhere: there is no such bound.
    No,
    In(Seat),
    /// The bound is reached, and it is to be closed.
    Refused,
}

/// Whether another connection may be taken now; an error says why it has to wait.
fn seat(shared: &Shared) -> Result<Counted, String> {
    if shared.is_short_of_memory() {
        return Err("memory is near its budget (headgate.limits.memory)".to_owned());
    }
    let Some(cap) = shared.cap.get() else { return Ok(Counted::No) };
    match cap.take() {
        Some(seat) => Ok(Counted::In(seat)),
        None if cap.refuses() => Ok(Counted::Refused),
        None => {
            let most = cap.most();
            Err(format!("there are {most} connections (headgate.limits.connections)"))
        }
    }
}

fn refuse(core: &Core, session: &Session) {
    if let Some(suppressed) = REFUSED.check(Instant::now()) {
        let most = core.shared.cap.get().map(|cap| cap.most());
        tracing::warn!(
            listener = %session.listener, client = %session.client_text(), most, suppressed,
            "all connections are taken (headgate.limits.connections); further ones are refused"
        );
    }
    core.stats().accepted.increment();
    core.finish(session, CloseReason::AllTaken);
}

fn begin(
    core: &Rc<Core>,
    listener: &Listener,
    connection: Accepted,
    place: Place,
    counted: Counted,
) {
    let mut session = Box::new(Session::new(place, listener.inlet(), connection.peer));
    match counted {
        Counted::No => {}
        Counted::In(seat) => session.keep(seat),
        Counted::Refused => return refuse(core, &session),
    }
    if session.listener.is_over_full() {
        core.stats().accepted.increment();
        note_full(&session);
        return core.finish(&session, CloseReason::ListenerFull);
    }
    let snapshot = core.snapshot(); // pinned once: one connection, one configuration
    if listener.address.is_some() {
        let _ = session.server.set(listener.address);
    } else if core.wants_server(&snapshot) {
        let _ = session.server.set(local_addr(&connection.fd));
    } else {
        // The port is known without a system call, and routes may match on it.
        let _ = session.server.set(match &session.listener.addr {
            ListenAddr::Ip(address) => Some(*address),
            ListenAddr::Unix(_) => None,
        });
    }
    connection::begin(core, connection.fd, session, snapshot);
}
