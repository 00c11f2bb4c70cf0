//! Datagrams: the shell around the [`flow_table`]. A flow is what a session is for TCP: route and
//! upstream are chosen once, for its first datagram; every flow has a socket of its own connected
//! to its server, so the kernel maps replies back.

mod flow_table;

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use headgate_model::listen::{ListenAddr, ListenerSpec};
use headgate_model::resource::upstream::OnNodeDown;
use headgate_net::timer::TimerId;
use headgate_net::udp::{Batch, Datagram, UdpListener, UdpSocket};
use headgate_telemetry::LogLimit;
use headgate_upstream::{Address, Removal, Tried, Upstream};

use crate::connection;
use crate::core::{Core, Tag};
use crate::hash_key;
use crate::outcome::CloseReason;
use crate::plugin::{Client, Step};
use crate::session::{Place, Session, Traffic};
use crate::slots::{Key, Slots};
use crate::snapshot::Snapshot;
use crate::stats::Inlet;
use flow_table::{FlowId, FlowTable};

/// Batches or replies handled in one turn before others get their share.
const BUDGET: usize = 8;

static FLOW_FAILED: LogLimit = LogLimit::per_second(10);
static EVICTED: LogLimit = LogLimit::per_minute(6);

/// Everything about datagrams of one core.
#[derive(Debug, Default)]
pub(crate) struct UdpPlane {
    listeners: RefCell<Slots<Rc<Listener>>>,
    flows: RefCell<FlowTable<Flow>>,
    /// Taken out while in use.
    batch: RefCell<Option<Box<Batch>>>,
}

#[derive(Debug)]
struct Listener {
    spec: Rc<Inlet>,
    socket: UdpListener,
    address: SocketAddr,
}

#[derive(Debug)]
struct Flow {
    listener: Rc<Listener>,
    client: SocketAddr,
    /// The address the client spoke to; replies leave from it.
    local: Option<IpAddr>,
    socket: UdpSocket,
    session: Box<Session>,
    idle_limit: u64,
    on_node_down: OnNodeDown,
    timer: TimerId,
}

