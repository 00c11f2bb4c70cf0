//! Result lines of the proof kit: what was broken, what is promised, what was measured.
//!
//! Each scenario prints one line of JSON, and appends it to the file that `HEADGATE_PROOFS` names;
//! `scripts/reliability.sh` makes `docs/internals/reliability.md` of them.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

use serde_json::{Value, json};

use crate::process::report;

/// Whether the long forms run (`HEADGATE_LONG=1`).
#[must_use]
pub fn is_long() -> bool {
    std::env::var_os("HEADGATE_LONG").is_some_and(|value| value == "1")
}

/// The size of a scenario: short in CI, long by hand.
#[must_use]
pub fn scale<T>(short: T, long: T) -> T {
    if is_long() { long } else { short }
}

/// A number from the environment, or the size of the form that runs.
#[must_use]
pub fn sized(variable: &str, short: u64, long: u64) -> u64 {
    let given = std::env::var(variable).ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| scale(short, long))
}

/// A scenario of the proof kit.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its name, which is the test's.
    pub name: &'static str,
    /// What is done to the gateway.
    pub fault: &'static str,
    /// What holds all the same.
    pub promise: &'static str,
}

impl Scenario {
    /// Runs a scenario that answers with its figure; a panic is the failed promise, and goes on.
    ///
    /// # Panics
    /// As `run` does.
    pub fn prove(self, run: impl FnOnce() -> String) {
        let began = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(run));
        let figure = outcome.as_ref().map_or_else(
            |panic| {
                let text = panic.downcast_ref::<String>().cloned();
                text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                    .unwrap_or_default()
            },
            Clone::clone,
        );
        self.write(&figure, outcome.is_ok(), began);
        if let Err(panic) = outcome {
            resume_unwind(panic);
        }
    }

    fn write(self, figure: &str, pass: bool, began: Instant) {
        let line = self.line(figure, pass, began.elapsed().as_secs_f64()).to_string();
        report(&line);
        let Some(path) = std::env::var_os("HEADGATE_PROOFS") else { return };
        let file = OpenOptions::new().create(true).append(true).open(path);
        // One write, so that lines of tests that end at the same time do not mix.
        let written = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
        assert!(written.is_ok(), "HEADGATE_PROOFS: {written:?}");
    }

    fn line(self, figure: &str, pass: bool, seconds: f64) -> Value {
        json!({
            "scenario": self.name,
            "fault": self.fault,
            "promise": self.promise,
            "form": scale("short", "long"),
            "figure": figure.lines().next().unwrap_or_default(),
            "seconds": (seconds * 10.0).round() / 10.0,
            "pass": pass,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_every_part() {
        let scenario = Scenario { name: "n", fault: "f", promise: "p" };
        let line = scenario.line("3 of 3\nmore", true, 1.26);
        assert_eq!(
            line.to_string(),
            r#"{"scenario":"n","fault":"f","promise":"p","form":"short","figure":"3 of 3","seconds":1.3,"pass":true}"#
        );
    }

    #[test]
    #[should_panic(expected = "broken promise")]
    fn a_broken_promise_fails_the_test() {
        Scenario { name: "n", fault: "f", promise: "p" }.prove(|| panic!("broken promise"));
    }
}
