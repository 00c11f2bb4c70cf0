//! Reactor, executor and timers of one core as one thing, owned by one thread.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustix::event::epoll;

use crate::executor::{Doorbell, Executor};
use crate::pulse::Pulse;
use crate::reactor::{Reactor, Source};
use crate::timer::{Alarm, TimerId, Wheel};

/// Tag of the doorbell; tags given out by users of the loop must be smaller.
const BELL: u64 = u64::MAX;
const EVENTS_PER_TURN: usize = 256;
/// epoll_wait(2) takes milliseconds as an `int`; nobody needs to sleep longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// The event loop of one core.
pub struct EventLoop {
    reactor: Reactor,
    executor: Executor,
    wheel: RefCell<Wheel>,
    events: RefCell<Vec<epoll::Event>>,
    started: Instant,
    now: Cell<u64>,
    starved: Cell<bool>,
    pulse: Arc<Pulse>,
    // Registered for life; kept so that it stays open.
    _bell: Source,
}

impl EventLoop {
    /// A loop for the calling thread.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn new() -> io::Result<Self> {
        let reactor = Reactor::new()?;
        let executor = Executor::new()?;
        let bell = reactor.register(executor.bell_fd()?)?;
        bell.drive_as(BELL);
        let started = Instant::now();
        Ok(Self {
            reactor,
            executor,
            wheel: RefCell::new(Wheel::new(0)),
            events: RefCell::new(Vec::with_capacity(EVENTS_PER_TURN)),
            started,
            now: Cell::new(0),
            starved: Cell::new(false),
            pulse: Arc::new(Pulse::new(started)),
            _bell: bell,
        })
    }

    /// Milliseconds since the loop began, as of this turn.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.now.get()
    }

    /// Reads the clock again, for work that took long.
    pub fn update_clock(&self) {
        self.now.set(self.started.elapsed().as_millis() as u64);
    }

    /// What other threads use to make the loop turn.
    #[must_use]
    pub fn doorbell(&self) -> Arc<Doorbell> {
        self.executor.doorbell()
    }

    /// What other threads see of the loop.
    #[must_use]
    pub const fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    /// Registers a descriptor.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn register(&self, fd: OwnedFd) -> io::Result<Source> {
        self.reactor.register(fd)
    }

    /// Registers a descriptor that nobody waits on to write.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn register_for_reading(&self, fd: OwnedFd) -> io::Result<Source> {
        self.reactor.register_for_reading(fd)
    }

    /// Adds a set-up future.
    #[inline]
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.executor.spawn(Box::pin(task));
    }

    /// Ends all set-up futures.
    pub fn drop_tasks(&self) {
        self.executor.clear();
    }

    /// Set-up futures that have not finished.
    #[must_use]
    pub fn live_tasks(&self) -> usize {
        self.executor.live()
    }

    /// Set-up futures that panicked since the last call.
    #[must_use]
    pub fn take_panics(&self) -> u64 {
        self.executor.take_panics()
    }

    /// Notes that a future found no descriptor and waits for one.
    pub fn note_starved(&self) {
        self.starved.set(true);
    }

    /// Whether a future found no descriptor since the last call.
    #[must_use]
    pub fn take_starved(&self) -> bool {
        self.starved.take()
    }

    /// Reports `tag` in `delay_ms` milliseconds.
    pub fn set_timer(&self, delay_ms: u64, tag: u64) -> TimerId {
        self.wheel.borrow_mut().set(self.now.get().saturating_add(delay_ms), Alarm::Tag(tag))
    }

    /// Cancels a timer; stale ids are harmless.
    pub fn cancel_timer(&self, id: TimerId) {
        self.wheel.borrow_mut().cancel(id);
    }

    /// One turn: runs futures, waits, and collects tags of descriptors in `ready` and of timers
    /// in `expired`. `max_wait` is asked after the futures ran, because they may leave work.
    ///
    /// # Errors
    /// epoll itself failed; the core cannot go on.
    pub fn turn(
        &self,
        max_wait: impl FnOnce() -> Option<Duration>,
        ready: &mut Vec<u64>,
        expired: &mut Vec<u64>,
    ) -> io::Result<()> {
        let more = self.executor.run();
        let until_timer = self.wheel.borrow().next_in(self.now.get()).map(Duration::from_millis);
        let asked = if more { Some(Duration::ZERO) } else { max_wait() };
        let wait = [asked, until_timer].into_iter().flatten().fold(LONGEST_WAIT, Duration::min);
        let first = ready.len();
        self.pulse.rest();
        self.reactor.poll(Some(wait), &mut self.events.borrow_mut(), ready)?;
        let now = self.started.elapsed();
        self.now.set(now.as_millis() as u64);
        self.pulse.wake(now);
        let mut index = first;
        while let Some(tag) = ready.get(index) {
            if *tag == BELL {
                ready.swap_remove(index);
                self.executor.answer_bell();
            } else {
                index += 1;
            }
        }
        self.wheel.borrow_mut().advance(self.now.get(), |alarm| match alarm {
            Alarm::Wake(waker) => waker.wake(),
            Alarm::Tag(tag) => expired.push(tag),
        });
        self.executor.run();
        Ok(())
    }

    /// Ready after `delay`.
    pub fn sleep(&self, delay: Duration) -> Sleep<'_> {
        let delay = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        let deadline = self.now.get().saturating_add(delay);
        Sleep { owner: self, deadline, timer: None }
    }

    /// The result of `future`, or `None` if it takes longer than `limit`. The caller pins it
    /// (`pin!`): an async function that took it by value would hold room for it twice.
    pub fn within<F: Future + Unpin>(
        &self,
        limit: Duration,
        mut future: F,
    ) -> impl Future<Output = Option<F::Output>> {
        let mut sleep = self.sleep(limit);
        std::future::poll_fn(move |context| {
            if let Poll::Ready(output) = Pin::new(&mut future).poll(context) {
                return Poll::Ready(Some(output));
            }
            Pin::new(&mut sleep).poll(context).map(|()| None)
        })
    }
}

