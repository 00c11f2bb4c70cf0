//! What the admin side may ask of the running planes.

use std::sync::Arc;

use async_trait::async_trait;
use headgate_model::listen::ListenerSpec;
use headgate_model::{Problem, ResourceSet};

/// The running planes, as seen from the Admin API.
#[async_trait]
pub trait Live: Send + Sync {
    /// Whether the stream plane runs (`proxy_mode`, `stream_proxy`).
    fn stream_enabled(&self) -> bool;
    /// Listening sockets of the stream plane.
    fn listeners(&self) -> Vec<ListenerSpec>;
    /// The resources that new connections are served from.
    fn resources(&self) -> Arc<ResourceSet>;
    /// Returns when new connections see everything up to `revision`, or after a bounded wait.
    /// `false`: the wait ended first.
    async fn applied(&self, revision: u64) -> bool;
    /// What is wrong with resources that could not be put to use.
    fn problems(&self) -> Vec<Problem>;
    /// What the planes count, by name: monotonic, except for names that end in `_now`.
    fn counters(&self) -> Vec<(String, u64)>;
    /// `Err` with the reason while the process should not get traffic.
    fn ready(&self) -> Result<(), String>;
}
