//! The access log of one core: formats finished sessions and hands them to the writer thread.

use std::cell::RefCell;
use std::fmt;

use headgate_telemetry::access_log::{Escape, Format, FormatError, Sink};

use crate::outcome::End;
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
        self.0.variables().any(|var| var.needs_server())
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

    /// Writes the line of a finished session.
    pub(crate) fn record(&self, format: &AccessFormat, session: &Session, end: &End<'_>) {
        self.sink.borrow_mut().line(|out| {
            format.0.write(out, |var, out| var.write(session, Some(end), out));
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
