//! Histograms with power-of-two buckets.

use crate::Counter;

/// Counts values in buckets with the upper bounds 2^`FIRST`, 2^(`FIRST`+1), ... (`N` of them) and
/// one for everything larger. One writing thread, like [`Counter`].
#[derive(Debug)]
pub struct Histogram<const FIRST: u32, const N: usize> {
    buckets: [Counter; N],
    above: Counter,
    sum: Counter,
}

/// What a [`Histogram`] held at one moment; sums of several cores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals<const FIRST: u32, const N: usize> {
    buckets: [u64; N],
    above: u64,
    sum: u64,
}

impl<const FIRST: u32, const N: usize> Default for Histogram<FIRST, N> {
    fn default() -> Self {
        Self { buckets: [const { Counter::new() }; N], above: Counter::new(), sum: Counter::new() }
    }
}

impl<const FIRST: u32, const N: usize> Histogram<FIRST, N> {
    /// Counts `value`. Only the owning thread may call this.
    pub fn record(&self, value: u64) {
        // The exponent of the smallest power of two that is not below `value`.
        let exponent = u64::BITS - value.saturating_sub(1).leading_zeros();
        let bucket = exponent.saturating_sub(FIRST) as usize;
        self.buckets.get(bucket).unwrap_or(&self.above).increment();
        self.sum.add(value);
    }

    /// Replaces everything by what [`Totals::numbers`] gave; what is missing is 0. Only the owning
    /// thread may call this.
    pub fn set(&self, numbers: &[u64]) {
        let all = [&self.sum, &self.above].into_iter().chain(&self.buckets);
        let mut numbers = numbers.iter().copied();
        all.for_each(|counter| counter.set(numbers.next().unwrap_or_default()));
    }
}

impl<const FIRST: u32, const N: usize> Default for Totals<FIRST, N> {
    fn default() -> Self {
        Self { buckets: [0; N], above: 0, sum: 0 }
    }
}

impl<const FIRST: u32, const N: usize> Totals<FIRST, N> {
    /// Adds what one core counted.
    pub fn add(&mut self, histogram: &Histogram<FIRST, N>) {
        for (total, bucket) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *total = total.wrapping_add(bucket.get());
        }
        self.above = self.above.wrapping_add(histogram.above.get());
        self.sum = self.sum.wrapping_add(histogram.sum.get());
    }

    /// Upper bound of each bucket and how many values are at or below it (Prometheus `le`).
    pub fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut below = 0;
        self.buckets.iter().zip(FIRST..).map(move |(count, exponent)| {
            below += count;
            (1_u64.checked_shl(exponent).unwrap_or(u64::MAX), below)
        })
    }

    /// All of it as numbers, for [`Histogram::set`].
    #[must_use]
    pub fn numbers(&self) -> Vec<u64> {
        [self.sum, self.above].into_iter().chain(self.buckets).collect()
    }

    /// Number of values (Prometheus `+Inf` and `_count`).
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum::<u64>() + self.above
    }

    /// Sum of the values (Prometheus `_sum`).
    #[must_use]
    pub const fn sum(&self) -> u64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_inclusive() {
        let histogram = Histogram::<1, 3>::default(); // 2, 4, 8, more
        for value in [0, 1, 2, 3, 4, 5, 8, 9, u64::MAX / 2] {
            histogram.record(value);
        }
        let mut totals = Totals::default();
        totals.add(&histogram);
        assert_eq!(totals.cumulative().collect::<Vec<_>>(), [(2, 3), (4, 5), (8, 7)]);
        assert_eq!(totals.count(), 9);
        assert_eq!(totals.sum(), 32 + u64::MAX / 2);
    }

    #[test]
    fn cores_add_up() {
        let (one, two) = (Histogram::<0, 4>::default(), Histogram::<0, 4>::default());
        one.record(1);
        two.record(8);
        two.record(1 << 40);
        let mut totals = Totals::default();
        totals.add(&one);
        totals.add(&two);
        assert_eq!(totals.cumulative().last(), Some((8, 2)));
        assert_eq!(totals.count(), 3);
    }
}
