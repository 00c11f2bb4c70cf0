//! Which endpoints are well: the state machine of `spec/upstream.md`, section 6, and the board on
//! which probes and sessions note what they saw.
//!
//! The health of an endpoint is one atomic word, so cores read and write it without waiting. When
//! an endpoint stops or starts being usable the board asks for the endpoint set to be built again,
//! which the control side does.

mod checker;
mod grid;
mod knock;
mod probe;
mod supervisor;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use headgate_model::resource::checks::Checks;
use headgate_telemetry::LogLimit;
use tokio::sync::Notify;

use crate::endpoint::Endpoint;
use crate::line::Line;
pub use supervisor::Supervisor;

static REPORTED: LogLimit = LogLimit::per_second(20);

/// How well an endpoint is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Status {
    /// Nothing is wrong.
    #[default]
    Healthy,
    /// Usable; it has failed, not often enough.
    MostlyHealthy,
    /// Not usable; it has succeeded, not often enough.
    MostlyUnhealthy,
    /// Not usable.
    Unhealthy,
}

impl Status {
    const ALL: [Self; 4] =
        [Self::Healthy, Self::MostlyHealthy, Self::MostlyUnhealthy, Self::Unhealthy];

    /// Its name in the control API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::MostlyHealthy => "mostly_healthy",
            Self::MostlyUnhealthy => "mostly_unhealthy",
            Self::Unhealthy => "unhealthy",
        }
    }

    /// Whether sessions are given to an endpoint with this status.
    #[must_use]
    pub const fn is_usable(self) -> bool {
        matches!(self, Self::Healthy | Self::MostlyHealthy)
    }
}

/// What a probe or a session saw of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It answered as it should.
    Success,
    /// It refused or reset a connection, or answered nonsense.
    TcpFailure,
    /// It answered with a bad HTTP status.
    HttpFailure,
    /// It did not answer in time.
    Timeout,
}

impl Event {
    /// Its name in log lines.
    const fn name(self) -> &'static str {
        match self {
            Self::Success => "SUCCESS",
            Self::TcpFailure => "TCP",
            Self::HttpFailure => "HTTP",
            Self::Timeout => "TIMEOUT",
        }
    }
}

/// Status and counters of an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Record {
    /// The status.
    pub status: Status,
    /// Successes in a row.
    pub success: u8,
    /// Failures of each kind since the last success.
    pub tcp_failure: u8,
    /// See `tcp_failure`.
    pub http_failure: u8,
    /// See `tcp_failure`.
    pub timeout_failure: u8,
}

impl Record {
    /// Counts an event; `limit` events of its kind decide. `None` if it does not count: the kind
    /// is switched off (limit 0), a success of a healthy or a failure of an unhealthy endpoint.
    #[must_use]
    pub fn after(mut self, event: Event, limit: u8) -> Option<Self> {
        let decided = if event == Event::Success { Status::Healthy } else { Status::Unhealthy };
        if limit == 0 || self.status == decided {
            return None;
        }
        let count = self.count_of(event).saturating_add(1);
        if event == Event::Success {
            (self.tcp_failure, self.http_failure, self.timeout_failure) = (0, 0, 0);
        } else {
            self.success = 0;
        }
        match event {
            Event::Success => self.success = count,
            Event::TcpFailure => self.tcp_failure = count,
            Event::HttpFailure => self.http_failure = count,
            Event::Timeout => self.timeout_failure = count,
        }
        self.status = if count >= limit {
            decided
        } else {
            match (self.status, event) {
                (Status::Unhealthy, Event::Success) => Status::MostlyUnhealthy,
                (Status::Healthy, _) => Status::MostlyHealthy,
                (status, _) => status,
            }
        };
        Some(self)
    }

    /// The counter of a kind.
    const fn count_of(&self, event: Event) -> u8 {
        match event {
            Event::Success => self.success,
            Event::TcpFailure => self.tcp_failure,
            Event::HttpFailure => self.http_failure,
            Event::Timeout => self.timeout_failure,
        }
    }

    fn to_word(self) -> u64 {
        let bytes = [
            self.status as u8,
            self.success,
            self.tcp_failure,
            self.http_failure,
            self.timeout_failure,
            0,
            0,
            0,
        ];
        u64::from_le_bytes(bytes)
    }

