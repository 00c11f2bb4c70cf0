//! Datagrams: the shell around the [`flow_table`]. A flow is what a session is for TCP: route and
//! upstream are chosen once, for its first datagram; every flow has a socket of its own connected
//! to its server, so the kernel maps replies back.

mod flow;
mod flow_table;
mod outbox;
mod succession;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use headgate_model::listen::{ListenAddr, ListenerSpec};
use headgate_net::limits::Cost;
use headgate_net::udp::{Batch, Datagram, Run, UdpListener};
use headgate_telemetry::LogLimit;
use headgate_upstream::Upstream;

use crate::connection;
use crate::core::{Core, Moment, Tag, Weight, note_full};
use crate::outcome::CloseReason;
use crate::plugin::{Client, Step};
use crate::session::{Place, Session};
use crate::slots::{Key, Slots};
use crate::snapshot::Snapshot;
use crate::stats::{DropCause, Inlet};
use flow::Flow;
pub(crate) use flow::connect;
use flow_table::{FlowId, FlowTable};
use outbox::Outbox;
use succession::Ties;

/// Batches or replies handled in one turn before others get their share.
const BUDGET: usize = 8;
/// Pause of reading while a successor has not taken what it was given, milliseconds.
const BEHIND_MS: u64 = 1;
/// Longest time until a flow that drains is looked at, milliseconds.
const LOOK_AGAIN: u64 = 1000;

static FLOW_FAILED: LogLimit = LogLimit::per_second(10);
static NO_PLACE: LogLimit = LogLimit::per_minute(6);
static EVICTED: LogLimit = LogLimit::per_minute(6);

/// Everything about datagrams of one core.
#[derive(Debug, Default)]
pub(crate) struct UdpPlane {
    listeners: RefCell<Slots<Rc<Listener>>>,
    flows: RefCell<FlowTable<Flow>>,
    /// Taken out while in use.
    batch: RefCell<Option<Box<Batch>>>,
    outbox: RefCell<Option<Box<Outbox>>>,
    /// Listeners go with the last flow.
    retired: Cell<bool>,
}

#[derive(Debug)]
struct Listener {
    /// As new flows see it.
    inlet: RefCell<Rc<Inlet>>,
    socket: UdpListener,
    address: SocketAddr,
    ties: Ties,
    /// Takes no new flows, and goes away with the last one.
    closing: Cell<bool>,
    flows: Cell<usize>,
}

impl UdpPlane {
    pub(crate) fn open(&self, core: &Core, spec: ListenerSpec, fd: OwnedFd) -> io::Result<()> {
        self.adopt(core, spec, fd, None)
    }

