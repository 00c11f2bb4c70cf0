//! One client's datagrams and the server they go to.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headgate_model::resource::stream_route::UdpLimits;
use headgate_model::resource::upstream::OnNodeDown;
use headgate_net::timer::TimerId;
use headgate_net::udp::{Datagram, Recipient, UdpSocket};
use headgate_upstream::{Address, Lease, Removal, Tried, Upstream};

use super::outbox::Outbox;
use super::{FLOW_FAILED, Listener};
use crate::core::{Core, Ending, Tag};
use crate::hash_key;
use crate::mirror::DatagramCopy;
use crate::outcome::CloseReason;
use crate::proxy_out;
use crate::session::{Session, Traffic};
use crate::slots::Key;
use crate::stats::DropCause;
use crate::throttle::{Way, bucket};

/// A client's flow.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) listener: Rc<Listener>,
    pub(super) client: SocketAddr,
    /// The address the client spoke to; replies leave from it.
    local: Option<IpAddr>,
    pub(super) socket: UdpSocket,
    pub(super) session: Box<Session>,
    /// Milliseconds.
    pub(super) idle_limit: u64,
    /// The next line of the access log about it is due then.
    pub(super) line_at: u64,
    pub(super) timer: TimerId,
    pub(super) ending: Ending,
    upstream: Arc<Upstream>,
    tried: Tried,
    /// The server answered that nobody is there; the next datagram goes to another one.
    refused: bool,
    limits: UdpLimits,
    requests: u64,
    responses: u64,
    /// Goes in front of each datagram to the server.
    header: Vec<u8>,
    copy: Option<DatagramCopy>,
}

/// A server for a flow.
#[derive(Debug)]
pub(super) struct Chosen {
    upstream: Arc<Upstream>,
    address: SocketAddr,
    lease: Lease,
    tried: Tried,
}

/// Why there is no flow.
#[derive(Debug)]
pub(super) struct NotOpened {
    pub(super) session: Box<Session>,
    pub(super) upstream: Arc<Upstream>,
    pub(super) endpoint: SocketAddr,
    pub(super) error: io::Error,
}

/// Chooses the server of a flow. UDP has no handshake, so nothing can be retried here.
pub(super) fn choose(
    upstream: &Arc<Upstream>,
    session: &mut Session,
) -> Result<Chosen, CloseReason> {
    let mut tried = Tried::default();
    let Some((lease, address)) = pick(upstream, session, &mut tried) else {
        if let Some(suppressed) = FLOW_FAILED.check(Instant::now()) {
            let upstream = upstream.key();
            tracing::error!(upstream, suppressed, "failed to set upstream: no valid upstream node");
        }
        return Err(CloseReason::NoUpstream);
    };
    Ok(Chosen { upstream: Arc::clone(upstream), address, lease, tried })
}

fn pick(upstream: &Upstream, session: &Session, tried: &mut Tried) -> Option<(Lease, SocketAddr)> {
    let lease = upstream.endpoints().pick(hash_key::of(upstream, session), tried)?;
    match lease.endpoint().address {
        Address::Ip(address) => Some((lease, address)),
        Address::Unix(_) => None,
    }
}

/// A socket to a server of `upstream`, from an address that it names, if it does.
pub(crate) fn connect(
    core: &Core,
    upstream: &Upstream,
    to: SocketAddr,
    tag: Tag,
) -> io::Result<UdpSocket> {
    let open = |from| UdpSocket::connect_from(&core.events, from, to, tag.to_bits());
    match upstream.sources() {
        Some(sources) => sources.open(to.ip(), |from| open(Some(from))),
        None => open(None),
    }
}

/// Notes in the session that it goes to the server of `lease`.
fn enter(session: &mut Session, lease: Lease, address: SocketAddr) {
    tracing::info!(conn = session.number, "proxy request to {address}");
    session.upstream.tried.push(Arc::clone(lease.endpoint()));
    session.upstream.lease = Some(lease);
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.listener.flows.set(self.listener.flows.get().saturating_sub(1));
    }
}

