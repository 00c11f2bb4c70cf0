//! Everything known about one connection or UDP flow; the only state that travels through the
//! stages.

use std::any::Any;
use std::cell::OnceCell;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime};

use headgate_model::listen::Transport;
use headgate_model::resource::upstream::OnUnhealthy;
use headgate_net::limits::Cost;
use headgate_telemetry::LogLimit;
use headgate_upstream::{Endpoint, Lease, Upstream};

use crate::core::{Core, SharedHere, Tag};
use crate::mirror::Plan;
use crate::outcome::CloseReason;
use crate::plugin::Filtered;
use crate::router::Facts;
use crate::secure::Secured;
use crate::slots::Key;
use crate::snapshot::Route;
use crate::stats::{Inlet, Open};
use crate::throttle::bucket::{self, Bucket};
use crate::throttle::{Throttle, Way};

static EXCEEDED: LogLimit = LogLimit::per_second(10);

/// Tells the sessions of this process from those of all others.
static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(SystemTime::now()));

/// Bytes that passed, from the client's point of view.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Read from the client.
    pub from_client: u64,
    /// Written to the client.
    pub to_client: u64,
    /// Written to the upstream.
    pub to_upstream: u64,
    /// Read from the upstream.
    pub from_upstream: u64,
}

/// What happened towards the upstream.
#[derive(Debug, Default)]
pub struct UpstreamSide {
    /// Endpoints tried, in order; the last one serves.
    pub tried: Vec<Arc<Endpoint>>,
    /// The use of the one that serves.
    pub(crate) lease: Option<Lease>,
    /// When the serving connection was established.
    pub connected: Option<Instant>,
    /// How long that took.
    pub connect_time: Option<Duration>,
    /// How long it waited in the upstream's queue before, if it had to.
    pub queue_time: Option<Duration>,
    /// From then to the first byte of the upstream.
    pub first_byte_time: Option<Duration>,
}

/// Addresses that a PROXY protocol header named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxied {
    /// The client as the peer saw it.
    pub source: SocketAddr,
    /// The address that the client connected to there.
    pub destination: SocketAddr,
    /// Type and value of its extensions.
    pub tlvs: Vec<(u8, Vec<u8>)>,
}

/// A plugin's refusal of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejection {
    /// Name of the plugin.
    pub plugin: &'static str,
    /// The code it gave; shown by `$status` and counted, never sent.
    pub code: u16,
}

/// What a plugin keeps in a session; dropped when the session ends, in whatever way.
#[derive(Default)]
struct Kept {
    /// Most sessions have one thing kept at most.
    first: Option<Box<dyn Any>>,
    more: Vec<Box<dyn Any>>,
}

impl Kept {
    fn all(&self) -> impl Iterator<Item = &dyn Any> {
        self.first.iter().chain(&self.more).map(|guard| &**guard)
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kept({})", self.all().count())
    }
}

