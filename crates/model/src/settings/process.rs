//! `nginx_config`: workers, limits, logs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::reading::{Reading, whole};
use super::store::duration_of;
use super::{AccessLogSettings, Escape, LogLevel, ProcessSettings, SandboxSettings};

/// Reads what concerns the process.
pub(super) fn read(reading: &mut Reading<'_>, home: &Path) -> ProcessSettings {
    let connections = number(reading, "nginx_config.event.worker_connections", 10_620);
    let files = number(reading, "nginx_config.worker_rlimit_nofile", 20_480);
    let shutdown = "nginx_config.worker_shutdown_timeout";
    ProcessSettings {
        workers: workers(reading),
        cpu_affinity: reading.is_on("nginx_config.enable_cpu_affinity"),
        rlimit_nofile: if files <= connections { connections.saturating_add(128) } else { files },
        worker_connections: usize::try_from(connections).unwrap_or(usize::MAX),
        shutdown_timeout: duration_of(reading, shutdown, Duration::from_secs(240)),
        error_log: log_file(reading, "nginx_config.error_log", home),
        log_level: level(reading),
        pid_file: home.join(reading.text("headgate.pid_file").unwrap_or("logs/headgate.pid")),
        user: user(reading),
        sandbox: sandbox(reading, home),
    }
}

/// A user, or a user and a group, as nginx has it.
fn user(reading: &mut Reading<'_>) -> Option<(String, Option<String>)> {
    let path = "nginx_config.user";
    let text = reading.scalar(path)?;
    let mut words = text.split_whitespace().map(str::to_owned);
    match (words.next(), words.next(), words.next()) {
        (Some(user), group, None) => Some((user, group)),
        _ => {
            let note = reading.error("config/value", path, format!("{path}: not a user"));
            note.label("neither `user` nor `user group`").help("write the name of a user");
            None
        }
    }
}

fn sandbox(reading: &Reading<'_>, home: &Path) -> SandboxSettings {
    let write = reading.texts("headgate.sandbox.write").unwrap_or_default();
    SandboxSettings {
        is_on: reading.is_on("headgate.sandbox.enable"),
        write: write.iter().map(|path| home.join(path)).collect(),
    }
}

/// The stream access log, when it is on.
pub(super) fn access_log(reading: &mut Reading<'_>, home: &Path) -> Option<AccessLogSettings> {
    if !reading.is_on("nginx_config.stream.enable_access_log") {
        return None;
    }
    let place = "nginx_config.stream.access_log";
    let syslog = match reading.text(place).and_then(|text| text.strip_prefix("syslog:")) {
        None => None,
        Some(text) => match super::syslog::parse(text) {
            Ok(target) => Some(target),
            Err(error) => {
                let note = reading.error("config/value", place, error).label("not understood");
                note.help("write syslog:server=10.0.0.1:514,facility=local7,tag=nginx");
                return None;
            }
        },
    };
    let path = match &syslog {
        Some(_) => PathBuf::from(reading.text(place).unwrap_or_default()),
        None => log_file(reading, place, home)?,
    };
    let format = reading.text("nginx_config.stream.access_log_format").unwrap_or_default();
    let every = reading.int("nginx_config.stream.access_log_interval").unwrap_or_default();
    let every = u64::try_from(every).ok().filter(|seconds| *seconds > 0);
    Some(AccessLogSettings {
        at_start: reading.is_on("nginx_config.stream.access_log_start"),
        every: every.map(Duration::from_secs),
        path,
        syslog,
        format: format.to_owned(),
        escape: match reading.text("nginx_config.stream.access_log_format_escape") {
            Some("json") => Escape::Json,
            Some("none") => Escape::None,
            _ => Escape::Default,
        },
    })
}

/// Trusted peers of the PROXY protocol.
pub(super) fn real_ip_from(reading: &mut Reading<'_>) -> Vec<String> {
    let path = "nginx_config.stream.real_ip_from";
    let mut peers = Vec::new();
    for (index, text) in reading.texts(path).unwrap_or_default().into_iter().enumerate() {
        if text == "unix:" || super::admin::is_network(&text) {
            peers.push(text);
            continue;
        }
        let at = format!("{path}[{index}]");
        let message = format!("invalid real_ip_from entry: {text}");
        let note =
            reading.error("config/network", &at, message).label("not an IP address or network");
        note.help("write an IP address (10.0.0.1), a network (10.0.0.0/8), or unix:");
    }
    peers
}

/// The environment beats dev mode, dev mode beats the file.
fn workers(reading: &Reading<'_>) -> Option<usize> {
    let positive = |number: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in bounds")]
        (1.0..=65_536.0).contains(&number).then(|| number.floor() as usize)
    };
    let variable = (reading.env)("APISIX_WORKER_PROCESSES");
    let variable = variable.and_then(|text| super::environment::number(&text)?.as_f64());
    if let Some(number) = variable.and_then(positive) {
        return Some(number);
    }
    if reading.is_on("apisix.enable_dev_mode") {
        return Some(1);
    }
    let value = reading.get("nginx_config.worker_processes")?;
    usize::try_from(whole(value)?).ok().filter(|number| *number > 0)
}

fn number(reading: &Reading<'_>, path: &str, default: u64) -> u64 {
    reading.int(path).and_then(|number| u64::try_from(number).ok()).unwrap_or(default)
}

fn level(reading: &Reading<'_>) -> LogLevel {
    match reading.text("nginx_config.error_log_level") {
        Some("debug") => LogLevel::Debug,
        Some("info" | "notice") => LogLevel::Info,
        Some("error" | "crit" | "alert" | "emerg") => LogLevel::Error,
        _ => LogLevel::Warn,
    }
}

/// A log file below the home directory; `None` is standard error, also for `/dev/stderr`.
fn log_file(reading: &mut Reading<'_>, path: &str, home: &Path) -> Option<PathBuf> {
    let text = reading.text(path).filter(|text| !text.is_empty())?.to_owned();
    if text.starts_with("syslog:") {
        let message = format!("{path}: logging to syslog is not built into this version");
        let note = reading.warning("config/no-effect", path, message).label("not used");
        note.help("write a file name, or /dev/stderr and let the service manager forward it");
        return None;
    }
    if text == "/dev/stderr" && path == "nginx_config.error_log" {
        return None;
    }
    Some(home.join(text))
}
