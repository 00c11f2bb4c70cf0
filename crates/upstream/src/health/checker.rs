//! The checker of one upstream: probes its endpoints on time and keeps its endpoint set in step
//! with their health.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use headgate_model::resource::checks::Checks;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::Event;
use super::grid::Grid;
use super::knock::Knocks;
use super::probe::meaning;
use crate::endpoint_set::EndpointSet;
use crate::{Endpoint, Upstream};

/// How often an endpoint set is built anew while endpoints come to their full weight.
const WARMING: Duration = Duration::from_millis(250);
/// A change of addresses goes unnoticed for no longer than this.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Whom a probe goes to, and the upstream that says how.
pub(super) struct Target {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) upstream: Arc<Upstream>,
}

/// How a target is probed.
pub(super) enum Probe<Asking> {
    /// By connecting to this address.
    Knock(SocketAddr),
    /// By what tells what it learned, if anything.
    Ask(Asking),
}

/// Runs until the task is aborted, and wakes in step with `grid`. `probe` tells how to probe. With
/// `probes` off it only keeps the endpoint set in step.
pub(super) async fn run<Asking>(
    mut upstreams: watch::Receiver<Arc<Upstream>>,
    probe: impl Fn(Target) -> Probe<Asking>,
    grid: Grid,
    probes: bool,
) where
    Asking: Future<Output = Option<Event>> + Send + 'static,
{
    let board = Arc::clone(&upstreams.borrow().plan.board);
    let mut schedule = Schedule::default();
    let mut knocks = Knocks::default();
    let mut under_way: JoinSet<(usize, Instant)> = JoinSet::new();
    let mut health_changed = true;
    loop {
        let upstream = upstreams.borrow_and_update().clone();
        if health_changed || upstream.endpoints().is_warming() {
            upstream.follow_health();
        }
        let pause = if upstream.endpoints().is_warming() { WARMING } else { LOOK_AGAIN };
        let mut wake = grid.at_or_after(Instant::now() + pause);
        if let Some(checks) = upstream.checks().filter(|_| probes) {
            schedule.sync(&upstream.endpoints(), checks, health_changed);
            let most = checks.active.concurrency;
            for (place, endpoint) in
                schedule.due(most.saturating_sub(under_way.len() + knocks.len()))
            {
                let (to, upstream) = (Arc::clone(&endpoint), Arc::clone(&upstream));
                let asking = match probe(Target { endpoint: to, upstream }) {
                    Probe::Knock(address) => {
                        knocks.knock(place, endpoint, address, checks.active.timeout);
                        continue;
                    }
                    Probe::Ask(asking) => asking,
                };
                under_way.spawn(async move {
                    let began = Instant::now();
                    if let Some(event) = asking.await {
                        endpoint.note_probe(event);
                    }
                    (place, began)
                });
            }
            for (knock, result) in knocks.heard() {
                if let Some(event) = meaning(result, &knock.endpoint) {
                    knock.endpoint.note_probe(event);
                }
                schedule.finished(knock.place, knock.began, checks);
            }
            if under_way.len() + knocks.len() < most {
                wake = schedule.next().map_or(wake, |next| grid.at_or_after(next).min(wake));
            }
            wake = knocks.next().map_or(wake, |look| look.min(wake));
        }
        health_changed = false;
        // In order, so that a simulation is the same each time; all are looked at each time round.
        tokio::select! {
            biased;
            changed = upstreams.changed() => if changed.is_err() { return } else { health_changed = true },
            () = board.changed.notified() => health_changed = true,
            Some(done) = under_way.join_next(), if !under_way.is_empty() => {
                let mut next = Some(done);
                while let Some(done) = next {
                    match (done, upstream.checks()) {
                        (Ok((place, began)), Some(checks)) => schedule.finished(place, began, checks),
                        _ => {
                            schedule.forget();
                            knocks.forget();
                        }
                    }
                    next = under_way.try_join_next();
                }
            }
            () = sleep_until(wake) => {}
        }
    }
}

/// When each endpoint is probed.
#[derive(Debug, Default)]
struct Schedule {
    built_for: Option<Arc<EndpointSet>>,
    targets: HashMap<usize, Planned>,
    /// Times that were set, earliest first; one that is not its target's any more means nothing.
    times: BinaryHeap<Reverse<(Instant, usize)>>,
}

#[derive(Debug)]
struct Planned {
    endpoint: Arc<Endpoint>,
    /// When it is due. `None`: never, or a probe is under way.
    at: Option<Instant>,
    busy: bool,
}

impl Schedule {
    /// Takes over the endpoints of a set. `all`: also looks at endpoints that were known, whose
    /// interval may be another one now.
    fn sync(&mut self, set: &Arc<EndpointSet>, checks: &Checks, all: bool) {
        let is_new = self.built_for.as_ref().is_none_or(|known| !Arc::ptr_eq(known, set));
        if is_new {
            self.built_for = Some(Arc::clone(set));
            let mut known = std::mem::take(&mut self.targets);
            for endpoint in set.endpoints() {
                let place = Arc::as_ptr(endpoint) as usize;
                // Who is held here keeps its place in memory, so that places are never mixed up.
                let target = known.remove(&place).unwrap_or_else(|| Planned {
                    endpoint: Arc::clone(endpoint),
                    at: None,
                    busy: false,
                });
                self.targets.insert(place, target);
            }
        }
        if is_new || all {
            let places = set.endpoints().map(|endpoint| Arc::as_ptr(endpoint) as usize);
            places.for_each(|place| self.plan(place, None, checks));
        }
    }

