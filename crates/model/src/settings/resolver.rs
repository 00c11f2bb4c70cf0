//! Name servers and the limits of resolving; the bundle of trusted certificates.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::reading::Reading;
use super::{ResolverSettings, SecretSettings};

const SERVERS: &str = "apisix.dns_resolver";

/// Reads the resolver's settings.
pub(super) fn read(reading: &mut Reading<'_>) -> ResolverSettings {
    let timeout = reading.get("apisix.resolver_timeout").and_then(serde_json::Value::as_f64);
    let timeout = timeout.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    if timeout.is_none_or(|time| time.is_zero()) && reading.wrote("apisix.resolver_timeout") {
        let at = "apisix.resolver_timeout";
        let note = reading.error("config/value", at, "resolver_timeout must be above 0 seconds");
        note.label("not a time span").help("write seconds, e.g. resolver_timeout: 5");
    }
    let valid = reading.int("apisix.dns_resolver_valid");
    ResolverSettings {
        servers: servers(reading),
        valid: valid.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs),
        timeout: timeout.filter(|time| !time.is_zero()).unwrap_or(Duration::from_secs(5)),
        search: reading.is_on("apisix.enable_resolv_search_opt"),
        ipv6: reading.is_on("apisix.enable_ipv6"),
    }
}

fn servers(reading: &mut Reading<'_>) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for (index, text) in reading.texts(SERVERS).unwrap_or_default().into_iter().enumerate() {
        let at = format!("{SERVERS}[{index}]");
        if text.contains('%') {
            let message = format!("unsupported DNS resolver: {text}, would ignore this item");
            let note = reading.warning("resolver/server", &at, message).label("has a zone id");
            note.help("write the address without the part from % on");
        } else if let Some(server) = server(&text) {
            servers.push(server);
        } else {
            let message = format!("invalid dns_resolver entry: {text}");
            let note = reading.error("resolver/server", &at, message).label("not an IP address");

            note.help("write an IP address, with a port if needed: 10.0.0.2 or 10.0.0.2:5353");
        }
    }
    servers
}

fn server(text: &str) -> Option<SocketAddr> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let ip = bare.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 53));
    ip.or_else(|| text.parse::<SocketAddr>().ok())
}

/// How long what secret managers answer is kept.
pub(super) fn secrets(reading: &Reading<'_>) -> SecretSettings {
    let known = SecretSettings::default();
    let seconds = |path: &str| reading.int(path).and_then(|seconds| u64::try_from(seconds).ok());
    SecretSettings {
        valid: seconds("apisix.lru.secret.ttl").map_or(known.valid, Duration::from_secs),
        failed: seconds("apisix.lru.secret.neg_ttl").map_or(known.failed, Duration::from_secs),
    }
}

/// The bundle for outgoing TLS; `None` is the system's.
pub(super) fn trusted_certificate(reading: &mut Reading<'_>) -> Option<PathBuf> {
    let at = "apisix.ssl.ssl_trusted_certificate";
    let text = reading.text(at).filter(|text| *text != "system" && !text.is_empty())?;
    let path = std::path::absolute(text).unwrap_or_else(|_| PathBuf::from(text));
    if !path.exists() {
        let message = format!("certificate path {} doesn't exist", path.display());
        let note = reading.error("config/file", at, message).label("no such file");
        note.help("correct the path, or use system");
    }
    Some(path)
}
