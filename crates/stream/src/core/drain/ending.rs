//! When a session has to end, and when it has to be looked at next. No sockets and no clock: times
//! are milliseconds of the core's.

use std::time::Duration;

use super::DrainOrder;
use crate::outcome::CloseReason;

/// When sessions end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(super) from: u64,
    spread: u64,
}

impl Moment {
    /// What an order means that comes now.
    pub(super) fn of(order: &DrainOrder, now: u64) -> Self {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let from = order.after.map_or(u64::MAX, |after| now.saturating_add(ms(after)));
        Self { from, spread: ms(order.spread) }
    }

    /// The moment for one session.
    pub(crate) fn draw(self) -> u64 {
        self.from.saturating_add(fastrand::u64(0..=self.spread))
    }

    pub(super) const fn last(self) -> u64 {
        self.from.saturating_add(self.spread)
    }
}

/// When one session has to end, and as what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ending {
    at: u64,
    reason: CloseReason,
}

impl Ending {
    /// For a session that begins; `at` is the maximum if nothing ends it.
    pub(crate) const fn new(at: u64) -> Self {
        Self { at, reason: CloseReason::Drain }
    }

    /// When; the maximum if it has not to.
    pub(crate) const fn at(self) -> u64 {
        self.at
    }

    /// Carries out one more order. `false`: it has to end sooner anyway.
    pub(crate) fn hasten(&mut self, at: u64, reason: CloseReason) -> bool {
        let is_sooner = at < self.at;
        if is_sooner {
            *self = Self { at, reason };
        }
        is_sooner
    }

    /// As what it has to end now.
    pub(crate) fn due(self, now: u64) -> Option<CloseReason> {
        (now >= self.at).then_some(self.reason)
    }

    /// In how long its timer has to fire, if something else is due after `other`.
    pub(crate) fn look_in(self, now: u64, other: u64) -> u64 {
        other.min(self.at.saturating_sub(now))
    }
}
