//! What the admin side may ask of the running planes.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use headgate_model::listen::ListenerSpec;
use headgate_model::settings::ListenEntry;
use headgate_model::{Problem, ResourceSet};
use headgate_store::Health;
use serde_json::Value;

/// Something that is held for a write.
pub type Reserved = Box<dyn Any + Send + Sync>;

/// The running planes, as seen from the Admin API.
#[async_trait]
pub trait Live: Send + Sync {
    /// Whether the stream plane runs (`proxy_mode`, `stream_proxy`).
    fn stream_enabled(&self) -> bool;
    /// Listening sockets of the stream plane.
    fn listeners(&self) -> Vec<ListenerSpec>;
    /// The entries of config.yaml that listeners come from.
    fn configured_listeners(&self) -> Vec<ListenEntry> {
        Vec::new()
    }
    /// Binds the sockets of a stream listener that is about to be stored as `id`, so that the write
    /// fails if they cannot be had. They are held until the answer is dropped or the planes take
    /// them over.
    ///
    /// # Errors
    /// What is in the way, and how to mend it.
    fn reserve(&self, _id: &str, _document: &Value) -> Result<Option<Reserved>, String> {
        Ok(None)
    }
    /// The open listeners.
    fn listener_states(&self) -> Vec<ListenerState> {
        Vec::new()
    }
    /// Sessions that have to end, by what they are a rest of.
    async fn draining(&self) -> Vec<Draining> {
        Vec::new()
    }
    /// The data threads.
    fn cores(&self) -> Vec<CoreState> {
        Vec::new()
    }
    /// The resources that new connections are served from.
    fn resources(&self) -> Arc<ResourceSet>;
    /// Returns when new connections see everything up to `revision`, or after a bounded wait.
    /// `false`: the wait ended first.
    async fn applied(&self, revision: u64) -> bool;
    /// What is wrong with resources that could not be put to use.
    fn problems(&self) -> Vec<Problem>;
    /// What the planes count, by name: monotonic, except for names that end in `_now`.
    fn counters(&self) -> Vec<(String, u64)>;
    /// The nodes of the upstream written at `key` (`upstreams/1`, `stream_routes/1`) as its
    /// health checks know them; empty while no checker runs for it.
    fn checked_nodes(&self, key: &str) -> Vec<CheckedNode>;
    /// How fresh the configuration is.
    fn health(&self) -> Health {
        Health::default()
    }
    /// `Err` with the reason while the process should not get traffic.
    fn ready(&self) -> Result<(), String>;
}

/// A node and what health checks know of it (`spec/upstream.md`, section 6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedNode {
    /// Its address.
    pub ip: String,
    /// The port that is probed.
    pub port: u16,
    /// Its name, or its address.
    pub hostname: String,
    /// What probes name it instead.
    pub host_header: Option<String>,
    /// `healthy`, `mostly_healthy`, `mostly_unhealthy` or `unhealthy`.
    pub status: &'static str,
    /// Successes in a row.
    pub success: u8,
    /// Failures since the last success: bad HTTP statuses.
    pub http_failure: u8,
    /// Refused, reset and wrong answers.
    pub tcp_failure: u8,
    /// No answer in time.
    pub timeout_failure: u8,
}

/// An open listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerState {
    /// E.g. `tcp://0.0.0.0:9100`.
    pub listener: String,
    /// Where it is written.
    pub source: Option<String>,
    /// Sessions open now.
    pub sessions: u64,
    /// Most sessions at once.
    pub max_connections: Option<u32>,
}

/// Sessions that have to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draining {
    /// `stop`, `listener tcp://...` or `node 10.0.0.1:80`.
    pub what: String,
    /// Id of their route.
    pub route: Option<String>,
    /// How many are left.
    pub sessions: u64,
    /// Age of the oldest.
    pub oldest: Duration,
    /// When the last of them ends; `None`: when it wants to.
    pub ends_in: Option<Duration>,
    /// The client addresses with the most of them.
    pub holders: Vec<(String, u64)>,
}

/// A data thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreState {
    /// Its number, from 0.
    pub core: usize,
    /// Id of the thread.
    pub thread: i32,
    /// TCP sessions open now.
    pub sessions: u64,
    /// UDP flows open now.
    pub flows: u64,
    /// TCP connections accepted.
    pub accepted: u64,
    /// UDP flows begun.
    pub flows_begun: u64,
    /// CPU time.
    pub cpu: Duration,
    /// Turns of its event loop.
    pub turns: u64,
    /// How long the turn under way lasts; `None`: it waits for events.
    pub busy: Option<Duration>,
    /// What it does, or did last.
    pub doing: &'static str,
    /// Its longest turn within the last minute.
    pub longest_turn: Duration,
    /// How often a turn lasted longer than `headgate.watchdog.threshold`.
    pub stalls: u64,
}
