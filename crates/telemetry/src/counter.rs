//! Counters for the data path.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter with one writing thread and any number of readers.
///
/// Adding is a plain load and store, without a locked instruction. Two writers would lose counts
/// (nothing worse); give each core its own, see [`PerCore`](crate::PerCore).
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// A counter at zero.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds `n`. Only the owning thread may call this.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Adds one. Only the owning thread may call this.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Replaces the value. Only the owning thread may call this.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The current value, from any thread.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// How many there are now, with one writing thread like [`Counter`].
#[derive(Debug, Default)]
pub struct Gauge(Counter);

impl Gauge {
    /// A gauge at zero.
    #[must_use]
    pub const fn new() -> Self {
        Self(Counter::new())
    }

    /// One more. Only the owning thread may call this.
    pub fn enter(&self) {
        self.0.add(1);
    }

    /// One less. Only the owning thread may call this.
    pub fn leave(&self) {
        self.0.add(u64::MAX);
    }

    /// The current value, from any thread.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

/// A counter any thread may add to.
#[derive(Debug, Default)]
pub struct SharedCounter(AtomicU64);

impl SharedCounter {
    /// A counter at zero.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// The current value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        let counter = Counter::new();
        counter.increment();
        counter.add(4);
        assert_eq!(counter.get(), 5);
    }

    #[test]
    fn gauges_go_down_again() {
        let gauge = Gauge::new();
        gauge.enter();
        gauge.enter();
        gauge.leave();
        assert_eq!(gauge.get(), 1);
        gauge.leave();
        assert_eq!(gauge.get(), 0);
    }

    #[test]
    fn shared_counter_loses_nothing() {
        let counter = SharedCounter::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| counter.increment()));
            }
        });
        assert_eq!(counter.get(), 4000);
    }
}
