//! Moments at which checkers wake, the same for all of them. Waking a thread costs more than a
//! connection, so what is due within a tick is done at its end, together.

use std::time::Duration;

use tokio::time::Instant;

/// Time between two moments: a fiftieth of the shortest interval, and less than its jitter.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// The moments `origin`, `origin` + [`TICK`], and so on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    origin: Instant,
}

impl Grid {
    pub(super) const fn from(origin: Instant) -> Self {
        Self { origin }
    }

    /// The first moment that is not before `time`.
    pub(super) fn at_or_after(self, time: Instant) -> Instant {
        let passed = time.saturating_duration_since(self.origin).as_nanos();
        let missing = (TICK.as_nanos() - passed % TICK.as_nanos()) % TICK.as_nanos();
        let missing = Duration::from_nanos(u64::try_from(missing).unwrap_or(0));
        time.checked_add(missing).unwrap_or(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_move_to_the_end_of_their_tick() {
        let origin = Instant::now();
        let grid = Grid::from(origin);
        for (time, expected) in [(0, 0), (1, 20), (19, 20), (20, 20), (21, 40), (100_001, 100_020)]
        {
            let at = grid.at_or_after(origin + Duration::from_millis(time));
            assert_eq!(at - origin, Duration::from_millis(expected), "{time}");
        }
        let nanosecond = origin + Duration::from_nanos(1);
        assert_eq!(grid.at_or_after(nanosecond) - origin, TICK);
    }
}
