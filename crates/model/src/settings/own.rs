//! `headgate`: settings that the reference does not have.

use std::time::Duration;

use super::reading::Reading;
use super::store::duration_of;
use super::{DrainMode, DrainPolicy, DrainSettings};

/// Over how long gradual draining spreads, by default.
const PERIOD: Duration = Duration::from_secs(30);
/// How long a turn of a core may last, by default.
const THRESHOLD: Duration = Duration::from_secs(5);

/// Reads how sessions drain; `limit` is `worker_shutdown_timeout`.
pub(super) fn drain(reading: &mut Reading<'_>, limit: Duration) -> DrainSettings {
    DrainSettings {
        stop: policy(reading, "stop", limit),
        listener: policy(reading, "listener", limit),
        node: policy(reading, "node", Duration::ZERO),
    }
}

fn policy(reading: &mut Reading<'_>, name: &str, timeout: Duration) -> DrainPolicy {
    let path = format!("headgate.drain.{name}");
    let mode = match reading.text(&format!("{path}.mode")) {
        Some("immediate") => DrainMode::Immediate,
        Some("gradual") => DrainMode::Gradual,
        _ => DrainMode::Graceful,
    };
    let timeout = duration_of(reading, &format!("{path}.timeout"), timeout);
    DrainPolicy {
        mode,
        timeout: (!timeout.is_zero()).then_some(timeout),
        period: duration_of(reading, &format!("{path}.period"), PERIOD),
    }
}

/// Reads how long a turn of a core may last; `None`: nobody looks.
pub(super) fn watchdog(reading: &mut Reading<'_>) -> Option<Duration> {
    let threshold = duration_of(reading, "headgate.watchdog.threshold", THRESHOLD);
    (!threshold.is_zero()).then_some(threshold)
}

/// Reads how many connections may be in set-up at once.
pub(super) fn pending_handshakes(reading: &Reading<'_>) -> usize {
    let most = reading.int("headgate.limits.pending_handshakes");
    most.and_then(|most| usize::try_from(most).ok()).unwrap_or(10_000)
}
