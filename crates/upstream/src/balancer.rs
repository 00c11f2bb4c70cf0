//! Balancers: which endpoint of a tier serves the next session.

pub mod roundrobin;

use std::fmt::Debug;

/// Chooses among the endpoints of one tier. Shared by all cores, so its state is atomic.
pub trait Balancer: Debug + Send + Sync {
    /// Index of an endpoint for which `tried` is false, or `None` when all were tried.
    fn pick(&self, tried: &dyn Fn(usize) -> bool) -> Option<usize>;
}
