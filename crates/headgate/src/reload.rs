//! Reading config.yaml again (SIGHUP): everything that can change while running changes, or
//! nothing does.

use std::sync::Arc;
use std::time::Duration;

use headgate_model::settings::{Loaded, Settings, SslSettings, StreamSettings};
use headgate_stream::TrustedPeers;
use headgate_telemetry::log::LIFECYCLE;
use tokio::sync::oneshot;

use crate::gateway::Gateway;
use crate::{access_log, memory_budget, process_log};

/// Longest wait for certificates to be compiled under other settings.
const SSL_LIMIT: Duration = Duration::from_secs(5);

/// Applies the file again. An invalid file, or a port that cannot be opened, changes nothing.
pub(crate) async fn reload(gateway: &mut Gateway, loaded: Loaded) {
    for problem in &loaded.problems {
        match problem.severity {
            headgate_model::Severity::Error => tracing::error!("{problem}"),
            headgate_model::Severity::Warning => tracing::warn!("{problem}"),
        }
    }
    let Some(settings) = loaded.settings else {
        tracing::error!("reload refused: config.yaml has errors; the old configuration stays");
        return;
    };
    let ssl = settings.ssl.clone();
    match apply(gateway, settings) {
        Ok((opened, closed)) => {
            apply_ssl(gateway, ssl).await;
            // Not before the old listeners are gone: they would still take connections.
            if let Some(cores) = gateway.cores() {
                cores.settle().await;
            }
            tracing::info!(target: LIFECYCLE, opened, closed, "reloaded config.yaml");
        }
        Err(error) => {
            tracing::error!("reload refused: {error:#}; the old configuration stays");
        }
    }
}

/// Lets new handshakes go by other settings of `apisix.ssl`. The certificates are compiled anew,
/// so it is done only when something has changed.
async fn apply_ssl(gateway: &mut Gateway, new: SslSettings) {
    if gateway.settings.ssl == new {
        return;
    }
    gateway.shared.set_handshake_limit(new.handshake_timeout);
    gateway.settings.ssl = new.clone();
    let (done, applied) = oneshot::channel();
    let ordered = gateway.orders.send((new, done));
    let applied = async { ordered.await.is_ok() && applied.await.is_ok() };
    if !tokio::time::timeout(SSL_LIMIT, applied).await.unwrap_or(false) {
        tracing::warn!("apisix.ssl takes effect when the store answers again");
    }
}

fn apply(gateway: &mut Gateway, new: Settings) -> anyhow::Result<(usize, usize)> {
    let mut counts = (0, 0);
    if let (Some(_), Some(stream)) = (gateway.cores(), &new.stream) {
        let format = access_log::format(stream)?; // may fail, so it comes before anything changes
        let changed = gateway.planes.listeners.configure(stream).map_err(|errors| {
            let text: Vec<_> = errors.iter().map(ToString::to_string).collect();
            anyhow::anyhow!("{}", text.join("; "))
        })?;
        counts = (changed.opened, changed.closed);
        gateway.shared.access_format.store(format);
        gateway.shared.trusted_peers.store(Arc::new(TrustedPeers::new(&stream.real_ip_from)));
        gateway.shared.set_udp_flows(stream.udp_max_flows);
    }
    gateway.log.set_level(process_log::level(new.process.log_level));
    let restart = needs_restart(&gateway.settings, &new);
    if !restart.is_empty() {
        tracing::warn!(keys = restart.join(", "), "these changes take effect after a restart");
    }
    // What needs a restart stays as it runs, so that the next reload reports it again.
    let old = &mut gateway.settings;
    if let (Some(old), Some(new)) = (old.stream.as_mut(), new.stream) {
        *old = StreamSettings {
            reuseport: old.reuseport,
            access_log: match (old.access_log.take(), new.access_log) {
                (Some(old), Some(new)) => Some(headgate_model::settings::AccessLogSettings {
                    path: old.path,
                    syslog: old.syslog,
                    ..new
                }),
                (old, _) => old,
            },
            ..new
        };
    }
    old.process.log_level = new.process.log_level;
    old.process.shutdown_timeout = new.process.shutdown_timeout;
    old.drain = new.drain;
    old.limits.pending_handshakes = new.limits.pending_handshakes;
    gateway.shared.set_handshakes(new.limits.pending_handshakes);
    old.limits.memory = new.limits.memory;
    memory_budget::apply(new.limits.memory, &gateway.shared.pressure);
    gateway.planes.listeners.set_drain(&new.drain);
    Ok(counts)
}

