//! Counts that go on over an upgrade: written down by the older process, added to its own by the
//! newer one. They fill a slot behind those of the cores, so that every sum has them.

use std::collections::BTreeMap;

use headgate_telemetry::Counter;
use serde::{Deserialize, Serialize};

use super::recorded::Ending;
use super::routes::{RouteCounts, RouteStats};
use super::{CoreStats, DropCause, Stats};
use crate::mirror;
use crate::outcome::CloseReason;
use crate::throttle::Way;

/// Numbers by name. A version that does not know a name passes over it.
type Numbers = BTreeMap<String, u64>;

/// What a process and its predecessors counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Handed {
    plane: Numbers,
    times: BTreeMap<String, Vec<u64>>,
    /// By listening address.
    listeners: BTreeMap<String, Numbers>,
    /// By id; the empty one stands for sessions that no route took.
    routes: BTreeMap<String, Numbers>,
    recorded_routes: Numbers,
    recorded_endings: Vec<(u16, String, String, u64)>,
}

impl Stats {
    /// Everything counted so far, including what was inherited.
    #[must_use]
    pub fn hand_over(&self) -> Handed {
        let plane = sums(self.cores.iter().flat_map(|(_, core)| plane_fields(core)));
        let times = [
            ("handshake", self.totals(|core| &core.handshake_time).numbers()),
            ("connect", self.totals(|core| &core.connect_time).numbers()),
            ("queue", self.totals(|core| &core.queue_time).numbers()),
            ("first_byte", self.totals(|core| &core.first_byte_time).numbers()),
            ("session", self.totals(|core| &core.session_time).numbers()),
        ];
        let listeners = self.listeners.all().into_iter().map(|(address, counts)| {
            let numbers = [
                ("from_client", counts.sum(|of| of.from_client.get())),
                ("to_client", counts.sum(|of| of.to_client.get())),
                ("to_upstream", counts.sum(|of| of.to_upstream.get())),
                ("from_upstream", counts.sum(|of| of.from_upstream.get())),
            ];
            (address, numbers.map(|(name, value)| (name.to_owned(), value)).into())
        });
        let used = self.routes.used();
        let routes = used.iter().map(|(id, stats)| (id.clone(), route_numbers(stats)));
        let unrouted = (String::new(), route_numbers(&self.unrouted));
        let recorded = &self.listeners.recorded;
        let endings = recorded.by_ending().into_iter();
        Handed {
            plane,
            times: times.map(|(name, numbers)| (name.to_owned(), numbers)).into(),
            listeners: listeners.collect(),
            routes: routes.chain([unrouted]).collect(),
            recorded_routes: recorded
                .by_route()
                .into_iter()
                .map(|(label, count)| (label.clone(), count))
                .collect(),
            recorded_endings: endings
                .map(|(ending, count)| {
                    (ending.code, ending.listener.clone(), ending.node.clone(), count)
                })
                .collect(),
        }
    }

    /// Takes what a predecessor counted, in place of what it told before. One thread calls this.
    pub fn inherit(&self, handed: &Handed) {
        let slot = self.inherited;
        let core = self.core(slot);
        set(plane_fields(core), &handed.plane);
        let times = |name| handed.times.get(name).map(Vec::as_slice).unwrap_or_default();
        core.handshake_time.set(times("handshake"));
        core.connect_time.set(times("connect"));
        core.queue_time.set(times("queue"));
        core.first_byte_time.set(times("first_byte"));
        core.session_time.set(times("session"));
        for (address, numbers) in &handed.listeners {
            let counts = self.listeners.of(address);
            let counts = counts.get(slot);
            let number = |name: &str| numbers.get(name).copied().unwrap_or_default();
            counts.from_client.set(number("from_client"));
            counts.to_client.set(number("to_client"));
            counts.to_upstream.set(number("to_upstream"));
            counts.from_upstream.set(number("from_upstream"));
        }
        for (id, numbers) in &handed.routes {
            let by_id = (!id.is_empty()).then(|| self.routes.of(id));
            let stats = by_id.as_deref().unwrap_or(&self.unrouted);
            set(route_fields(stats.slot(slot)), numbers);
        }
        let recorded = &self.listeners.recorded;
        for (label, count) in &handed.recorded_routes {
            recorded.inherit_route(slot, label, *count);
        }
        for (code, listener, node, count) in &handed.recorded_endings {
            let (listener, node) = (listener.clone(), node.clone());
            recorded.inherit_ending(slot, Ending { code: *code, listener, node }, *count);
        }
    }
}