/// One connection or UDP flow.
#[derive(Debug)]
pub struct Session {
    /// Number of the session in this process, from 1.
    pub number: u64,
    /// Where it came in.
    pub listener: Rc<Inlet>,
    /// Who began it: the direct peer, or whom a trusted peer's PROXY header names. `None` on
    /// Unix sockets.
    pub client: Option<SocketAddr>,
    /// The direct peer; `None` on Unix sockets.
    pub peer: Option<SocketAddr>,
    /// Source and destination of the PROXY header, if it named them.
    pub proxied: Option<Box<Proxied>>,
    /// What TLS with the client came to; boxed, because most sessions have none.
    pub tls: Option<Box<Secured>>,
    /// The local address and port that the client spoke to, once somebody asked.
    pub(crate) server: OnceCell<Option<SocketAddr>>,
    /// When it began.
    pub started: Instant,
    /// The same on the wall clock.
    pub started_at: SystemTime,
    /// The route that took it.
    pub route: Option<Arc<Route>>,
    /// What happened towards the upstream.
    pub upstream: UpstreamSide,
    /// Longest time without a byte in either direction.
    pub idle_limit: Duration,
    /// What happens when its endpoint turns unhealthy.
    pub(crate) on_unhealthy: OnUnhealthy,
    /// Bytes that passed; [`Session::count`] adds to them.
    pub traffic: Traffic,
    /// The plugin that refused it, if one did.
    pub rejection: Option<Rejection>,
    /// It began with a PROXY header that its listener does not expect, and was passed on so.
    pub(crate) has_unexpected_header: bool,
    /// Client id of the MQTT CONNECT that a plugin read.
    pub mqtt_client_id: Option<Box<[u8]>>,
    /// The upstream that a plugin chose instead of the route's.
    pub(crate) redirect: Option<Arc<Upstream>>,
    /// Where a plugin wants it to be copied to.
    pub(crate) mirror: Option<Box<Plan>>,
    /// Its copy, once it has begun.
    pub(crate) copy: Option<Key>,
    /// Its bandwidth limits, if it has any.
    pub(crate) throttle: Option<Box<Throttle>>,
    /// What the filters of the route's plugins said.
    pub(crate) filters: Filtered,
    kept: Kept,
    /// Counted as open.
    _open: Open,
    place: Option<Place>,
}

/// A place under the session limit; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    shared: Rc<SharedHere>,
    cost: Cost,
}

impl Place {
    /// Takes a place unless there is none for something that costs so much.
    pub(crate) fn take(shared: &Rc<SharedHere>, cost: Cost) -> Option<Self> {
        shared.sessions.enter(cost).then(|| Self { shared: Rc::clone(shared), cost })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.sessions.leave(self.cost);
    }
}

impl Session {
    pub(crate) fn new(place: Place, listener: Rc<Inlet>, client: Option<SocketAddr>) -> Self {
        let number = place.shared.next_session();
        Self { place: Some(place), ..Self::without_place(number, listener, client) }
    }

    /// A session that does not count against the limit until [`Session::hold`].
    pub(crate) fn without_place(
        number: u64,
        listener: Rc<Inlet>,
        client: Option<SocketAddr>,
    ) -> Self {
        Self {
            number,
            _open: Open::new(Rc::clone(&listener)),
            listener,
            client,
            peer: client,
            proxied: None,
            tls: None,
            server: OnceCell::new(),
            started: Instant::now(),
            started_at: SystemTime::now(),
            route: None,
            upstream: UpstreamSide::default(),
            idle_limit: Duration::ZERO,
            on_unhealthy: OnUnhealthy::Keep,
            traffic: Traffic::default(),
            rejection: None,
            has_unexpected_header: false,
            mqtt_client_id: None,
            redirect: None,
            mirror: None,
            copy: None,
            throttle: None,
            filters: Filtered::default(),
            kept: Kept::default(),
            place: None,
        }
    }

    /// A name for the session that no other session of any headgate process has.
    #[must_use]
    pub fn unique_id(&self) -> String {
        format!("{:016x}-{:x}", *PROCESS, self.number)
    }

    /// Keeps a place until the session ends.
    pub(crate) fn hold(&mut self, place: Place) {
        self.place = Some(place);
    }

    /// Keeps `guard` until the session ends: releasing what a plugin took is its `Drop`.
    pub fn keep(&mut self, guard: impl Any) {
        match &mut self.kept.first {
            first @ None => *first = Some(Box::new(guard)),
            Some(_) => self.kept.more.push(Box::new(guard)),
        }
    }

    /// What was kept of that type, first the one kept first.
    pub fn kept<T: Any>(&self) -> Option<&T> {
        self.kept.all().find_map(|guard| guard.downcast_ref())
    }

    /// Sends the session to `upstream` instead of the route's. Only before the upstream is
    /// connected: from a plugin's preread phase.
    pub fn redirect_to(&mut self, upstream: Arc<Upstream>) {
        self.redirect = Some(upstream);
    }