/// Keys that differ and are only read at start.
fn needs_restart(old: &Settings, new: &Settings) -> Vec<&'static str> {
    let (was, is) = (old.stream.as_ref(), new.stream.as_ref());
    let log_path = |stream: Option<&StreamSettings>| {
        stream.and_then(|stream| stream.access_log.as_ref()).map(|log| log.path.clone())
    };
    let without_generated_key = |settings: &Settings| {
        let mut admin = settings.admin.clone();
        if let Some(keys) = admin.as_mut().and_then(|admin| admin.keys.as_mut()) {
            let configured = new.admin.as_ref().and_then(|admin| admin.keys.as_ref());
            for (index, key) in keys.iter_mut().enumerate() {
                let is_empty = configured
                    .and_then(|keys| keys.get(index))
                    .is_some_and(|key| key.key.is_empty() && !key.viewer);
                if is_empty {
                    key.key.clear();
                }
            }
        }
        admin
    };
    let checks = [
        ("apisix.proxy_mode / apisix.stream_proxy", was.is_some() != is.is_some()),
        ("apisix.enable_reuseport", was.map(|s| s.reuseport) != is.map(|s| s.reuseport)),
        ("nginx_config.stream.access_log", log_path(was) != log_path(is)),
        ("deployment.admin", without_generated_key(old) != new.admin),
        ("apisix.control", old.control != new.control),
        ("apisix.status", old.status != new.status),
        ("plugin_attr.prometheus", old.prometheus != new.prometheus),
        ("stream_plugins", old.stream_plugins != new.stream_plugins),
        ("xrpc.protocols", old.xrpc_protocols != new.xrpc_protocols),
        ("plugins", old.http_plugins != new.http_plugins),
        ("deployment (store)", old.store != new.store),
        ("deployment.role", old.role != new.role),
        ("apisix.data_encryption.keyring", old.keyring != new.keyring),
        ("apisix.ssl.ssl_trusted_certificate", old.trusted_certificate != new.trusted_certificate),
        ("apisix.dns_resolver", old.resolver != new.resolver),
        ("apisix.lru.secret", old.secrets != new.secrets),
        (
            "apisix.disable_upstream_healthcheck",
            old.disable_upstream_healthcheck != new.disable_upstream_healthcheck,
        ),
        ("nginx_config.worker_processes", old.process.workers != new.process.workers),
        ("nginx_config.enable_cpu_affinity", old.process.cpu_affinity != new.process.cpu_affinity),
        (
            "nginx_config.worker_rlimit_nofile",
            old.process.rlimit_nofile != new.process.rlimit_nofile,
        ),
        (
            "nginx_config.event.worker_connections",
            old.process.worker_connections != new.process.worker_connections,
        ),
        ("nginx_config.error_log", old.process.error_log != new.process.error_log),
        ("headgate.limits.connections", old.limits.connections != new.limits.connections),
        ("headgate.limits.when_full", old.limits.when_full != new.limits.when_full),
        ("headgate.watchdog", old.watchdog != new.watchdog),
        ("headgate.pid_file", old.process.pid_file != new.process.pid_file),
        ("nginx_config.user", old.process.user != new.process.user),
        ("headgate.sandbox", old.process.sandbox != new.process.sandbox),
    ];
    checks.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}
