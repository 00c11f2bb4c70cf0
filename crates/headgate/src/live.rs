//! The running planes as the admin side sees them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use headgate_admin::Live;
use headgate_admin::live::{CheckedNode, CoreState, Draining, ListenerState, Reserved};
use headgate_model::listen::{ListenerSpec, Transport};
use headgate_model::settings::ListenEntry;
use headgate_model::{Problem, ResourceSet};
use headgate_net::Pulse;
use headgate_store::{Health, Store};
use headgate_stream::{CloseReason, DropCause, Shared};
use headgate_upstream::{Address, Upstream};
use serde_json::Value;

use crate::cores::{Cores, place};
use crate::listeners::Listeners;
use crate::reconcile::Published;
use crate::watchdog::Watchdog;
use crate::{drain, memory_budget, metrics};

/// Longest wait of an Admin API answer for its change to be served.
const APPLY_LIMIT: Duration = Duration::from_secs(2);

/// Longest wait for the cores to say what drains.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

pub(crate) struct Planes {
    pub(crate) published: Arc<Published>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) store: Arc<dyn Store>,
    /// `None`: no stream plane in this process.
    pub(crate) cores: Option<Arc<Cores>>,
    /// Looks after the data threads.
    pub(crate) watchdog: Option<Arc<Watchdog>>,
    /// What is to be open.
    pub(crate) listeners: Arc<Listeners>,
    /// A control plane: other processes have the stream plane.
    pub(crate) is_elsewhere: bool,
    pub(crate) is_ready: AtomicBool,
}

#[async_trait]
impl Live for Planes {
    fn stream_enabled(&self) -> bool {
        self.cores.is_some() || self.is_elsewhere
    }

    fn listeners(&self) -> Vec<ListenerSpec> {
        match &self.cores {
            Some(cores) => cores.listeners(),
            None if self.is_elsewhere => self.listeners.wanted(),
            None => Vec::new(),
        }
    }

    fn configured_listeners(&self) -> Vec<ListenEntry> {
        self.listeners.entries()
    }

    fn reserve(&self, id: &str, document: &Value) -> Result<Option<Reserved>, String> {
        let held = self.listeners.reserve(id, document)?;
        Ok(held.map(|held| Box::new(held) as Reserved))
    }

    fn listener_states(&self) -> Vec<ListenerState> {
        let Some(cores) = &self.cores else { return Vec::new() };
        let owners = self.listeners.owners();
        let state = |spec: &ListenerSpec| {
            let (tcp, udp) = self.shared.stats.listeners.open_at(&spec.addr.to_string());
            ListenerState {
                listener: spec.to_string(),
                source: owners.get(&place(spec)).cloned(),
                sessions: if spec.transport == Transport::Tcp { tcp } else { udp },
                max_connections: spec.max_connections,
            }
        };
        cores.listeners().iter().map(state).collect()
    }

    async fn draining(&self) -> Vec<Draining> {
        let Some(cores) = self.cores.clone() else { return Vec::new() };
        let ask = move || cores.remaining(ANSWER_LIMIT);
        drain::merge(tokio::task::spawn_blocking(ask).await.unwrap_or_default())
    }

    fn cores(&self) -> Vec<CoreState> {
        let Some(cores) = &self.cores else { return Vec::new() };
        let times: HashMap<_, _> = metrics::process::cores().into_iter().collect();
        let state = |(core, pulse): (usize, &Arc<Pulse>)| {
            let (sessions, flows) = self.shared.stats.listeners.open_on(core);
            let stats = self.shared.stats.core(core);
            let watchdog = self.watchdog.as_ref();
            CoreState {
                core,
                thread: pulse.thread(),
                sessions,
                flows,
                accepted: stats.accepted.get(),
                flows_begun: stats.flows.get(),
                cpu: Duration::from_nanos(times.get(&core).map_or(0, |times| times.cpu)),
                turns: pulse.turns(),
                busy: pulse.busy().map(|(_, lasted)| lasted),
                doing: headgate_stream::core::doing(pulse.doing()),
                longest_turn: watchdog.map(|it| it.longest_turn(core)).unwrap_or_default(),
                stalls: watchdog.map_or(0, |it| it.stalls(core)),
            }
        };
        cores.pulses().iter().enumerate().map(state).collect()
    }

    fn resources(&self) -> Arc<ResourceSet> {
        Arc::clone(&self.published.served.load().resources)
    }

