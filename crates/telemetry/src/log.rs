//! The process log: what operators read when something is wrong.
//!
//! Events come from `tracing` everywhere in the workspace and leave as one line each:
//!
//! ```text
//! 2026-11-21T10:00:00.123Z  WARN headgate_upstream: upstream connect failed endpoint=10.0.0.5:5432
//! ```
//!
//! The thread that logs formats the line and leaves it to the writer thread; it never waits for the
//! file. Lines that come faster than they can be written are dropped and counted, so what repeats per
//! connection must be limited (see [`LogLimit`](crate::LogLimit)).

mod look;
mod writer;

use std::fmt;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::Subscriber;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{Registry, reload};

use self::look::Look;
pub use self::look::Style;
use self::writer::{QUEUE, Sink};
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
    path: Option<PathBuf>,
    sink: Sink,
}

/// Starts the process log and its thread. Can be called once.
///
/// The program calls [`Handle::flush`] before it ends.
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

    /// Opens the file again under its name, after rotation. Lines logged before still go to the old
    /// file. On an error the old file stays in use.
    pub fn reopen(&self) -> io::Result<()> {
        if let Some(path) = &self.path {
            self.sink.replace(Box::new(output::open(path)?));
        }
        Ok(())
    }

    /// Lines that were dropped since the start because they came faster than they could be written.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.sink.dropped()
    }

    /// Waits until everything logged so far is written, at most for `limit`; says whether it is.
    /// For the end of the program: not for data cores, which must not wait.
    pub fn flush(&self, limit: Duration) -> bool {
        self.sink.flush(limit)
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("target", &self.path).finish_non_exhaustive()
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
    let path = match options.target {
        Target::Stderr => None,
        Target::File(path) => Some(path),
    };
    // A descriptor of its own: `io::stderr` would be locked while a write is stalled.
    let file = output::open(path.as_deref().unwrap_or(Path::new("/dev/stderr")))?;
    let is_coloured = path.is_none() && io::stderr().is_terminal();
    let look = Look { style: options.style, is_coloured };
    let sink = Sink::start(Box::new(file), look, QUEUE)?;
    let (filter, level) = reload::Layer::new(options.level.filter());
    let subscriber = Registry::default().with(filter).with(look.layer(sink.clone()));
    Ok((subscriber, Handle { level, path, sink }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use jiff::Timestamp;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

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
        assert!(handle.flush(LONG));
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
        assert!(handle.flush(LONG));
        let line = fs::read_to_string(rotated).unwrap();
        assert!(line.contains(r#""message":"say \"hi\"","route":7"#), "{line}");
        assert!(fs::read_to_string(path).unwrap().contains(r#""message":"after""#));
    }

    #[test]
    fn a_full_disk_holds_up_nobody() {
        let (subscriber, handle) = build(options(Path::new("/dev/full"), Style::Text)).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            (0..20_000).for_each(|number| tracing::warn!(number, "nobody reads this"));
        });
        assert!(!handle.flush(Duration::ZERO));
    }

    #[test]
    fn a_missing_place_is_an_error() {
        let options = options(Path::new("/proc/no/such/place"), Style::Text);
        assert!(build(options).is_err());
    }

    #[test]
    fn nginx_level_names() {
        assert_eq!(Level::parse("crit"), Some(Level::Error));
        assert_eq!(Level::parse("notice"), Some(Level::Info));
        assert_eq!(Level::parse("loud"), None);
    }
}
