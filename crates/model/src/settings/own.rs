//! `headgate`: settings that the reference does not have.

use std::time::Duration;

use super::reading::Reading;
use super::store::duration_of;
use super::{DrainMode, DrainPolicy, DrainSettings, LimitSettings, MemoryBudget, WhenFull};

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

/// Reads the bounds of the process.
pub(super) fn limits(reading: &mut Reading<'_>) -> LimitSettings {
    let count = |path| reading.int(path).and_then(|most| usize::try_from(most).ok());
    let pending_handshakes = count("headgate.limits.pending_handshakes").unwrap_or(10_000);
    let connections = count("headgate.limits.connections");
    let when_full = when_full(reading, connections.is_some());
    LimitSettings { pending_handshakes, connections, when_full, memory: memory(reading) }
}

fn when_full(reading: &mut Reading<'_>, is_bounded: bool) -> WhenFull {
    const PATH: &str = "headgate.limits.when_full";
    if reading.text(PATH) != Some("refuse") {
        return WhenFull::Wait;
    }
    if !is_bounded {
        let message = format!("{PATH}: nobody is refused without headgate.limits.connections");
        let note = reading.warning("config/no-effect", PATH, message).label("not used");
        note.help("write how many there may be into headgate.limits.connections");
    }
    WhenFull::Refuse
}

fn memory(reading: &mut Reading<'_>) -> MemoryBudget {
    const PATH: &str = "headgate.limits.memory";
    let Some(text) = reading.scalar(PATH) else { return MemoryBudget::Auto };
    match text.as_str() {
        "auto" => return MemoryBudget::Auto,
        "off" | "false" | "0" => return MemoryBudget::Off,
        _ => {}
    }
    let Some(bytes) = size(&text) else {
        let message = format!("{PATH} is not a size: {text}");
        let note = reading.error("config/size", PATH, message).label("not a size");
        note.help("write bytes with a unit: 512m, 2g (k, m and g are 1024-fold), or auto, or off");
        return MemoryBudget::Auto;
    };
    MemoryBudget::Bytes(bytes)
}

/// Bytes, as nginx writes sizes: a number with k, m or g.
fn size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|it: char| it.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..)?.to_ascii_lowercase().as_str() {
        "" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit).filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_those_of_nginx() {
        for (text, bytes) in [
            ("512m", Some(512 << 20)),
            ("2G", Some(2 << 30)),
            ("64MiB", Some(64 << 20)),
            ("1048576", Some(1 << 20)),
            ("10k", Some(10 << 10)),
            ("0", None),
            ("", None),
            ("m", None),
            ("1.5g", None),
            ("-1m", None),
            ("5 m", None),
            ("5mb", None),
            ("99999999999999g", None),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
    }
}
