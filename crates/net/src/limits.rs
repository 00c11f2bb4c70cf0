//! Descriptors: how many there may be, and how many connections follow from that.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

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

/// What a session holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    sessions: u32,
    descriptors: u32,
    /// The part of the bound that it must leave to others, as a divisor; 0 for none.
    leaves: u32,
}

impl Cost {
    /// A TCP connection: the client's socket and the upstream's.
    pub const CONNECTION: Self = Self { sessions: 1, descriptors: 2, leaves: 0 };
    /// A UDP flow: the upstream's socket. Whoever can send datagrams with any source address can
    /// begin flows without end, so they leave a quarter of all descriptors to connections.
    pub const FLOW: Self = Self { sessions: 1, descriptors: 1, leaves: 4 };
    /// A copy of a session: the mirror's socket.
    pub const COPY: Self = Self { sessions: 0, descriptors: 1, leaves: 4 };
}

/// How many descriptors sessions may hold at once, over all cores.
///
/// The bound is chosen at start. When descriptors run out below it all the same (the limit of the
/// process was lowered, or the whole machine has none left), it falls to what is held, and rises
/// again as descriptors come free: clients wait in the kernel's queue instead of being accepted
/// and sent away.
#[derive(Debug)]
#[repr(align(128))] // every connection writes here; nobody who reads something else should feel it
pub struct SessionLimit {
    /// Sessions, and what they hold, in one word: each connection counts itself by one operation.
    held: AtomicU64,
    most: u32,
    /// The bound in force, at most `most`.
    bound: AtomicU32,
}

const fn pack(cost: Cost) -> u64 {
    (cost.sessions as u64) << 32 | cost.descriptors as u64
}

const fn descriptors_of(held: u64) -> u32 {
    (held & u32::MAX as u64) as u32
}

impl SessionLimit {
    /// At most `most` descriptors, and never less than a connection needs.
    #[must_use]
    pub fn new(most: usize) -> Self {
        let most = u32::try_from(most).unwrap_or(u32::MAX).max(Cost::CONNECTION.descriptors);
        Self { held: AtomicU64::new(0), most, bound: AtomicU32::new(most) }
    }

    /// The bound for a process with `descriptors` descriptors: all but a reserve, so that the
    /// Admin API, logs and the store always find one.
    #[must_use]
    pub fn of_process(descriptors: u64) -> usize {
        let reserve = (descriptors / 8).clamp(32, 256);
        usize::try_from(descriptors.saturating_sub(reserve)).unwrap_or(usize::MAX)
    }

    /// Sessions open now.
    #[must_use]
    pub fn open(&self) -> usize {
        (self.held.load(Ordering::Relaxed) >> 32) as usize
    }

    /// Descriptors that they hold.
    #[must_use]
    pub fn held(&self) -> usize {
        descriptors_of(self.held.load(Ordering::Relaxed)) as usize
    }

    /// The bound in force, in descriptors.
    #[must_use]
    pub fn bound(&self) -> usize {
        self.bound.load(Ordering::Relaxed) as usize
    }

    /// Descriptors ran out: no more sessions than there are.
    pub fn lower(&self) {
        let held = descriptors_of(self.held.load(Ordering::Relaxed));
        self.bound.fetch_min(held.max(Cost::CONNECTION.descriptors), Ordering::Relaxed);
    }

    /// Raises a lowered bound a little if descriptors are free again, which costs a few system
    /// calls.
    pub fn raise_if_possible(&self) {
        self.raise_if(descriptors_are_free);
    }

    fn raise_if(&self, are_free: impl FnOnce(usize) -> bool) {
        let bound = self.bound.load(Ordering::Relaxed);
        let step = (bound / 8).clamp(8, 128).min(self.most.saturating_sub(bound));
        if step > 0 && are_free(step as usize) {
            self.bound.store(bound + step, Ordering::Relaxed);
        }
    }

