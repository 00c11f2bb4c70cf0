//! Drains in simulated time: sessions come, talk, fall silent and go, orders to drain come in any
//! sequence, a core's timer wheel turns evenly or is held up. Nothing ends early, nothing late, and
//! gradual drains spread.
//!
//! `HEADGATE_DRAIN_SEED=n` replays one run, `HEADGATE_DRAIN_RUNS=n` makes that many.

use std::collections::BTreeMap;

use fastrand::Rng;
use headgate_net::timer::{Alarm, TimerId, Wheel};

use super::*;

const RUNS: u64 = 40;
const STEPS: usize = 300;
/// How late a timer may be: a tick of the wheel, and the millisecond that it rounds up.
const TICK: u64 = 5;

/// What a relay keeps of a session, as far as its end is concerned, and what the model knows.
struct Simulated {
    ending: Ending,
    timer: TimerId,
    idle_limit: u64,
    look_every: u64,
    active_at: u64,
    listener: u8,
    /// The windows of all orders about it: none of its ends comes before the first may, and it is
    /// gone when the first of them closes.
    windows: Vec<(u64, u64, CloseReason)>,
}

struct World {
    random: Rng,
    now: u64,
    /// How late the event loop came back the last time.
    late: u64,
    next: u64,
    wheel: Wheel,
    sessions: BTreeMap<u64, Simulated>,
    /// The stop, for sessions that begin after it.
    stop: Option<Moment>,
    ended: BTreeMap<String, usize>,
    trace: Vec<(u64, u64)>,
}

impl World {
    fn new(seed: u64) -> Self {
        fastrand::seed(seed); // what the moments are drawn from
        let mut random = Rng::with_seed(seed);
        let now = random.u64(0..10_000_000);
        Self {
            random,
            now,
            late: 0,
            next: 0,
            wheel: Wheel::new(now),
            sessions: BTreeMap::new(),
            stop: None,
            ended: BTreeMap::new(),
            trace: Vec::new(),
        }
    }

    /// A session begins, as in `relay::start`.
    fn begin(&mut self) {
        let (key, now) = (self.next, self.now);
        self.next += 1;
        let idle_limit = self.random.u64(1..600_000);
        let look_every = if self.random.bool() { u64::MAX } else { self.random.u64(1..5_000) };
        let ending = Ending::new(self.stop.map_or(u64::MAX, Moment::draw));
        // One that comes after the last moment ends at once.
        let window = |stop: Moment| (stop.from, stop.last().max(now), CloseReason::Drain);
        let windows = self.stop.map(window);
        let left = ending.look_in(now, idle_limit.min(look_every));
        let timer = self.wheel.set(now.saturating_add(left), Alarm::Tag(key));
        let (listener, windows) = (self.random.u8(0..3), windows.into_iter().collect());
        let (active_at, all) = (now, &mut self.sessions);
        let it = Simulated { ending, timer, idle_limit, look_every, active_at, listener, windows };
        all.insert(key, it);
    }

    /// An order, as in `Core::drain` and `relay::drain`; to everybody if to no listener.
    fn order(&mut self, order: &DrainOrder, listener: Option<u8>) {
        let (now, moment) = (self.now, Moment::of(order, self.now));
        let reason = match order.scope {
            Scope::RemovedNodes => CloseReason::NodeDown,
            Scope::All | Scope::Listener(_) => CloseReason::Drain,
        };
        if listener.is_none() {
            self.stop = Some(moment);
        }
        if order.after.is_none() {
            return;
        }
        for (key, it) in &mut self.sessions {
            if listener.is_some_and(|listener| listener != it.listener) {
                continue;
            }
            it.windows.push((moment.from, moment.last(), reason));
            if it.ending.hasten(moment.draw(), reason) {
                self.wheel.cancel(it.timer);
                let idle = it.idle_limit.saturating_sub(now.saturating_sub(it.active_at));
                let left = it.ending.look_in(now, idle.min(it.look_every));
                it.timer = self.wheel.set(now + left, Alarm::Tag(*key));
            }
        }
    }

    /// Time passes; timers fire as in `relay::check_idle`.
    fn pass(&mut self, milliseconds: u64) {
        self.late = milliseconds;
        self.now += milliseconds;
        let (now, mut fired) = (self.now, Vec::new());
        self.wheel.advance(now, |alarm| {
            if let Alarm::Tag(key) = alarm {
                fired.push(key);
            }
        });
        for key in fired {
            let it = self.sessions.get_mut(&key).unwrap();
            let idle = now - it.active_at;
            if let Some(reason) = it.ending.due(now) {
                self.end(key, Some(reason));
            } else if idle < it.idle_limit {
                let left = it.ending.look_in(now, (it.idle_limit - idle).min(it.look_every));
                assert!(left > 0, "a timer that fires without end");
                it.timer = self.wheel.set(now.saturating_add(left), Alarm::Tag(key));
            } else {
                self.end(key, None);
            }
        }
        self.check();
    }

    /// A session ends by an order, or of itself.
    fn end(&mut self, key: u64, by: Option<CloseReason>) {
        let it = self.sessions.remove(&key).unwrap();
        self.wheel.cancel(it.timer);
        self.trace.push((self.now, key));
        if let Some(reason) = by {
            let allowed = it.windows.iter().any(|(from, _, of)| self.now >= *from && reason == *of);
            assert!(allowed, "{reason:?} at {}, early: {:?}", self.now, it.windows);
        }
        *self.ended.entry(format!("{by:?}")).or_default() += 1;
    }

