//! `deployment.etcd`.

use std::path::PathBuf;
use std::time::Duration;

use super::reading::Reading;
use super::{EtcdSettings, EtcdTls, Keyring};

const HOST: &str = "deployment.etcd.host";

/// Reads the section; `hosts` are those of the environment, which win.
pub(super) fn read(
    reading: &mut Reading<'_>,
    hosts: Option<Vec<String>>,
    directory: PathBuf,
) -> EtcdSettings {
    let hosts = hosts.or_else(|| reading.texts(HOST)).unwrap_or_default();
    if hosts.is_empty() {
        let note = reading.refuse("etcd/host", HOST, "expect array to have at least 1 items");
        note.label("no host").help("write host: [\"http://127.0.0.1:2379\"]");
    }
    for (index, host) in hosts.iter().enumerate() {
        check_host(reading, index, host);
    }
    if hosts.iter().any(|host| host.starts_with("https:"))
        && hosts.iter().any(|host| host.starts_with("http:"))
    {
        let note = reading.warning("etcd/mixed", HOST, "mixed protocols among etcd endpoints");
        note.label("http and https").help("use https for all of them");
    }
    let user = reading.scalar("deployment.etcd.user").filter(|user| !user.is_empty());
    let password = reading.scalar("deployment.etcd.password").unwrap_or_default();
    EtcdSettings {
        hosts,
        prefix: prefix(reading),
        timeout: seconds(reading, "timeout", 1, 30),
        watch_timeout: seconds(reading, "watch_timeout", 1, 50),
        resync_delay: seconds(reading, "resync_delay", 0, 5),
        health_check_timeout: seconds(reading, "health_check_timeout", 0, 10),
        startup_retry: reading
            .int("deployment.etcd.startup_retry")
            .and_then(|times| u32::try_from(times).ok())
            .unwrap_or(2)
            .max(1),
        user: user.map(|user| (user, Keyring(password))),
        tls: tls(reading),
        directory,
        ready_while_stale: reading.is_on("deployment.etcd.ready_while_stale"),
    }
}

/// `deployment.etcd.prefix` without a slash at the end.
pub(super) fn prefix(reading: &Reading<'_>) -> String {
    let prefix = reading.text("deployment.etcd.prefix").unwrap_or("/apisix");
    prefix.trim_end_matches('/').to_owned()
}

/// `scheme://name[:port]` and nothing behind it.
fn check_host(reading: &mut Reading<'_>, index: usize, host: &str) {
    let rest = host.strip_prefix("http://").or_else(|| host.strip_prefix("https://"));
    let is_valid = rest.is_some_and(|rest| {
        let (name, port) = match rest.strip_prefix('[') {
            Some(six) => match six.split_once(']') {
                Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => {
                    (address, port)
                }
                _ => return false,
            },
            None => match rest.find(':') {
                Some(at) => rest.split_at(at),
                None => (rest, ""),
            },
        };
        let named = name.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:".contains(c));
        let port_fits = port.is_empty()
            || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
        !name.is_empty() && named && port_fits
    });
    if !is_valid {
        let at = format!("{HOST}[{index}]");
        let at = if reading.wrote(&at) { at } else { HOST.to_owned() };
        let message = format!("invalid http host: {host}, err: not matched");
        let note = reading.error("etcd/host", &at, message).label("not scheme://name:port");
        note.help("write http://10.0.0.1:2379, without a path or a slash at the end");
    }
}

/// Whole seconds; what is below `least` counts as not set.
fn seconds(reading: &Reading<'_>, name: &str, least: i64, default: u64) -> Duration {
    let written = reading.int(&format!("deployment.etcd.{name}")).filter(|time| *time >= least);
    Duration::from_secs(written.and_then(|time| u64::try_from(time).ok()).unwrap_or(default))
}

fn tls(reading: &mut Reading<'_>) -> EtcdTls {
    let path = |name: &str| {
        let text = reading.text(&format!("deployment.etcd.tls.{name}"));
        text.filter(|text| !text.is_empty()).map(PathBuf::from)
    };
    let (cert, key) = (path("cert"), path("key"));
    if cert.is_some() != key.is_some() {
        let at = "deployment.etcd.tls";
        let message = "deployment.etcd.tls needs cert and key together";
        let note = reading.error("etcd/tls", at, message).label("one of them is missing");
        note.help("name both files, or neither");
    }
    EtcdTls {
        client: cert.zip(key),
        verify: reading.get("deployment.etcd.tls.verify") != Some(&false.into()),
        sni: reading.text("deployment.etcd.tls.sni").map(str::to_owned),
    }
}
