//! The pulse of an event loop: other threads see whether it waits or works, and since when.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use headgate_telemetry::Histogram;
use headgate_telemetry::histogram::Totals;

/// Buckets of the length of turns, microseconds: 32, 64, and so on to one second.
const FIRST: u32 = 5;
const BUCKETS: usize = 16;
/// How long turns lasted, microseconds.
pub type Turns = Totals<FIRST, BUCKETS>;

/// Written by the thread of one loop, read by whoever wants to know.
#[derive(Debug)]
pub struct Pulse {
    began: Instant,
    /// Microseconds since `began` at which the turn under way began; 0: it waits.
    woken: AtomicU64,
    turns: AtomicU64,
    /// Longest turn since somebody asked, microseconds.
    longest: AtomicU64,
    /// Turns that have ended, microseconds.
    lasted: Histogram<FIRST, BUCKETS>,
    /// The tag that is worked on; 0: set-up futures and timers.
    doing: AtomicU64,
    thread: AtomicI32,
}

impl Pulse {
    /// The pulse of a loop that began at that moment on the calling thread.
    pub(crate) fn new(began: Instant) -> Self {
        let id = rustix::thread::gettid().as_raw_nonzero().get();
        Self {
            began,
            woken: AtomicU64::new(0),
            turns: AtomicU64::new(0),
            longest: AtomicU64::new(0),
            lasted: Histogram::default(),
            doing: AtomicU64::new(0),
            thread: AtomicI32::new(id),
        }
    }

    /// The loop is about to wait for events, or has ended.
    pub fn rest(&self) {
        let woken = self.woken.load(Ordering::Relaxed);
        if woken > 0 {
            let took = self.now().saturating_sub(woken);
            if took > self.longest.load(Ordering::Relaxed) {
                self.longest.store(took, Ordering::Relaxed);
            }
            self.lasted.record(took);
            self.woken.store(0, Ordering::Relaxed);
        }
    }

    /// Events have come, so long after the loop began.
    pub(crate) fn wake(&self, at: Duration) {
        self.doing.store(0, Ordering::Relaxed);
        self.turns.store(self.turns.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.woken.store((at.as_micros() as u64).max(1), Ordering::Relaxed);
    }

    /// Notes what is worked on.
    pub fn note(&self, tag: u64) {
        self.doing.store(tag, Ordering::Relaxed);
    }

    /// Number of the turn under way and how long it lasts already; `None` while the loop waits.
    #[must_use]
    pub fn busy(&self) -> Option<(u64, Duration)> {
        let woken = self.woken.load(Ordering::Relaxed);
        let lasted = Duration::from_micros(self.now().saturating_sub(woken));
        (woken > 0).then(|| (self.turns(), lasted))
    }

    /// Turns so far.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// The tag that is, or was last, worked on; 0: set-up futures and timers.
    #[must_use]
    pub fn doing(&self) -> u64 {
        self.doing.load(Ordering::Relaxed)
    }

    /// How long the turns that have ended lasted.
    #[must_use]
    pub fn lasted(&self) -> Turns {
        let mut totals = Turns::default();
        totals.add(&self.lasted);
        totals
    }

    /// The longest turn since the last call.
    #[must_use]
    pub fn take_longest(&self) -> Duration {
        Duration::from_micros(self.longest.swap(0, Ordering::Relaxed))
    }

    /// Id of the thread, as in `/proc/self/task`.
    #[must_use]
    pub fn thread(&self) -> i32 {
        self.thread.load(Ordering::Relaxed)
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_beats() {
        let pulse = Pulse::new(Instant::now());
        assert_eq!(pulse.busy(), None);
        pulse.wake(Duration::from_micros(1));
        pulse.note(7);
        let (turn, _) = pulse.busy().unwrap();
        assert_eq!((turn, pulse.doing()), (1, 7));
        while pulse.now() < 2_000 {
            std::thread::yield_now();
        }
        pulse.rest();
        assert_eq!(pulse.busy(), None);
        pulse.rest();
        let lasted = pulse.lasted();
        assert_eq!((lasted.count(), lasted.sum() >= 1_999), (1, true), "{lasted:?}");
        assert!(pulse.take_longest() > Duration::ZERO);
        assert_eq!(pulse.take_longest(), Duration::ZERO);
    }
}
