//! The program: reads config.yaml, wires the crates together, runs until a signal.
//!
//! Read [`run`] first, then [`assemble`], which starts everything in order. [`reconcile`] turns changes of the
//! store into snapshots, [`cores`] owns the data threads and their listeners.

#![forbid(unsafe_code)]

mod access_log;
mod assemble;
mod background;
mod builder;
mod catalog;
mod cli;
mod cluster;
mod confine;
mod console;
mod cores;
mod demo;
mod drain;
mod gateway;
mod listeners;
mod live;
mod management;
mod memory_budget;
pub mod metrics;
mod names;
pub mod pid;
mod preflight;
mod process_log;
mod reconcile;
mod reload;
pub mod report;
mod run;
mod secrets;
mod service_manager;
mod signals;
mod source;
mod transfer;
mod upgrade;
mod watchdog;

pub use builder::{Builder, Headgate};
pub use preflight::load;

/// What plugins are made of.
pub mod plugin {
    pub use headgate_model::plugin::{Phases, PluginMeta};
    pub use headgate_stream::ip_set::IpSet;
    pub use headgate_stream::outcome::{CloseReason, End};
    pub use headgate_stream::plugin::*;
    pub use headgate_stream::session::Session;
    pub use headgate_stream::vars::Var;
}
