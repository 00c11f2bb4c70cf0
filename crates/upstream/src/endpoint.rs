//! Endpoints: the addresses behind an upstream's nodes, who uses them, and how well they are.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::balancer::ewma::ConnectCost;
use crate::clock;
use crate::health::{Board, Event, Health, Record, Source};

/// Where an endpoint listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// IP address and port.
    Ip(SocketAddr),
    /// Unix stream socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why an upstream does not have an endpoint any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Its name does not resolve to it now.
    Resolved,
    /// The upstream was changed.
    Configured,
}

/// One server of an upstream, and what is known of it. The same value stays in use when the
/// upstream changes, as long as the upstream has the address.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it listens.
    pub address: Address,
    /// The name that the address belongs to, if the node is written as one.
    pub host: Option<Arc<str>>,
    pub(crate) connect_cost: ConnectCost,
    pub(crate) health: Health,
    board: Arc<Board>,
    active: AtomicU32,
    /// Most sessions at a time.
    limit: AtomicU32,
    /// When it was added or became well again; 0: always was.
    well_since: AtomicU64,
    /// The upstream does not have it any more: see [`Removal`].
    removal: AtomicU8,
}

impl Endpoint {
    pub(crate) fn new(address: Address, host: Option<Arc<str>>, board: Arc<Board>) -> Self {
        Self {
            address,
            host,
            connect_cost: ConnectCost::default(),
            health: Health::default(),
            board,
            active: AtomicU32::new(0),
            limit: AtomicU32::new(u32::MAX),
            well_since: AtomicU64::new(0),
            removal: AtomicU8::new(0),
        }
    }

    /// Sessions that hold a [`Lease`], on all cores.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// Status and counters of its health checks.
    #[must_use]
    pub fn health(&self) -> Record {
        self.health.record()
    }

    /// Whether sessions are given to it while others are there.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.health().status.is_usable()
    }

    /// Why its upstream does not have it any more, if so.
    #[must_use]
    pub fn removal(&self) -> Option<Removal> {
        match self.removal.load(Ordering::Relaxed) {
            1 => Some(Removal::Resolved),
            2 => Some(Removal::Configured),
            _ => None,
        }
    }

    /// Whether it is unhealthy and another one is not.
    #[must_use]
    pub fn is_outdone(&self) -> bool {
        !self.is_usable() && self.board.has_a_usable_one()
    }

    /// Whether sessions that end badly count against it (`checks.passive`).
    #[must_use]
    pub fn is_passively_checked(&self) -> bool {
        self.board.is_passive()
    }

    /// Whether it can take another session.
    pub(crate) fn has_room(&self) -> bool {
        self.active() < self.limit.load(Ordering::Relaxed)
    }

    /// `host(ip:port)`, as health checks name their targets.
    pub(crate) fn target(&self) -> String {
        match (&self.host, &self.address) {
            (Some(host), address) => format!("{host}({address})"),
            (None, Address::Ip(address)) => format!("{}({address})", address.ip()),
            (None, unix) => unix.to_string(),
        }
    }

    /// Notes that a session could not connect to it. `is_last`: nothing else is tried, so the
    /// session ends badly, which counts only where passive checks are configured.
    pub(crate) fn note_failed_attempt(&self, is_last: bool) {
        if !is_last || self.board.is_passive() {
            self.board.note(self, Event::TcpFailure, Source::Session);
        }
    }

    /// Notes how a session ended that got no byte from it: by a reset, or by waiting in vain.
    /// Counts where passive checks are configured.
    pub fn note_silence(&self, reset: bool) {
        if self.board.is_passive() {
            let event = if reset { Event::TcpFailure } else { Event::Timeout };
            self.board.note(self, event, Source::Session);
        }
    }

    /// Notes what a probe saw.
    pub(crate) fn note_probe(&self, event: Event) {
        self.board.note(self, event, Source::Probe);
    }

    pub(crate) fn begin_slowly(&self) {
        self.well_since.store(clock::now_ms(), Ordering::Relaxed);
    }

    /// How far it has come on its way to the full weight, in percent from 10 to 100.
    pub(crate) fn warmth(&self, slow_start: Duration) -> u32 {
        let since = self.well_since.load(Ordering::Relaxed);
        let whole = slow_start.as_millis() as u64;
        if since == 0 || whole == 0 {
            return 100;
        }
        let passed = clock::now_ms().saturating_sub(since);
        (passed.saturating_mul(100) / whole).clamp(10, 100) as u32
    }

    pub(crate) fn set_limit(&self, most: Option<u32>) {
        self.limit.store(most.unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, why: Removal) {
        let number = match why {
            Removal::Resolved => 1,
            Removal::Configured => 2,
        };
        self.removal.store(number, Ordering::Relaxed);
    }
}

/// A session's use of an endpoint, from the pick to the session's end or to a retry elsewhere;
/// counted until dropped.
#[derive(Debug)]
pub struct Lease {
    endpoint: Arc<Endpoint>,
    /// Connecting failed: that the place is free again helps nobody who waits.
    in_vain: bool,
}

impl Lease {
    /// Takes a place, unless the endpoint has as many sessions as it may.
    pub(crate) fn take(endpoint: &Arc<Endpoint>) -> Option<Self> {
        let limit = endpoint.limit.load(Ordering::Relaxed);
        if limit == u32::MAX {
            return Some(Self::of(endpoint));
        }
        let more = |count| (count < limit).then_some(count + 1);
        let taken = endpoint.active.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.is_ok().then(|| Self { endpoint: Arc::clone(endpoint), in_vain: false })
    }

    /// Takes a place whatever the limit.
    pub(crate) fn of(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.active.fetch_add(1, Ordering::Relaxed);
        Self { endpoint: Arc::clone(endpoint), in_vain: false }
    }

    /// The endpoint.
    #[must_use]
    pub const fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Notes how long connecting took.
    pub(crate) fn record(&self, took: Duration) {
        self.endpoint.connect_cost.record(took, false);
    }

    /// Ends the lease of an endpoint that could not be connected to, which took this long.
    pub(crate) fn fail(mut self, took: Duration) {
        self.in_vain = true;
        self.endpoint.connect_cost.record(took, true);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.active.fetch_sub(1, Ordering::Relaxed);
        let is_limited = self.endpoint.limit.load(Ordering::Relaxed) != u32::MAX;
        if is_limited && !self.in_vain {
            self.endpoint.board.line.call();
        }
    }
}
