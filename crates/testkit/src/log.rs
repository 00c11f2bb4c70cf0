//! Lines that a process printed, kept in memory while it runs.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A growing list of lines. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    grown: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<String>,
    ended: bool,
}

/// A place in a [`Log`]: what is printed afterwards comes after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(usize);

impl Log {
    /// Collects everything from `source` on a thread of its own.
    #[must_use]
    pub fn collect(source: impl Read + Send + 'static) -> Self {
        let log = Self::default();
        let sink = log.clone();
        std::thread::spawn(move || {
            let mut source = BufReader::new(source);
            let mut line = Vec::new();
            while let Ok(1..) = source.read_until(b'\n', &mut line) {
                sink.push(without_colours(String::from_utf8_lossy(&line).trim_end()));
                line.clear();
            }
            sink.state().ended = true;
            sink.0.grown.notify_all();
        });
        log
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: String) {
        self.state().lines.push(line);
        self.0.grown.notify_all();
    }

    /// Remembers where the log ends now.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark(self.state().lines.len())
    }

    /// The beginning.
    #[must_use]
    pub const fn start(&self) -> Mark {
        Mark(0)
    }

    /// All lines so far, joined.
    #[must_use]
    pub fn text(&self) -> String {
        self.state().lines.join("\n")
    }

    /// Lines after `mark` that contain `part`.
    #[must_use]
    pub fn lines_with(&self, mark: Mark, part: &str) -> Vec<String> {
        let state = self.state();
        state.lines[mark.0..].iter().filter(|line| line.contains(part)).cloned().collect()
    }

    /// Waits for a line after `mark` that contains `part`; panics with the whole log otherwise.
    #[track_caller]
    pub fn wait_after(&self, mark: Mark, part: &str, limit: Duration) -> String {
        match self.try_wait_after(mark, part, limit) {
            Some(line) => line,
            None => panic!("no `{part}` within {limit:?} in this log:\n{}", self.text()),
        }
    }

    /// Like [`Log::wait_after`]; `None` at the deadline or when the process closed the stream.
    #[must_use]
    pub fn try_wait_after(&self, mark: Mark, part: &str, limit: Duration) -> Option<String> {
        let deadline = Instant::now() + limit;
        let mut state = self.state();
        let mut next = mark.0;
        loop {
            if let Some(found) = state.lines[next..].iter().find(|line| line.contains(part)) {
                return Some(found.clone());
            }
            next = state.lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || state.ended {
                return None;
            }
            state =
                self.0.grown.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the process has closed the stream.
    pub fn wait_end(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut state = self.state();
        while !state.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state =
                self.0.grown.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Removes terminal colour sequences.
fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("\u{1b}[") {
        plain.push_str(&rest[..at]);
        let tail = &rest[at + 2..];
        rest = tail.find(|c: char| c.is_ascii_alphabetic()).map_or("", |end| &tail[end + 1..]);
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_without_colours_and_in_order() {
        let log = Log::collect(&b"\x1b[32mINFO\x1b[0m one\ntwo\nthree"[..]);
        log.wait_end(Duration::from_secs(5));
        assert_eq!(log.text(), "INFO one\ntwo\nthree");
    }

    #[test]
    fn a_mark_hides_what_came_before() {
        let log = Log::default();
        log.push("again".into());
        let mark = log.mark();
        assert_eq!(log.try_wait_after(mark, "again", Duration::ZERO), None);
        log.push("and again".into());
        assert_eq!(log.wait_after(mark, "again", Duration::ZERO), "and again");
    }
}
