//! The program: reads config.yaml, wires the crates together, runs until a signal.
//!
//! Read [`assemble`] first; it starts everything in order. [`reconcile`] turns changes of the
//! store into snapshots, [`cores`] owns the data threads and their listeners.

#![forbid(unsafe_code)]

mod assemble;
mod catalog;
mod cores;
mod live;
mod names;
pub mod pid;
mod reconcile;
mod reload;
pub mod report;
mod signals;

pub use assemble::{load, serve};
