//! Bandwidth limits of a session: its directions pause when their buckets are empty.
//!
//! A direction reserves a portion of every bucket that it is subject to, waits until all of them
//! are due, and reads no more than that. Sessions without a limit have no [`Throttle`], and cost
//! one comparison a read.

pub(crate) mod bucket;

use std::sync::Arc;
use std::time::Duration;

use headgate_net::timer::TimerId;

use bucket::Bucket;

/// From whom to whom bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the client to the upstream.
    Up,
    /// From the upstream to the client.
    Down,
}

/// What limits a session.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    pub(crate) up: Lane,
    pub(crate) down: Lane,
    /// Set while a direction waits.
    pub(crate) timer: Option<TimerId>,
}

/// One direction.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    limits: Vec<Arc<Bucket>>,
    /// Buckets that only say what they would do.
    dry: Vec<Arc<Bucket>>,
    /// Bytes that were reserved and are due.
    credit: u64,
    /// A portion that is not due yet.
    wait: Option<Wait>,
    waited: Duration,
    /// What of that the counters do not know yet.
    unreported: Duration,
    news: News,
}

/// Whether a limit was reached, which is told once a session.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum News {
    #[default]
    None,
    Fresh,
    Told,
}

#[derive(Debug, Clone, Copy)]
struct Wait {
    bytes: u64,
    since: u64,
    until: u64,
}

impl Throttle {
    /// The lane of a direction.
    pub(crate) const fn lane(&mut self, way: Way) -> &mut Lane {
        match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        }
    }

    /// How long its directions have waited, together.
    pub(crate) fn waited(&self) -> Duration {
        self.up.waited + self.down.waited
    }

    /// Whether a direction waits.
    pub(crate) const fn is_waiting(&self) -> bool {
        self.up.wait.is_some() || self.down.wait.is_some()
    }

    /// Milliseconds until a direction that waits goes on; `None` when none does.
    pub(crate) fn pause(&self, now: u64) -> Option<u64> {
        let waits = [&self.up, &self.down].into_iter().filter_map(|lane| lane.wait);
        let until = waits.map(|wait| wait.until).min()?;
        Some(until.saturating_sub(now).div_ceil(1_000_000))
    }
}

impl Lane {
    /// Adds a limit. One that is `dry` holds nobody up.
    pub(crate) fn add(&mut self, bucket: Arc<Bucket>, dry: bool) {
        let limits = if dry { &mut self.dry } else { &mut self.limits };
        limits.push(bucket);
    }

    /// How many bytes may be read now; 0: wait.
    pub(crate) fn allowance(&mut self, now: u64) -> u64 {
        if let Some(wait) = self.wait {
            if now < wait.until {
                return 0;
            }
            self.wait = None;
            self.credit = wait.bytes;
            let waited = Duration::from_nanos(now.saturating_sub(wait.since));
            self.waited += waited;
            self.unreported += waited;
        }
        if self.credit == 0 {
            let Some(portion) = self.portion() else { return u64::MAX };
            let due = self.limits.iter().map(|bucket| bucket.reserve(portion, now)).max();
            match due.filter(|due| *due > now) {
                Some(until) => {
                    self.wait = Some(Wait { bytes: portion, since: now, until });
                    self.note();
                }
                None => self.credit = portion,
            }
        }
        self.credit
    }

    /// Bytes were read. More than the allowance (a TLS record comes whole) is owed to the buckets.
    pub(crate) fn spend(&mut self, bytes: u64, now: u64) {
        if bytes == 0 {
            return;
        }
        let owed = bytes.saturating_sub(self.credit);
        self.credit = self.credit.saturating_sub(bytes);
        if owed > 0 {
            for bucket in &self.limits {
                bucket.reserve(owed, now);
            }
        }
        self.spend_dry(bytes, now);
    }

    fn spend_dry(&mut self, bytes: u64, now: u64) {
        let refused = self.dry.iter().filter(|bucket| !bucket.take(bytes, now)).count();
        if refused > 0 {
            self.note();
        }
    }

    fn note(&mut self) {
        if self.news == News::None {
            self.news = News::Fresh;
        }
    }

    /// Whether a datagram of that size passes, which never waits.
    pub(crate) fn passes(&mut self, bytes: u64, now: u64) -> bool {
        self.spend_dry(bytes, now);
        let refused = self.limits.iter().position(|bucket| !bucket.take(bytes, now));
        let Some(refused) = refused else { return true };
        self.limits.iter().take(refused).for_each(|bucket| bucket.give_back(bytes));
        self.note();
        false
    }

    /// Whether all its limits only say what they would do.
    pub(crate) const fn is_dry(&self) -> bool {
        self.limits.is_empty()
    }

