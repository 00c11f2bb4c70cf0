//! The three servers, asked through their routers; [`sockets`] uses real connections.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod bench;
mod control;
mod pipeline;
mod resources;
mod schemas;
mod secure;
mod sockets;
mod store_errors;
mod verbs;
mod warned;