impl Flow {
    /// Opens the flow that begins with `datagram`.
    pub(super) fn open(
        core: &Core,
        key: Key,
        listener: &Rc<Listener>,
        datagram: &Datagram<'_>,
        mut session: Box<Session>,
        chosen: Chosen,
    ) -> Result<Self, NotOpened> {
        let Chosen { upstream, address, lease, tried } = chosen;
        enter(&mut session, lease, address);
        let socket = connect(core, &upstream, address, Tag::Flow(key));
        let socket = match socket {
            Ok(socket) => socket,
            Err(error) => return Err(NotOpened { session, upstream, endpoint: address, error }),
        };
        session.upstream.connected = Some(Instant::now());
        session.upstream.connect_time = Some(Duration::ZERO);
        let limits = session.route.as_ref().map(|route| route.udp).unwrap_or_default();
        let idle_timeout = limits
            .idle_timeout
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .unwrap_or(upstream.settings().idle_timeout);
        let idle_limit = idle_timeout.as_millis().clamp(1, u128::from(u64::MAX / 4)) as u64;
        core.note_start(&session);
        let line_every = core.line_every();
        let line_at = core.events.now_ms().saturating_add(line_every);
        let ending = Ending::new(core.drains.ends_at_of_a_flow());
        let first_look = ending.look_in(core.events.now_ms(), idle_limit.min(line_every));
        let timer = core.events.set_timer(first_look, Tag::FlowIdle(key).to_bits());
        let header = proxy_out::datagram_header(&session);
        let copy = DatagramCopy::begin(core, &mut session, Tag::MirroredFlow(key));
        listener.flows.set(listener.flows.get() + 1);
        Ok(Self {
            header,
            copy,
            listener: Rc::clone(listener),
            client: datagram.from,
            local: datagram.to,
            socket,
            session,
            idle_limit,
            line_at,
            timer,
            ending,
            upstream,
            tried,
            refused: false,
            limits,
            requests: 0,
            responses: 0,
        })
    }

    /// Counts a datagram of the client; `true` when it is the last of this flow.
    pub(super) fn count_request(&mut self) -> bool {
        self.requests += 1;
        self.limits.requests.is_some_and(|most| self.requests >= u64::from(most))
    }

    /// Whether every datagram that is to come has come.
    pub(super) fn is_done(&self) -> bool {
        let UdpLimits { requests, responses, .. } = self.limits;
        let has_answers = |each: u32| self.responses >= u64::from(each) * self.requests;
        responses.is_some_and(has_answers)
            && requests.is_none_or(|most| self.requests >= u64::from(most))
    }

    /// Sends datagrams of the client, the sizes of which allow it, to the server.
    pub(super) fn send(&mut self, core: &Core, key: Key, datagrams: &[&[u8]]) {
        let bytes: usize = datagrams.iter().map(|datagram| datagram.len()).sum();
        let from_client = bytes as u64;
        if self.on_node_down() == OnNodeDown::Drop && self.is_down() {
            self.session.count(&Traffic { from_client, ..Traffic::default() });
            return core.stats().drop_datagrams(DropCause::ToServer, datagrams.len() as u64);
        }
        if self.refused {
            self.choose_another(core, key);
        }
        let (datagrams, over) = datagrams.split_at(self.within_rate(Way::Up, datagrams));
        core.stats().drop_datagrams(DropCause::OverRate, over.len() as u64);
        self.session.note_throttling(core, Tag::FlowIdle(key));
        if datagrams.is_empty() {
            return self.session.count(&Traffic { from_client, ..Traffic::default() });
        }
        if let Some(copy) = &self.copy {
            copy.send(core, datagrams);
        }
        let mut sent = self.pass(datagrams);
        if matches!(&sent, Err(error) if error.kind() != io::ErrorKind::WouldBlock) {
            // That was the ICMP answer to an earlier datagram; these have not been sent.
            self.note_refused();
            if self.refused {
                self.choose_another(core, key);
            }
            sent = self.pass(datagrams);
        }
        let to_upstream = sent.as_ref().map_or(0, |count| *count as u64);
        self.session.count(&Traffic { from_client, to_upstream, ..Traffic::default() });
        if sent.is_err() {
            core.stats().drop_datagrams(DropCause::ToServer, datagrams.len() as u64);
        }
    }

    /// How many of the datagrams its bandwidth limits let pass. A datagram never waits.
    fn within_rate(&mut self, way: Way, datagrams: &[&[u8]]) -> usize {
        let Some(throttle) = &mut self.session.throttle else { return datagrams.len() };
        let (lane, now) = (throttle.lane(way), bucket::now());
        let over = datagrams.iter().position(|datagram| !lane.passes(datagram.len() as u64, now));
        over.unwrap_or(datagrams.len())
    }

