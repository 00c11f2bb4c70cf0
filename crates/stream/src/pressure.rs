//! How short memory is, as the cores see it: the control side measures and judges, the cores stop
//! accepting and close sessions.
//!
//! Two marks, as in other proxies. At the lower one (nine tenths of the budget) nobody new is
//! accepted: clients wait in the kernel's queue, datagrams that would begin a flow are dropped. At
//! the budget itself sessions are closed, in the order of [`Core::shed`](crate::Core), a few at a
//! time until memory is below it again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Memory in use, its budget, and what follows. Sizes are bytes.
#[derive(Debug, Default)]
pub struct Pressure {
    /// 0: no budget.
    budget: AtomicU64,
    used: AtomicU64,
    is_tight: AtomicBool,
}

/// What one look at the memory says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// The state that it leads to, if that is another one than before.
    pub turn: Option<Turn>,
    /// Bytes that sessions have to give back now.
    pub excess: u64,
}

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nobody new is accepted any more.
    Tight,
    /// There is room again.
    Relaxed,
}

impl Pressure {
    /// Changes the budget; `None`: no bound.
    pub fn set_budget(&self, bytes: Option<u64>) {
        self.budget.store(bytes.unwrap_or(0), Ordering::Relaxed);
    }

    /// The budget, if there is one.
    #[must_use]
    pub fn budget(&self) -> Option<u64> {
        Some(self.budget.load(Ordering::Relaxed)).filter(|bytes| *bytes > 0)
    }

    /// What was in use at the last look.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether nobody new is to be accepted.
    #[must_use]
    pub fn is_tight(&self) -> bool {
        self.is_tight.load(Ordering::Relaxed)
    }

    /// Takes a measurement. One thread calls this.
    pub fn note(&self, used: u64) -> Look {
        self.used.store(used, Ordering::Relaxed);
        let was_tight = self.is_tight();
        let Some(budget) = self.budget() else {
            self.is_tight.store(false, Ordering::Relaxed);
            return Look { turn: was_tight.then_some(Turn::Relaxed), excess: 0 };
        };
        // Not back and forth at one mark.
        let mark = if was_tight { share(budget, 85) } else { share(budget, 90) };
        let is_tight = used >= mark;
        self.is_tight.store(is_tight, Ordering::Relaxed);
        let turn = match (was_tight, is_tight) {
            (false, true) => Some(Turn::Tight),
            (true, false) => Some(Turn::Relaxed),
            _ => None,
        };
        let excess = if used >= budget { used - share(budget, 95) } else { 0 };
        Look { turn, excess }
    }
}

/// `percent` of `bytes`.
const fn share(bytes: u64, percent: u64) -> u64 {
    bytes / 100 * percent + bytes % 100 * percent / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tightens_sheds_and_relaxes() {
        let pressure = Pressure::default();
        pressure.set_budget(Some(1000));
        let look = |used| {
            let look = pressure.note(used);
            (look.turn, look.excess, pressure.is_tight())
        };
        assert_eq!(look(899), (None, 0, false));
        assert_eq!(look(900), (Some(Turn::Tight), 0, true));
        assert_eq!(look(999), (None, 0, true));
        assert_eq!(look(1000), (None, 50, true));
        assert_eq!(look(2000), (None, 1050, true));
        assert_eq!(look(850), (None, 0, true));
        assert_eq!(look(849), (Some(Turn::Relaxed), 0, false));
        assert_eq!(pressure.used(), 849);
        assert_eq!(look(5000), (Some(Turn::Tight), 4050, true));
        pressure.set_budget(None);
        assert_eq!(look(u64::MAX), (Some(Turn::Relaxed), 0, false));
        assert_eq!(look(u64::MAX), (None, 0, false));
    }

    #[test]
    fn shares_do_not_overflow() {
        assert_eq!(share(u64::MAX, 100), u64::MAX);
        assert_eq!(share(1 << 30, 90), 966_367_641);
    }
}
