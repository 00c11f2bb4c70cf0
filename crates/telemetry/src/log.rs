//! The process log: what operators read when something is wrong.
//!
//! Events come from `tracing` everywhere in the workspace and leave as one line each:
//!
//! ```text
//! 2026-11-21T10:00:00.123Z  WARN headgate_upstream: upstream connect failed endpoint=10.0.0.5:5432
//! ```
//!
//! Lines are written by the thread that logs, so what repeats per connection must be limited (see
//! [`LogLimit`](crate::LogLimit)).

use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;
use tracing::Subscriber;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{Layer as _, Registry, reload};

use crate::output;

/// Target of the few lines that are written at every level but `Off`: ready, reloaded, draining,
/// stopped. An operator must see those even at `warn`.
pub const LIFECYCLE: &str = "lifecycle";

/// Which lines are written: those of this level and the ones above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// Nothing.
    Off,
    /// Someone must act.
    Error,
    /// Degraded but serving.
    #[default]
    Warn,
    /// Rare facts of the life cycle.
    Info,
    /// Every connection.
    Debug,
    /// Every read; only in debug builds.
    Trace,
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Style {
    /// For people; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Target {
    /// Standard error.
    #[default]
    Stderr,
    /// A file, appended to; missing directories are created.
    File(PathBuf),
}

/// How to log.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Least important level to write.
    pub level: Level,
    /// Look of a line.
    pub style: Style,
    /// Where lines go.
    pub target: Target,
}

/// Changes the log while the program runs.
#[derive(Clone)]
pub struct Handle {
    level: reload::Handle<Targets, Registry>,
    sink: Sink,
}

/// Starts the process log. Can be called once.
pub fn init(options: Options) -> io::Result<Handle> {
    let (subscriber, handle) = build(options)?;
    tracing::subscriber::set_global_default(subscriber).map_err(io::Error::other)?;
    Ok(handle)
}

impl Handle {
    /// Writes lines of `level` and above from now on.
    pub fn set_level(&self, level: Level) {
        // Fails only when the subscriber is gone, and then there is nothing to filter.
        let _ = self.level.reload(level.filter());
    }

    /// Opens the file again under its name, after rotation. On an error the old file stays in use.
    pub fn reopen(&self) -> io::Result<()> {
        self.sink.reopen()
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("target", &self.sink.path).finish_non_exhaustive()
    }
}

impl Level {
    /// The level named by `error_log_level`: nginx names, and `trace` and `off`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "off" => Self::Off,
            "emerg" | "alert" | "crit" | "error" => Self::Error,
            "warn" => Self::Warn,
            "notice" | "info" => Self::Info,
            "debug" => Self::Debug,
            "trace" => Self::Trace,
            _ => return None,
        })
    }

    fn filter(self) -> Targets {
        let (level, lifecycle) = match self {
            Self::Off => (LevelFilter::OFF, LevelFilter::OFF),
            Self::Error => (LevelFilter::ERROR, LevelFilter::INFO),
            Self::Warn => (LevelFilter::WARN, LevelFilter::INFO),
            Self::Info => (LevelFilter::INFO, LevelFilter::INFO),
            Self::Debug => (LevelFilter::DEBUG, LevelFilter::DEBUG),
            Self::Trace => (LevelFilter::TRACE, LevelFilter::TRACE),
        };
        Targets::new().with_default(level).with_target(LIFECYCLE, lifecycle)
    }
}

fn build(options: Options) -> io::Result<(impl Subscriber + Send + Sync, Handle)> {
    let sink = Sink::open(options.target)?;
    let (filter, level) = reload::Layer::new(options.level.filter());
    let lines = tracing_subscriber::fmt::layer()
        .with_timer(Clock)
        .with_ansi(sink.path.is_none() && io::stderr().is_terminal())
        .with_writer(sink.clone());
    let lines = match options.style {
        Style::Text => lines.boxed(),
        Style::Json => lines.json().flatten_event(true).with_ansi(false).boxed(),
    };
    let subscriber = Registry::default().with(filter).with(lines);
    Ok((subscriber, Handle { level, sink }))
}

/// UTC with milliseconds.
struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        write!(w, "{:.3}", Timestamp::now())
    }
}

/// The output shared by all threads; the file can be exchanged.
#[derive(Clone)]
struct Sink {
    path: Option<PathBuf>,
    file: Arc<RwLock<Option<File>>>,
}

impl Sink {
    fn open(target: Target) -> io::Result<Self> {
        let path = match target {
            Target::Stderr => None,
            Target::File(path) => Some(path),
        };
        let file = path.as_deref().map(output::open).transpose()?;
        Ok(Self { path, file: Arc::new(RwLock::new(file)) })
    }

    fn reopen(&self) -> io::Result<()> {
        if let Some(path) = &self.path {
            let file = output::open(path)?;
            *self.file.write().unwrap_or_else(PoisonError::into_inner) = Some(file);
        }
        Ok(())
    }
}

/// The subscriber hands over whole lines, so lines of different threads do not mix.
impl Write for &Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.write_all(line).map(|()| line.len())
    }

    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        match &*self.file.read().unwrap_or_else(PoisonError::into_inner) {
            Some(file) => (&mut &*file).write_all(line),
            None => io::stderr().lock().write_all(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn options(path: &Path, style: Style) -> Options {
        Options { level: Level::Info, style, target: Target::File(path.to_owned()) }
    }

    #[test]
    fn text_lines_follow_the_documented_form() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/error.log");
        let (subscriber, handle) = build(options(&path, Style::Text)).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: "place", route = 7, "first");
            tracing::debug!("hidden");
            handle.set_level(Level::Debug);
            tracing::debug!(target: "place", "second");
            handle.set_level(Level::Error);
            tracing::warn!("hidden too");
            tracing::info!(target: LIFECYCLE, "ready");
        });
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        let (time, rest) = lines[0].split_at(24);
        assert_eq!(rest, "  INFO place: first route=7");
        assert!(time.parse::<Timestamp>().is_ok() && time.ends_with('Z'), "{time}");
        assert!(lines[1].ends_with("Z DEBUG place: second"), "{text}");
        assert!(lines[2].ends_with("  INFO lifecycle: ready"), "{text}");
    }

    #[test]
    fn json_lines_and_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let (path, rotated) = (dir.path().join("error.log"), dir.path().join("error.log.1"));
        let (subscriber, handle) = build(options(&path, Style::Json)).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(route = 7, "say \"hi\"");
            fs::rename(&path, &rotated).unwrap();
            handle.reopen().unwrap();
            tracing::info!("after");
        });
        let line = fs::read_to_string(rotated).unwrap();
        assert!(line.contains(r#""message":"say \"hi\"","route":7"#), "{line}");
        assert!(fs::read_to_string(path).unwrap().contains(r#""message":"after""#));
    }

    #[test]
    fn nginx_level_names() {
        assert_eq!(Level::parse("crit"), Some(Level::Error));
        assert_eq!(Level::parse("notice"), Some(Level::Info));
        assert_eq!(Level::parse("loud"), None);
    }
}