    /// Whether a limit was reached and nobody was told yet.
    pub(crate) fn take_news(&mut self) -> bool {
        let is_fresh = self.news == News::Fresh;
        if is_fresh {
            self.news = News::Told;
        }
        is_fresh
    }

    /// Time waited since the last call.
    pub(crate) const fn take_unreported(&mut self) -> Duration {
        std::mem::replace(&mut self.unreported, Duration::ZERO)
    }

    fn portion(&self) -> Option<u64> {
        self.limits.iter().map(|bucket| bucket.rate().portion()).min()
    }
}

impl Drop for Lane {
    /// What the session did not use is there for others at once.
    fn drop(&mut self) {
        let unused = self.credit + self.wait.map_or(0, |wait| wait.bytes);
        if unused > 0 {
            self.limits.iter().for_each(|bucket| bucket.give_back(unused));
        }
    }
}

impl Way {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Up, Self::Down];

    /// As in configurations and metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::bucket::ByteRate;
    use super::*;

    const MS: u64 = 1_000_000;
    const START: u64 = 1_000 * MS;

    fn lane(rates: &[(u64, u64)]) -> Lane {
        let mut lane = Lane::default();
        for (rate, burst) in rates {
            lane.add(Arc::new(Bucket::new(ByteRate::new(*rate, *burst))), false);
        }
        lane
    }

    #[test]
    fn the_slowest_limit_decides() {
        let mut lane = lane(&[(1000, 50), (100_000, 5000)]);
        assert_eq!(lane.allowance(START), 50);
        lane.spend(30, START);
        assert_eq!(lane.allowance(START), 20, "the rest of the portion");
        lane.spend(20, START);
        assert_eq!(lane.allowance(START), 0);
        assert!(lane.wait.is_some());
        assert_eq!(lane.allowance(START + 49 * MS), 0);
        assert_eq!(lane.allowance(START + 50 * MS), 50);
        assert_eq!(lane.waited, Duration::from_millis(50));
    }

    #[test]
    fn what_comes_above_the_allowance_is_paid_for() {
        let mut lane = lane(&[(1000, 50)]);
        assert_eq!(lane.allowance(START), 50);
        lane.spend(150, START);
        assert_eq!(lane.allowance(START), 0);
        assert_eq!(lane.allowance(START + 149 * MS), 0);
        assert_eq!(lane.allowance(START + 150 * MS), 50);
    }

    #[test]
    fn a_session_that_ends_gives_back_what_it_waited_for() {
        let bucket = Arc::new(Bucket::new(ByteRate::new(1000, 50)));
        let mut ends = Lane::default();
        ends.add(Arc::clone(&bucket), false);
        assert_eq!(ends.allowance(START), 50);
        ends.spend(50, START);
        assert_eq!(ends.allowance(START), 0);
        drop(ends);
        let mut next = Lane::default();
        next.add(bucket, false);
        assert_eq!(next.allowance(START), 0);
        assert_eq!(next.allowance(START + 50 * MS), 50, "not behind one that is gone");
    }

    #[test]
    fn sessions_of_one_bucket_take_turns() {
        let bucket = Arc::new(Bucket::new(ByteRate::new(1000, 50)));
        let mut lanes: Vec<_> = (0..3).map(|_| Lane::default()).collect();
        lanes.iter_mut().for_each(|lane| lane.add(Arc::clone(&bucket), false));
        let mut read = [0; 3];
        for tick in 0..3000 {
            // Always asked in the same order.
            for (lane, read) in lanes.iter_mut().zip(&mut read) {
                let now = START + tick * MS;
                let allowed = lane.allowance(now);
                lane.spend(allowed, now);
                *read += allowed;
            }
        }
        assert!(read.iter().all(|read| (900..=1100).contains(read)), "{read:?}");
    }

    #[test]
    fn a_dry_limit_only_notices() {
        let mut lane = Lane::default();
        lane.add(Arc::new(Bucket::new(ByteRate::new(1000, 50))), true);
        assert_eq!(lane.allowance(START), u64::MAX);
        lane.spend(50, START);
        assert!(!lane.take_news());
        lane.spend(50, START);
        assert!(lane.take_news() && !lane.take_news() && lane.is_dry());
        assert!(lane.passes(1_000_000, START));
    }

    #[test]
    fn a_datagram_passes_all_limits_or_none() {
        let mut lane = lane(&[(100_000, 5000), (1000, 50)]);
        assert!(lane.passes(50, START));
        assert!(!lane.passes(50, START));
        // The first bucket was not charged for the one that the second refused.
        assert!(lane.limits[0].take(4950, START));
        assert!(!lane.limits[0].take(1, START));
    }
}
