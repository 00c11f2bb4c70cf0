//! Endpoints: the addresses behind an upstream's nodes, and who uses them.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::balancer::ewma::ConnectCost;

/// Where an endpoint listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// IP address and port.
    Ip(SocketAddr),
    /// Unix stream socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// One server of an upstream, and what is known of it. The same value stays in use when the
/// upstream changes, as long as the upstream has the address.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it listens.
    pub address: Address,
    active: AtomicU32,
    pub(crate) connect_cost: ConnectCost,
}

impl Endpoint {
    pub(crate) fn new(address: Address) -> Self {
        Self { address, active: AtomicU32::new(0), connect_cost: ConnectCost::default() }
    }

    /// Sessions that hold a [`Lease`], on all cores.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }
}

/// A session's use of an endpoint, from the pick to the session's end or to a retry elsewhere;
/// counted until dropped.
#[derive(Debug)]
pub struct Lease(Arc<Endpoint>);

impl Lease {
    pub(crate) fn of(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.active.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(endpoint))
    }

    /// The endpoint.
    #[must_use]
    pub const fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }

    /// Notes how long connecting, or failing to connect, took.
    pub(crate) fn record(&self, took: Duration, failed: bool) {
        self.0.connect_cost.record(took, failed);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}