    fn from_word(word: u64) -> Self {
        let [status, success, tcp_failure, http_failure, timeout_failure, ..] = word.to_le_bytes();
        let status = Status::ALL.get(usize::from(status)).copied().unwrap_or_default();
        Self { status, success, tcp_failure, http_failure, timeout_failure }
    }
}

/// The health of an endpoint: a [`Record`] in one word.
#[derive(Debug, Default)]
pub(crate) struct Health(AtomicU64);

impl Health {
    pub(crate) fn record(&self) -> Record {
        Record::from_word(self.0.load(Ordering::Relaxed))
    }

    /// Counts an event; the records before and after, if it counted.
    fn note(&self, event: Event, limit: u8) -> Option<(Record, Record)> {
        let step = |word| Record::from_word(word).after(event, limit).map(Record::to_word);
        let before = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, step).ok()?;
        let before = Record::from_word(before);
        Some((before, before.after(event, limit)?))
    }

    pub(crate) fn reset(&self) {
        self.0.store(Record::default().to_word(), Ordering::Release);
    }
}

/// Who saw something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Probe,
    Session,
}

/// What the endpoints of an upstream have in common; it outlives changes of the upstream.
pub struct Board {
    /// Where the upstream is written, e.g. `stream_routes/1`.
    name: String,
    checks: ArcSwapOption<Checks>,
    /// Whether a checker runs; without one nothing counts.
    live: AtomicBool,
    /// Sessions that wait for an endpoint.
    pub(crate) line: Line,
    /// Endpoints that were usable when the set was built last.
    usable: AtomicU32,
    /// An endpoint has become usable or unusable.
    pub(crate) changed: Notify,
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Board {
    pub(crate) fn new(name: String) -> Self {
        Self {
            name,
            checks: ArcSwapOption::empty(),
            live: AtomicBool::new(false),
            line: Line::default(),
            usable: AtomicU32::new(0),
            changed: Notify::new(),
        }
    }

    pub(crate) fn set_checks(&self, checks: Option<Arc<Checks>>) {
        self.checks.store(checks);
    }

    pub(crate) fn set_live(&self, live: bool) {
        self.live.store(live, Ordering::Release);
    }

    /// Whether what sessions see counts: a checker runs.
    pub(crate) fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire)
    }

    /// Whether sessions that end badly count (`checks.passive` is written).
    pub(crate) fn is_passive(&self) -> bool {
        self.is_live() && self.checks.load().as_ref().is_some_and(|it| it.passive.is_written)
    }

    pub(crate) fn set_usable(&self, count: usize) {
        self.usable.store(u32::try_from(count).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// Whether an endpoint was usable when the set was built last.
    pub(crate) fn has_a_usable_one(&self) -> bool {
        self.usable.load(Ordering::Relaxed) > 0
    }

    /// Counts what was seen of an endpoint.
    pub(crate) fn note(&self, endpoint: &Endpoint, event: Event, source: Source) {
        if !self.is_live() {
            return;
        }
        let checks = self.checks.load();
        let Some(checks) = checks.as_ref() else { return };
        let limits = match source {
            Source::Probe => checks.active.unhealthy.limits,
            Source::Session => checks.passive.limits,
        };
        let limit = match event {
            Event::Success => checks.active.healthy.successes,
            Event::TcpFailure => limits.tcp,
            Event::HttpFailure => limits.http,
            Event::Timeout => limits.timeouts,
        };
        let Some((before, after)) = endpoint.health.note(event, limit) else { return };
        if before.status.is_usable() != after.status.is_usable() {
            if after.status.is_usable() {
                endpoint.begin_slowly();
            }
            self.changed.notify_one();
        }
        self.log(endpoint, event, limit, before, after);
    }

    fn log(&self, endpoint: &Endpoint, event: Event, limit: u8, before: Record, after: Record) {
        let (name, target) = (&self.name, endpoint.target());
        let (count, kind) = (after.count_of(event), event.name());
        if let Some(suppressed) = REPORTED.check(Instant::now()) {
            let side = if event == Event::Success { "healthy" } else { "unhealthy" };
            tracing::warn!(
                suppressed,
                "[healthcheck] (upstream#/{name}) {side} {kind} increment ({count}/{limit}) for '{target}'"
            );
        }
        if before.status.is_usable() != after.status.is_usable() {
            let (from, to) = (before.status.name(), after.status.name());
            tracing::warn!(
                "[healthcheck] (upstream#/{name}) '{target}' changed from {from} to {to}"
            );
        }
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