    /// Takes a place; `false` when there is none for something that costs so much.
    #[must_use]
    pub fn enter(&self, cost: Cost) -> bool {
        let bound = self.bound.load(Ordering::Relaxed);
        let bound = bound - bound.checked_div(cost.leaves).unwrap_or(0);
        let more = |held: u64| {
            let fits = descriptors_of(held).saturating_add(cost.descriptors) <= bound;
            fits.then_some(held + pack(cost))
        };
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Gives a place back.
    pub fn leave(&self, cost: Cost) {
        self.held.fetch_sub(pack(cost), Ordering::Relaxed);
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

    const TCP: Cost = Cost::CONNECTION;

    #[test]
    fn the_bound_falls_to_what_is_held_and_rises_as_descriptors_come_free() {
        let limit = SessionLimit::new(20);
        assert!(limit.enter(TCP) && limit.enter(TCP) && limit.enter(TCP));
        limit.lower();
        assert_eq!((limit.open(), limit.held(), limit.bound()), (3, 6, 6));
        assert!(!limit.enter(TCP));
        limit.raise_if(|_| false);
        assert_eq!(limit.bound(), 6);
        limit.raise_if(|wanted| wanted == 8);
        assert_eq!(limit.bound(), 14);
        assert!(limit.enter(TCP));
        limit.raise_if(|wanted| wanted == 6);
        limit.raise_if(|_| unreachable!("it is as high as it may be"));
        assert_eq!(limit.bound(), 20);
    }

    #[test]
    fn without_sessions_one_may_still_try() {
        let limit = SessionLimit::new(10);
        limit.lower();
        assert!(limit.enter(TCP));
        assert!(SessionLimit::new(0).enter(TCP));
    }

    #[test]
    fn a_reserve_is_kept() {
        assert_eq!(SessionLimit::of_process(20_000), 19_744);
        assert_eq!(SessionLimit::of_process(128), 96);
        assert_eq!(SessionLimit::of_process(1), 0);
    }

    #[test]
    fn places_are_bounded() {
        let limit = SessionLimit::new(2);
        assert!(limit.enter(TCP));
        assert!(!limit.enter(TCP));
        limit.leave(TCP);
        assert!(limit.enter(TCP));
    }

    #[test]
    fn a_flow_costs_one_descriptor_and_leaves_a_quarter_to_connections() {
        let limit = SessionLimit::new(16);
        let flows = (0..20).filter(|_| limit.enter(Cost::FLOW)).count();
        assert_eq!((flows, limit.open(), limit.held()), (12, 12, 12));
        assert!(!limit.enter(Cost::COPY));
        assert!(limit.enter(TCP) && limit.enter(TCP) && !limit.enter(TCP));
        limit.leave(Cost::FLOW);
        assert!(!limit.enter(Cost::FLOW), "15 are held");
        assert_eq!((limit.open(), limit.held()), (13, 15));
    }

    #[test]
    fn a_copy_is_no_session() {
        let limit = SessionLimit::new(16);
        assert!(limit.enter(Cost::COPY));
        assert_eq!((limit.open(), limit.held()), (0, 1));
        limit.leave(Cost::COPY);
        assert_eq!((limit.open(), limit.held()), (0, 0));
    }

    /// Who is refused must not take a place even for a moment: somebody else would be refused for
    /// it while a place is free.
    #[test]
    fn attempts_in_vain_take_no_place() {
        use std::sync::atomic::AtomicBool;
        let (limit, done) = (SessionLimit::new(4), AtomicBool::new(false));
        assert!(limit.enter(TCP) && limit.enter(TCP));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        assert!(!limit.enter(TCP));
                    }
                });
            }
            let most = (0..200_000).map(|_| limit.open()).max();
            done.store(true, Ordering::Relaxed);
            assert_eq!(most, Some(2));
        });
        limit.leave(TCP);
        limit.leave(TCP);
        assert_eq!(limit.open(), 0);
    }
}
