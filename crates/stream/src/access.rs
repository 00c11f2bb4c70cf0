//! The access log of one core: formats finished sessions and hands them to the writer thread.

use std::cell::RefCell;
use std::fmt;
use std::time::Duration;

use headgate_telemetry::access_log::{Escape, Format, FormatError, Sink};

use crate::outcome::End;
use crate::session::Session;
use crate::vars::{self, Var};

/// A compiled access-log format, and when lines are written besides the end of a session.
#[derive(Debug)]
pub struct AccessFormat {
    format: Format<Var>,
    /// Also when it is connected.
    pub at_start: bool,
    /// Also this often while it lasts.
    pub every: Option<Duration>,
}

impl AccessFormat {
    /// Compiles a format.
    ///
    /// # Errors
    /// A variable that does not exist, or a `$` without a name.
    pub fn compile(text: &str, escape: Escape) -> Result<Self, FormatError> {
        let format = Format::compile(text, escape, vars::find)?;
        Ok(Self { format, at_start: false, every: None })
    }

    /// Whether a line needs the server address.
    pub(crate) fn needs_server(&self) -> bool {
        self.format.variables().any(|var| var.needs_server())
    }
}

/// The access log of one core.
pub(crate) struct AccessLog {
    sink: RefCell<Sink>,
}

impl AccessLog {
    pub(crate) fn new(sink: Sink) -> Self {
        Self { sink: RefCell::new(sink) }
    }

    /// Writes a line.
    pub(crate) fn record(&self, format: &AccessFormat, session: &Session, end: &End<'_>) {
        self.sink.borrow_mut().line(|out| {
            format.format.write(out, |var, out| var.write(session, Some(end), out));
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
