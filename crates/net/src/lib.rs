//! Sockets and the event loop of one core.
//!
//! A core is one thread with its own edge-triggered epoll [`reactor`], an [`executor`] for the
//! futures that set connections up, and a [`timer`] wheel; [`event_loop`] ties the three together.
//! Nothing here knows of routes or upstreams. Why not a general runtime: `docs/adr/0001`.

pub mod activation;
pub mod event_loop;
pub mod executor;
pub mod fdpass;
pub mod limits;
pub mod listener;
pub mod memory;
pub mod origin;
pub mod proxy_header;
pub mod pulse;
pub mod reactor;
pub mod socket;
pub mod splice;
pub mod timer;
pub mod tls;
pub mod udp;

pub use event_loop::EventLoop;
pub use pulse::Pulse;
pub use reactor::{Readiness, Source};
pub use socket::Socket;
