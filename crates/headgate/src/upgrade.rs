//! Hot upgrade: the running process starts its successor, hands it every listening socket and the
//! store, and drains once the successor serves. Until then it can take everything back.
//!
//! [`old`] is the side of the running process, [`new`] that of the successor; they talk over a
//! [`channel`] in [`message`]s. The order of events, and what happens when one of them fails, is in
//! `docs/internals/upgrade.md`.

mod channel;
mod lent;
mod message;
mod new;
mod old;
pub(crate) mod progress;
mod started;

pub(crate) use lent::{Inherited, Socket};
pub(crate) use new::{FirstWord, News, Succession};
pub(crate) use old::{Outcome, run};
pub(crate) use started::Started;

/// Names the process that started this one, so that it takes its sockets over.
const FROM: &str = "HEADGATE_UPGRADE_FROM";
