//! Balancers: which endpoint of a tier serves the next session.

mod chash;
mod draw;
pub(crate) mod ewma;
mod least_conn;
mod maglev;
mod random;
mod roundrobin;

use std::fmt::Debug;
use std::sync::Arc;

use crate::endpoint::Endpoint;
use crate::hash_key::KeyHash;
pub use roundrobin::Round;

/// An endpoint as part of a tier.
#[derive(Debug, Clone)]
pub struct Member {
    /// The server.
    pub endpoint: Arc<Endpoint>,
    /// Its share of the traffic.
    pub weight: u32,
}

/// Chooses among the members of one tier. Shared by all cores, so its state is atomic; nothing
/// here waits or allocates.
pub trait Balancer: Debug + Send + Sync {
    /// Index of the member for the next session.
    fn pick(&self, key: KeyHash) -> Option<usize>;
    /// Index of another member, one for which `tried` is false, for a session whose first pick
    /// failed; `None` when all were tried. Does not take the turn of another session.
    fn retry(&self, key: KeyHash, tried: &dyn Fn(usize) -> bool) -> Option<usize>;
}

/// A kind of balancer.
#[derive(Debug)]
pub struct BalancerDef {
    /// The `type` of an upstream.
    pub name: &'static str,
    /// Builds one for a tier, which has at least one member.
    pub build: fn(&[Member]) -> Box<dyn Balancer>,
    /// Whether the retries of a session go to a sole endpoint again.
    pub repeats_sole: bool,
    /// Whether it is built with unusable members too, which sessions then pass over, so that the
    /// places of the others do not move.
    pub keeps_places: bool,
    /// Whether it chooses by a key of the session.
    pub hashes: bool,
}

/// All of them; the first is the default. `headgate_model` lists the names for its warnings.
pub static BUILTIN: &[BalancerDef] =
    &[roundrobin::DEF, chash::DEF, least_conn::DEF, ewma::DEF, random::DEF, maglev::DEF];

/// The balancer called `name`.
#[must_use]
pub fn find(name: &str) -> Option<&'static BalancerDef> {
    BUILTIN.iter().find(|def| def.name == name)
}

/// Weights in smallest terms, at most about `limit` in total, so that what is built from them
/// stays small. All weights 0 means all equal.
fn shares(weights: &[u32], limit: u64) -> Vec<u64> {
    let mut shares: Vec<u64> = weights.iter().map(|weight| u64::from(*weight)).collect();
    if shares.iter().all(|share| *share == 0) {
        shares.fill(1);
    }
    let divisor = shares.iter().copied().fold(0, gcd).max(1);
    shares.iter_mut().for_each(|share| *share /= divisor);
    let total: u64 = shares.iter().sum();
    if total > limit {
        for share in &mut shares {
            *share = (*share * limit / total).max(u64::from(*share > 0));
        }
    }
    shares
}

const fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
