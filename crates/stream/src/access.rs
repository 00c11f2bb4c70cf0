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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use headgate_telemetry::access_log::Writer;

    use super::*;
    use crate::outcome::CloseReason;

    /// `cargo test --release -p headgate-stream cost_of_a_line -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement"]
    fn cost_of_a_line() {
        let writer = Writer::open("/dev/null").unwrap();
        let log = AccessLog::new(writer.sink());
        let times = RefCell::default();
        let session = Session::of("198.51.100.7:4000");
        for text in [
            "$remote_addr [$time_local] $protocol $status $bytes_sent $bytes_received $session_time",
            "$remote_addr:$remote_port [$time_iso8601] $protocol $status $close_reason $upstream_addr \
             $bytes_sent $bytes_received $session_time $upstream_connect_time $route_id $service_id",
        ] {
            let format = AccessFormat::compile(text, Escape::Default).unwrap();
            let begin = Instant::now();
            let count = 200_000;
            for _ in 0..count {
                log.record(&format, &session, &End::now(CloseReason::Done, &times));
            }
            eprintln!(
                "a line of {} variables: {:?}",
                format.format.variables().count(),
                begin.elapsed() / count
            );
        }
    }
}
