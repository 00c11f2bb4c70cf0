//! What the gateway says about itself: access log, process log, counters.
//!
//! Nothing here knows about resources or connections. The data cores write into memory they own
//! ([`PerCore`], [`access_log::Sink`]); other threads read or carry it away.

#![forbid(unsafe_code)]

pub mod access_log;
pub mod counter;
pub mod exposition;
pub mod histogram;
pub mod log;
pub mod metric;
mod output;
pub mod per_core;
pub mod rate_limit;
pub mod registry;
pub mod time_text;

pub use counter::{Counter, Gauge, SharedCounter};
pub use exposition::Page;
pub use histogram::Histogram;
pub use metric::Metric;
pub use per_core::PerCore;
pub use rate_limit::{LogLimit, LogLimits};
pub use registry::Registry;
pub use time_text::TimeText;
