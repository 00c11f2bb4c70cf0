//! A hierarchical timer wheel: set and cancel in constant time, however many timers there are.
//!
//! Time is a number of milliseconds given by the caller; a tick is 4 ms. Five levels of 64 slots
//! reach about 50 days; later deadlines wait in the last slot and are sorted in again.

use std::task::Waker;

const TICK_MS: u64 = 4;
const LEVELS: usize = 5;
const SLOTS: usize = 64;
const NONE: u32 = u32::MAX;

/// What happens when a timer fires.
#[derive(Debug, Clone)]
pub enum Alarm {
    /// Wake a future.
    Wake(Waker),
    /// Report a tag to the owner of the loop.
    Tag(u64),
}

/// A timer that can be cancelled. Stale ids are harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerId {
    index: u32,
    generation: u32,
}

struct Entry {
    deadline: u64,
    alarm: Option<Alarm>,
    generation: u32,
    place: u16,
    next: u32,
    previous: u32,
}

/// The timers of one core.
pub struct Wheel {
    entries: Vec<Entry>,
    free: u32,
    heads: [u32; LEVELS * SLOTS],
    occupied: [u64; LEVELS],
    now: u64,
    live: usize,
}

impl Wheel {
    /// A wheel whose time starts at `now_ms`.
    #[must_use]
    pub fn new(now_ms: u64) -> Self {
        Self {
            entries: Vec::new(),
            free: NONE,
            heads: [NONE; LEVELS * SLOTS],
            occupied: [0; LEVELS],
            now: now_ms / TICK_MS,
            live: 0,
        }
    }

