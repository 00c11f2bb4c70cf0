//! Choosing and reaching a server. Plane-neutral: nothing here knows of routes or plugins.
//!
//! An [`Upstream`] is the compiled form of an upstream object: its settings and the current
//! [`EndpointSet`], which is swapped whole when names resolve to other addresses.

#![forbid(unsafe_code)]

pub mod balancer;
pub mod connector;
pub mod crc32;
pub mod endpoint;
mod endpoint_set;
pub mod hash_key;
pub mod names;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use headgate_model::resource::Upstream as Resource;
use headgate_model::resource::upstream::Node;

use balancer::BalancerDef;
pub use connector::{ConnectError, Connected};
pub use endpoint::{Address, Endpoint, Lease};
pub use endpoint_set::{EndpointSet, Tried};
pub use hash_key::{HashKey, KeyHash};
pub use names::Names;

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
}

/// A set of servers to choose from, and how.
#[derive(Debug)]
pub struct Upstream {
    key: String,
    settings: Settings,
    nodes: Vec<Node>,
    balancer: &'static BalancerDef,
    hash_key: Option<HashKey>,
    endpoints: ArcSwap<EndpointSet>,
}

/// `type` names no balancer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid balancer type: {0}")]
pub struct InvalidBalancer(String);

impl Upstream {
    /// Compiles a resource. `key` says where it is written, e.g. `upstreams/1`; `find` gives the
    /// plane's number of a variable. Counts of sessions are taken over from `previous`, what the
    /// resource was before.
    ///
    /// # Errors
    /// There is no balancer of that `type`.
    pub fn new(
        key: String,
        resource: &Resource,
        names: &Names,
        find: impl Fn(&str) -> Option<u16>,
        previous: Option<&Self>,
    ) -> Result<Arc<Self>, InvalidBalancer> {
        let kind = resource.balancer.as_deref().unwrap_or(DEFAULT_BALANCER);
        let balancer = balancer::find(kind).ok_or_else(|| InvalidBalancer(kind.to_owned()))?;
        let hash_key = (kind == "chash").then(|| HashKey::of_upstream(resource, find));
        let seconds =
            |value: f64| Duration::try_from_secs_f64(value).map_or(LONGEST, |it| it.min(LONGEST));
        let timeout = resource.timeout;
        let settings = Settings {
            connect_timeout: timeout.map_or(CONNECT_TIMEOUT, |limit| seconds(limit.connect)),
            idle_timeout: timeout.map_or(IDLE_TIMEOUT, |limit| seconds(limit.send.max(limit.read))),
            retries: resource.retries,
            retry_timeout: resource.retry_timeout.filter(|limit| *limit > 0.0).map(seconds),
        };
        let located = endpoint_set::locate(&resource.nodes, names);
        let previous = previous.map(|previous| previous.endpoints.load_full());
        let endpoints = EndpointSet::build(&located, balancer, previous.as_deref());
        Ok(Arc::new(Self {
            key,
            settings,
            nodes: resource.nodes.clone(),
            balancer,
            hash_key,
            endpoints: ArcSwap::from_pointee(endpoints),
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

    /// Takes over changed addresses of names; without a change the balancer keeps its state.
    pub fn refresh(&self, names: &Names) {
        let located = endpoint_set::locate(&self.nodes, names);
        let current = self.endpoints.load();
        if !current.holds(&located) {
            let fresh = EndpointSet::build(&located, self.balancer, Some(&current));
            self.endpoints.store(Arc::new(fresh));
        }
    }
}
