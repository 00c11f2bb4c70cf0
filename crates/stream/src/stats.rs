//! What the stream plane counts. The data cores write into slots of their own, without locks;
//! whoever asks adds the slots up ([`metrics`](crate::metrics), `/v1/counters`).

mod handed;
mod inlet;
mod recorded;
mod routes;
mod series;

use std::sync::Arc;
use std::time::Duration;

use headgate_model::listen::Transport;
use headgate_telemetry::histogram::Totals;
use headgate_telemetry::{Counter, Histogram, PerCore};

use crate::mirror::Ending;
use crate::outcome::CloseReason;
use crate::session::Session;
use crate::throttle::Way;
pub use handed::Handed;
pub(crate) use inlet::Open;
pub use inlet::{Inlet, ListenerCounts, ListenerStats};
pub use recorded::Recorded;
pub use routes::{RouteCounts, RouteStats, RouteTable};

/// Connect and first-byte times in microseconds, up to 67 s.
pub type Micros = Histogram<8, 19>;
/// Session times in milliseconds, up to 9 hours.
pub type Millis = Histogram<0, 26>;

/// Why a datagram was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropCause {
    /// No route took it, or its route or upstream could not be used.
    NoFlow,
    /// Neither a flow nor a session place could be had for it.
    NoPlace,
    /// It could not be sent to the server: the send buffer is full, or the server is unreachable.
    ToServer,
    /// It could not be sent to the client.
    ToClient,
    /// A bandwidth limit was reached.
    OverRate,
    /// Its listener has `max_connections` flows, or takes no new ones because it was removed.
    ListenerFull,
    /// Memory is near its budget, so no flow begins.
    Memory,
}

impl DropCause {
    /// Every cause.
    pub const ALL: [Self; 7] = [
        Self::NoFlow,
        Self::NoPlace,
        Self::ToServer,
        Self::ToClient,
        Self::OverRate,
        Self::ListenerFull,
        Self::Memory,
    ];

    /// Its name in counters and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoFlow => "no_flow",
            Self::NoPlace => "no_place",
            Self::ToServer => "to_server",
            Self::ToClient => "to_client",
            Self::OverRate => "over_rate",
            Self::ListenerFull => "listener_full",
            Self::Memory => "memory",
        }
    }
}

/// What one core counts. Only that core writes.
#[derive(Debug, Default)]
pub struct CoreStats {
    /// TCP connections accepted.
    pub accepted: Counter,
    /// UDP flows begun.
    pub flows: Counter,
    /// Sessions ended, by [`CloseReason`].
    pub closed: [Counter; CloseReason::ALL.len()],
    /// Bytes from clients.
    pub bytes_received: Counter,
    /// Bytes to clients.
    pub bytes_sent: Counter,
    /// Times that accepting paused because sessions or descriptors ran out.
    pub accept_paused: Counter,
    /// UDP datagrams dropped, by [`DropCause`].
    pub datagrams_dropped: [Counter; DropCause::ALL.len()],
    /// Time in which bandwidth limits held sessions up, by [`Way`], microseconds.
    pub(crate) throttled: [Counter; Way::ALL.len()],
    /// Copies of TCP sessions that ended, by [`Ending`].
    pub(crate) mirrors: [Counter; Ending::ALL.len()],
    /// Bytes that mirrors took.
    pub(crate) mirror_sent: Counter,
    /// Bytes that were to be copied and were not.
    pub(crate) mirror_dropped: Counter,
    /// Set-up futures that panicked.
    pub panics: Counter,
    /// Time of TLS handshakes with clients that succeeded.
    pub handshake_time: Micros,
    /// Time to connect to the endpoint that serves.
    pub connect_time: Micros,
    /// Time that sessions waited in queues of upstreams before.
    pub queue_time: Micros,
    /// From then to its first byte.
    pub first_byte_time: Micros,
    /// Length of sessions.
    pub session_time: Millis,
}

impl CoreStats {
    /// Counts dropped datagrams.
    pub(crate) fn drop_datagrams(&self, cause: DropCause, count: u64) {
        if let Some(counter) = self.datagrams_dropped.get(cause as usize) {
            counter.add(count);
        }
    }

    /// Counts time in which a session was held up.
    pub(crate) fn throttled(&self, way: Way, time: Duration) {
        if let Some(counter) = self.throttled.get(way as usize)
            && !time.is_zero()
        {
            counter.add(micros(time));
        }
    }

    /// Counts a copy that ended.
    pub(crate) fn mirrored(&self, ending: Ending) {
        if let Some(counter) = self.mirrors.get(ending as usize) {
            counter.increment();
        }
    }

    /// Counts a session that ended.
    pub(crate) fn finished(&self, session: &Session, reason: CloseReason) {
        if let Some(counter) = self.closed.get(reason.index()) {
            counter.increment();
        }
        self.bytes_received.add(session.traffic.from_client);
        self.bytes_sent.add(session.traffic.to_client);
        let upstream = &session.upstream;
        // A UDP "connection" takes no time, and saying so would hide the times of the others.
        if session.listener.transport == Transport::Tcp
            && let Some(time) = upstream.connect_time
        {
            self.connect_time.record(micros(time));
        }
        if let Some(time) = upstream.first_byte_time {
            self.first_byte_time.record(micros(time));
        }
        let lasted = session.started.elapsed().as_millis();
        self.session_time.record(u64::try_from(lasted).unwrap_or(u64::MAX));
    }
}

pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Counters of all cores.
#[derive(Debug)]
pub struct Stats {
    cores: PerCore<CoreStats>,
    /// By listener; they move while sessions last.
    pub listeners: ListenerStats,
    /// By route.
    pub routes: Arc<RouteTable>,
    /// Of sessions that no route took.
    pub unrouted: RouteStats,
    /// The slot behind those of the cores: what predecessors of this process counted.
    inherited: usize,
}

impl Stats {
    /// Counters for that many cores.
    #[must_use]
    pub fn new(cores: usize) -> Self {
        let (inherited, cores) = (cores, cores + 1);
        Self {
            inherited,
            cores: PerCore::new(cores),
            listeners: ListenerStats::new(cores),
            routes: Arc::new(RouteTable::new(cores)),
            unrouted: RouteStats::new(cores),
        }
    }

    /// The counters of one core.
    #[must_use]
    pub fn core(&self, core: usize) -> &CoreStats {
        self.cores.get_or_init(core, CoreStats::default)
    }

    /// The sum of one counter over all cores.
    #[must_use]
    pub fn sum(&self, of: impl Fn(&CoreStats) -> u64) -> u64 {
        self.cores.sum(of)
    }

    /// The sum of one histogram over all cores.
    #[must_use]
    pub fn totals<const FIRST: u32, const N: usize>(
        &self,
        of: impl Fn(&CoreStats) -> &Histogram<FIRST, N>,
    ) -> Totals<FIRST, N> {
        let mut totals = Totals::default();
        self.cores.iter().for_each(|(_, core)| totals.add(of(core)));
        totals
    }

    /// Datagrams dropped for `cause`.
    #[must_use]
    pub fn dropped(&self, cause: DropCause) -> u64 {
        self.sum(|core| core.datagrams_dropped.get(cause as usize).map_or(0, Counter::get))
    }

    /// Sessions ended for `reason`.
    #[must_use]
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.sum(|core| core.closed.get(reason.index()).map_or(0, Counter::get))
    }
}
