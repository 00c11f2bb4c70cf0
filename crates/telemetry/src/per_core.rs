//! One value per data core, allocated when the core first needs it.

use std::fmt;
use std::sync::OnceLock;

/// Keeps neighbours off a cache line; two lines, because CPUs prefetch them in pairs.
#[repr(align(128))]
struct Padded<T>(T);

/// A slot of `T` for each core. Ten thousand idle routes cost no slots.
///
/// Cores write their own slot; anyone may read all of them with [`PerCore::iter`].
pub struct PerCore<T> {
    slots: Box<[OnceLock<Box<Padded<T>>>]>,
}

impl<T> PerCore<T> {
    /// Room for `cores` values, none allocated yet.
    #[must_use]
    pub fn new(cores: usize) -> Self {
        Self { slots: (0..cores.max(1)).map(|_| OnceLock::new()).collect() }
    }

    /// The value of `core`, made with `init` on first use.
    ///
    /// An index beyond the number of cores shares a slot: counts may get lost, memory is safe.
    pub fn get_or_init(&self, core: usize, init: impl FnOnce() -> T) -> &T {
        debug_assert!(core < self.slots.len(), "core {core} of {}", self.slots.len());
        let slot = &self.slots[if core < self.slots.len() { core } else { 0 }];
        &slot.get_or_init(|| Box::new(Padded(init()))).0
    }

    /// The values that exist, with the index of their core.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(core, slot)| slot.get().map(|padded| (core, &padded.0)))
    }

    /// Sum over all cores, e.g. `stats.sum(|s| s.bytes.get())`.
    pub fn sum(&self, of: impl Fn(&T) -> u64) -> u64 {
        self.iter().map(|(_, value)| of(value)).fold(0, u64::wrapping_add)
    }
}

impl<T: Default> PerCore<T> {
    /// The value of `core`, the default on first use.
    pub fn get(&self, core: usize) -> &T {
        self.get_or_init(core, T::default)
    }
}

impl<T: fmt::Debug> fmt::Debug for PerCore<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Counter;

    #[test]
    fn slots_appear_on_first_use() {
        let counters = PerCore::<Counter>::new(3);
        assert_eq!(counters.iter().count(), 0);
        counters.get(1).add(5);
        counters.get(2).increment();
        counters.get(1).increment();
        assert_eq!(
            counters.iter().map(|(core, c)| (core, c.get())).collect::<Vec<_>>(),
            [(1, 6), (2, 1)]
        );
        assert_eq!(counters.sum(Counter::get), 7);
    }

    #[test]
    fn values_do_not_share_cache_lines() {
        assert_eq!(align_of::<Padded<u8>>(), 128);
    }
}
