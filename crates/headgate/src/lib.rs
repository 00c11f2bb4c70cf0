//! The program: reads config.yaml, wires the crates together, runs until a signal.
//!
//! Read [`run`] first, then [`assemble`], which starts everything in order. [`reconcile`] turns changes of the
//! store into snapshots, [`cores`] owns the data threads and their listeners.

#![forbid(unsafe_code)]

mod access_log;
mod assemble;
mod catalog;
mod cores;
mod gateway;
mod live;
mod names;
pub mod pid;
mod preflight;
mod process_log;
mod reconcile;
mod reload;
pub mod report;
mod run;
mod signals;

pub use preflight::load;
pub use run::serve;
