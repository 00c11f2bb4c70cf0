//! A bound on connections that are still being set up: a PROXY header, a handshake, or bytes that a
//! plugin waits for. Honest clients are through in a moment; whoever opens connections and says
//! nothing holds them for a minute. So beyond the bound the oldest one is cut.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// The connections of one core that are being set up, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Handshakes {
    next: Cell<u64>,
    all: RefCell<BTreeMap<u64, Rc<Place>>>,
}

/// Why one is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// There are too many, and it was the oldest.
    TooMany,
    /// Memory is over its budget, and it was the newest.
    Memory,
}

#[derive(Debug, Default)]
struct Place {
    cut: Cell<Option<Cut>>,
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
            oldest.cut(Cut::TooMany);
        }
        drop(all);
        Handshake { owner: self, number, place }
    }
}

impl Handshakes {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.all.borrow().len()
    }

    /// Cuts the newest one for want of memory; `false`: there is none.
    pub(crate) fn cut_newest(&self) -> bool {
        let newest = self.all.borrow_mut().pop_last();
        newest.map(|(_, place)| place.cut(Cut::Memory)).is_some()
    }
}

impl Place {
    fn cut(&self, why: Cut) {
        self.cut.set(Some(why));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Handshake<'_> {
    /// The output of `future`, or why this one was cut before.
    pub(crate) async fn unless_cut<F: Future + Unpin>(
        &self,
        mut future: F,
    ) -> Result<F::Output, Cut> {
        poll_fn(|context| {
            if let Some(why) = self.place.cut.get() {
                return Poll::Ready(Err(why));
            }
            if let Poll::Ready(output) = Pin::new(&mut future).poll(context) {
                return Poll::Ready(Ok(output));
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
        assert_eq!(waits.as_mut().poll(&mut context), Poll::Ready(Err(Cut::TooMany)));
        assert!(others.as_mut().poll(&mut context).is_pending());
        drop(third);
        assert_eq!(handshakes.len(), 1);
    }

    #[test]
    fn for_want_of_memory_the_newest_is_cut() {
        let handshakes = Handshakes::default();
        let [first, second] = [handshakes.enter(9), handshakes.enter(9)];
        let mut waits = pin!(first.unless_cut(std::future::pending::<()>()));
        let mut newest = pin!(second.unless_cut(std::future::pending::<()>()));
        let mut context = Context::from_waker(Waker::noop());
        assert!(handshakes.cut_newest());
        assert!(waits.as_mut().poll(&mut context).is_pending());
        assert_eq!(newest.as_mut().poll(&mut context), Poll::Ready(Err(Cut::Memory)));
        assert!(handshakes.cut_newest() && !handshakes.cut_newest());
    }

    #[test]
    fn whoever_is_ready_goes_on() {
        let handshakes = Handshakes::default();
        let only = handshakes.enter(1);
        let mut ready = pin!(only.unless_cut(std::future::ready(7)));
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(ready.as_mut().poll(&mut context), Poll::Ready(Ok(7)));
    }
}