impl UdpPlane {
    pub(crate) fn open(&self, core: &Core, spec: ListenerSpec, fd: OwnedFd) -> io::Result<()> {
        let ListenAddr::Ip(address) = spec.addr else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "UDP needs an IP address"));
        };
        self.batch.borrow_mut().get_or_insert_default();
        self.listeners.borrow_mut().try_insert_with(|key| {
            let tag = Tag::UdpListener(key).to_bits();
            let socket = UdpListener::new(&core.events, fd, tag)?;
            let spec = Rc::new(core.shared.stats.listeners.inlet(spec, core.number()));
            Ok::<_, io::Error>(Rc::new(Listener { spec, socket, address }))
        })?;
        Ok(())
    }

    pub(crate) fn close(&self, core: &Core, spec: &ListenerSpec) {
        let keys = self.listeners.borrow().keys();
        for key in keys {
            let is_it = self.listeners.borrow().get(key).is_some_and(|l| **l.spec == *spec);
            if is_it && let Some(listener) = self.listeners.borrow_mut().remove(key) {
                let flows = self.flows.borrow().keys_where(|f| Rc::ptr_eq(&f.listener, &listener));
                flows.into_iter().for_each(|flow| self.end(core, flow, CloseReason::Drain));
            }
        }
    }

    pub(crate) fn end_all(&self, core: &Core) {
        let flows = self.flows.borrow().keys_where(|_| true);
        flows.into_iter().for_each(|flow| self.end(core, flow, CloseReason::Drain));
        *self.listeners.borrow_mut() = Slots::default();
    }

    /// Takes what clients sent.
    pub(crate) fn receive(&self, core: &Core, key: Key) {
        let Some(listener) = self.listeners.borrow().get(key).cloned() else { return };
        let mut batch = self.batch.borrow_mut().take().unwrap_or_default();
        for _ in 0..BUDGET {
            match listener.socket.receive(&mut batch) {
                Ok(0) => break,
                Ok(_) => batch.iter().for_each(|it| self.forward(core, key, &listener, &it)),
                Err(error) => {
                    tracing::debug!(listener = %listener.spec, %error, "receiving failed");
                    break;
                }
            }
        }
        *self.batch.borrow_mut() = Some(batch);
        if listener.socket.is_ready() {
            core.go_on_later(Tag::UdpListener(key));
        }
    }

    fn forward(&self, core: &Core, key: Key, listener: &Rc<Listener>, datagram: &Datagram<'_>) {
        let id = FlowId { listener: key.to_bits(), client: datagram.from, local: datagram.to };
        let now = core.events.now_ms();
        let known = self.flows.borrow_mut().touch(&id, now);
        let known = known.filter(|flow| !self.moves_on(core, *flow));
        let Some(flow) = known.or_else(|| self.begin(core, listener, id, datagram.payload)) else {
            core.stats().datagrams_dropped.increment();
            return;
        };
        let mut flows = self.flows.borrow_mut();
        let Some(flow) = flows.get_mut(flow) else { return };
        let from_client = datagram.payload.len() as u64;
        if flow.on_node_down == OnNodeDown::Drop && flow.is_down() {
            flow.session.count(&Traffic { from_client, ..Traffic::default() });
            core.stats().datagrams_dropped.increment();
            return;
        }
        let mut sent = flow.socket.send(datagram.payload);
        if matches!(&sent, Err(error) if error.kind() != io::ErrorKind::WouldBlock) {
            // That was the ICMP answer to an earlier datagram; this one has not been sent.
            note_refused(flow);
            sent = flow.socket.send(datagram.payload);
        }
        let to_upstream = sent.as_ref().map_or(0, |count| *count as u64);
        flow.session.count(&Traffic { from_client, to_upstream, ..Traffic::default() });
        if sent.is_err() {
            core.stats().datagrams_dropped.increment();
        }
    }

    /// Ends a flow whose node is down or gone, if its upstream says so; the datagram at hand then
    /// begins another one.
    fn moves_on(&self, core: &Core, key: Key) -> bool {
        let leaves =
            self.flows.borrow().get(key).is_some_and(|flow| flow.repicks() && flow.is_down());
        if leaves {
            self.end(core, key, CloseReason::NodeDown);
        }
        leaves
    }

    /// Routes the first datagram of a client and opens its flow.
    fn begin(
        &self,
        core: &Core,
        listener: &Rc<Listener>,
        id: FlowId,
        payload: &[u8],
    ) -> Option<Key> {
        let client = headgate_net::socket::canonical(id.client);
        let number = core.shared.next_session();
        let spec = Rc::clone(&listener.spec);
        let mut session = Box::new(Session::without_place(number, spec, Some(client)));
        let server = id.local.map_or(listener.address.ip(), |ip| ip.to_canonical());
        let _ = session.server.set(Some(SocketAddr::new(server, listener.address.port())));
        let snapshot = core.snapshot();
        // Routed first: a datagram that leads nowhere must not cost anybody a flow.
        let opened = admit(&snapshot, &mut session, payload)
            .and_then(|upstream| open_upstream(&upstream, &mut session));
        let (upstream, endpoint) = match opened {
            Ok(opened) => opened,
            Err(reason) => {
                core.finish(&session, reason);
                return None;
            }
        };
        session.hold(self.make_room(core)?);
        let limit = upstream.settings().idle_timeout.as_millis();
        let idle_limit = u64::try_from(limit).unwrap_or(u64::MAX / 4);
        let on_node_down = upstream.settings().on_node_down;
        let mut flows = self.flows.borrow_mut();
        let opened = flows.insert_with(id.clone(), core.events.now_ms(), |key| {
            let socket = UdpSocket::connect(&core.events, endpoint, Tag::Flow(key).to_bits());
            let socket = match socket {
                Ok(socket) => socket,
                Err(error) => return Err((session, error)),
            };
            session.upstream.connected = Some(Instant::now());
            session.upstream.connect_time = Some(Duration::ZERO);
            let timer = core.events.set_timer(idle_limit, Tag::FlowIdle(key).to_bits());
            let listener = Rc::clone(listener);
            let (client, local) = (id.client, id.local);
            Ok(Flow { listener, client, local, socket, session, idle_limit, on_node_down, timer })
        });
        drop(flows);
        match opened {
            Ok(key) => {
                core.stats().flows.increment();
                Some(key)
            }
            Err((session, error)) => {
                if let Some(suppressed) = FLOW_FAILED.check(Instant::now()) {
                    let upstream = upstream.key();
                    tracing::error!(upstream, %endpoint, %error, suppressed, "cannot open a UDP flow");
                }
                core.finish(&session, CloseReason::ConnectFailed);
                None
            }
        }
    }

    /// A place for a new flow; the one that has been idle longest makes room if need be.
    fn make_room(&self, core: &Core) -> Option<Place> {
        let most = core.shared.udp_flows_per_core.load(Ordering::Relaxed);
        if self.flows.borrow().len() >= most {
            self.evict(core, "the bound on UDP flows is reached");
        }
        Place::take(&core.shared).or_else(|| {
            self.evict(core, "all session places are taken");
            Place::take(&core.shared)
        })
    }

    /// Takes what a flow's server sent.
    pub(crate) fn answer(&self, core: &Core, key: Key) {
        let mut batch = self.batch.borrow_mut().take().unwrap_or_default();
        let mut flows = self.flows.borrow_mut();
        for _ in 0..BUDGET {
            let Some(flow) = flows.get_mut(key) else { break };
            match flow.socket.receive(&mut batch) {
                Ok(0) => break,
                Ok(_) => batch.payloads().for_each(|payload| flow.reply(core, payload)),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    note_refused(flow);
                }
                Err(error) => {
                    tracing::debug!(conn = flow.session.number, %error, "receiving failed");
                }
            }
            flows.touch_key(key, core.events.now_ms());
        }
        if flows.get(key).is_some_and(|flow| flow.socket.is_ready()) {
            core.go_on_later(Tag::Flow(key));
        }
        *self.batch.borrow_mut() = Some(batch);
    }

    /// The idle timer fired: datagrams since then only postpone it.
    pub(crate) fn check_idle(&self, core: &Core, key: Key) {
        let mut flows = self.flows.borrow_mut();
        let Some(active_at) = flows.active_at(key) else { return };
        let Some(flow) = flows.get_mut(key) else { return };
        let idle = core.events.now_ms().saturating_sub(active_at);
        if idle < flow.idle_limit {
            let rest = flow.idle_limit - idle;
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
    }
}