    /// Nobody is left beyond the end of a window.
    fn check(&self) {
        for it in self.sessions.values() {
            let last = it.windows.iter().map(|(_, last, _)| *last).min().unwrap_or(u64::MAX);
            assert!(
                self.now < last.saturating_add(TICK).saturating_add(self.late),
                "at {} it is there still: {:?}",
                self.now,
                it.windows
            );
        }
    }

    fn step(&mut self) {
        match self.random.u8(0..100) {
            0..35 => self.begin(),
            35..55 => {
                let some = self.random.usize(0..self.sessions.len().max(1));
                let now = self.now;
                if let Some(it) = self.sessions.values_mut().nth(some) {
                    it.active_at = now;
                }
            }
            55..60 => {
                let some = self.random.usize(0..self.sessions.len().max(1));
                if let Some(key) = self.sessions.keys().nth(some).copied() {
                    self.end(key, None);
                }
            }
            60..64 => {
                let listener = self.random.u8(0..3);
                let (scope, listener) = match self.random.u8(0..4) {
                    0 => (Scope::All, None),
                    1 => (Scope::RemovedNodes, Some(listener)),
                    // What a listener's order is to the timers.
                    _ => (Scope::All, Some(listener)),
                };
                let order = self.policy(scope);
                self.order(&order, listener);
            }
            64..97 => {
                let short = self.random.u64(0..4);
                (0..self.random.u16(1..300)).for_each(|_| self.pass(short));
            }
            // A core that is held up, or a machine that slept.
            _ => {
                let long = self.random.u64(0..100_000);
                self.pass(long);
            }
        }
    }

    /// What `headgate.drain` may say.
    fn policy(&mut self, scope: Scope) -> DrainOrder {
        let time = Duration::from_millis(self.random.u64(0..60_000));
        let (after, spread) = match self.random.u8(0..4) {
            0 => (Some(Duration::ZERO), Duration::ZERO),
            1 => (Some(Duration::ZERO), time),
            2 => (Some(time), Duration::ZERO),
            _ => (None, Duration::ZERO),
        };
        DrainOrder { scope, after, spread }
    }
}

fn run(seed: u64) -> World {
    let mut world = World::new(seed);
    (0..STEPS).for_each(|_| world.step());
    let order =
        DrainOrder { scope: Scope::All, after: Some(Duration::ZERO), spread: Duration::ZERO };
    world.order(&order, None);
    (0..2).for_each(|_| world.pass(TICK));
    assert!(world.sessions.is_empty(), "everybody ends");
    assert_eq!(world.wheel.next_in(world.now), None, "and nobody leaves a timer behind");
    world
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

fn each_seed(run: impl Fn(u64) + std::panic::RefUnwindSafe) {
    let seeds = match number("HEADGATE_DRAIN_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("HEADGATE_DRAIN_RUNS").unwrap_or(RUNS),
    };
    for seed in seeds {
        let result = std::panic::catch_unwind(|| run(seed));
        result.unwrap_or_else(|_| panic!("replay it with HEADGATE_DRAIN_SEED={seed}"));
    }
}

#[test]
fn sessions_end_neither_early_nor_late() {
    let ended = std::sync::Mutex::new(BTreeMap::<String, usize>::new());
    each_seed(|seed| {
        let world = run(seed);
        let mut ended = ended.lock().unwrap();
        world.ended.into_iter().for_each(|(why, count)| *ended.entry(why).or_default() += count);
    });
    let ended = ended.into_inner().unwrap();
    if number("HEADGATE_DRAIN_SEED").is_none() {
        assert_eq!(ended.len(), 3, "drained, of a removed node, or of itself: {ended:?}");
    }
}

#[test]
fn a_seed_plays_out_the_same_way_each_time() {
    for seed in [3, 11] {
        assert_eq!(run(seed).trace, run(seed).trace, "seed {seed}");
    }
}

/// No moment sees a crowd: of 500 sessions each tenth of the period ends its tenth, give or take six
/// standard deviations.
#[test]
fn a_gradual_drain_spreads_over_the_whole_period() {
    const SESSIONS: u32 = 500;
    each_seed(|seed| {
        let mut world = World::new(seed);
        (0..SESSIONS).for_each(|_| world.begin());
        world.sessions.values_mut().for_each(|it| it.idle_limit = u64::MAX / 4);
        let period = world.random.u64(1_000..60_000);
        let began = world.now;
        let order = DrainOrder {
            scope: Scope::All,
            after: Some(Duration::ZERO),
            spread: Duration::from_millis(period),
        };
        world.order(&order, None);
        while world.now < began + period + TICK {
            // Clients of a stop that are in the queue drain with the others.
            if world.random.u8(0..10) == 0 {
                world.begin();
            }
            world.pass(period / 200);
        }
        world.pass(TICK);
        assert!(world.sessions.is_empty(), "{} are left", world.sessions.len());
        let mut tenths = [0_u32; 11];
        for (at, _) in world.trace.iter().filter(|(_, key)| *key < u64::from(SESSIONS)) {
            tenths[((at - began) * 10 / period).min(10) as usize] += 1;
        }
        // What the wheel rounds up at the very end belongs to the last tenth.
        let all = [tenths.iter().take(9).copied().collect(), vec![tenths[9] + tenths[10]]].concat();
        assert!(all.iter().all(|count| (10..=90).contains(count)), "{all:?}");
    });
}
