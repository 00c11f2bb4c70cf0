//! Sessions of all cores that wait for an endpoint (`queue` of an upstream), first come, first
//! served.
//!
//! A session that may try is *called*: by a place that came free, by an endpoint that became well
//! or new, or by its own clock while it is the first. Once it has taken an endpoint it calls the
//! next one behind it, so attempts begin in order and run at the same time. The lock is held for
//! moments, and only where a session waits.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use headgate_net::EventLoop;

/// How often the first session tries to connect even if nothing speaks for it.
const TRY_ANYWAY: Duration = Duration::from_millis(250);

/// The line of one upstream.
#[derive(Default)]
pub(crate) struct Line {
    inner: Mutex<Inner>,
    /// How often something happened that lets somebody try. Counted before `resting` is looked at,
    /// and looked at by who rests after it was counted there: so no event is missed by both.
    events: AtomicU64,
    /// Sessions that rest.
    resting: AtomicU32,
    /// Those of them that found every endpoint full.
    behind_full: AtomicU32,
}

#[derive(Default)]
struct Inner {
    next: u64,
    /// In ascending order of their numbers.
    entries: VecDeque<Entry>,
}

struct Entry {
    number: u64,
    state: State,
}

enum State {
    /// Waits to be called.
    Resting { waker: Option<Waker>, is_full: bool },
    /// Tries to connect.
    Called,
}

impl Line {
    /// A place at the end, unless `most` wait already.
    pub(crate) fn join(&self, most: u32) -> Option<Place<'_>> {
        let mut inner = self.lock();
        if inner.entries.len() >= most as usize {
            return None;
        }
        let number = inner.next;
        inner.next += 1;
        inner.entries.push_back(Entry { number, state: State::Called });
        Some(Place { line: self, number, has_called: true })
    }

    /// Whether a session waits for a place to come free, which the next one must not take from it.
    pub(crate) fn is_behind_full(&self) -> bool {
        self.behind_full.load(SeqCst) > 0
    }

    /// Sessions in the line.
    pub(crate) fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Something has changed for the better: the first session may try.
    pub(crate) fn call(&self) {
        self.events.fetch_add(1, SeqCst);
        if self.resting.load(SeqCst) > 0 {
            self.call_behind(None);
        }
    }

    /// The number of events so far, to be handed to [`Place::turn`].
    pub(crate) fn events(&self) -> u64 {
        self.events.load(SeqCst)
    }

    fn call_behind(&self, number: Option<u64>) {
        let waker = {
            let mut inner = self.lock();
            let is_behind = |entry: &&mut Entry| number.is_none_or(|number| entry.number > number);
            let resting = |entry: &&mut Entry| matches!(entry.state, State::Resting { .. });
            let first = inner.entries.iter_mut().filter(is_behind).find(resting);
            first.and_then(|entry| self.wake(entry))
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Marks an entry as called; its waker is for after the lock.
    fn wake(&self, entry: &mut Entry) -> Option<Waker> {
        match std::mem::replace(&mut entry.state, State::Called) {
            State::Resting { waker, is_full } => {
                self.resting.fetch_sub(1, SeqCst);
                self.behind_full.fetch_sub(u32::from(is_full), SeqCst);
                waker
            }
            State::Called => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn place_of(&self, number: u64) -> Option<usize> {
        self.entries.binary_search_by_key(&number, |entry| entry.number).ok()
    }

    fn is_first_resting(&self, number: u64) -> bool {
        let resting = |entry: &&Entry| matches!(entry.state, State::Resting { .. });
        self.entries.iter().find(resting).is_some_and(|entry| entry.number == number)
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("resting", &self.resting).finish_non_exhaustive()
    }
}

/// A session's place in a line; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    line: &'a Line,
    number: u64,
    /// Whether the next one has been called since this one was.
    has_called: bool,
}

impl Place<'_> {
    /// Rests until the session may try; `false` if `until` comes first. `is_full`: it found every
    /// endpoint full. `seen`: the events when it last looked; one since then lets it try at once.
    pub(crate) async fn turn(
        &mut self,
        owner: &EventLoop,
        is_full: bool,
        seen: u64,
        until: Instant,
    ) -> bool {
        self.rest(is_full, seen);
        loop {
            let now = Instant::now();
            if now >= until {
                return false;
            }
            // In whole milliseconds, as the loop counts.
            let pause = TRY_ANYWAY.min(until - now).max(Duration::from_millis(1));
            let called = owner.within(pause, poll_fn(|context| self.poll(context))).await;
            if called.is_some() || (Instant::now() < until && self.call_myself()) {
                return true;
            }
        }
    }

    /// The session has taken an endpoint: whoever is behind it may look as well.
    pub(crate) fn call_next(&mut self) {
        if !self.has_called {
            self.has_called = true;
            self.line.call_behind(Some(self.number));
        }
    }

    fn rest(&mut self, is_full: bool, seen: u64) {
        {
            let mut inner = self.line.lock();
            let entry = inner.place_of(self.number).and_then(|at| inner.entries.get_mut(at));
            let Some(entry) = entry else { return };
            entry.state = State::Resting { waker: None, is_full };
            self.has_called = false;
            self.line.resting.fetch_add(1, SeqCst);
            self.line.behind_full.fetch_add(u32::from(is_full), SeqCst);
        }
        if self.line.events() != seen {
            self.call_myself();
        }
    }

    fn poll(&self, context: &Context<'_>) -> Poll<()> {
        let mut inner = self.line.lock();
        let entry = inner.place_of(self.number).and_then(|at| inner.entries.get_mut(at));
        match entry.map(|entry| &mut entry.state) {
            Some(State::Resting { waker, .. }) => {
                *waker = Some(context.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// Nobody called: the first one tries all the same.
    fn call_myself(&self) -> bool {
        let mut inner = self.line.lock();
        let is_first = inner.is_first_resting(self.number);
        let entry = inner.place_of(self.number).and_then(|at| inner.entries.get_mut(at));
        if let (true, Some(entry)) = (is_first, entry) {
            let _ = self.line.wake(entry);
        }
        is_first
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        {
            let mut inner = self.line.lock();
            if let Some(mut entry) =
                inner.place_of(self.number).and_then(|at| inner.entries.remove(at))
            {
                let was_called = matches!(entry.state, State::Called);
                let _ = self.line.wake(&mut entry);
                // A call that it did not use is for the next one.
                self.has_called |= !was_called;
            }
        }
        self.call_next();
    }
}

#[cfg(test)]
mod tests;
