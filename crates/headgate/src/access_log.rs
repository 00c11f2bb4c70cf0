//! The access log as config.yaml describes it.

use std::sync::Arc;

use anyhow::Context as _;
use headgate_model::settings::syslog::SyslogServer;
use headgate_model::settings::{Escape, StreamSettings};
use headgate_stream::AccessFormat;
use headgate_telemetry::access_log;

/// Compiles the access-log format.
pub(crate) fn format(stream: &StreamSettings) -> anyhow::Result<Option<Arc<AccessFormat>>> {
    let Some(log) = &stream.access_log else { return Ok(None) };
    let escape = match log.escape {
        Escape::Default => access_log::Escape::Default,
        Escape::Json => access_log::Escape::Json,
        Escape::None => access_log::Escape::None,
    };
    let mut format = AccessFormat::compile(&log.format, escape)
        .context("nginx_config.stream.access_log_format (docs/reference/variables.md lists all)")?;
    (format.at_start, format.every) = (log.at_start, log.every);
    Ok(Some(Arc::new(format)))
}

/// Opens the file and starts the thread that writes it; `None` when the log is off.
pub(crate) fn open(stream: &StreamSettings) -> anyhow::Result<Option<access_log::Writer>> {
    let Some(log) = &stream.access_log else { return Ok(None) };
    if let Some(target) = &log.syslog {
        let to = access_log::Syslog {
            server: match &target.server {
                SyslogServer::Udp(address) => access_log::Server::Udp(address.clone()),
                SyslogServer::Unix(path) => access_log::Server::Unix(path.clone()),
            },
            priority: target.priority,
            tag: target.tag.clone(),
            hostname: target.with_hostname.then(|| headgate_stream::vars::hostname().to_owned()),
        };
        return access_log::Writer::to_syslog(to).map(Some).context("starting the access log");
    }
    let writer = access_log::Writer::open(&log.path)
        .with_context(|| format!("opening the access log {}", log.path.display()))?;
    Ok(Some(writer))
}
