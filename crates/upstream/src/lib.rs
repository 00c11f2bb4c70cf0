//! Choosing and reaching a server. Plane-neutral: nothing here knows of routes or plugins.
//!
//! An [`Upstream`] is the compiled form of an upstream object: its settings and the current
//! [`EndpointSet`], which is swapped whole when names resolve to other addresses.

#![forbid(unsafe_code)]

pub mod balancer;
pub mod connector;
pub mod endpoint;
pub mod names;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use headgate_model::resource::Upstream as Resource;
use headgate_model::resource::upstream::Node;

pub use connector::{ConnectError, Connected};
pub use endpoint::{Address, Endpoint, EndpointSet};
pub use names::Names;

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
    endpoints: ArcSwap<EndpointSet>,
}

impl Upstream {
    /// Compiles a resource. `key` says where it is written, e.g. `upstreams/1`.
    #[must_use]
    pub fn new(key: String, resource: &Resource, names: &Names) -> Arc<Self> {
        let seconds =
            |value: f64| Duration::try_from_secs_f64(value).map_or(LONGEST, |it| it.min(LONGEST));
        let timeout = resource.timeout;
        let settings = Settings {
            connect_timeout: timeout.map_or(CONNECT_TIMEOUT, |limit| seconds(limit.connect)),
            idle_timeout: timeout.map_or(IDLE_TIMEOUT, |limit| seconds(limit.send.max(limit.read))),
            retries: resource.retries,
            retry_timeout: resource.retry_timeout.filter(|limit| *limit > 0.0).map(seconds),
        };
        let endpoints = EndpointSet::build(&resource.nodes, names);
        Arc::new(Self {
            key,
            settings,
            nodes: resource.nodes.clone(),
            endpoints: ArcSwap::from_pointee(endpoints),
        })
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
        let fresh = EndpointSet::build(&self.nodes, names);
        if !fresh.same_endpoints(&self.endpoints.load()) {
            self.endpoints.store(Arc::new(fresh));
        }
    }
}
