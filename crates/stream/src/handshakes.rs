//! A bound on connections that are still being set up: a PROXY header, a handshake, or bytes that a
//! plugin waits for. Honest clients are through in a moment; whoever opens connections and says
//! nothing holds them for a minute. So beyond the bound the oldest one is cut.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// The connections of one core that are being set up, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Handshakes {
    next: Cell<u64>,
    all: RefCell<BTreeMap<u64, Rc<Place>>>,
}

#[derive(Debug, Default)]
struct Place {
    is_cut: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// A place among them; given back when dropped.
#[derive(Debug)]
pub(crate) struct Handshake<'a> {
    owner: &'a Handshakes,
    number: u64,
    place: Rc<Place>,
}

impl Handshakes {
    /// Takes a place. If there are more than `most` now, the oldest one is cut.
    pub(crate) fn enter(&self, most: usize) -> Handshake<'_> {
        let number = self.next.replace(self.next.get() + 1);
        let place = Rc::<Place>::default();
        let mut all = self.all.borrow_mut();
        all.insert(number, Rc::clone(&place));
        if all.len() > most
            && let Some((_, oldest)) = all.pop_first()
        {
            oldest.is_cut.set(true);
            if let Some(waker) = oldest.waker.take() {
                waker.wake();
            }
        }
        drop(all);
        Handshake { owner: self, number, place }
    }
}

impl Handshake<'_> {
    /// The output of `future`, or `None` if this one is cut first.
    pub(crate) async fn unless_cut<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        poll_fn(|context| {
            if self.place.is_cut.get() {
                return Poll::Ready(None);
            }
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Some(output));
            }
            self.place.waker.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await
    }
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        self.owner.all.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    #[test]
    fn beyond_the_bound_the_oldest_is_cut() {
        let handshakes = Handshakes::default();
        let [first, second] = [handshakes.enter(2), handshakes.enter(2)];
        let mut waits = pin!(first.unless_cut(std::future::pending::<()>()));
        let mut others = pin!(second.unless_cut(std::future::pending::<()>()));
        let mut context = Context::from_waker(Waker::noop());
        assert!(waits.as_mut().poll(&mut context).is_pending());
        let third = handshakes.enter(2);
        assert_eq!(waits.as_mut().poll(&mut context), Poll::Ready(None));
        assert!(others.as_mut().poll(&mut context).is_pending());
        drop(third);
        assert_eq!(handshakes.all.borrow().len(), 1);
    }

    #[test]
    fn whoever_is_ready_goes_on() {
        let handshakes = Handshakes::default();
        let only = handshakes.enter(1);
        let mut ready = pin!(only.unless_cut(std::future::ready(7)));
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(ready.as_mut().poll(&mut context), Poll::Ready(Some(7)));
    }
}
