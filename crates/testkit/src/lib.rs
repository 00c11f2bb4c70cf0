//! What headgate's end-to-end tests are made of: a running gateway, peers that behave well or badly,
//! real servers, and a small HTTP client that can also misbehave.
//!
//! Everything is synchronous and panics with an explanation when a deadline passes: a test reads as
//! start the gateway, connect, send, expect. Nothing here sleeps for a fixed time; see [`wait`].
//! Whatever is started is stopped, by process id, when its value is dropped.
#![expect(clippy::expect_used, reason = "a failed step of a test is reported by a panic")]

pub mod balancer;
pub mod certificate;
pub mod client;
pub mod etcd;
pub mod gateway;
pub mod geo;
pub mod http;
pub mod log;
pub mod metrics;
pub mod mosquitto;
pub mod namespace;
pub mod pattern;
pub mod peer;
pub mod port;
pub mod postgres;
pub mod proc;
pub mod process;
pub mod proof;
pub mod server;
pub mod tls;
pub mod udp;
pub mod upgrade;
pub mod wait;

pub use etcd::Etcd;
pub use gateway::{Gateway, GatewayBuilder};
pub use http::Response;
pub use metrics::Metrics;
pub use mosquitto::Mosquitto;
pub use namespace::Namespace;
pub use peer::TcpPeer;
pub use port::{Alone, Port};
pub use postgres::Postgres;
pub use process::Process;
pub use udp::UdpPeer;

/// A limit for things that normally take milliseconds, generous enough for a loaded machine.
pub const SOON: std::time::Duration = std::time::Duration::from_secs(10);
