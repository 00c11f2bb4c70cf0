//! A cheap clock for what needs no more than a few milliseconds of precision.

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since the machine started; never 0.
pub(crate) fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    (now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000).max(1)
}
