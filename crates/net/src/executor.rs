//! Runs the futures of one core: connection set-up, and nothing that lasts.
//!
//! Wakes from the core's own thread go to a thread-local queue without locks; wakes from other
//! threads (an answer of the control side) go through a mutex and an eventfd.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

static NEXT_CORE: AtomicUsize = AtomicUsize::new(1);

thread_local! {
    /// The core whose loop runs on this thread, and its run queue.
    static LOCAL: (Cell<usize>, RefCell<Vec<u32>>) = const { (Cell::new(0), RefCell::new(Vec::new())) };
}

/// The part of a core that other threads may touch: it can be woken.
#[derive(Debug)]
pub struct Doorbell {
    core: usize,
    event: OwnedFd,
    rung: AtomicBool,
    woken: Mutex<Vec<u32>>,
}

impl Doorbell {
    /// Makes the core's loop turn.
    pub fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            // The counter cannot overflow: the loop resets it before it clears `rung`.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }
}

struct TaskWaker {
    index: u32,
    bell: Arc<Doorbell>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let is_local = LOCAL.with(|(core, queue)| {
            let is_local = core.get() == self.bell.core;
            if is_local {
                queue.borrow_mut().push(self.index);
            }
            is_local
        });
        if !is_local {
            self.bell.woken.lock().unwrap_or_else(PoisonError::into_inner).push(self.index);
            self.bell.ring();
        }
    }
}

/// A future of the core.
pub type Task = Pin<Box<dyn Future<Output = ()>>>;

struct Place {
    task: Option<Task>,
    waker: Waker,
}

/// The futures of one core. A waker belongs to a place, not to a task, so that a new task costs
/// one allocation; a late wake of an earlier task only polls once in vain.
pub struct Executor {
    places: RefCell<Vec<Place>>,
    free: RefCell<Vec<u32>>,
    bell: Arc<Doorbell>,
    running: RefCell<Vec<u32>>,
    panics: Cell<u64>,
    live: Cell<usize>,
}

impl Executor {
    /// An executor that belongs to the calling thread.
    ///
    /// # Errors
    /// No descriptor for the eventfd.
    pub fn new() -> io::Result<Self> {
        let event = rustix::event::eventfd(
            0,
            rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK,
        )?;
        let core = NEXT_CORE.fetch_add(1, Ordering::Relaxed);
        LOCAL.with(|(current, queue)| {
            current.set(core);
            queue.borrow_mut().clear();
        });
        Ok(Self {
            places: RefCell::default(),
            free: RefCell::default(),
            bell: Arc::new(Doorbell {
                core,
                event,
                rung: AtomicBool::new(false),
                woken: Mutex::default(),
            }),
            running: RefCell::default(),
            panics: Cell::new(0),
            live: Cell::new(0),
        })
    }

    /// The part that other threads may keep.
    #[must_use]
    pub fn doorbell(&self) -> Arc<Doorbell> {
        Arc::clone(&self.bell)
    }

    /// A copy of the eventfd for the reactor.
    ///
    /// # Errors
    /// The descriptor limit.
    pub(crate) fn bell_fd(&self) -> io::Result<OwnedFd> {
        self.bell.event.try_clone()
    }

