//! Choosing and reaching a server. Plane-neutral: nothing here knows of routes or plugins.
//!
//! An [`Upstream`] is the compiled form of an upstream object: its settings and the current
//! [`EndpointSet`], which is swapped whole when names resolve to other addresses.

#![forbid(unsafe_code)]

pub mod balancer;
pub mod client_tls;
mod clock;
pub mod connector;
pub mod crc32;
pub mod endpoint;
mod endpoint_set;
pub mod hash_key;
pub mod health;
mod line;
pub mod names;
mod secured;
pub mod sources;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use headgate_model::resource::Upstream as Resource;
use headgate_model::resource::checks::Checks;
use headgate_model::resource::upstream::{Node, OnNodeDown, OnUnhealthy};

pub use connector::{ConnectError, Connected, Opening};
pub use endpoint::{Address, Endpoint, Lease, Removal};
use endpoint_set::Plan;
pub use endpoint_set::{EndpointSet, Tried};
pub use hash_key::{HashKey, KeyHash};
use health::Board;
pub use names::Names;
pub use secured::{TlsFailure, UpstreamTls};
pub use sources::Sources;

const DEFAULT_BALANCER: &str = "roundrobin";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
/// Longer time limits mean this one: ten years.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Limits of an upstream (`spec/routing.md`, sections 6 and 8).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Limit for one connection attempt.
    pub connect_timeout: Duration,
    /// A session without bytes in either direction ends after this time.
    pub idle_timeout: Duration,
    /// Attempts after the first; `None`: one for each other endpoint.
    pub retries: Option<u32>,
    /// No attempt starts later than this after the first.
    pub retry_timeout: Option<Duration>,
    /// What happens to the sessions of an endpoint that turns unhealthy.
    pub on_unhealthy: OnUnhealthy,
    /// What happens to the flows of an endpoint that is down or gone.
    pub on_node_down: OnNodeDown,
    /// Sessions wait here while no endpoint takes them.
    pub queue: Option<Queue>,
}

/// How sessions wait for an endpoint.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Queue {
    /// Most that wait, on all cores.
    pub most: u32,
    /// Longest wait of a session.
    pub timeout: Duration,
}

/// A set of servers to choose from, and how.
#[derive(Debug)]
pub struct Upstream {
    key: String,
    /// Revision of the object that it is compiled from.
    version: u64,
    settings: Settings,
    nodes: Vec<Node>,
    plan: Plan,
    hash_key: Option<HashKey>,
    checks: Option<Arc<Checks>>,
    /// What probes name the servers, whatever their nodes are called (`pass_host: rewrite`).
    probe_host: Option<String>,
    tls: Option<UpstreamTls>,
    sources: Option<Sources>,
    endpoints: ArcSwap<EndpointSet>,
    /// Held while the endpoint set is built anew.
    rebuilding: Mutex<()>,
}

/// `type` names no balancer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid balancer type: {0}")]
pub struct InvalidBalancer(String);

impl Upstream {
    /// Compiles a resource. `key` says where it is written, e.g. `upstreams/1`, `version` at which
    /// revision of the store; `find` gives the plane's number of a variable; with `tls` its servers
    /// are spoken to in TLS. Counts of sessions are taken over from `previous`, what the
    /// resource was before.
    ///
    /// # Errors
    /// There is no balancer of that `type`.
    pub fn new(
        key: String,
        version: u64,
        resource: &Resource,
        names: &Names,
        find: impl Fn(&str) -> Option<u16>,
        tls: Option<UpstreamTls>,
        previous: Option<&Self>,
    ) -> Result<Arc<Self>, InvalidBalancer> {
        let kind = resource.balancer.as_deref().unwrap_or(DEFAULT_BALANCER);
        let balancer = balancer::find(kind).ok_or_else(|| InvalidBalancer(kind.to_owned()))?;
        let hash_key = balancer.hashes.then(|| HashKey::of_upstream(resource, find));
        let rewrites = resource.pass_host.as_deref() == Some("rewrite");
        let probe_host = resource.upstream_host.clone().filter(|_| rewrites);
        let old = previous.map(|previous| previous.endpoints.load_full());
        let board = match previous {
            Some(previous) => Arc::clone(&previous.plan.board),
            None => Arc::new(Board::new(key.clone())),
        };
        if previous.is_some_and(|previous| previous.checks != resource.checks) {
            // Other checks begin with a clean slate.
            let endpoints = old.iter().flat_map(|old| old.endpoints());
            endpoints.for_each(|endpoint| endpoint.health.reset());
        }
        board.set_checks(resource.checks.clone());
        let plan = Plan {
            balancer,
            board,
            slow_start: resource.slow_start.filter(|time| *time > 0.0).map(seconds),
            max_conns: resource.max_conns,
        };
        let located = endpoint_set::locate(&resource.nodes, names);
        let endpoints = EndpointSet::build(located, &plan, old.as_deref());
        if let Some(old) = &old {
            old.removed_by(&endpoints, Removal::Configured);
            plan.board.line.call();
        }
        let sources = Sources::new(&key, &resource.source_addresses);
        Ok(Arc::new(Self {
            key,
            version,
            settings: settings(resource),
            nodes: resource.nodes.clone(),
            plan,
            hash_key,
            checks: resource.checks.clone(),
            probe_host,
            tls,
            sources,
            endpoints: ArcSwap::from_pointee(endpoints),
            rebuilding: Mutex::new(()),
        }))
    }