    async fn applied(&self, revision: u64) -> bool {
        let mut seen = self.published.revision.subscribe();
        let wait = seen.wait_for(|seen| *seen >= revision);
        matches!(tokio::time::timeout(APPLY_LIMIT, wait).await, Ok(Ok(_)))
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = self.store.health().problems;
        problems.extend(self.published.served.load().problems.iter().cloned());
        problems.extend(self.listeners.problems());
        problems.extend(memory_budget::problem(&self.shared.pressure));
        problems
    }

    fn counters(&self) -> Vec<(String, u64)> {
        let stats = &self.shared.stats;
        let mut counters = vec![
            ("sessions_now".to_owned(), self.shared.sessions.open() as u64),
            ("tcp_accepted".to_owned(), stats.sum(|core| core.accepted.get())),
            ("udp_flows".to_owned(), stats.sum(|core| core.flows.get())),
            ("bytes_received".to_owned(), stats.sum(|core| core.bytes_received.get())),
            ("bytes_sent".to_owned(), stats.sum(|core| core.bytes_sent.get())),
            ("accept_paused".to_owned(), stats.sum(|core| core.accept_paused.get())),
            ("panics".to_owned(), stats.sum(|core| core.panics.get())),
        ];
        let watched = self.published.watched.borrow();
        let waiting = watched.iter().map(|upstream| u64::from(upstream.waiting())).sum();
        counters.push(("sessions_waiting_now".to_owned(), waiting));
        drop(watched);
        let pressure = &self.shared.pressure;
        counters.push(("memory_used_now".to_owned(), pressure.used()));
        counters.push(("memory_budget_now".to_owned(), pressure.budget().unwrap_or(0)));
        counters.push(("memory_tight_now".to_owned(), u64::from(pressure.is_tight())));
        let health = self.store.health();
        counters.push(("store_stale_now".to_owned(), u64::from(health.stale.is_some())));
        counters.push(("store_age_seconds".to_owned(), health.age(unix_now())));
        counters.push(("store_disk_failing_now".to_owned(), u64::from(health.disk.is_some())));
        counters.push(("store_resyncs".to_owned(), health.resyncs));
        counters.push(("store_drifts".to_owned(), health.drifts));
        counters
            .extend(DropCause::ALL.map(|cause| {
                (format!("datagrams_dropped_{}", cause.name()), stats.dropped(cause))
            }));
        counters.extend(
            CloseReason::ALL
                .map(|reason| (format!("closed_{}", reason.code()), stats.closed(reason))),
        );
        counters
    }

    fn checked_nodes(&self, key: &str) -> Vec<CheckedNode> {
        let watched = self.published.watched.borrow();
        let upstream = watched.iter().find(|it| it.key() == key && it.is_checked());
        upstream.map(|upstream| checked_nodes(upstream)).unwrap_or_default()
    }

    fn health(&self) -> Health {
        self.store.health()
    }

    fn ready(&self) -> Result<(), String> {
        if !self.is_ready.load(Ordering::Acquire) {
            return Err("not ready".to_owned());
        }
        if let Some((core, lasted)) = self.watchdog.as_ref().and_then(|it| it.stalled()) {
            return Err(format!("core {core} has not come back for {} s", lasted.as_secs()));
        }
        let health = self.store.health();
        if !health.is_loaded {
            return Err("worker id: 0 has not received configuration".to_owned());
        }
        match health.stale {
            Some(stale) if health.unready_when_stale => {
                Err(format!("the configuration is stale: {}", stale.reason))
            }
            _ => Ok(()),
        }
    }
}

impl std::fmt::Debug for Planes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Planes").field("cores", &self.cores).finish_non_exhaustive()
    }
}

pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The endpoints of an upstream as its health checks know them.
fn checked_nodes(upstream: &Upstream) -> Vec<CheckedNode> {
    let endpoints = upstream.endpoints();
    let node = |endpoint: &Arc<headgate_upstream::Endpoint>| {
        let (ip, port) = match &endpoint.address {
            Address::Ip(address) => (address.ip().to_string(), address.port()),
            Address::Unix(path) => (format!("unix:{}", path.display()), 0),
        };
        let port = upstream.checks().and_then(|checks| checks.active.port).unwrap_or(port);
        let record = endpoint.health();
        CheckedNode {
            hostname: endpoint.host.as_deref().unwrap_or(&ip).to_owned(),
            host_header: upstream.probe_host().map(str::to_owned),
            ip,
            port,
            status: record.status.name(),
            success: record.success,
            http_failure: record.http_failure,
            tcp_failure: record.tcp_failure,
            timeout_failure: record.timeout_failure,
        }
    };
    endpoints.endpoints().map(node).collect()
}
