//! What the gateway says about itself: access log, process log, counters.
//!
//! Nothing here knows about resources or connections. The data cores write into memory they own
//! ([`PerCore`], [`access_log::Sink`]); other threads read or carry it away.

#![forbid(unsafe_code)]

pub mod access_log;
pub mod counter;
pub mod histogram;
pub mod log;
mod output;
pub mod per_core;
pub mod rate_limit;
pub mod time_text;

pub use counter::{Counter, SharedCounter};
pub use histogram::Histogram;
pub use per_core::PerCore;
pub use rate_limit::{LogLimit, LogLimits};
pub use time_text::TimeText;
