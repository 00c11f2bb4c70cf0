//! A listener as its sessions see it: what is configured, and the counts that they add to.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use headgate_model::listen::ListenerSpec;
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
        inlet.counts.get(inlet.core).active.enter();
        Self(inlet)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counts.get(self.0.core).active.leave();
    }
}

#[cfg(test)]
mod tests {
    use headgate_model::listen::{ListenAddr, Transport};

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
