//! The Admin API, control API and status server (`spec/admin-api.md`).
//!
//! This crate writes to the [`Store`](headgate_store::Store) and asks the running planes through
//! [`Live`]; it knows nothing of the data path.

#![forbid(unsafe_code)]

pub mod live;

pub use live::Live;