    /// Where it is written, e.g. `upstreams/1` or `stream_routes/1`.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Its limits.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How TLS is spoken to its servers; `None`: not at all.
    #[must_use]
    pub const fn tls(&self) -> Option<&UpstreamTls> {
        self.tls.as_ref()
    }

    /// What its servers are connected to from; `None`: whatever the kernel chooses.
    #[must_use]
    pub const fn sources(&self) -> Option<&Sources> {
        self.sources.as_ref()
    }

    /// What its sessions are hashed by; `None` if its balancer does not hash.
    #[must_use]
    pub const fn hash_key(&self) -> Option<&HashKey> {
        self.hash_key.as_ref()
    }

    /// The endpoints of this moment.
    #[must_use]
    pub fn endpoints(&self) -> arc_swap::Guard<Arc<EndpointSet>> {
        self.endpoints.load()
    }

    /// Host names among its nodes.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(|node| node.host.as_str()).filter(|host| names::is_name(host))
    }

    /// Sessions that wait for an endpoint.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        u32::try_from(self.line().len()).unwrap_or(u32::MAX)
    }

    fn line(&self) -> &line::Line {
        &self.plan.board.line
    }

    /// Whether it needs somebody who keeps its endpoint set in step with the endpoints' state.
    #[must_use]
    pub fn wants_watching(&self) -> bool {
        self.checks.is_some() || self.plan.slow_start.is_some()
    }

    /// What probes name the servers, if that is rewritten.
    #[must_use]
    pub fn probe_host(&self) -> Option<&str> {
        self.probe_host.as_deref()
    }

    /// Whether a checker watches it.
    #[must_use]
    pub fn is_checked(&self) -> bool {
        self.plan.board.is_live()
    }

    /// Its health checks.
    #[must_use]
    pub fn checks(&self) -> Option<&Checks> {
        self.checks.as_deref()
    }

    /// Takes over changed addresses of names; without a change the balancer keeps its state.
    pub fn refresh(&self, names: &Names) {
        let _alone = self.rebuilding.lock().unwrap_or_else(PoisonError::into_inner);
        let located = endpoint_set::locate(&self.nodes, names);
        let current = self.endpoints.load();
        if !current.holds(&located) {
            let fresh = EndpointSet::build(located, &self.plan, Some(&current));
            current.removed_by(&fresh, Removal::Resolved);
            self.endpoints.store(Arc::new(fresh));
            self.line().call();
        }
    }

    /// Builds the set anew if the health of endpoints asks for it.
    pub(crate) fn follow_health(&self) {
        let _alone = self.rebuilding.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.endpoints.load();
        if current.is_current(self.plan.slow_start) {
            return;
        }
        let fresh = EndpointSet::build(current.located(), &self.plan, Some(&current));
        if current.usable() > 0 && fresh.usable() == 0 {
            let upstream = &self.key;
            tracing::warn!(upstream, "all upstream nodes is unhealthy, use default");
        }
        self.endpoints.store(Arc::new(fresh));
        self.line().call();
    }
}

fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).map_or(LONGEST, |it| it.min(LONGEST))
}

fn settings(resource: &Resource) -> Settings {
    let timeout = resource.timeout;
    Settings {
        connect_timeout: timeout.map_or(CONNECT_TIMEOUT, |limit| seconds(limit.connect)),
        idle_timeout: timeout.map_or(IDLE_TIMEOUT, |limit| seconds(limit.send.max(limit.read))),
        retries: resource.retries,
        retry_timeout: resource.retry_timeout.filter(|limit| *limit > 0.0).map(seconds),
        on_unhealthy: resource.on_unhealthy,
        on_node_down: resource.on_node_down,
        queue: resource
            .queue
            .map(|queue| Queue { most: queue.max, timeout: seconds(queue.timeout) }),
    }
}
