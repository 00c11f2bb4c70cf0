//! Hours of flows in milliseconds: a core's table and timer wheel under random traffic, with a clock
//! that jumps, bursts over the bound, changes of idle limits and listeners that go.
//!
//! `HEADGATE_FLOW_SEED=n` replays one run, `HEADGATE_FLOW_RUNS=n` makes that many.

use std::collections::{BTreeMap, HashMap};

use fastrand::Rng;
use headgate_net::timer::{Alarm, TimerId, Wheel};

use super::*;

/// Runs without further wishes.
const RUNS: u64 = 60;
const STEPS: usize = 400;
/// How late a timer may be: a tick of the wheel, and the millisecond that it rounds up.
const TICK_MS: u64 = 5;

/// What the plane keeps in the table, as far as time is concerned.
struct Flow {
    idle_limit: u64,
    timer: TimerId,
}

/// The model's opinion of a flow.
#[derive(Debug, Clone, Copy)]
struct Known {
    key: Key,
    active_at: u64,
    idle_limit: u64,
    /// Order of its last datagram.
    order: u64,
}

struct World {
    random: Rng,
    now: u64,
    order: u64,
    bound: usize,
    idle_limit: u64,
    table: FlowTable<Flow>,
    wheel: Wheel,
    model: BTreeMap<(u64, u16), Known>,
    ended: HashMap<&'static str, usize>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let now = random.u64(0..10_000_000);
        Self {
            bound: random.usize(1..40),
            idle_limit: random.u64(1..120_000),
            random,
            now,
            order: 0,
            table: FlowTable::default(),
            wheel: Wheel::new(now),
            model: BTreeMap::new(),
            ended: HashMap::new(),
        }
    }

    fn id(listener: u64, port: u16) -> FlowId {
        FlowId { listener, client: ([127, 0, 0, 1], port).into(), local: None }
    }

    /// A datagram of a client, as `UdpPlane::forward` and `begin` take it.
    fn arrive(&mut self, listener: u64, port: u16) {
        let id = Self::id(listener, port);
        let touched = self.table.touch(&id, self.now);
        assert_eq!(touched, self.model.get(&(listener, port)).map(|known| known.key));
        self.order += 1;
        if let Some(known) = self.model.get_mut(&(listener, port)) {
            (known.active_at, known.order) = (self.now, self.order);
            return;
        }
        if self.table.len() >= self.bound {
            let longest = self.model.iter().min_by_key(|(_, known)| known.order);
            let (who, longest) = longest.map(|(who, known)| (*who, *known)).unwrap();
            assert_eq!(self.table.oldest(), Some(longest.key), "the longest idle one makes room");
            self.end(who, "evicted");
        }
        let (idle_limit, deadline) = (self.idle_limit, self.now + self.idle_limit);
        let wheel = &mut self.wheel;
        let inserted = self.table.insert_with(id, self.now, |key| {
            Ok::<_, ()>(Flow { idle_limit, timer: wheel.set(deadline, Alarm::Tag(key.to_bits())) })
        });
        let (key, active_at, order) = (inserted.unwrap(), self.now, self.order);
        self.model.insert((listener, port), Known { key, active_at, idle_limit, order });
    }

    fn end(&mut self, who: (u64, u16), why: &'static str) {
        let known = self.model.remove(&who).unwrap();
        let flow = self.table.remove(known.key).unwrap();
        self.wheel.cancel(flow.timer);
        *self.ended.entry(why).or_default() += 1;
    }

    /// Time passes; timers fire as in `UdpPlane::check_idle`.
    fn pass(&mut self, milliseconds: u64) {
        self.now += milliseconds;
        let mut fired = Vec::new();
        self.wheel.advance(self.now, |alarm| {
            if let Alarm::Tag(bits) = alarm {
                fired.push(Key::from_bits(bits));
            }
        });
        for key in fired {
            let limit = self.table.get(key).unwrap().idle_limit;
            let rest = self.table.rest(key, self.now, limit).unwrap();
            let (who, known) = self.model.iter().find(|(_, known)| known.key == key).unwrap();
            let idle = self.now - known.active_at;
            if rest > 0 {
                assert_eq!(rest, known.idle_limit - idle);
                let timer = self.wheel.set(self.now + rest, Alarm::Tag(key.to_bits()));
                self.table.get_mut(key).unwrap().timer = timer;
            } else {
                assert!(idle >= known.idle_limit, "ended after {idle} ms of {}", known.idle_limit);
                self.end(*who, "idle");
            }
        }
    }

    fn close_listener(&mut self, listener: u64) {
        let gone: Vec<_> = self.model.range((listener, 0)..=(listener, u16::MAX)).collect();
        let gone: Vec<_> = gone.into_iter().map(|(who, _)| *who).collect();
        gone.into_iter().for_each(|who| self.end(who, "listener"));
    }

    fn step(&mut self) {
        match self.random.u8(0..100) {
            0..60 => {
                let (listener, port) = (self.random.u64(0..3), self.random.u16(0..30));
                self.arrive(listener, port);
            }
            60..65 => {
                for _ in 0..100 {
                    let port = self.random.u16(0..1000);
                    self.arrive(0, port);
                }
            }
            65..90 => {
                let short = self.random.u64(0..2_000);
                self.pass(short);
            }
            90..93 => {
                let asleep = self.random.u64(0..100_000_000);
                self.pass(asleep);
            }
            93..95 => self.pass(0),
            95..97 => self.idle_limit = self.random.u64(1..120_000),
            97..98 => {
                let listener = self.random.u64(0..3);
                self.close_listener(listener);
            }
            98..99 => self.bound = self.random.usize(self.table.len().max(1)..60),
            _ => {
                let some = self.random.usize(0..self.model.len().max(1));
                if let Some(who) = self.model.keys().nth(some).copied() {
                    self.end(who, "done");
                }
            }
        }
    }

    fn check(&self) {
        assert_eq!(self.table.len(), self.model.len());
        assert!(self.table.len() <= self.bound);
        for (who, known) in &self.model {
            let idle = self.now - known.active_at;
            let most = known.idle_limit + TICK_MS;
            assert!(idle <= most, "{who:?} is idle for {idle} ms and may be for {most}");
        }
    }
}

fn run(seed: u64) -> HashMap<&'static str, usize> {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
        world.check();
    }
    world.pass(200_000_000);
    assert_eq!(world.table.len(), 0, "everybody ends");
    assert_eq!(world.wheel.next_in(world.now), None, "and nobody leaves a timer behind");
    world.ended
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

#[test]
fn flows_end_when_they_should() {
    if let Some(seed) = number("HEADGATE_FLOW_SEED") {
        run(seed);
        return;
    }
    let mut ended: HashMap<&str, usize> = HashMap::new();
    for seed in 0..number("HEADGATE_FLOW_RUNS").unwrap_or(RUNS) {
        let result = std::panic::catch_unwind(|| run(seed));
        let result = result.unwrap_or_else(|_| panic!("replay it with HEADGATE_FLOW_SEED={seed}"));
        result.into_iter().for_each(|(why, count)| *ended.entry(why).or_default() += count);
    }
    for why in ["idle", "evicted", "listener", "done"] {
        assert!(ended.get(why).is_some_and(|count| *count > 0), "{why} never happened: {ended:?}");
    }
}
