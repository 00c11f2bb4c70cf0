//! Counters of the stream plane, one set for each core.

use headgate_telemetry::{Counter, PerCore};

use crate::outcome::CloseReason;

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
    /// UDP datagrams dropped: no route, no upstream, or a full send buffer.
    pub datagrams_dropped: Counter,
    /// Set-up futures that panicked.
    pub panics: Counter,
}

/// Counters of all cores.
#[derive(Debug)]
pub struct Stats {
    cores: PerCore<CoreStats>,
}

impl Stats {
    /// Counters for that many cores.
    #[must_use]
    pub fn new(cores: usize) -> Self {
        Self { cores: PerCore::new(cores) }
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

    /// Sessions ended for `reason`.
    #[must_use]
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.sum(|core| core.closed.get(reason.index()).map_or(0, Counter::get))
    }
}
