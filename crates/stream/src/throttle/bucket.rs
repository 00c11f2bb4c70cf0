//! A token bucket of bytes that any number of sessions on any cores share without a lock.
//!
//! It is one moment (the generic cell rate algorithm, ITU-T I.371): that at which everything taken
//! so far will have been paid for. A bucket may be overdrawn: who reserves more than there is waits
//! until it is due, behind those who reserved before. So the rate is exact in the long run and
//! nobody who waits is passed by.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// A moment that all cores count from.
static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

const SECOND: u128 = 1_000_000_000;
/// The part of a second that is reserved at once: short enough to be smooth, long enough not to
/// wake for every few bytes.
const PORTIONS_PER_SECOND: u64 = 20;
/// The largest portion, bytes.
const LARGEST_PORTION: u64 = 1 << 20;

/// Nanoseconds on the clock of all buckets.
pub(crate) fn now() -> u64 {
    u64::try_from(BEGIN.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// A rate in bytes per second, and how much may be saved up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteRate {
    per_second: u64,
    /// Time in which the burst comes, nanoseconds.
    burst: u64,
}

impl ByteRate {
    /// `burst` bytes may pass at once after a quiet time; never less than a portion.
    pub(crate) fn new(per_second: u64, burst: u64) -> Self {
        let per_second = per_second.max(1);
        let rate = Self { per_second, burst: 0 };
        let burst = burst.max(per_second / PORTIONS_PER_SECOND).max(1);
        Self { burst: rate.time_of(burst), ..rate }
    }

    /// Bytes to reserve at once.
    pub(crate) fn portion(self) -> u64 {
        (self.per_second / PORTIONS_PER_SECOND).clamp(1, LARGEST_PORTION)
    }

    /// Time in which so many bytes come, nanoseconds.
    fn time_of(self, bytes: u64) -> u64 {
        let time = u128::from(bytes) * SECOND / u128::from(self.per_second);
        u64::try_from(time).unwrap_or(u64::MAX)
    }
}

/// The bucket.
#[derive(Debug)]
pub(crate) struct Bucket {
    rate: ByteRate,
    /// When what was taken is paid for.
    paid_at: AtomicU64,
}

impl Bucket {
    /// A full one.
    pub(crate) const fn new(rate: ByteRate) -> Self {
        Self { rate, paid_at: AtomicU64::new(0) }
    }

    pub(crate) const fn rate(&self) -> ByteRate {
        self.rate
    }

    /// Takes `bytes`, now or later: the moment at which they are due.
    pub(crate) fn reserve(&self, bytes: u64, now: u64) -> u64 {
        let time = self.rate.time_of(bytes);
        let after = |paid_at: u64| paid_at.max(now).saturating_add(time);
        let before = self.paid_at.fetch_update(Relaxed, Relaxed, |paid_at| Some(after(paid_at)));
        let paid_at = after(before.unwrap_or_else(|unchanged| unchanged));
        paid_at.saturating_sub(self.rate.burst)
    }

    /// Takes `bytes` if they are due now.
    pub(crate) fn take(&self, bytes: u64, now: u64) -> bool {
        let time = self.rate.time_of(bytes);
        let latest = now.saturating_add(self.rate.burst);
        let taken = |paid_at: u64| {
            let paid_at = paid_at.max(now).saturating_add(time);
            // A single datagram larger than the burst must be able to pass a full bucket.
            (paid_at <= latest.max(now.saturating_add(time))).then_some(paid_at)
        };
        self.paid_at.fetch_update(Relaxed, Relaxed, taken).is_ok()
    }

    /// Gives back what was reserved and not used.
    pub(crate) fn give_back(&self, bytes: u64) {
        let time = self.rate.time_of(bytes);
        let back = |paid_at: u64| Some(paid_at.saturating_sub(time));
        let _ = self.paid_at.fetch_update(Relaxed, Relaxed, back);
    }

    /// Whether it is full: as good as a new one.
    pub(crate) fn is_full(&self, now: u64) -> bool {
        self.paid_at.load(Relaxed) <= now
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_burst_then_the_rate() {
        let bucket = Bucket::new(ByteRate::new(1000, 500));
        let at = 5_000 * MS;
        assert_eq!(bucket.reserve(500, at).saturating_sub(at), 0);
        assert_eq!(bucket.reserve(100, at) - at, 100 * MS);
        assert_eq!(bucket.reserve(100, at) - at, 200 * MS, "behind the one before");
        bucket.give_back(100);
        assert_eq!(bucket.reserve(50, at) - at, 150 * MS);
        assert!(!bucket.is_full(at) && bucket.is_full(at + 651 * MS));
        assert_eq!(bucket.reserve(500, at + 10_000 * MS).saturating_sub(at + 10_000 * MS), 0);
    }

    #[test]
    fn what_is_given_back_to_a_full_bucket_is_no_gift() {
        let bucket = Bucket::new(ByteRate::new(1000, 100));
        let at = 5_000 * MS;
        bucket.reserve(100, at);
        bucket.give_back(100);
        bucket.give_back(100);
        assert!(bucket.take(100, at));
        assert!(!bucket.take(1, at));
    }

    #[test]
    fn taking_waits_for_nobody() {
        let bucket = Bucket::new(ByteRate::new(1000, 100));
        let at = 5_000 * MS;
        assert!(bucket.take(60, at));
        assert!(!bucket.take(60, at));
        assert!(bucket.take(60, at + 20 * MS));
        // Larger than the burst: it passes when nothing is owed, and is paid for afterwards.
        let at = at + 1_000 * MS;
        assert!(bucket.take(1000, at));
        assert!(!bucket.take(1, at + 900 * MS));
        assert!(bucket.take(1, at + 901 * MS));
    }

    #[test]
    fn the_extremes_do_not_overflow() {
        let slow = Bucket::new(ByteRate::new(0, 0));
        assert_eq!(slow.rate().portion(), 1);
        slow.reserve(u64::MAX, 1);
        slow.reserve(u64::MAX, u64::MAX);
        let fast = Bucket::new(ByteRate::new(u64::MAX, u64::MAX));
        assert_eq!(fast.rate().portion(), LARGEST_PORTION);
        assert!(fast.take(u64::MAX, 1));
    }

    proptest! {
        /// Whatever is reserved when, what is due by some moment is within rate and burst, and a
        /// busy bucket loses nothing.
        #[test]
        fn the_rate_is_kept(
            steps in prop::collection::vec((0_u64..50, 1_u64..3000), 1..200),
            per_second in 100_u64..1_000_000,
            burst in 0_u64..100_000,
        ) {
            let rate = ByteRate::new(per_second, burst);
            let burst = burst.max(per_second / PORTIONS_PER_SECOND).max(1);
            let bucket = Bucket::new(rate);
            let begin = 1_000 * MS;
            let (mut now, mut sum) = (begin, 0);
            for (gap, bytes) in steps {
                now += gap * MS;
                let due = bucket.reserve(bytes, now).max(now);
                sum += bytes;
                let most = (due - begin) as f64 / 1e9 * per_second as f64 + burst as f64;
                prop_assert!(sum as f64 <= most + 201.0, "{sum} of {most}");
            }
        }
    }
}
