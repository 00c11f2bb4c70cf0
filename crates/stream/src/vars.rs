//! The variables of a session: name, meaning, and how to write the value
//! (`spec/routing.md`, section 13).

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::access::End;
use crate::session::Session;

/// A variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "TABLE explains each")]
pub enum Var {
    BinaryRemoteAddr,
    BytesReceived,
    BytesSent,
    CloseReason,
    Connection,
    Hostname,
    Msec,
    Pid,
    Protocol,
    ProxyAddr,
    ProxyPort,
    ProxyServerAddr,
    ProxyServerPort,
    RealipRemoteAddr,
    RealipRemotePort,
    RemoteAddr,
    RemotePort,
    RouteId,
    RouteName,
    ServerAddr,
    ServerPort,
    ServiceId,
    ServiceName,
    SessionTime,
    Status,
    StreamListenAddr,
    TimeIso8601,
    TimeLocal,
    UpstreamAddr,
    UpstreamAttempts,
    UpstreamBytesReceived,
    UpstreamBytesSent,
    UpstreamConnectTime,
    UpstreamFirstByteTime,
    UpstreamSessionTime,
    Version,
    /// Known to the reference, never set in this version.
    Unset,
}

/// Name, variable, meaning. `docs/reference/variables.md` is made from it.
pub static TABLE: &[(&str, Var, &str)] = &[
    ("binary_remote_addr", Var::BinaryRemoteAddr, "client address as 4 or 16 bytes"),
    ("bytes_received", Var::BytesReceived, "bytes read from the client"),
    ("bytes_sent", Var::BytesSent, "bytes written to the client"),
    ("close_reason", Var::CloseReason, "why the session ended: a code of the access-log page"),
    ("connection", Var::Connection, "number of the session in this process"),
    ("hostname", Var::Hostname, "name of the machine"),
    ("msec", Var::Msec, "time of the log line, Unix seconds with milliseconds"),
    ("nginx_version", Var::Version, "version of headgate"),
    ("pid", Var::Pid, "process id"),
    ("protocol", Var::Protocol, "`TCP` or `UDP`"),
    ("proxy_protocol_addr", Var::ProxyAddr, "source address in the PROXY header"),
    ("proxy_protocol_port", Var::ProxyPort, "source port in the PROXY header"),
    ("proxy_protocol_server_addr", Var::ProxyServerAddr, "destination address in the PROXY header"),
    ("proxy_protocol_server_port", Var::ProxyServerPort, "destination port in the PROXY header"),
    ("realip_remote_addr", Var::RealipRemoteAddr, "address of the direct peer"),
    ("realip_remote_port", Var::RealipRemotePort, "port of the direct peer"),
    ("remote_addr", Var::RemoteAddr, "client address"),
    ("remote_port", Var::RemotePort, "client port"),
    ("route_id", Var::RouteId, "id of the stream route"),
    ("route_name", Var::RouteName, "name of the stream route"),
    ("server_addr", Var::ServerAddr, "address that the client connected to"),
    ("server_port", Var::ServerPort, "port that the client connected to"),
    ("service_id", Var::ServiceId, "id of the service in use"),
    ("service_name", Var::ServiceName, "name of the service in use"),
    ("session_time", Var::SessionTime, "length of the session, seconds with milliseconds"),
    ("status", Var::Status, "200 once an upstream was connected, else what went wrong"),
    ("stream_listen_addr", Var::StreamListenAddr, "the listener as configured"),
    ("time_iso8601", Var::TimeIso8601, "time of the log line, ISO 8601"),
    ("time_local", Var::TimeLocal, "time of the log line, common log format"),
    ("upstream_addr", Var::UpstreamAddr, "endpoints tried, comma-separated"),
    ("upstream_attempts", Var::UpstreamAttempts, "number of endpoints tried"),
    ("upstream_bytes_received", Var::UpstreamBytesReceived, "bytes read from the upstream"),
    ("upstream_bytes_sent", Var::UpstreamBytesSent, "bytes written to the upstream"),
    ("upstream_connect_time", Var::UpstreamConnectTime, "time to connect, seconds"),
    ("upstream_first_byte_time", Var::UpstreamFirstByteTime, "connect to first byte, seconds"),
    ("upstream_session_time", Var::UpstreamSessionTime, "time since connected, seconds"),
];