    /// Holds a direction to the rate of `bucket`; with `dry_run` it only says when it would be.
    pub(crate) fn limit(&mut self, way: Way, bucket: Arc<Bucket>, dry_run: bool) {
        self.throttle.get_or_insert_default().lane(way).add(bucket, dry_run);
    }

    /// After its directions were driven: sets the timer of one that waits, reported as `resume`,
    /// and counts and tells what was held up.
    pub(crate) fn note_throttling(&mut self, core: &Core, resume: Tag) {
        let Some(throttle) = &mut self.throttle else { return };
        if throttle.timer.is_none()
            && let Some(pause) = throttle.pause(bucket::now())
        {
            throttle.timer = Some(core.events.set_timer(pause, resume.to_bits()));
        }
        for way in Way::ALL {
            let lane = throttle.lane(way);
            core.stats().throttled(way, lane.take_unreported());
            let (exceeded, dry_run) = (lane.take_news(), lane.is_dry());
            if exceeded && let Some(suppressed) = EXCEEDED.check(Instant::now()) {
                tracing::info!(
                    conn = self.number,
                    client = %self.client.map_or_else(|| "unix:".to_owned(), |it| it.to_string()),
                    direction = way.name(),
                    dry_run,
                    suppressed,
                    "the bandwidth limit is reached"
                );
            }
        }
    }

    /// Notes bytes that just passed, here and in the live counts of listener and route.
    pub(crate) fn count(&mut self, more: &Traffic) {
        let traffic = &mut self.traffic;
        traffic.from_client += more.from_client;
        traffic.to_client += more.to_client;
        traffic.to_upstream += more.to_upstream;
        traffic.from_upstream += more.from_upstream;
        self.listener.count(more);
        if let Some(route) = &self.route {
            route.stats.count(self.listener.core(), more);
        }
    }

    /// Tells the health checks of the upstream how it ended.
    pub(crate) fn note_end(&self, reason: CloseReason) {
        let Some(endpoint) = self.upstream.tried.last() else { return };
        if !endpoint.is_passively_checked() {
            return;
        }
        tracing::info!(conn = self.number, "enabled healthcheck passive");
        let is_silent = self.upstream.lease.is_some() && self.traffic.from_upstream == 0;
        match reason {
            CloseReason::UpstreamReset if is_silent => endpoint.note_silence(true),
            // A datagram need not be answered.
            CloseReason::Idle
                if is_silent
                    && self.traffic.to_upstream > 0
                    && self.listener.transport == Transport::Tcp =>
            {
                endpoint.note_silence(false);
            }
            _ => {}
        }
    }

    /// What the router needs.
    #[must_use]
    pub fn facts(&self) -> Facts<'_> {
        Facts {
            client: self.client.map(|client| client.ip()),
            server: self.server.get().copied().flatten(),
            sni: self.tls.as_ref().and_then(|tls| tls.sni.as_deref()),
            alpn: self.tls.as_ref().map_or(&[][..], |tls| &tls.alpn),
        }
    }

    /// The client for log lines.
    #[must_use]
    pub fn client_text(&self) -> String {
        self.client.map_or_else(|| "unix:".to_owned(), |client| client.to_string())
    }
}

#[cfg(test)]
impl Session {
    /// A session of `client` that came in on port 9100 of 192.0.2.1.
    pub(crate) fn of(client: &str) -> Self {
        use headgate_model::listen::{ListenAddr, ListenerSpec, Transport};
        let listener = ListenerSpec {
            addr: ListenAddr::Ip(([0, 0, 0, 0], 9100).into()),
            transport: Transport::Tcp,
            tls: false,
            tls_passthrough: false,
            alpn: Vec::new(),
            proxy_protocol: false,
            proxy_protocol_to_upstream: None,
            max_connections: None,
        };
        let session = Self::without_place(1, Inlet::alone(listener), client.parse().ok());
        let _ = session.server.set(Some(([192, 0, 2, 1], 9100).into()));
        session
    }
}
