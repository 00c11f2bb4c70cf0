//! Descriptors: how many there may be, and how many connections follow from that.

use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit on descriptors to `wanted` (or the hard limit) and returns what is in
/// force. A higher soft limit is left as it is.
#[must_use]
pub fn raise_descriptor_limit(wanted: u64) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    let soft = limit.current.unwrap_or(u64::MAX);
    let target = wanted.max(soft).min(hard);
    if target > soft {
        let raised = Rlimit { current: Some(target), maximum: limit.maximum };
        if setrlimit(Resource::Nofile, raised).is_err() {
            return soft;
        }
    }
    target
}

/// How many sessions may be open at once, over all cores.
#[derive(Debug)]
pub struct SessionLimit {
    open: AtomicUsize,
    most: usize,
}

impl SessionLimit {
    /// At most `most` sessions.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self { open: AtomicUsize::new(0), most }
    }

    /// The bound for a process with `descriptors` descriptors: two for each session, and a
    /// reserve so that the Admin API, logs and the store always find one.
    #[must_use]
    pub fn sessions_for(descriptors: u64) -> usize {
        let reserve = (descriptors / 8).clamp(32, 256);
        usize::try_from(descriptors.saturating_sub(reserve) / 2).unwrap_or(usize::MAX).max(1)
    }

    /// Sessions open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// The bound.
    #[must_use]
    pub const fn most(&self) -> usize {
        self.most
    }

    /// Takes a place; `false` when all are taken.
    #[must_use]
    pub fn enter(&self) -> bool {
        let more = |open: usize| (open < self.most).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Gives a place back.
    pub fn leave(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_kept() {
        assert_eq!(SessionLimit::sessions_for(20_000), 9_872);
        assert_eq!(SessionLimit::sessions_for(128), 48);
        assert_eq!(SessionLimit::sessions_for(1), 1);
    }

    #[test]
    fn places_are_bounded() {
        let limit = SessionLimit::new(1);
        assert!(limit.enter());
        assert!(!limit.enter());
        limit.leave();
        assert!(limit.enter());
    }

    /// Who is refused must not take a place even for a moment: somebody else would be refused for
    /// it while a place is free.
    #[test]
    fn attempts_in_vain_take_no_place() {
        use std::sync::atomic::AtomicBool;
        let (limit, done) = (SessionLimit::new(2), AtomicBool::new(false));
        assert!(limit.enter() && limit.enter());
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        assert!(!limit.enter());
                    }
                });
            }
            let most = (0..200_000).map(|_| limit.open()).max();
            done.store(true, Ordering::Relaxed);
            assert_eq!(most, Some(2));
        });
        limit.leave();
        limit.leave();
        assert_eq!(limit.open(), 0);
    }
}