impl Flow {
    /// Whether its node is down or gone: unhealthy while another one is not, or no longer part of
    /// the upstream.
    fn is_down(&self) -> bool {
        let lease = self.session.upstream.lease.as_ref();
        lease.is_some_and(|lease| match lease.endpoint().removal() {
            None => lease.endpoint().is_outdone(),
            Some(Removal::Resolved) => true,
            Some(Removal::Configured) => self.on_node_down != OnNodeDown::Unset,
        })
    }

    const fn repicks(&self) -> bool {
        matches!(self.on_node_down, OnNodeDown::Unset | OnNodeDown::Repick)
    }

    /// Passes a reply on to the client, from the address that it spoke to.
    fn reply(&mut self, core: &Core, payload: &[u8]) {
        let upstream = &mut self.session.upstream;
        if upstream.first_byte_time.is_none() {
            upstream.first_byte_time = upstream.connected.map(|at| at.elapsed());
        }
        let sent = self.listener.socket.send(payload, self.client, self.local);
        let (from_upstream, to_client) =
            (payload.len() as u64, sent.as_ref().map_or(0, |count| *count as u64));
        self.session.count(&Traffic { from_upstream, to_client, ..Traffic::default() });
        if sent.is_err() {
            core.stats().datagrams_dropped.increment();
        }
    }
}

fn note_refused(flow: &Flow) {
    if let Some(lease) = &flow.session.upstream.lease {
        lease.endpoint().note_silence(true);
    }
    if let Some(suppressed) = FLOW_FAILED.check(Instant::now()) {
        let endpoint =
            flow.session.upstream.tried.last().map(|endpoint| endpoint.address.to_string());
        tracing::error!(
            conn = flow.session.number,
            endpoint,
            suppressed,
            "recv() failed (111: Connection refused) while proxying and reading from upstream"
        );
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
    connection::target(session)
}

/// Chooses the server of a flow. UDP has no handshake, so nothing can be retried here.
fn open_upstream(
    upstream: &Arc<Upstream>,
    session: &mut Session,
) -> Result<(Arc<Upstream>, SocketAddr), CloseReason> {
    let endpoints = upstream.endpoints();
    let lease = endpoints.pick(hash_key::of(upstream, session), &mut Tried::default());
    let address = lease.as_ref().and_then(|lease| match lease.endpoint().address {
        Address::Ip(address) => Some((lease.endpoint(), address)),
        Address::Unix(_) => None,
    });
    let Some((endpoint, address)) = address else {
        if let Some(suppressed) = FLOW_FAILED.check(Instant::now()) {
            let upstream = upstream.key();
            tracing::error!(upstream, suppressed, "failed to set upstream: no valid upstream node");
        }
        return Err(CloseReason::NoUpstream);
    };
    tracing::info!(conn = session.number, "proxy request to {address}");
    session.upstream.tried.push(Arc::clone(endpoint));
    session.upstream.lease = lease;
    Ok((Arc::clone(upstream), address))
}
