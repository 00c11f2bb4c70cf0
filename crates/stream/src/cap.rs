//! The bound on all TCP connections together that the operator sets
//! (`headgate.limits.connections`), below those that follow from descriptors.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The bound, and how many there are.
#[derive(Debug)]
pub struct ConnectionCap {
    most: usize,
    /// Further ones are closed at once, instead of waiting in the kernel's queue.
    refuses: bool,
    open: AtomicUsize,
}

/// A connection that counts against it until it is dropped.
#[derive(Debug)]
pub(crate) struct Seat(Arc<ConnectionCap>);

impl ConnectionCap {
    /// At most `most` connections.
    #[must_use]
    pub const fn new(most: usize, refuses: bool) -> Self {
        Self { most, refuses, open: AtomicUsize::new(0) }
    }

    pub(crate) const fn most(&self) -> usize {
        self.most
    }

    pub(crate) const fn refuses(&self) -> bool {
        self.refuses
    }

    /// `None` when all are taken. Who is refused takes none even for a moment.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Seat> {
        let more = |open: usize| (open < self.most).then_some(open + 1);
        let taken = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.is_ok().then(|| Seat(Arc::clone(self)))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_given_back() {
        let cap = Arc::new(ConnectionCap::new(2, false));
        let [first, second] = [cap.take(), cap.take()];
        assert!(first.is_some() && second.is_some());
        assert!(cap.take().is_none());
        drop(first);
        assert!(cap.take().is_some());
    }
}