    /// Takes what other threads woke.
    pub(crate) fn answer_bell(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.bell.event, &mut count);
        // A swap, so that whatever was queued before a ring we saw is visible below.
        self.bell.rung.swap(false, Ordering::AcqRel);
        let mut woken = self.bell.woken.lock().unwrap_or_else(PoisonError::into_inner);
        LOCAL.with(|(_, queue)| queue.borrow_mut().append(&mut woken));
    }

    /// Futures that have not finished.
    #[must_use]
    pub fn live(&self) -> usize {
        self.live.get()
    }

    /// Futures that panicked and were ended since the last call.
    #[must_use]
    pub fn take_panics(&self) -> u64 {
        self.panics.take()
    }

    /// Adds a future; its first poll is in the next [`Executor::run`].
    pub fn spawn(&self, task: Task) {
        let mut places = self.places.borrow_mut();
        let index = self.free.borrow_mut().pop().unwrap_or_else(|| {
            let index = places.len() as u32;
            let waker = Waker::from(Arc::new(TaskWaker { index, bell: Arc::clone(&self.bell) }));
            places.push(Place { task: None, waker });
            index
        });
        if let Some(place) = places.get_mut(index as usize) {
            place.task = Some(task);
            self.live.set(self.live.get() + 1);
        }
        LOCAL.with(|(_, queue)| queue.borrow_mut().push(index));
    }

    /// Drops all futures.
    pub fn clear(&self) {
        let tasks: Vec<_> =
            self.places.borrow_mut().iter_mut().filter_map(|place| place.task.take()).collect();
        self.live.set(self.live.get().saturating_sub(tasks.len()));
        drop(tasks); // outside the borrow: what they own may spawn or wake
    }

    /// Polls every woken future once. `true` if there is more to do right away.
    pub fn run(&self) -> bool {
        let mut running = self.running.borrow_mut();
        LOCAL.with(|(_, queue)| std::mem::swap(&mut *queue.borrow_mut(), &mut *running));
        for index in running.drain(..) {
            self.poll_one(index);
        }
        LOCAL.with(|(_, queue)| !queue.borrow().is_empty())
    }

    fn poll_one(&self, index: u32) {
        let mut places = self.places.borrow_mut();
        let Some(place) = places.get_mut(index as usize) else { return };
        let Some(mut task) = place.task.take() else { return };
        let waker = place.waker.clone();
        drop(places); // the future may spawn others
        let mut context = Context::from_waker(&waker);
        // A panic ends this connection, not the core. What the future owned is dropped below.
        let outcome = catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(&mut context)));
        if let Ok(std::task::Poll::Pending) = outcome {
            if let Some(place) = self.places.borrow_mut().get_mut(index as usize) {
                place.task = Some(task);
            }
            return;
        }
        if outcome.is_err() {
            self.panics.set(self.panics.get() + 1);
            tracing::error!("a connection's task panicked; only this connection ends");
        }
        if catch_unwind(AssertUnwindSafe(|| drop(task))).is_err() {
            self.panics.set(self.panics.get() + 1);
        }
        self.live.set(self.live.get().saturating_sub(1));
        self.free.borrow_mut().push(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;
    use std::task::Poll;

    fn spawn(executor: &Executor, task: impl Future<Output = ()> + 'static) {
        executor.spawn(Box::pin(task));
    }

    fn yield_once() -> impl Future<Output = ()> {
        let mut first = true;
        std::future::poll_fn(move |context| {
            if std::mem::take(&mut first) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(())
        })
    }

    #[test]
    fn runs_to_completion_and_reuses_places() {
        let executor = Executor::new().unwrap();
        let done = Rc::new(Cell::new(0));
        for _ in 0..3 {
            for _ in 0..10 {
                let done = Rc::clone(&done);
                spawn(&executor, async move {
                    yield_once().await;
                    done.set(done.get() + 1);
                });
            }
            while executor.run() {}
        }
        assert_eq!(done.get(), 30);
        assert_eq!(executor.places.borrow().len(), 10);
        assert_eq!(executor.live(), 0);
    }

    #[test]
    fn a_panic_ends_one_task() {
        let executor = Executor::new().unwrap();
        let done = Rc::new(Cell::new(false));
        spawn(&executor, async { panic!("on purpose") });
        let flag = Rc::clone(&done);
        spawn(&executor, async move { flag.set(true) });
        while executor.run() {}
        assert!(done.get());
        assert_eq!(executor.take_panics(), 1);
    }

    #[test]
    fn another_thread_can_wake() {
        let executor = Executor::new().unwrap();
        let shared = Arc::new(Mutex::new((false, None::<Waker>)));
        let theirs = Arc::clone(&shared);
        let done = Rc::new(Cell::new(false));
        let flag = Rc::clone(&done);
        spawn(&executor, async move {
            std::future::poll_fn(|context| {
                let mut state = theirs.lock().unwrap();
                if state.0 {
                    return Poll::Ready(());
                }
                state.1 = Some(context.waker().clone());
                Poll::Pending
            })
            .await;
            flag.set(true);
        });
        while executor.run() {}
        let theirs = Arc::clone(&shared);
        std::thread::spawn(move || {
            let mut state = theirs.lock().unwrap();
            state.0 = true;
            state.1.take().unwrap().wake();
        })
        .join()
        .unwrap();
        executor.answer_bell();
        while executor.run() {}
        assert!(done.get());
    }
}