fn plane_fields(core: &CoreStats) -> Vec<(String, &Counter)> {
    let plain = [
        ("accepted", &core.accepted),
        ("flows", &core.flows),
        ("bytes_received", &core.bytes_received),
        ("bytes_sent", &core.bytes_sent),
        ("accept_paused", &core.accept_paused),
        ("panics", &core.panics),
        ("mirror_sent", &core.mirror_sent),
        ("mirror_dropped", &core.mirror_dropped),
    ];
    let plain = plain.into_iter().map(|(name, counter)| (name.to_owned(), counter));
    let throttled = Way::ALL.into_iter().zip(&core.throttled);
    let throttled = throttled.map(|(way, counter)| (format!("throttled_{}", way.name()), counter));
    let mirrors = mirror::Ending::ALL.into_iter().zip(&core.mirrors);
    let mirrors = mirrors.map(|(ending, counter)| (format!("mirror_{}", ending.name()), counter));
    let dropped = DropCause::ALL.into_iter().zip(&core.datagrams_dropped);
    let dropped = dropped.map(|(cause, counter)| (format!("dropped_{}", cause.name()), counter));
    let more = dropped.chain(throttled).chain(mirrors);
    plain.chain(closed_fields(&core.closed)).chain(more).collect()
}

fn route_fields(counts: &RouteCounts) -> Vec<(String, &Counter)> {
    let plain = [
        ("retries", &counts.retries),
        ("from_client", &counts.from_client),
        ("to_client", &counts.to_client),
    ];
    let plain = plain.into_iter().map(|(name, counter)| (name.to_owned(), counter));
    plain.chain(closed_fields(&counts.closed)).collect()
}

fn closed_fields(closed: &[Counter]) -> impl Iterator<Item = (String, &Counter)> {
    let reasons = CloseReason::ALL.into_iter().zip(closed);
    reasons.map(|(reason, counter)| (format!("closed_{}", reason.code()), counter))
}

fn route_numbers(stats: &RouteStats) -> Numbers {
    let mut numbers = sums(stats.slots().flat_map(route_fields));
    numbers.retain(|_, value| *value > 0);
    numbers
}

fn sums<'a>(fields: impl Iterator<Item = (String, &'a Counter)>) -> Numbers {
    let mut sums = Numbers::new();
    for (name, counter) in fields {
        let sum = sums.entry(name).or_default();
        *sum = sum.wrapping_add(counter.get());
    }
    sums
}

fn set(fields: Vec<(String, &Counter)>, numbers: &Numbers) {
    for (name, counter) in fields {
        if let Some(value) = numbers.get(&name) {
            counter.set(*value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_goes_on_counting_and_so_does_its_own() {
        let first = Stats::new(2);
        first.core(1).accepted.add(5);
        first.core(0).closed[CloseReason::Idle.index()].add(2);
        first.core(0).session_time.record(1000);
        first.core(0).queue_time.record(70);
        first.core(0).throttled[Way::Down as usize].add(11);
        first.core(0).mirrors[0].add(12);
        first.core(0).mirror_sent.add(13);
        first.listeners.of("0.0.0.0:1").get(1).from_client.add(7);
        let route = first.routes.of("r");
        route.closed(1, CloseReason::Done, 1);
        first.unrouted.closed(0, CloseReason::NoRoute, 0);
        first.listeners.recorded.inherit_route(0, "r", 3);
        let text = serde_json::to_string(&first.hand_over()).unwrap();
        let second = Stats::new(1);
        second.core(0).accepted.add(1);
        second.inherit(&serde_json::from_str(&text).unwrap());
        assert_eq!(second.sum(|core| core.accepted.get()), 6);
        assert_eq!(second.closed(CloseReason::Idle), 2);
        assert_eq!(second.totals(|core| &core.session_time).count(), 1);
        assert_eq!(second.totals(|core| &core.queue_time).sum(), 70);
        assert_eq!(second.sum(|core| core.throttled[Way::Down as usize].get()), 11);
        assert_eq!(second.sum(|core| core.mirrors[0].get()), 12);
        assert_eq!(second.sum(|core| core.mirror_sent.get()), 13);
        assert_eq!(second.listeners.of("0.0.0.0:1").sum(|of| of.from_client.get()), 7);
        assert_eq!(second.routes.of("r").sum(|of| of.retries.get()), 1);
        assert_eq!(second.listeners.recorded.by_route(), [(&"r".to_owned(), 3)]);
        // The predecessor still had sessions.
        first.core(1).accepted.add(1);
        second.inherit(&first.hand_over());
        assert_eq!(second.sum(|core| core.accepted.get()), 7);
        let third = Stats::new(4);
        third.inherit(&second.hand_over());
        assert_eq!(third.hand_over(), second.hand_over());
    }
}
