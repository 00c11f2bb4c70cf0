//! The L4 plane: from an accepted connection or datagram to its log line.
//!
//! Read [`connection`] first: it lists the stages of a connection in order. [`core`](crate::core)
//! is the loop that one thread runs; [`router`] decides the route; [`relay`] moves the bytes;
//! [`udp`] does the same for datagrams. Configuration arrives as an immutable [`Snapshot`].

#![forbid(unsafe_code)]

mod access;
pub mod batch;
mod cap;
mod connection;
pub mod core;
mod handshakes;
mod hash_key;
pub mod ip_set;
pub mod ip_sets;
mod log_format;
pub mod metrics;
mod mirror;
pub mod outcome;
pub mod plugin;
pub mod plugins;
pub mod pressure;
mod proxy_out;
mod relay;
pub mod router;
mod secret;
pub mod secure;
pub mod session;
mod session_log;
mod slots;
pub mod snapshot;
pub mod stats;
mod throttle;
pub mod trust;
mod udp;
pub mod vars;

pub use access::AccessFormat;
pub use cap::ConnectionCap;
pub use core::{Core, CoreHandle, Shared};
pub use ip_sets::LiveSet;
pub use outcome::CloseReason;
pub use secret::SecretLookup;
pub use snapshot::{Compiler, Snapshot};
pub use stats::DropCause;
pub use trust::TrustedPeers;
