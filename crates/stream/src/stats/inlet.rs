//! A listener as its sessions see it: what is configured, and the counts that they add to.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use headgate_model::listen::{ListenerSpec, Transport};
use headgate_telemetry::counter::Gauge;
use headgate_telemetry::{Counter, PerCore};
use headgate_upstream::Address;

use super::recorded::{Recorded, Recorder};
use crate::session::Traffic;

/// What one core counts for one listening address.
#[derive(Debug, Default)]
pub struct ListenerCounts {
    /// Sessions open now.
    pub active: Gauge,
    /// Those of them that are UDP flows.
    pub flows: Gauge,
    /// Bytes read from clients.
    pub from_client: Counter,
    /// Bytes written to clients.
    pub to_client: Counter,
    /// Bytes written to upstreams.
    pub to_upstream: Counter,
    /// Bytes read from upstreams.
    pub from_upstream: Counter,
}

/// Counts by listening address. An address keeps its counts when its listener closes: there are no
/// more of them than addresses that were ever configured.
#[derive(Debug)]
pub struct ListenerStats {
    cores: usize,
    /// What the plugin `prometheus` counts.
    pub recorded: Arc<Recorded>,
    by_address: Mutex<BTreeMap<String, Arc<PerCore<ListenerCounts>>>>,
}

impl ListenerStats {
    pub(super) fn new(cores: usize) -> Self {
        let recorded = Arc::new(Recorded::new(cores));
        Self { cores, recorded, by_address: Mutex::default() }
    }

    /// The listener for the sessions of one core.
    pub(crate) fn inlet(&self, spec: ListenerSpec, core: usize) -> Inlet {
        let address = spec.addr.to_string();
        let counts = self.of(&address);
        let recorder = Recorder::new(Arc::clone(&self.recorded));
        Inlet { spec, address, counts, recorder, core }
    }

    /// The counts of one listening address.
    pub(crate) fn of(&self, address: &str) -> Arc<PerCore<ListenerCounts>> {
        let mut all = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = all.entry(address.to_owned());
        Arc::clone(counts.or_insert_with(|| Arc::new(PerCore::new(self.cores))))
    }

    /// Open TCP sessions and UDP flows of a core.
    #[must_use]
    pub fn open_on(&self, core: usize) -> (u64, u64) {
        let all = self.all();
        let counts = all.iter().filter_map(|(_, counts)| counts.iter().find(|it| it.0 == core));
        counts.fold((0, 0), |(tcp, udp), (_, counts)| {
            let flows = counts.flows.get();
            (tcp + counts.active.get().saturating_sub(flows), udp + flows)
        })
    }

    /// Open sessions of a listening address, TCP and UDP.
    #[must_use]
    pub fn open_at(&self, address: &str) -> (u64, u64) {
        let all = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(counts) = all.get(address) else { return (0, 0) };
        let flows = counts.sum(|of| of.flows.get());
        (counts.sum(|of| of.active.get()).saturating_sub(flows), flows)
    }

    /// The listening addresses and what was counted for them.
    pub(crate) fn all(&self) -> Vec<(String, Arc<PerCore<ListenerCounts>>)> {
        let all = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(address, counts)| (address.clone(), Arc::clone(counts))).collect()
    }
}

/// A listener of one core.
#[derive(Debug)]
pub struct Inlet {
    spec: ListenerSpec,
    /// As a label.
    address: String,
    counts: Arc<PerCore<ListenerCounts>>,
    recorder: Recorder,
    core: usize,
}

impl Inlet {
    /// Adds bytes that just passed.
    pub(crate) fn count(&self, more: &Traffic) {
        let counts = self.counts.get(self.core);
        counts.from_client.add(more.from_client);
        counts.to_client.add(more.to_client);
        counts.to_upstream.add(more.to_upstream);
        counts.from_upstream.add(more.from_upstream);
    }

    /// Counts the end of a session for the plugin `prometheus`.
    pub(crate) fn record(&self, route: &str, code: u16, node: &Option<Address>) {
        self.recorder.route(self.core, route);
        self.recorder.ending(self.core, code, &self.address, node);
    }

    /// Whether it has more sessions than it may. Those that were just begun count, so that cores
    /// that begin one at the same moment both see the other's.
    pub(crate) fn is_over_full(&self) -> bool {
        let Some(most) = self.spec.max_connections else { return false };
        let open = match self.spec.transport {
            Transport::Tcp => self.counts.sum(|of| of.active.get().saturating_sub(of.flows.get())),
            Transport::Udp => self.counts.sum(|of| of.flows.get()),
        };
        open > u64::from(most)
    }

    /// Number of the core.
    pub(crate) const fn core(&self) -> usize {
        self.core
    }

    /// An inlet that nobody reads the counts of.
    #[cfg(test)]
    pub(crate) fn alone(spec: ListenerSpec) -> Rc<Self> {
        Rc::new(ListenerStats::new(1).inlet(spec, 0))
    }
}

impl Deref for Inlet {
    type Target = ListenerSpec;

    fn deref(&self) -> &ListenerSpec {
        &self.spec
    }
}

impl fmt::Display for Inlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.spec.fmt(f)
    }
}

/// One open session; it is counted until this is dropped, however that comes about.
#[derive(Debug)]
pub(crate) struct Open(Rc<Inlet>);

impl Open {
    pub(crate) fn new(inlet: Rc<Inlet>) -> Self {
        let counts = inlet.counts.get(inlet.core);
        counts.active.enter();
        if inlet.transport == Transport::Udp {
            counts.flows.enter();
        }
        Self(inlet)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let counts = self.0.counts.get(self.0.core);
        counts.active.leave();
        if self.0.transport == Transport::Udp {
            counts.flows.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use headgate_model::listen::ListenAddr;

    use super::*;

    fn spec(text: &str) -> ListenerSpec {
        ListenerSpec {
            addr: ListenAddr::Ip(text.parse().unwrap()),
            transport: Transport::Tcp,
            tls: false,
            tls_passthrough: false,
            alpn: Vec::new(),
            proxy_protocol: false,
            proxy_protocol_to_upstream: None,
            max_connections: None,
        }
    }

    #[test]
    fn an_address_keeps_its_counts() {
        let stats = ListenerStats::new(2);
        let one = Rc::new(stats.inlet(spec("0.0.0.0:9100"), 0));
        let other = Rc::new(stats.inlet(spec("0.0.0.0:9100"), 1));
        let _here = Open::new(Rc::clone(&one));
        drop(Open::new(Rc::clone(&other)));
        one.count(&Traffic { from_client: 3, ..Traffic::default() });
        other.count(&Traffic { from_client: 4, to_client: 1, ..Traffic::default() });
        drop((one, other));
        let all = stats.all();
        let [(address, counts)] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!(address, "0.0.0.0:9100");
        assert_eq!(counts.sum(|of| of.active.get()), 1);
        assert_eq!(counts.sum(|of| of.from_client.get()), 7);
        assert_eq!(counts.sum(|of| of.to_client.get()), 1);
    }
}
