//! How a line of the process log looks.

use std::fmt;

use jiff::Timestamp;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::registry::LookupSpan;

use super::writer::Sink;

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Style {
    /// For people; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// A style and whether it is coloured.
#[derive(Clone, Copy)]
pub(super) struct Look {
    pub(super) style: Style,
    /// Has no meaning for JSON.
    pub(super) is_coloured: bool,
}

impl Look {
    /// Formats events and hands the lines to `sink`.
    pub(super) fn layer<S>(self, sink: Sink) -> Box<dyn Layer<S> + Send + Sync>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let lines = tracing_subscriber::fmt::layer()
            .with_timer(Clock)
            .with_ansi(self.is_coloured)
            .with_writer(sink);
        match self.style {
            Style::Text => lines.boxed(),
            Style::Json => lines.json().flatten_event(true).with_ansi(false).boxed(),
        }
    }

    /// The line that reports `lines` dropped lines, as the layer would write it. It does not come
    /// from an event: it belongs at one place in the log, and at every level.
    pub(super) fn dropped(self, lines: u64) -> String {
        let time = Timestamp::now();
        let target = "headgate_telemetry::log";
        let text = format_args!(
            "{lines} log lines were dropped because the log could not be written fast enough"
        );
        match self.style {
            Style::Json => format!(
                "{{\"timestamp\":\"{time:.3}\",\"level\":\"WARN\",\"message\":\"{text}\",\"target\":\"{target}\"}}\n"
            ),
            Style::Text if self.is_coloured => format!(
                "\x1b[2m{time:.3}\x1b[0m \x1b[33m WARN\x1b[0m \x1b[2m{target}\x1b[0m\x1b[2m:\x1b[0m {text}\n"
            ),
            Style::Text => format!("{time:.3}  WARN {target}: {text}\n"),
        }
    }
}

/// UTC with milliseconds.
struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        write!(w, "{:.3}", Timestamp::now())
    }
}
