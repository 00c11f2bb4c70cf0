//! What the cores have in common, and what one of them holds of it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use headgate_net::limits::SessionLimit;

use crate::access::AccessFormat;
use crate::cap::ConnectionCap;
use crate::pressure::Pressure;
use crate::secure::challenges::Challenges;
use crate::snapshot::Snapshot;
use crate::stats::Stats;
use crate::trust::TrustedPeers;

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
pub(crate) struct SharedHere(pub(super) Arc<Shared>);

impl std::ops::Deref for SharedHere {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// A snapshot that a core holds; its sessions share it without traffic between cores.
#[derive(Debug)]
pub(crate) struct Pinned(pub(super) Arc<Snapshot>);

impl std::ops::Deref for Pinned {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.0
    }
}