    /// Timers that are set.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.live
    }

    /// Whether no timer is set.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Sets a timer; it fires at or up to one tick after `deadline_ms`.
    pub fn set(&mut self, deadline_ms: u64, alarm: Alarm) -> TimerId {
        let deadline = deadline_ms.div_ceil(TICK_MS).max(self.now + 1);
        let index = if self.free == NONE {
            self.entries.push(Entry {
                deadline,
                alarm: None,
                generation: 0,
                place: 0,
                next: NONE,
                previous: NONE,
            });
            self.entries.len() as u32 - 1
        } else {
            let index = self.free;
            self.free = self.entry(index).next;
            index
        };
        let entry = self.entry_mut(index);
        entry.deadline = deadline;
        entry.alarm = Some(alarm);
        let generation = entry.generation;
        self.live += 1;
        self.link(index);
        TimerId { index, generation }
    }

    /// Cancels a timer; nothing happens if it has fired or was cancelled.
    pub fn cancel(&mut self, id: TimerId) {
        let is_set = self
            .entries
            .get(id.index as usize)
            .is_some_and(|entry| entry.generation == id.generation && entry.alarm.is_some());
        if is_set {
            self.unlink(id.index);
            self.release(id.index);
        }
    }

    /// Milliseconds from `now_ms` until [`Wheel::advance`] has something to do.
    #[must_use]
    pub fn next_in(&self, now_ms: u64) -> Option<u64> {
        self.next_tick().map(|tick| (tick * TICK_MS).saturating_sub(now_ms))
    }

    /// The next tick at which a slot is due or must be sorted into lower levels.
    fn next_tick(&self) -> Option<u64> {
        let levels = self.occupied.iter().enumerate().filter(|(_, bits)| **bits != 0);
        let ticks = levels.map(|(level, bits)| {
            let shift = 6 * level as u32;
            let position = self.now >> shift;
            // Slots behind the current position belong to the next turn of this level.
            let ahead = bits.rotate_right(position as u32 % 64) & !1;
            // Nothing ahead: only the current slot, a whole turn away.
            let distance = if ahead == 0 { 64 } else { u64::from(ahead.trailing_zeros()) };
            (position + distance) << shift
        });
        ticks.min()
    }

    /// Moves time forward and reports every timer that is due.
    pub fn advance(&mut self, now_ms: u64, mut fire: impl FnMut(Alarm)) {
        let target = now_ms / TICK_MS;
        while let Some(tick) = self.next_tick().filter(|tick| *tick <= target) {
            self.now = tick;
            // Upper levels first: they may drop timers into the slot of this very tick.
            for level in (1..LEVELS).rev() {
                if tick.trailing_zeros() >= 6 * level as u32 {
                    self.cascade(level);
                }
            }
            let slot = (tick % 64) as usize;
            while let Some(index) = self.pop(slot) {
                let alarm = self.entry_mut(index).alarm.take();
                self.release(index);
                if let Some(alarm) = alarm {
                    fire(alarm);
                }
            }
        }
        self.now = self.now.max(target);
    }

    fn cascade(&mut self, level: usize) {
        let slot = (self.now >> (6 * level)) as usize % SLOTS;
        let place = level * SLOTS + slot;
        let mut index = std::mem::replace(&mut self.heads[place], NONE);
        self.occupied[level] &= !(1 << slot);
        while index != NONE {
            let next = self.entry(index).next;
            self.link(index);
            index = next;
        }
    }

    fn pop(&mut self, place: usize) -> Option<u32> {
        let index = self.heads[place];
        if index == NONE {
            return None;
        }
        self.unlink(index);
        Some(index)
    }

    fn link(&mut self, index: u32) {
        let deadline = self.entry(index).deadline.max(self.now);
        let distance = deadline - self.now;
        let level = (0..LEVELS).find(|level| distance < 1 << (6 * (level + 1)));
        let (level, tick) = match level {
            Some(level) => (level, deadline),
            None => (LEVELS - 1, self.now + (1 << (6 * LEVELS)) - 1),
        };
        let slot = (tick >> (6 * level)) as usize % SLOTS;
        let place = level * SLOTS + slot;
        let head = std::mem::replace(&mut self.heads[place], index);
        let entry = self.entry_mut(index);
        entry.place = place as u16;
        entry.next = head;
        entry.previous = NONE;
        if head != NONE {
            self.entry_mut(head).previous = index;
        }
        self.occupied[level] |= 1 << slot;
    }

    fn unlink(&mut self, index: u32) {
        let Entry { next, previous, place, .. } = *self.entry(index);
        if previous == NONE {
            self.heads[place as usize] = next;
            if next == NONE {
                self.occupied[place as usize / SLOTS] &= !(1 << (place as usize % SLOTS));
            }
        } else {
            self.entry_mut(previous).next = next;
        }
        if next != NONE {
            self.entry_mut(next).previous = previous;
        }
    }

    fn release(&mut self, index: u32) {
        let free = self.free;
        let entry = self.entry_mut(index);
        entry.alarm = None;
        entry.generation = entry.generation.wrapping_add(1);
        entry.next = free;
        self.free = index;
        self.live -= 1;
    }

    // Indices come from this wheel alone and always stand for an entry.
    fn entry(&self, index: u32) -> &Entry {
        &self.entries[index as usize]
    }

    fn entry_mut(&mut self, index: u32) -> &mut Entry {
        &mut self.entries[index as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fired(wheel: &mut Wheel, now: u64) -> Vec<u64> {
        let mut tags = Vec::new();
        wheel.advance(now, |alarm| {
            if let Alarm::Tag(tag) = alarm {
                tags.push(tag);
            }
        });
        tags
    }

    #[test]
    fn fires_once_and_not_after_cancel() {
        let mut wheel = Wheel::new(0);
        wheel.set(100, Alarm::Tag(1));
        let second = wheel.set(100, Alarm::Tag(2));
        wheel.cancel(second);
        wheel.cancel(second);
        assert!(fired(&mut wheel, 96).is_empty());
        assert_eq!(fired(&mut wheel, 100), [1]);
        assert!(fired(&mut wheel, 10_000_000).is_empty());
        assert!(wheel.is_empty());
    }

    #[test]
    fn far_deadlines_arrive() {
        let year = 365 * 24 * 3600 * 1000;
        let mut wheel = Wheel::new(0);
        wheel.set(year, Alarm::Tag(1));
        let mut now = 0;
        let mut turns = 0;
        while let Some(wait) = wheel.next_in(now) {
            now += wait.max(1);
            turns += 1;
            if !fired(&mut wheel, now).is_empty() {
                break;
            }
        }
        assert!(now >= year && now < year + 8, "{now}");
        assert!(turns < 1000, "{turns}");
    }

    proptest! {
        #[test]
        fn like_a_sorted_list(
            timers in prop::collection::vec((0_u64..400_000, any::<bool>()), 1..60),
            steps in prop::collection::vec(0_u64..30_000, 1..60),
            start in 0_u64..10_000_000,
        ) {
            let mut wheel = Wheel::new(start);
            let mut expected = Vec::new();
            for (tag, (delay, cancel)) in timers.iter().enumerate() {
                let id = wheel.set(start + delay, Alarm::Tag(tag as u64));
                if *cancel {
                    wheel.cancel(id);
                } else {
                    expected.push((start + delay, tag as u64));
                }
            }
            let mut now = start;
            for step in steps {
                // Never sleep past the moment at which something is due.
                let wait = wheel.next_in(now).unwrap_or(step).min(step);
                now += wait;
                let tags = fired(&mut wheel, now);
                for tag in tags {
                    let at = expected.iter().position(|(_, other)| *other == tag);
                    prop_assert!(at.is_some(), "{tag} fired twice or was cancelled");
                    let (deadline, _) = expected.remove(at.unwrap());
                    prop_assert!(now >= deadline, "{tag} too early: {now} < {deadline}");
                }
                for (deadline, tag) in &expected {
                    prop_assert!(now < deadline + 2 * TICK_MS, "{tag} is late: {now} > {deadline}");
                }
            }
        }
    }
}