/// See [`EventLoop::sleep`].
pub struct Sleep<'a> {
    owner: &'a EventLoop,
    deadline: u64,
    timer: Option<TimerId>,
}

impl Future for Sleep<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.owner.now_ms() >= self.deadline {
            return Poll::Ready(());
        }
        if let Some(timer) = self.timer.take() {
            self.owner.cancel_timer(timer);
        }
        let alarm = Alarm::Wake(context.waker().clone());
        let timer = self.owner.wheel.borrow_mut().set(self.deadline, alarm);
        self.timer = Some(timer);
        Poll::Pending
    }
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            self.owner.cancel_timer(timer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn within_gives_up() {
        let owner = Rc::new(EventLoop::new().unwrap());
        let result = Rc::new(Cell::new(None));
        let (inner, seen) = (Rc::clone(&owner), Rc::clone(&result));
        owner.spawn(async move {
            let never = std::future::pending::<()>();
            seen.set(Some(inner.within(Duration::from_millis(5), never).await));
        });
        let (mut ready, mut expired) = (Vec::new(), Vec::new());
        while result.get().is_none() {
            owner.turn(|| None, &mut ready, &mut expired).unwrap();
        }
        assert_eq!(result.get(), Some(None));
    }

    /// Turns without waiting until `done`.
    fn turn_until(owner: &EventLoop, mut done: impl FnMut() -> bool) {
        let (mut ready, mut expired) = (Vec::new(), Vec::new());
        while !done() {
            owner.turn(|| None, &mut ready, &mut expired).unwrap();
        }
    }

    /// A loop whose clock has begun to count: sums with it may overflow.
    fn running() -> Rc<EventLoop> {
        let owner = Rc::new(EventLoop::new().unwrap());
        while owner.now_ms() == 0 {
            owner.update_clock();
        }
        owner
    }

    #[test]
    fn a_panic_ends_one_future_and_is_counted() {
        let owner = running();
        let done = Rc::new(Cell::new(false));
        owner.spawn(async { panic!("on purpose") });
        let seen = Rc::clone(&done);
        owner.spawn(async move { seen.set(true) });
        turn_until(&owner, || done.get() && owner.live_tasks() == 0);
        assert_eq!((owner.take_panics(), owner.take_panics()), (1, 0));
    }

    #[test]
    fn the_longest_durations_do_not_end() {
        let owner = running();
        let (ended, passed) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        for limit in [Duration::MAX, Duration::from_millis(u64::MAX), Duration::from_secs(1 << 40)]
        {
            let (inner, seen) = (Rc::clone(&owner), Rc::clone(&ended));
            owner.spawn(async move {
                let _ = inner.within(limit, std::future::pending::<()>()).await;
                seen.set(seen.get() + 1);
            });
            let (inner, seen) = (Rc::clone(&owner), Rc::clone(&ended));
            owner.spawn(async move {
                inner.sleep(limit).await;
                seen.set(seen.get() + 1);
            });
        }
        owner.set_timer(u64::MAX, 1);
        let (inner, seen) = (Rc::clone(&owner), Rc::clone(&passed));
        owner.spawn(async move {
            inner.sleep(Duration::from_millis(40)).await;
            seen.set(true);
        });
        turn_until(&owner, || passed.get());
        assert_eq!((ended.get(), owner.live_tasks(), owner.take_panics()), (0, 6, 0));
        // What they wait for in vain can still be given up.
        owner.drop_tasks();
        assert_eq!(owner.live_tasks(), 0);
    }

    #[test]
    fn a_far_deadline_does_not_hold_up_what_is_ready() {
        let owner = running();
        let done = Rc::new(Cell::new(None));
        let (inner, seen) = (Rc::clone(&owner), Rc::clone(&done));
        owner.spawn(async move {
            seen.set(inner.within(Duration::MAX, inner.sleep(Duration::from_millis(5))).await);
        });
        turn_until(&owner, || done.get().is_some());
        assert_eq!(owner.take_panics(), 0);
    }

    #[test]
    fn the_kernel_takes_the_wait_for_a_far_deadline() {
        let owner = running();
        for days in [30, 49, 365, 3650] {
            owner.set_timer(days * 24 * 3600 * 1000, 1);
            owner.doorbell().ring(); // so that it is not waited out
            let (mut ready, mut expired) = (Vec::new(), Vec::new());
            owner.turn(|| None, &mut ready, &mut expired).unwrap();
            assert!(ready.is_empty() && expired.is_empty());
        }
    }
}
