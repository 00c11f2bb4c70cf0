//! The access log of one core: formats finished sessions and hands them to the writer thread.

use std::cell::RefCell;
use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use headgate_telemetry::access_log::{Escape, Format, FormatError, Sink};
use headgate_telemetry::time_text::TimeText;

use crate::outcome::CloseReason;
use crate::session::Session;
use crate::vars::{self, Var};

/// A compiled access-log format.
#[derive(Debug)]
pub struct AccessFormat(Format<Var>);

impl AccessFormat {
    /// Compiles a format.
    ///
    /// # Errors
    /// A variable that does not exist, or a `$` without a name.
    pub fn compile(text: &str, escape: Escape) -> Result<Self, FormatError> {
        Format::compile(text, escape, vars::find).map(Self)
    }

    /// Whether a line needs the server address.
    pub(crate) fn needs_server(&self) -> bool {
        self.0.variables().any(|var| matches!(var, Var::ServerAddr | Var::ServerPort))
    }
}

/// The access log of one core.
pub(crate) struct AccessLog {
    sink: RefCell<Sink>,
    times: RefCell<TimeText>,
}

impl AccessLog {
    pub(crate) fn new(sink: Sink) -> Self {
        Self { sink: RefCell::new(sink), times: RefCell::new(TimeText::default()) }
    }

    /// Writes the line of a finished session.
    pub(crate) fn record(&self, format: &AccessFormat, session: &Session, reason: CloseReason) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut times = self.times.borrow_mut();
        let mut end = End { reason, lasted: session.started.elapsed(), now, times: &mut times };
        self.sink.borrow_mut().line(|out| {
            format.0.write(out, |var, out| vars::write(var, session, &mut end, out));
        });
    }

    pub(crate) fn flush(&self) {
        self.sink.borrow_mut().flush();
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").finish_non_exhaustive()
    }
}

/// What is only known when a session has ended.
pub(crate) struct End<'a> {
    pub(crate) reason: CloseReason,
    pub(crate) lasted: Duration,
    /// Unix time.
    pub(crate) now: Duration,
    pub(crate) times: &'a mut TimeText,
}

impl End<'_> {
    /// Time since the upstream was connected, if it was.
    pub(crate) fn upstream_session(session: &Session) -> Option<Duration> {
        session.upstream.connected.map(|connected: Instant| connected.elapsed())
    }
}
