//! The proof kit: what is done to headgate, and what holds all the same.
//!
//! Each scenario prints one line of JSON. The short forms run with every test run; the long ones with
//! `scripts/reliability.sh`, which also writes `docs/internals/reliability.md`.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

mod change;
mod crowd;
mod hostile;
mod limits;
mod load;
mod memory;
mod soak;
mod store;
mod time;
mod upgrades;
mod volume;

/// The program under test; `HEADGATE_BIN` names another one, such as a release build.
fn binary() -> String {
    std::env::var("HEADGATE_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_headgate").to_owned())
}