    /// Sets the time of a target: an interval after the probe that `began`, or, if there was none
    /// yet, a random part of one from now, so that a thousand checkers do not probe at once.
    fn plan(&mut self, place: usize, began: Option<Instant>, checks: &Checks) {
        let Some(target) = self.targets.get_mut(&place) else { return };
        if target.busy {
            return;
        }
        let interval = match target.endpoint.is_usable() {
            true => checks.active.healthy.interval,
            false => checks.active.unhealthy.interval,
        };
        if interval.is_zero() {
            target.at = None;
            return;
        }
        let at = match began {
            Some(began) => began + interval.mul_f64(0.95 + fastrand::f64() / 10.0),
            None => Instant::now() + interval.mul_f64(0.5 + fastrand::f64() / 2.0),
        };
        if began.is_some() || target.at.is_none_or(|known| known > at) {
            target.at = Some(at);
            self.times.push(Reverse((at, place)));
        }
    }

    /// Endpoints whose time has come, at most `most`; they are under way then.
    fn due(&mut self, most: usize) -> Vec<(usize, Arc<Endpoint>)> {
        let mut due = Vec::new();
        let now = Instant::now();
        while due.len() < most && self.next().is_some_and(|at| at <= now) {
            let Some(Reverse((_, place))) = self.times.pop() else { break };
            if let Some(target) = self.targets.get_mut(&place) {
                (target.at, target.busy) = (None, true);
                due.push((place, Arc::clone(&target.endpoint)));
            }
        }
        due
    }

    /// The earliest time.
    fn next(&mut self) -> Option<Instant> {
        while let Some(Reverse((at, place))) = self.times.peek().copied() {
            if self.targets.get(&place).is_some_and(|target| target.at == Some(at)) {
                return Some(at);
            }
            self.times.pop();
        }
        None
    }

    fn finished(&mut self, place: usize, began: Instant, checks: &Checks) {
        if let Some(target) = self.targets.get_mut(&place) {
            target.busy = false;
        }
        self.plan(place, Some(began), checks);
    }

    /// Starts over, when it is not known which probe ended.
    fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use headgate_model::resource::Upstream as Resource;
    use serde_json::json;

    use super::*;
    use crate::Names;
    use crate::health::Event;

    fn upstream(ports: &[u16], healthy: bool) -> Arc<Upstream> {
        let nodes: serde_json::Map<_, _> =
            ports.iter().map(|port| (format!("127.0.0.1:{port}"), json!(1))).collect();
        let mut active = json!({"type": "tcp", "unhealthy": {"interval": 3, "tcp_failures": 1}});
        if healthy {
            active["healthy"] = json!({"interval": 60});
        }
        let resource = json!({"nodes": nodes, "checks": {"active": active}});
        let resource: Resource = serde_json::from_value(resource).unwrap();
        let upstream = Upstream::new(
            "upstreams/1".into(),
            1,
            &resource,
            &Names::default(),
            |_| None,
            None,
            None,
        );
        let upstream = upstream.unwrap();
        upstream.plan.board.set_live(true);
        upstream
    }

    fn sync(schedule: &mut Schedule, upstream: &Upstream, all: bool) {
        schedule.sync(&upstream.endpoints(), upstream.checks().unwrap(), all);
    }

    #[tokio::test(start_paused = true)]
    async fn each_is_probed_once_in_its_interval() {
        let upstream = upstream(&[1, 2, 3], true);
        let checks = upstream.checks().unwrap();
        let mut schedule = Schedule::default();
        let mut probes = 0;
        for _ in 0..600 {
            sync(&mut schedule, &upstream, false);
            for (place, _) in schedule.due(10) {
                probes += 1;
                schedule.finished(place, Instant::now(), checks);
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        // Ten intervals, the first after at most one.
        assert!((27..=33).contains(&probes), "{probes}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_at_a_time_than_asked_and_none_twice() {
        let upstream = upstream(&[1, 2, 3], true);
        let mut schedule = Schedule::default();
        sync(&mut schedule, &upstream, false);
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(schedule.due(2).len(), 2);
        sync(&mut schedule, &upstream, true);
        assert_eq!(schedule.due(2).len(), 1, "two are under way");
        assert_eq!(schedule.next(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_turns_unhealthy_is_probed_by_the_other_interval() {
        for healthy in [true, false] {
            let upstream = upstream(&[1, 2], healthy);
            let mut schedule = Schedule::default();
            sync(&mut schedule, &upstream, false);
            assert_eq!(schedule.next().is_some(), healthy, "no `healthy`, no probes");
            let endpoint = Arc::clone(upstream.endpoints().endpoints().next().unwrap());
            endpoint.note_probe(Event::TcpFailure);
            assert!(!endpoint.is_usable());
            sync(&mut schedule, &upstream, true);
            assert!(schedule.next().unwrap() <= Instant::now() + Duration::from_secs(3));
        }
    }
}
