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

/// Descriptors that must be free, for each session that the bound is raised by.
const DESCRIPTORS_OF_A_SESSION: usize = 2;

/// How many sessions may be open at once, over all cores.
///
/// The bound is chosen at start. When descriptors run out below it all the same (the limit of the
/// process was lowered, or the whole machine has none left), it falls to what is open, and rises
/// again as descriptors come free: clients wait in the kernel's queue instead of being accepted
/// and sent away.
#[derive(Debug)]
pub struct SessionLimit {
    open: AtomicUsize,
    most: usize,
    /// The bound in force, at most `most`.
    bound: AtomicUsize,
}

impl SessionLimit {
    /// At most `most` sessions.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self { open: AtomicUsize::new(0), most, bound: AtomicUsize::new(most) }
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

    /// The bound in force.
    #[must_use]
    pub fn bound(&self) -> usize {
        self.bound.load(Ordering::Relaxed)
    }

    /// Descriptors ran out: no more sessions than there are.
    pub fn lower(&self) {
        self.bound.fetch_min(self.open().max(1), Ordering::Relaxed);
    }

    /// Raises a lowered bound a little if descriptors are free again, which costs a few system
    /// calls.
    pub fn raise_if_possible(&self) {
        self.raise_if(descriptors_are_free);
    }

    fn raise_if(&self, are_free: impl FnOnce(usize) -> bool) {
        let bound = self.bound();
        let step = (bound / 8).clamp(4, 64).min(self.most.saturating_sub(bound));
        if step > 0 && are_free(step * DESCRIPTORS_OF_A_SESSION) {
            self.bound.store(bound + step, Ordering::Relaxed);
        }
    }

    /// Takes a place; `false` when all are taken.
    #[must_use]
    pub fn enter(&self) -> bool {
        let bound = self.bound();
        let more = |open: usize| (open < bound).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Gives a place back.
    pub fn leave(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether `count` more descriptors could be opened now.
fn descriptors_are_free(count: usize) -> bool {
    let mut held = Vec::with_capacity(count);
    while held.len() < count {
        match rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), 0) {
            Ok(descriptor) => held.push(descriptor),
            Err(_) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_falls_to_what_is_open_and_rises_as_descriptors_come_free() {
        let limit = SessionLimit::new(10);
        assert!(limit.enter() && limit.enter() && limit.enter());
        limit.lower();
        assert_eq!(limit.bound(), 3);
        assert!(!limit.enter());
        limit.raise_if(|_| false);
        assert_eq!(limit.bound(), 3);
        limit.raise_if(|wanted| wanted == 8);
        assert_eq!(limit.bound(), 7);
        assert!(limit.enter());
        limit.raise_if(|wanted| wanted == 6);
        limit.raise_if(|_| unreachable!("it is as high as it may be"));
        assert_eq!(limit.bound(), 10);
    }

    #[test]
    fn without_sessions_one_may_still_try() {
        let limit = SessionLimit::new(10);
        limit.lower();
        assert!(limit.enter());
    }

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
