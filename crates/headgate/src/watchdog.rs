//! Looks whether the data threads go on. A core that does not come back to its event loop serves
//! nobody; nothing else would say so.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use std::{fs, io};

use headgate_stream::core::doing;

use crate::cores::Cores;

/// Longest time between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Looks that the longest turn is taken from.
const WINDOW: usize = 60;

/// What it has seen of one core.
#[derive(Debug, Default)]
struct Seen {
    /// Longest turns between looks.
    longest: VecDeque<Duration>,
    /// The turn that was reported, while it lasts.
    stalled: Option<(u64, Duration)>,
}

/// What it has seen.
#[derive(Debug)]
pub(crate) struct Watchdog {
    threshold: Option<Duration>,
    seen: Mutex<Vec<Seen>>,
    /// Stalls by core.
    stalls: Vec<AtomicU64>,
}

impl Watchdog {
    /// Starts looking, on a thread of its own: the control threads may be what hangs.
    ///
    /// # Errors
    /// No thread is left.
    pub(crate) fn start(cores: &Arc<Cores>, threshold: Option<Duration>) -> io::Result<Arc<Self>> {
        let count = cores.pulses().len();
        let watchdog = Arc::new(Self {
            threshold,
            seen: Mutex::new((0..count).map(|_| Seen::default()).collect()),
            stalls: (0..count).map(|_| AtomicU64::new(0)).collect(),
        });
        let (weak, cores) = (Arc::downgrade(&watchdog), Arc::downgrade(cores));
        std::thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || watch(&weak, &cores))?;
        Ok(watchdog)
    }

    /// The longest turn of a core within the last minute.
    pub(crate) fn longest_turn(&self, core: usize) -> Duration {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let longest = seen.get(core).and_then(|seen| seen.longest.iter().max().copied());
        longest.unwrap_or_default()
    }

    /// How often a core has stalled.
    pub(crate) fn stalls(&self, core: usize) -> u64 {
        self.stalls.get(core).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// A core that does not come back, and since when.
    pub(crate) fn stalled(&self) -> Option<(usize, Duration)> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().enumerate().find_map(|(core, seen)| Some((core, seen.stalled?.1)))
    }

    fn look(&self, cores: &Cores) {
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for (core, (seen, pulse)) in all.iter_mut().zip(cores.pulses()).enumerate() {
            if seen.longest.len() == WINDOW {
                seen.longest.pop_front();
            }
            let busy = pulse.busy();
            let lasts = busy.map_or(Duration::ZERO, |(_, lasted)| lasted);
            seen.longest.push_back(pulse.take_longest().max(lasts));
            let Some(threshold) = self.threshold else { continue };
            match (busy.filter(|(_, lasted)| *lasted >= threshold), seen.stalled) {
                (Some((turn, lasted)), Some((known, _))) if turn == known => {
                    seen.stalled = Some((turn, lasted));
                }
                (Some((turn, lasted)), _) => {
                    seen.stalled = Some((turn, lasted));
                    if let Some(count) = self.stalls.get(core) {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    let work = doing(pulse.doing());
                    let dump = dump(pulse.thread());
                    tracing::error!(
                        core,
                        ?lasted,
                        thread = pulse.thread(),
                        "a core does not come back to its event loop and serves nobody; last it was \
                         {work}; {dump}"
                    );
                }
                (None, Some((_, lasted))) => {
                    seen.stalled = None;
                    tracing::warn!(core, ?lasted, "the core goes on");
                }
                (None, None) => {}
            }
        }
    }
}

fn watch(watchdog: &Weak<Watchdog>, cores: &Weak<Cores>) {
    loop {
        let Some(pause) = watchdog.upgrade().map(|it| pause(it.threshold)) else { return };
        let began = Instant::now();
        std::thread::sleep(pause);
        let (Some(watchdog), Some(cores)) = (watchdog.upgrade(), cores.upgrade()) else { return };
        // Whoever was stopped or starved himself cannot judge others.
        if began.elapsed() < pause * 3 {
            watchdog.look(&cores);
        }
    }
}

fn pause(threshold: Option<Duration>) -> Duration {
    threshold.map_or(LOOK, |it| (it / 4).clamp(Duration::from_millis(20), LOOK))
}

/// What the kernel says about a thread (proc(5)), as far as it may be read.
fn dump(thread: i32) -> String {
    let read = |name: &str| {
        let text = fs::read_to_string(format!("/proc/self/task/{thread}/{name}")).ok()?;
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        (!text.is_empty()).then_some(text)
    };
    let state = read("stat").and_then(|stat| {
        stat.rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().next().map(str::to_owned))
    });
    let parts = [
        ("state", state),
        ("wchan", read("wchan")),
        ("system call", read("syscall")),
        ("kernel stack", read("stack")),
    ];
    let known = parts.into_iter().filter_map(|(name, text)| Some(format!("{name}: {}", text?)));
    let text = known.collect::<Vec<_>>().join("; ");
    if text.is_empty() { "the kernel says nothing about it".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_what_this_thread_does() {
        let me = rustix::thread::gettid().as_raw_nonzero().get();
        assert!(dump(me).contains("state: R"), "{}", dump(me));
        assert_eq!(dump(-1), "the kernel says nothing about it");
    }

    #[test]
    fn it_looks_often_enough() {
        assert_eq!(pause(None), LOOK);
        assert_eq!(pause(Some(Duration::from_millis(400))), Duration::from_millis(100));
        assert_eq!(pause(Some(Duration::from_secs(60))), LOOK);
    }
}
