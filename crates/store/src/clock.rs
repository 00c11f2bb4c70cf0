//! Wall-clock time for history and time-to-live, replaceable in tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where a store gets the time from. Leases have to survive a restart, so it is wall-clock time.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The clock of the system.
    #[default]
    System,
    /// A clock that stands still until moved with [`Clock::advance`]; clones share it.
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// A clock that shows `unix_ms` until it is moved.
    #[must_use]
    pub fn manual(unix_ms: u64) -> Self {
        Self::Manual(Arc::new(AtomicU64::new(unix_ms)))
    }

    /// Moves a manual clock; the system clock stays as it is. The store notices with its next
    /// write.
    pub fn advance(&self, by: Duration) {
        if let Self::Manual(time) = self {
            time.fetch_add(millis(by), SeqCst);
        }
    }

    /// Unix time in milliseconds.
    pub(crate) fn now_ms(&self) -> u64 {
        match self {
            Self::System => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis),
            Self::Manual(time) => time.load(SeqCst),
        }
    }
}

/// Whole milliseconds, at most what fits.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
