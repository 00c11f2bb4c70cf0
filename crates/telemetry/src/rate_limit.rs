//! Keeping repeated warnings from flooding the process log.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A token bucket for one kind of log line; usable as a `static`.
///
/// ```
/// # use std::time::Instant;
/// # use headgate_telemetry::LogLimit;
/// static LIMIT: LogLimit = LogLimit::per_second(5);
/// if let Some(suppressed) = LIMIT.check(Instant::now()) {
///     tracing::warn!(suppressed, "upstream connect failed");
/// }
/// ```
pub struct LogLimit {
    burst: u32,
    interval: Duration,
    bucket: Mutex<Option<Bucket>>,
    suppressed: AtomicU64,
}

#[derive(Clone, Copy)]
struct Bucket {
    tokens: u32,
    filled: Instant,
}

impl LogLimit {
    /// At most `lines` per second, all of which may come at once.
    #[must_use]
    pub const fn per_second(lines: u32) -> Self {
        Self::new(lines, Duration::from_secs(1))
    }

    /// At most `lines` per minute, all of which may come at once.
    #[must_use]
    pub const fn per_minute(lines: u32) -> Self {
        Self::new(lines, Duration::from_secs(60))
    }

    const fn new(lines: u32, period: Duration) -> Self {
        let burst = if lines == 0 { 1 } else { lines };
        Self {
            burst,
            interval: Duration::from_nanos(period.as_nanos() as u64 / burst as u64),
            bucket: Mutex::new(None),
            suppressed: AtomicU64::new(0),
        }
    }

    /// `Some(n)`: write the line, `n` were suppressed since the last one. `None`: suppress it.
    ///
    /// Never waits: a thread that finds the bucket in use by another is suppressed.
    pub fn check(&self, now: Instant) -> Option<u64> {
        let allowed = self.bucket.try_lock().is_ok_and(|mut bucket| self.take(&mut bucket, now));
        if allowed {
            Some(self.suppressed.swap(0, Relaxed))
        } else {
            self.suppressed.fetch_add(1, Relaxed);
            None
        }
    }

    fn take(&self, bucket: &mut Option<Bucket>, now: Instant) -> bool {
        let bucket = bucket.get_or_insert(Bucket { tokens: self.burst, filled: now });
        let elapsed = now.saturating_duration_since(bucket.filled);
        let earned = elapsed.as_nanos() / self.interval.as_nanos().max(1);
        match u32::try_from(earned) {
            Ok(earned) if earned < self.burst - bucket.tokens => {
                bucket.tokens += earned;
                bucket.filled += self.interval * earned;
            }
            _ => *bucket = Bucket { tokens: self.burst, filled: now },
        }
        let allowed = bucket.tokens > 0;
        bucket.tokens = bucket.tokens.saturating_sub(1);
        allowed
    }
}

impl fmt::Debug for LogLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogLimit")
            .field("burst", &self.burst)
            .field("interval", &self.interval)
            .finish_non_exhaustive()
    }
}

/// A [`LogLimit`] per key, for lines about one of many things (an endpoint, a route). Owned by one
/// thread. Holds at most `capacity` keys; when full, it starts over.
#[derive(Debug)]
pub struct LogLimits<K> {
    lines_per_second: u32,
    capacity: usize,
    limits: HashMap<K, LogLimit>,
}

impl<K: Hash + Eq> LogLimits<K> {
    /// At most `lines` per second for each key.
    #[must_use]
    pub fn per_second(lines: u32, capacity: usize) -> Self {
        Self { lines_per_second: lines, capacity: capacity.max(1), limits: HashMap::new() }
    }

    /// As [`LogLimit::check`] for `key`.
    pub fn check(&mut self, key: K, now: Instant) -> Option<u64> {
        if self.limits.len() >= self.capacity && !self.limits.contains_key(&key) {
            self.limits.clear();
        }
        let lines = self.lines_per_second;
        self.limits.entry(key).or_insert_with(|| LogLimit::per_second(lines)).check(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn burst_then_one_per_interval() {
        let limit = LogLimit::per_second(2);
        let start = Instant::now();
        let checks: Vec<_> = (0..4).map(|_| limit.check(start)).collect();
        assert_eq!(checks, [Some(0), Some(0), None, None]);
        assert_eq!(limit.check(start + SECOND / 4), None);
        assert_eq!(limit.check(start + SECOND / 2), Some(3));
        assert_eq!(limit.check(start + SECOND / 2), None);
        assert_eq!(limit.check(start + SECOND), Some(1));
    }

    #[test]
    fn idle_time_refills_no_more_than_the_burst() {
        let limit = LogLimit::per_second(2);
        let start = Instant::now();
        limit.check(start);
        let later = start + SECOND * 3600;
        let checks: Vec<_> = (0..3).map(|_| limit.check(later)).collect();
        assert_eq!(checks, [Some(0), Some(0), None]);
    }

    #[test]
    fn long_run_keeps_the_rate() {
        let limit = LogLimit::per_second(10);
        let start = Instant::now();
        let allowed = (0..10_000)
            .filter(|step| limit.check(start + Duration::from_millis(*step)).is_some())
            .count();
        assert!((100..=110).contains(&allowed), "{allowed} lines in ten seconds");
    }

    #[test]
    fn time_going_back_is_harmless() {
        let limit = LogLimit::per_second(1);
        let start = Instant::now();
        assert_eq!(limit.check(start + SECOND), Some(0));
        assert_eq!(limit.check(start), None);
    }

    #[test]
    fn keys_are_independent_and_bounded() {
        let mut limits = LogLimits::per_second(1, 2);
        let now = Instant::now();
        assert_eq!(limits.check("a", now), Some(0));
        assert_eq!(limits.check("a", now), None);
        assert_eq!(limits.check("b", now), Some(0));
        assert_eq!(limits.check("c", now), Some(0));
        assert!(limits.limits.len() <= 2);
    }
}