/// Names of the reference that need TLS or plugins: accepted, unset.
static NOT_SET: &[&str] = &[
    "server_name",
    "ssl_alpn_protocol",
    "ssl_cipher",
    "ssl_ciphers",
    "ssl_client_cert",
    "ssl_client_escaped_cert",
    "ssl_client_fingerprint",
    "ssl_client_i_dn",
    "ssl_client_raw_cert",
    "ssl_client_s_dn",
    "ssl_client_serial",
    "ssl_client_v_end",
    "ssl_client_v_remain",
    "ssl_client_v_start",
    "ssl_client_verify",
    "ssl_curve",
    "ssl_curves",
    "ssl_protocol",
    "ssl_server_name",
    "ssl_session_id",
    "ssl_session_reused",
    "stream_session_reason",
    "upstream_sni",
];

/// The variable of that name.
#[must_use]
pub fn find(name: &str) -> Option<Var> {
    let known = TABLE.iter().find(|(known, _, _)| *known == name).map(|(_, var, _)| *var);
    let is_unset = NOT_SET.contains(&name) || name.starts_with("proxy_protocol_tlv_");
    known.or(is_unset.then_some(Var::Unset))
}

/// Appends the value at the end of a session; `false` when it has none.
pub(crate) fn write(var: Var, session: &Session, end: &mut End<'_>, out: &mut Vec<u8>) -> bool {
    match var {
        Var::CloseReason => text(out, end.reason.code()),
        Var::Msec => {
            headgate_telemetry::time_text::write_msec(end.now, out);
            true
        }
        Var::SessionTime => seconds(out, Some(end.lasted)),
        Var::Status => number(out, u64::from(end.reason.status())),
        Var::TimeIso8601 => text(out, end.times.iso8601(end.now)),
        Var::TimeLocal => text(out, end.times.local(end.now)),
        known_before => write_early(known_before, session, out),
    }
}

/// Appends the value that a variable has while the session lasts; `false` when it has none.
pub(crate) fn write_early(var: Var, session: &Session, out: &mut Vec<u8>) -> bool {
    let upstream = &session.upstream;
    let traffic = &session.traffic;
    let route = session.route.as_deref();
    let proxied = session.proxied.as_deref();
    let server = || session.server.get().copied().flatten();
    match var {
        Var::BinaryRemoteAddr => write_some(session.client, |client| match client.ip() {
            IpAddr::V4(ip) => out.extend(ip.octets()),
            IpAddr::V6(ip) => out.extend(ip.octets()),
        }),
        Var::BytesReceived => number(out, traffic.from_client),
        Var::BytesSent => number(out, traffic.to_client),
        Var::Connection => number(out, session.number),
        Var::Hostname => text(out, hostname()),
        Var::Pid => number(out, u64::from(std::process::id())),
        Var::Protocol => text(out, session.listener.transport.as_str()),
        Var::ProxyAddr => write_some(proxied, |it| put(out, it.source.ip())),
        Var::ProxyPort => write_some(proxied, |it| put(out, it.source.port())),
        Var::ProxyServerAddr => write_some(proxied, |it| put(out, it.destination.ip())),
        Var::ProxyServerPort => write_some(proxied, |it| put(out, it.destination.port())),
        Var::RemoteAddr => address(out, session.client),
        Var::RemotePort => write_some(session.client, |client| put(out, client.port())),
        Var::RealipRemoteAddr => address(out, session.peer),
        Var::RealipRemotePort => write_some(session.peer, |peer| put(out, peer.port())),
        Var::RouteId => write_some(route, |route| put(out, &route.id)),
        Var::RouteName => write_some(route.and_then(|r| r.name.as_ref()), |name| put(out, name)),
        Var::ServerAddr => write_some(server(), |server| put(out, server.ip())),
        Var::ServerPort => write_some(server(), |server| put(out, server.port())),
        Var::ServiceId => {
            write_some(route.and_then(|r| r.service.as_ref()), |(id, _)| put(out, id))
        }
        Var::ServiceName => {
            let service = route.and_then(|route| route.service.as_ref());
            write_some(service.and_then(|(_, name)| name.as_ref()), |name| put(out, name))
        }
        Var::StreamListenAddr => shown(out, &session.listener.addr),
        Var::UpstreamAddr => {
            for (index, endpoint) in upstream.tried.iter().enumerate() {
                put(out, if index == 0 { "" } else { ", " });
                put(out, &endpoint.address);
            }
            !upstream.tried.is_empty()
        }
        Var::UpstreamAttempts => number(out, upstream.tried.len() as u64),
        Var::UpstreamBytesReceived => connected(session) && number(out, traffic.from_upstream),
        Var::UpstreamBytesSent => connected(session) && number(out, traffic.to_upstream),
        Var::UpstreamConnectTime => seconds(out, upstream.connect_time),
        Var::UpstreamFirstByteTime => seconds(out, upstream.first_byte_time),
        Var::UpstreamSessionTime => seconds(out, End::upstream_session(session)),
        Var::Version => text(out, env!("CARGO_PKG_VERSION")),
        Var::CloseReason
        | Var::Msec
        | Var::SessionTime
        | Var::Status
        | Var::TimeIso8601
        | Var::TimeLocal
        | Var::Unset => false,
    }
}

