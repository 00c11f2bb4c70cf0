//! Balancers: which endpoint of a tier serves the next session.

pub mod roundrobin;

use std::fmt::Debug;

/// Chooses among the endpoints of one tier. Shared by all cores, so its state is atomic.
pub trait Balancer: Debug + Send + Sync {
    /// Index of the endpoint for the next session.
    fn pick(&self) -> Option<usize>;
    /// Index of another endpoint, one for which `tried` is false, for a session whose first pick
    /// failed; `None` when all were tried. Does not take the turn of another session.
    fn retry(&self, tried: &dyn Fn(usize) -> bool) -> Option<usize>;
}
