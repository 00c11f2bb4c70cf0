//! The access log: one line per ended session, written without holding up a data core.
//!
//! A [`Format`] is compiled once from the configured text. Each core owns a [`Sink`] and writes its
//! lines there; full buffers travel over a bounded channel to the thread of the [`Writer`]. When
//! that thread cannot keep up (slow disk, full disk, stalled pipe) lines are dropped and counted:
//! traffic is never slowed by its own log.

mod escape;
mod format;
mod sink;
mod syslog;
mod writer;

pub use escape::Escape;
pub use format::{Format, FormatError, FormatProblem};
pub use sink::{Counts, Sink};
pub use syslog::{Server, Syslog};
pub use writer::Writer;