const fn connected(session: &Session) -> bool {
    session.upstream.connected.is_some()
}

fn hostname() -> &'static str {
    static NAME: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        name.trim().to_owned()
    });
    &NAME
}

fn put(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    let _ = write!(out, "{value}"); // a Vec takes everything
}

fn shown(out: &mut Vec<u8>, value: impl std::fmt::Display) -> bool {
    put(out, value);
    true
}

fn text(out: &mut Vec<u8>, value: &str) -> bool {
    out.extend(value.as_bytes());
    true
}

fn address(out: &mut Vec<u8>, address: Option<SocketAddr>) -> bool {
    match address {
        Some(address) => shown(out, address.ip()),
        None => text(out, "unix:"),
    }
}

fn number(out: &mut Vec<u8>, value: u64) -> bool {
    shown(out, value)
}

fn seconds(out: &mut Vec<u8>, time: Option<Duration>) -> bool {
    write_some(time, |time| {
        let _ = write!(out, "{}.{:03}", time.as_secs(), time.subsec_millis());
    })
}

fn write_some<T>(value: Option<T>, write: impl FnOnce(T)) -> bool {
    match value {
        Some(value) => {
            write(value);
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_unique() {
        assert!(TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(NOT_SET.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(NOT_SET.iter().all(|name| TABLE.iter().all(|(known, _, _)| known != name)));
    }

    #[test]
    fn unknown_names_are_told_apart_from_unset_ones() {
        assert_eq!(find("remote_addr"), Some(Var::RemoteAddr));
        assert_eq!(find("proxy_protocol_tlv_0x20"), Some(Var::Unset));
        assert_eq!(find("request_uri"), None);
    }

    #[test]
    fn the_reference_page_is_current() {
        let mut page = String::from(
            "# Variables\n\nFor `nginx_config.stream.access_log_format`. A variable without a \
             value prints `-` (nothing with `json` escaping).\n\n| name | meaning |\n|---|---|\n",
        );
        for (name, _, meaning) in TABLE {
            page.push_str(&format!("| `${name}` | {meaning} |\n"));
        }
        page.push_str("\nAccepted and always unset in this version: ");
        let unset: Vec<_> = NOT_SET.iter().map(|name| format!("`${name}`")).collect();
        page.push_str(&unset.join(", "));
        page.push_str(", `$proxy_protocol_tlv_*`.\n");
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/variables.md");
        if std::env::var_os("HEADGATE_BLESS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let current = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(current, page, "run the test with HEADGATE_BLESS=1");
    }
}
