//! When the memory of sessions that have ended goes back to the system.
//!
//! The allocator keeps it for the next sessions and looks for what it could give back only while it
//! is used. A core that has served a crowd and now serves few would keep the crowd's memory until
//! the next crowd.

use std::cell::Cell;

use headgate_net::memory;

use super::{Core, Tag};

/// Fewer sessions than these at once are no crowd.
const CROWD: usize = 256;
/// From the moment that most have left until memory is given back, milliseconds: the crowd may come
/// back at once.
const AFTER_MS: u64 = 1000;

/// Most sessions at once since memory was given back last.
#[derive(Debug, Default)]
pub(super) struct Spare {
    peak: Cell<usize>,
    is_due: Cell<bool>,
}

impl Spare {
    /// Notes how many sessions are open; `true` when most of a crowd have left and nothing has been
    /// done about it.
    fn note(&self, open: usize) -> bool {
        let peak = self.peak.get().max(open);
        self.peak.set(peak);
        let have_left = peak >= CROWD && open <= peak / 2;
        have_left && !self.is_due.replace(true)
    }

    fn begin_again(&self, open: usize) {
        self.peak.set(open);
        self.is_due.set(false);
    }
}

impl Core {
    fn sessions(&self) -> usize {
        self.relays.len() + self.udp.len()
    }

    pub(super) fn note_spare_memory(&self) {
        if self.spare.note(self.sessions()) {
            self.events.set_timer(AFTER_MS, Tag::GiveBack.to_bits());
        }
    }

    pub(super) fn give_memory_back(&self) {
        self.spare.begin_again(self.sessions());
        self.relays.shrink();
        self.udp.shrink();
        memory::give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_for_each_crowd_that_leaves() {
        let spare = Spare::default();
        assert!(!spare.note(CROWD - 1) && !spare.note(0), "no crowd");
        assert!(!spare.note(1000) && !spare.note(501));
        assert!(spare.note(500));
        assert!(!spare.note(3), "it is due already");
        spare.begin_again(3);
        assert!(!spare.note(3) && !spare.note(0));
        assert!(!spare.note(400) && spare.note(0));
    }
}
