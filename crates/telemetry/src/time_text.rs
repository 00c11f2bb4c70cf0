//! Times as text for the access log, formatted once per second.

use std::io::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Remembers the text of the current second. One per core.
#[derive(Debug, Clone)]
pub struct TimeText {
    zone: TimeZone,
    second: Option<u64>,
    local: String,
    iso8601: String,
}

impl Default for TimeText {
    fn default() -> Self {
        Self::new(TimeZone::system())
    }
}

impl TimeText {
    /// Texts in `zone`; [`TimeText::default`] uses the zone of the system.
    #[must_use]
    pub const fn new(zone: TimeZone) -> Self {
        Self { zone, second: None, local: String::new(), iso8601: String::new() }
    }

    /// `$time_local` of a unix time: `21/Nov/2026:10:00:00 +0000`.
    pub fn local(&mut self, unix: Duration) -> &str {
        self.refresh(unix);
        &self.local
    }

    /// `$time_iso8601` of a unix time: `2026-11-21T10:00:00+00:00`.
    pub fn iso8601(&mut self, unix: Duration) -> &str {
        self.refresh(unix);
        &self.iso8601
    }

    fn refresh(&mut self, unix: Duration) {
        if self.second == Some(unix.as_secs()) {
            return;
        }
        self.second = Some(unix.as_secs());
        let second = i64::try_from(unix.as_secs()).unwrap_or(i64::MAX);
        // Years beyond 9999 have no text; such a clock is broken anyway.
        let time = Timestamp::from_second(second).unwrap_or(Timestamp::MAX);
        let time = time.to_zoned(self.zone.clone());
        self.local = time.strftime("%d/%b/%Y:%H:%M:%S %z").to_string();
        self.iso8601 = time.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
    }
}

/// Appends `$msec` of a unix time: seconds with three decimals, `1795255200.123`.
pub fn write_msec(unix: Duration, out: &mut Vec<u8>) {
    // Writing to a Vec does not fail.
    let _ = write!(out, "{}.{:03}", unix.as_secs(), unix.subsec_millis());
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN_O_CLOCK: Duration = Duration::from_secs(1_795_255_200);

    #[test]
    fn utc() {
        let mut text = TimeText::new(TimeZone::UTC);
        assert_eq!(text.local(TEN_O_CLOCK), "21/Nov/2026:10:00:00 +0000");
        assert_eq!(text.iso8601(TEN_O_CLOCK), "2026-11-21T10:00:00+00:00");
    }

    #[test]
    fn other_zones_and_new_seconds() {
        let west = TimeZone::fixed(jiff::tz::Offset::from_seconds(-(3 * 3600 + 1800)).unwrap());
        let mut text = TimeText::new(west);
        assert_eq!(text.local(TEN_O_CLOCK), "21/Nov/2026:06:30:00 -0330");
        let next = TEN_O_CLOCK + Duration::from_millis(1_999);
        assert_eq!(text.iso8601(next), "2026-11-21T06:30:01-03:30");
        assert_eq!(text.local(TEN_O_CLOCK), "21/Nov/2026:06:30:00 -0330");
    }

    #[test]
    fn absurd_times_do_not_panic() {
        TimeText::new(TimeZone::UTC).local(Duration::MAX);
        TimeText::new(TimeZone::UTC).local(Duration::ZERO);
    }

    #[test]
    fn msec() {
        let mut out = Vec::new();
        write_msec(TEN_O_CLOCK + Duration::from_micros(7_999), &mut out);
        assert_eq!(out, b"1795255200.007");
    }
}
