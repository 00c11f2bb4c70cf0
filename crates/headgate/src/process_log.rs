//! The process log as config.yaml describes it.

use anyhow::Context as _;
use headgate_model::settings::{LogLevel, Settings};
use headgate_telemetry::log;

/// Starts the process log; can be called once.
pub(crate) fn start(settings: &Settings) -> anyhow::Result<log::Handle> {
    let target = match &settings.process.error_log {
        None => log::Target::Stderr,
        Some(path) => log::Target::File(path.clone()),
    };
    let options = log::Options {
        level: level(settings.process.log_level),
        target,
        ..log::Options::default()
    };
    let handle = log::init(options).context("opening the log (nginx_config.error_log)")?;
    // The default hook writes to stderr itself, and would wait there for a stalled reader.
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        tracing::error!(thread = name, "{panic}");
    }));
    Ok(handle)
}

/// The level of config.yaml as the log knows it.
pub(crate) const fn level(level: LogLevel) -> log::Level {
    match level {
        LogLevel::Error => log::Level::Error,
        LogLevel::Warn => log::Level::Warn,
        LogLevel::Info => log::Level::Info,
        LogLevel::Debug => log::Level::Debug,
    }
}