    fn pass(&self, datagrams: &[&[u8]]) -> io::Result<usize> {
        if self.header.is_empty() {
            return self.socket.send(datagrams);
        }
        let sizes = datagrams.iter().map(|payload| self.socket.send_behind(&self.header, payload));
        sizes.sum()
    }

    /// Receives what the server sent and puts it into the outbox; `false` when there was nothing.
    pub(super) fn take_replies(&mut self, core: &Core, key: Key, outbox: &mut Outbox) -> bool {
        let recipient = Recipient { to: self.client, from: self.local, owner: key.to_bits() };
        match outbox.replies.take(&self.socket, &recipient) {
            Ok(taken) if taken.datagrams == 0 => return false,
            Ok(taken) => {
                self.refused = false;
                self.responses += taken.datagrams as u64;
                let from_upstream = taken.bytes as u64;
                self.session.count(&Traffic { from_upstream, ..Traffic::default() });
                self.drop_replies_over_rate(core, key, taken.datagrams, outbox);
                let upstream = &mut self.session.upstream;
                if upstream.first_byte_time.is_none() {
                    upstream.first_byte_time = upstream.connected.map(|at| at.elapsed());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => self.note_refused(),
            Err(error) => {
                tracing::debug!(conn = self.session.number, %error, "receiving failed");
            }
        }
        true
    }

    /// Takes those of the last `count` replies out again that no bandwidth limit lets pass.
    fn drop_replies_over_rate(&mut self, core: &Core, key: Key, count: usize, outbox: &mut Outbox) {
        let Some(throttle) = &mut self.session.throttle else { return };
        let (lane, now) = (throttle.lane(Way::Down), bucket::now());
        let dropped = outbox.replies.keep_last(count, |bytes| lane.passes(bytes as u64, now));
        core.stats().drop_datagrams(DropCause::OverRate, dropped as u64);
        self.session.note_throttling(core, Tag::FlowIdle(key));
    }

    /// Goes on with another server, if the upstream has one that answers the transport.
    fn choose_another(&mut self, core: &Core, key: Key) {
        self.refused = false;
        let picked = pick(&self.upstream, &self.session, &mut self.tried).or_else(|| {
            self.tried = Tried::default(); // all were tried: begin again
            pick(&self.upstream, &self.session, &mut self.tried)
        });
        let Some((lease, address)) = picked else { return };
        let current = self.session.upstream.tried.last();
        if current.is_some_and(|current| current.address == Address::Ip(address)) {
            return;
        }
        match connect(core, &self.upstream, address, Tag::Flow(key)) {
            Ok(socket) => {
                self.socket = socket;
                enter(&mut self.session, lease, address);
            }
            Err(error) => {
                tracing::debug!(conn = self.session.number, %address, %error, "cannot go on there");
            }
        }
    }

    fn on_node_down(&self) -> OnNodeDown {
        self.upstream.settings().on_node_down
    }

    /// Whether its node is down or gone: unhealthy while another one is not, or no longer part of
    /// the upstream.
    pub(super) fn is_down(&self) -> bool {
        let lease = self.session.upstream.lease.as_ref();
        lease.is_some_and(|lease| match lease.endpoint().removal() {
            None => lease.endpoint().is_outdone(),
            Some(Removal::Resolved) => true,
            Some(Removal::Configured) => self.on_node_down() != OnNodeDown::Unset,
        })
    }

    /// Whether a flow of a node that is down ends, so that the next datagram begins another.
    pub(super) fn repicks(&self) -> bool {
        matches!(self.on_node_down(), OnNodeDown::Unset | OnNodeDown::Repick)
    }

    fn note_refused(&mut self) {
        // Whoever keeps or drops on a node that is down does not move for one ICMP answer either.
        self.refused = self.repicks();
        if let Some(lease) = &self.session.upstream.lease {
            lease.endpoint().note_silence(true);
        }
        if let Some(suppressed) = FLOW_FAILED.check(Instant::now()) {
            let endpoint = self.session.upstream.tried.last();
            let endpoint = endpoint.map(|endpoint| endpoint.address.to_string());
            tracing::error!(
                conn = self.session.number,
                endpoint,
                suppressed,
                "recv() failed (111: Connection refused) while proxying and reading from upstream"
            );
        }
    }
}
