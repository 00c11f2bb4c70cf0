//! The Admin API, control API, status server and metrics server (`spec/admin-api.md`).
//!
//! This crate writes to the [`Store`](headgate_store::Store) and asks the running planes through
//! [`Live`]; it knows nothing of the data path.
//!
//! Each of the four servers is an axum [`Router`](axum::Router): [`admin_api::router`],
//! [`control_api::router`], [`status_api::router`], [`metrics::router`]. [`server`] binds a socket and serves a router on
//! it within limits, so that the program can report a failed bind before anything runs.

#![forbid(unsafe_code)]

pub mod admin_api;
pub mod admin_key;
pub mod control_api;
pub mod live;
pub mod metrics;
pub mod server;
pub mod status_api;

mod access;
mod answer;
mod auth;
mod cors;
mod endpoint;
mod envelope;
mod json;
mod request;
mod resources;
mod schema_api;
mod standalone;
mod validate_api;

pub use admin_api::Admin;
pub use admin_key::{GeneratedKey, ensure_admin_key};
pub use control_api::Control;
pub use live::Live;
pub use server::{Limits, bind, serve};