    /// As [`UdpPlane::open`]; as long as there is a predecessor it reads the socket, and passes
    /// on what is not for a flow of its own.
    pub(crate) fn adopt(
        &self,
        core: &Core,
        spec: ListenerSpec,
        fd: OwnedFd,
        predecessor: Option<OwnedFd>,
    ) -> io::Result<()> {
        let ListenAddr::Ip(address) = spec.addr else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "UDP needs an IP address"));
        };
        if predecessor.is_none() && self.reopen(core, &spec) {
            return Ok(()); // one socket of the address is enough; it has flows
        }
        self.batch.borrow_mut().get_or_insert_default();
        self.outbox.borrow_mut().get_or_insert_default();
        self.listeners.borrow_mut().try_insert_with(|key| {
            let tag = Tag::UdpListener(key).to_bits();
            let socket = UdpListener::new(&core.events, fd, tag)?;
            let inlet = Rc::new(core.shared.stats.listeners.inlet(spec, core.number()));
            let (inlet, closing, flows) = (RefCell::new(inlet), Cell::new(false), Cell::new(0));
            let ties = Ties::new(core, predecessor, tag)?;
            let listener = Listener { inlet, socket, address, ties, closing, flows };
            Ok::<_, io::Error>(Rc::new(listener))
        })?;
        Ok(())
    }

    /// New flows see it as `to` from now on.
    pub(crate) fn change(&self, core: &Core, from: &ListenerSpec, to: &ListenerSpec) {
        for key in self.listeners.borrow().keys() {
            if let Some(listener) = self.listeners.borrow().get(key)
                && ***listener.inlet.borrow() == *from
            {
                let inlet = core.shared.stats.listeners.inlet(to.clone(), core.number());
                listener.inlet.replace(Rc::new(inlet));
            }
        }
    }

    /// Takes no new flows; the socket stays for replies until the last flow has ended.
    pub(crate) fn close(&self, spec: &ListenerSpec) {
        let keys = self.listeners.borrow().keys();
        for key in keys {
            let listener = self.listeners.borrow().get(key).cloned();
            let is_it = |it: &Rc<Listener>| !it.closing.get() && ***it.inlet.borrow() == *spec;
            if let Some(listener) = listener.filter(is_it) {
                listener.closing.set(true);
                if listener.flows.get() == 0 {
                    self.listeners.borrow_mut().remove(key);
                }
            }
        }
    }

    /// Takes a closing listener of that address into use again; `false`: there is none.
    fn reopen(&self, core: &Core, spec: &ListenerSpec) -> bool {
        let listeners = self.listeners.borrow();
        let keys = listeners.keys().into_iter();
        let is_it = |it: &&Rc<Listener>| it.closing.get() && it.inlet.borrow().addr == spec.addr;
        let found = keys.filter_map(|key| listeners.get(key)).find(is_it);
        let Some(listener) = found else { return false };
        let inlet = core.shared.stats.listeners.inlet(spec.clone(), core.number());
        listener.inlet.replace(Rc::new(inlet));
        listener.closing.set(false);
        true
    }

    /// Lets flows that are `wanted` end at a moment.
    pub(crate) fn drain(
        &self,
        core: &Core,
        wanted: &dyn Fn(&Session) -> bool,
        moment: Moment,
        reason: CloseReason,
    ) {
        let now = core.events.now_ms();
        let mut flows = self.flows.borrow_mut();
        for key in flows.keys_where(|flow| wanted(&flow.session)) {
            let Some(flow) = flows.get_mut(key) else { continue };
            if !flow.ending.hasten(moment.draw(), reason) {
                continue;
            }
            core.events.cancel_timer(flow.timer);
            // What the timer was for is looked at then, too.
            let left = flow.ending.look_in(now, flow.idle_limit.min(LOOK_AGAIN));
            flow.timer = core.events.set_timer(left, Tag::FlowIdle(key).to_bits());
        }
    }

    /// Shows every flow, and when it has to end.
    pub(crate) fn each(&self, see: &mut dyn FnMut(&Session, u64)) {
        let flows = self.flows.borrow();
        for flow in flows.keys_where(|_| true).into_iter().filter_map(|key| flows.get(key)) {
            see(&flow.session, flow.ending.at());
        }
    }

    pub(crate) fn end_all(&self, core: &Core) {
        self.send_replies(core);
        let flows = self.flows.borrow().keys_where(|_| true);
        flows.into_iter().for_each(|flow| self.end(core, flow, CloseReason::Drain));
        *self.listeners.borrow_mut() = Slots::default();
    }

    /// Every flow, for the order in which they go when memory is short.
    pub(crate) fn weights(&self) -> Vec<Weight<Key>> {
        let flows = self.flows.borrow();
        let weight = |key: Key| {
            let number = flows.get(key)?.session.number;
            Some(Weight { key, number, held: 0, is_over_limit: false })
        };
        flows.keys_where(|_| true).into_iter().filter_map(weight).collect()
    }

    /// Ends a flow because memory is short.
    pub(crate) fn shed(&self, core: &Core, key: Key) {
        self.end(core, key, CloseReason::OutOfMemory);
    }

    /// Takes what clients sent.
    pub(crate) fn receive(&self, core: &Core, key: Key) {
        let Some(listener) = self.listeners.borrow().get(key).cloned() else { return };
        if self.receive_passed_on(core, key, &listener) {
            return;
        }
        let mut batch = self.batch.borrow_mut().take().unwrap_or_default();
        for _ in 0..BUDGET {
            if listener.ties.successor_is_behind() {
                // They wait in the kernel's buffer, which is larger than the channel.
                core.events.set_timer(BEHIND_MS, Tag::UdpListener(key).to_bits());
                *self.batch.borrow_mut() = Some(batch);
                return;
            }
            match listener.socket.receive(&mut batch) {
                Ok(0) => break,
                Ok(_) => {
                    self.forward(core, key, &listener, batch.iter());
                    if !listener.socket.is_ready() {
                        break;
                    }
                }
                Err(error) => {
                    tracing::debug!(listener = %listener.inlet.borrow(), %error, "receiving failed");
                    break;
                }
            }
        }
        *self.batch.borrow_mut() = Some(batch);
        if listener.socket.is_ready() {
            core.go_on_later(Tag::UdpListener(key));
        }
    }

    /// Sends datagrams to the servers of their flows; neighbours of one flow travel together.
    fn forward<'a>(
        &self,
        core: &Core,
        key: Key,
        listener: &Rc<Listener>,
        datagrams: impl Iterator<Item = Datagram<'a>>,
    ) {
        let mut run = Run::default();
        let mut current = None;
        for datagram in datagrams {
            let id = FlowId { listener: key.to_bits(), client: datagram.from, local: datagram.to };
            let known = self.flows.borrow_mut().touch(&id, core.events.now_ms());
            let leaving = known.filter(|key| self.is_leaving(*key));
            let flow = known.filter(|_| leaving.is_none()).or_else(|| {
                // First, because a flow ends: this one, or another whose place is needed.
                self.send(core, current.take(), &mut run);
                if let Some(flow) = leaving {
                    self.end(core, flow, CloseReason::NodeDown);
                }
                if listener.ties.pass_on(core, &datagram) {
                    return None;
                }
                self.begin(core, listener, id, &datagram)
            });
            let Some(flow) = flow else { continue };
            if current != Some(flow) || !run.accepts(datagram.payload) {
                self.send(core, current.replace(flow), &mut run);
                let _ = run.accepts(datagram.payload);
            }
            self.count_request(flow);
        }
        self.send(core, current, &mut run);
    }

    /// Whether the node of a flow is down or gone and its upstream says to move on.
    fn is_leaving(&self, key: Key) -> bool {
        self.flows.borrow().get(key).is_some_and(|flow| flow.repicks() && flow.is_down())
    }

    fn count_request(&self, key: Key) {
        let mut flows = self.flows.borrow_mut();
        if flows.get_mut(key).is_some_and(Flow::count_request) {
            flows.detach(key);
        }
    }

    fn send(&self, core: &Core, flow: Option<Key>, run: &mut Run<'_>) {
        let Some(key) = flow else { return };
        let mut flows = self.flows.borrow_mut();
        let Some(flow) = flows.get_mut(key) else { return };
        flow.send(core, key, run.datagrams());
        run.clear();
        if flow.is_done() {
            drop(flows);
            self.end(core, key, CloseReason::Done);
        }
    }

    /// Routes the first datagram of a client and opens its flow.
    fn begin(
        &self,
        core: &Core,
        listener: &Rc<Listener>,
        id: FlowId,
        datagram: &Datagram<'_>,
    ) -> Option<Key> {
        if listener.closing.get() {
            core.stats().drop_datagrams(DropCause::ListenerFull, 1);
            return None;
        }
        let client = headgate_net::socket::canonical(id.client);
        let number = core.shared.next_session();
        let spec = Rc::clone(&listener.inlet.borrow());
        let mut session = Box::new(Session::without_place(number, spec, Some(client)));
        let server = id.local.map_or(listener.address.ip(), |ip| ip.to_canonical());
        let _ = session.server.set(Some(SocketAddr::new(server, listener.address.port())));
        let snapshot = core.snapshot();
        // Routed first: a datagram that leads nowhere must not cost anybody a flow.
        let chosen = admit(&snapshot, &mut session, datagram.payload)
            .and_then(|upstream| flow::choose(&upstream, &mut session));
        let chosen = match chosen {
            Ok(chosen) => chosen,
            Err(reason) => {
                core.stats().drop_datagrams(DropCause::NoFlow, 1);
                core.finish(&session, reason);
                return None;
            }
        };
        if session.listener.is_over_full() {
            core.stats().drop_datagrams(DropCause::ListenerFull, 1);
            note_full(&session);
            return None;
        }
        if core.shared.is_short_of_memory() {
            core.stats().drop_datagrams(DropCause::Memory, 1);
            return None; // the control side says so in the log
        }
        let Some(place) = self.make_room(core) else {
            core.stats().drop_datagrams(DropCause::NoPlace, 1);
            if let Some(suppressed) = NO_PLACE.check(Instant::now()) {
                let (client, listener) = (session.client_text(), &session.listener);
                let most = core.shared.sessions.bound();
                tracing::warn!(
                    %client, %listener, most, suppressed,
                    "a UDP flow is refused: all session places are taken, and none of them by a \
                     flow of this core that could make room"
                );
            }
            return None;
        };
        session.hold(place);
        let mut flows = self.flows.borrow_mut();
        let opened = flows.insert_with(id, core.events.now_ms(), |key| {
            Flow::open(core, key, listener, datagram, session, chosen)
        });
        drop(flows);
        match opened {
            Ok(key) => {
                core.stats().flows.increment();
                Some(key)
            }
            Err(failed) => {
                if let Some(suppressed) = FLOW_FAILED.check(Instant::now()) {
                    let flow::NotOpened { upstream, endpoint, error, .. } = &failed;
                    let upstream = upstream.key();
                    tracing::error!(upstream, %endpoint, %error, suppressed, "cannot open a UDP flow");
                }
                core.stats().drop_datagrams(DropCause::NoPlace, 1);
                // connect(2): EAGAIN, too, for a socket without an address.
                let is_port = headgate_net::origin::is_out_of_ports(&failed.error)
                    || failed.error.kind() == io::ErrorKind::WouldBlock;
                let failed_as = CloseReason::ConnectFailed;
                let reason = if is_port { CloseReason::SourcePorts } else { failed_as };
                core.finish(&failed.session, reason);
                None
            }
        }
    }

    /// Flows that are open.
    pub(crate) fn len(&self) -> usize {
        self.flows.borrow().len()
    }

    /// Gives memory of ended flows back.
    pub(crate) fn shrink(&self) {
        self.flows.borrow_mut().shrink();
    }

    /// A place for a new flow; the one that has been idle longest makes room if need be.
    fn make_room(&self, core: &Core) -> Option<Place> {
        let most = core.shared.udp_flows_per_core.load(Ordering::Relaxed);
        if self.flows.borrow().len() >= most {
            self.evict(core, "the bound on UDP flows is reached");
        }
        Place::take(&core.shared, Cost::FLOW).or_else(|| {
            self.evict(core, "all session places are taken");
            Place::take(&core.shared, Cost::FLOW)
        })
    }

    /// Takes what a flow's server sent; it leaves at the end of the turn, with all other replies.
    pub(crate) fn answer(&self, core: &Core, key: Key) {
        let mut outbox = self.outbox.borrow_mut();
        let outbox = outbox.get_or_insert_default();
        let mut flows = self.flows.borrow_mut();
        for _ in 0..BUDGET {
            let Some(flow) = flows.get(key) else { break };
            if !outbox.has_room_for(&flow.listener) {
                let listener = Rc::clone(&flow.listener);
                outbox.send(core.stats(), &mut flows);
                outbox.begin(listener);
            }
            let Some(flow) = flows.get_mut(key) else { break };
            if !flow.take_replies(core, key, outbox) {
                break;
            }
            let (is_done, has_more) = (flow.is_done(), flow.socket.is_ready());
            flows.touch_key(key, core.events.now_ms());
            if is_done {
                outbox.send(core.stats(), &mut flows);
                drop(flows);
                return self.end(core, key, CloseReason::Done);
            }
            if !has_more {
                return;
            }
        }
        if flows.get(key).is_some_and(|flow| flow.socket.is_ready()) {
            core.go_on_later(Tag::Flow(key));
        }
    }

    /// Sends the replies of this turn.
    pub(crate) fn send_replies(&self, core: &Core) {
        if let Some(outbox) = self.outbox.borrow_mut().as_mut() {
            outbox.send(core.stats(), &mut self.flows.borrow_mut());
        }
    }

    /// The idle timer fired: datagrams since then only postpone it.
    pub(crate) fn check_idle(&self, core: &Core, key: Key) {
        let mut flows = self.flows.borrow_mut();
        let now = core.events.now_ms();
        let limit = flows.get(key).map_or(0, |flow| flow.idle_limit);
        let Some(rest) = flows.rest(key, now, limit) else { return };
        let Some(flow) = flows.get_mut(key) else { return };
        if let Some(reason) = flow.ending.due(now) {
            drop(flows);
            return self.end(core, key, reason);
        }
        if now >= flow.line_at {
            core.note_progress(&flow.session);
            flow.line_at = now.saturating_add(core.line_every());
        }
        if rest > 0 {
            let rest = rest.min(flow.line_at.saturating_sub(now).max(1));
            let rest = flow.ending.look_in(now, rest);
            flow.timer = core.events.set_timer(rest, Tag::FlowIdle(key).to_bits());
            return;
        }
        drop(flows);
        self.end(core, key, CloseReason::Idle);
    }

    /// Drops a flow whose state cannot be trusted.
    pub(crate) fn discard(&self, core: &Core, key: Key) {
        if self.flows.try_borrow_mut().is_ok() {
            self.end(core, key, CloseReason::Internal);
        }
    }

    fn evict(&self, core: &Core, why: &str) {
        let oldest = self.flows.borrow().oldest();
        let Some(oldest) = oldest else { return };
        if let Some(suppressed) = EVICTED.check(Instant::now()) {
            tracing::warn!(reason = why, suppressed, "the longest idle UDP flow makes room");
        }
        self.end(core, oldest, CloseReason::Evicted);
    }

    fn end(&self, core: &Core, key: Key, reason: CloseReason) {
        let Some(flow) = self.flows.borrow_mut().remove(key) else { return };
        core.events.cancel_timer(flow.timer);
        core.finish(&flow.session, reason);
        let listener = Rc::clone(&flow.listener);
        drop(flow);
        if listener.closing.get() && listener.flows.get() == 0 {
            // Replies that wait in the outbox keep the socket until they have left.
            let mut listeners = self.listeners.borrow_mut();
            let is_it = |key: &Key| listeners.get(*key).is_some_and(|it| Rc::ptr_eq(it, &listener));
            let mine = listeners.keys().into_iter().find(is_it);
            if let Some(key) = mine {
                listeners.remove(key);
            }
        }
        self.close_if_retired();
    }
}

/// Finds the route of a flow and runs its plugins on the first datagram. They can wait for nothing:
/// delays are passed over, and there is no more to read than the datagram.
fn admit(
    snapshot: &Snapshot,
    session: &mut Session,
    payload: &[u8],
) -> Result<Arc<Upstream>, CloseReason> {
    let step = connection::admit(snapshot, session)?;
    if step != Step::Passed
        && let Some(route) = session.route.clone()
    {
        let mut client = Client::datagram(payload);
        let mut waits = pin!(route.plugins.finish(step, session, &mut client));
        match waits.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(passed) => passed?,
            Poll::Pending => return Err(CloseReason::Preread),
        }
    }
    connection::target(session).cloned()
}
