//! The variables of a session (`spec/routing.md`, section 13): one table from name to meaning and
//! to the function that writes the value. Access log, expressions, templates, hash keys and
//! plugins all look names up here.

mod tlv;

use std::fmt;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::outcome::End;
use crate::secure::ja4;
use crate::secure::variables::{self as secure, SslVar};
use crate::session::Session;
use crate::snapshot::Target;
pub(crate) use tlv::Tlv;

/// Appends a value; `false` when there is none. Without an `End` the session still lasts, and what
/// is only known at the end has no value.
type Write = fn(&Session, Option<&End<'_>>, &mut Vec<u8>) -> bool;

/// A row of [`TABLE`].
pub struct Variable {
    /// Its name, without the `$`.
    pub name: &'static str,
    /// What it is, for the reference page.
    pub meaning: &'static str,
    write: Write,
}

/// A variable that was looked up.
#[derive(Clone, Copy)]
pub struct Var(Which);

#[derive(Clone, Copy)]
enum Which {
    Row(&'static Variable),
    Tlv(Tlv),
}

/// The number of the first extension of a PROXY header, far above the rows of [`TABLE`].
const FIRST_TLV: u16 = 0x8000;

impl Var {
    /// Appends the value to `out`; `false` when it has none. `end` is known in the log phase.
    pub fn write(self, session: &Session, end: Option<&End<'_>>, out: &mut Vec<u8>) -> bool {
        match self.0 {
            Which::Row(row) => (row.write)(session, end, out),
            Which::Tlv(tlv) => tlv.write(session, out),
        }
    }

    /// Whether its value costs a system call on wildcard listeners: the local address.
    #[must_use]
    pub fn needs_server(self) -> bool {
        matches!(self.0, Which::Row(row) if row.name == "server_addr")
    }

    /// Its number, by which upstreams remember what they hash.
    pub(crate) fn number(self) -> Option<u16> {
        match self.0 {
            Which::Row(row) => {
                let row = TABLE.iter().position(|known| std::ptr::eq(known, row))?;
                u16::try_from(row).ok()
            }
            Which::Tlv(tlv) => Some(FIRST_TLV | tlv.number()),
        }
    }

    /// The variable of a number.
    pub(crate) fn from_number(number: u16) -> Option<Self> {
        match number.checked_sub(FIRST_TLV) {
            Some(number) => Some(Self(Which::Tlv(Tlv::from_number(number)))),
            None => TABLE.get(usize::from(number)).map(|row| Self(Which::Row(row))),
        }
    }
}

impl fmt::Debug for Var {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Which::Row(row) => write!(f, "${}", row.name),
            Which::Tlv(tlv) => write!(f, "$proxy_protocol_tlv_* ({tlv:?})"),
        }
    }
}

/// Fingerprints are only made once somebody has named this.
const JA4: &str = "ja4";

/// Every variable that can have a value, by name. `docs/reference/variables.md` is made from it.
pub static TABLE: &[Variable] = &[
    Variable {
        name: "balancer_ip",
        meaning: "IP address of the endpoint chosen last",
        write: |session, _, out| {
            write_some(last_endpoint(session), |address| put(out, address.ip()))
        },
    },
    Variable {
        name: "balancer_port",
        meaning: "port of the endpoint chosen last",
        write: |session, _, out| {
            write_some(last_endpoint(session), |address| put(out, address.port()))
        },
    },
    Variable {
        name: "binary_remote_addr",
        meaning: "client address as 4 or 16 bytes",
        write: |session, _, out| {
            write_some(session.client, |client| match client.ip() {
                IpAddr::V4(ip) => out.extend(ip.octets()),
                IpAddr::V6(ip) => out.extend(ip.octets()),
            })
        },
    },
    Variable {
        name: "bytes_received",
        meaning: "bytes read from the client",
        write: |session, _, out| number(out, session.traffic.from_client),
    },
    Variable {
        name: "bytes_sent",
        meaning: "bytes written to the client",
        write: |session, _, out| number(out, session.traffic.to_client),
    },
    Variable {
        name: "close_reason",
        meaning: "why the session ended: a code of the access-log page",
        write: |_, end, out| write_some(ended(end), |end| put(out, end.reason.code())),
    },
    Variable {
        name: "connection",
        meaning: "number of the session in this process",
        write: |session, _, out| number(out, session.number),
    },
    Variable {
        name: "hostname",
        meaning: "name of the machine",
        write: |_, _, out| text(out, hostname()),
    },
    Variable {
        name: JA4,
        meaning: "JA4 fingerprint of the client's TLS, terminated or relayed",
        write: |session, _, out| {
            let ja4 = session.tls.as_ref().and_then(|tls| tls.ja4.as_deref());
            write_some(ja4, |ja4| put(out, ja4))
        },
    },
    Variable {
        name: "log_event",
        meaning: "what the line of the access log is about: `start`, `progress` or `end`",
        write: |_, end, out| write_some(end, |end| put(out, end.event.name())),
    },
    Variable {
        name: "mqtt_client_id",
        meaning: "client id of the MQTT CONNECT that `mqtt-proxy` read",
        write: |session, _, out| {
            write_some(session.mqtt_client_id.as_ref(), |id| out.extend_from_slice(id))
        },
    },
    Variable {
        name: "msec",
        meaning: "time of the log line, Unix seconds with milliseconds",
        write: |_, end, out| {
            write_some(end, |end| headgate_telemetry::time_text::write_msec(end.at, out))
        },
    },
    Variable {
        name: "nginx_version",
        meaning: "version of headgate",
        write: |_, _, out| text(out, env!("CARGO_PKG_VERSION")),
    },
    Variable {
        name: "pid",
        meaning: "process id",
        write: |_, _, out| number(out, u64::from(std::process::id())),
    },
    Variable {
        name: "protocol",
        meaning: "`TCP` or `UDP`",
        write: |session, _, out| text(out, session.listener.transport.as_str()),
    },
    Variable {
        name: "proxy_protocol_addr",
        meaning: "source address in the PROXY header",
        write: |session, _, out| write_some(proxied(session), |it| put(out, it.source.ip())),
    },
    Variable {
        name: "proxy_protocol_port",
        meaning: "source port in the PROXY header",
        write: |session, _, out| write_some(proxied(session), |it| put(out, it.source.port())),
    },
    Variable {
        name: "proxy_protocol_server_addr",
        meaning: "destination address in the PROXY header",
        write: |session, _, out| write_some(proxied(session), |it| put(out, it.destination.ip())),
    },
    Variable {
        name: "proxy_protocol_server_port",
        meaning: "destination port in the PROXY header",
        write: |session, _, out| write_some(proxied(session), |it| put(out, it.destination.port())),
    },
    Variable {
        name: "realip_remote_addr",
        meaning: "address of the direct peer",
        write: |session, _, out| address(out, session.peer),
    },
    Variable {
        name: "realip_remote_port",
        meaning: "port of the direct peer",
        write: |session, _, out| write_some(session.peer, |peer| put(out, peer.port())),
    },
    Variable {
        name: "remote_addr",
        meaning: "client address",
        write: |session, _, out| address(out, session.client),
    },
    Variable {
        name: "remote_port",
        meaning: "client port",
        write: |session, _, out| write_some(session.client, |client| put(out, client.port())),
    },
    Variable {
        name: "route_id",
        meaning: "id of the stream route",
        write: |session, _, out| write_some(session.route.as_ref(), |route| put(out, &route.id)),
    },
    Variable {
        name: "route_name",
        meaning: "name of the stream route",
        write: |session, _, out| {
            write_some(session.route.as_ref().and_then(|it| it.name.as_ref()), |name| {
                put(out, name)
            })
        },
    },
    Variable {
        name: "server_addr",
        meaning: "address that the client connected to",
        write: |session, _, out| write_some(server(session), |server| put(out, server.ip())),
    },
    Variable {
        name: "server_name",
        meaning: "the same as `ssl_server_name`",
        write: |session, _, out| ssl(SslVar::ServerName, session, out),
    },
    Variable {
        name: "server_port",
        meaning: "port that the client connected to",
        write: |session, _, out| write_some(server(session), |server| put(out, server.port())),
    },
    Variable {
        name: "service_id",
        meaning: "id of the service in use",
        write: |session, _, out| write_some(service(session), |(id, _)| put(out, id)),
    },
    Variable {
        name: "service_name",
        meaning: "name of the service in use",
        write: |session, _, out| {
            write_some(service(session).and_then(|(_, name)| name.as_ref()), |name| put(out, name))
        },
    },
    Variable {
        name: "session_id",
        meaning: "a name that no session of any headgate process shares; PROXY headers of version 2 carry it",
        write: |session, _, out| shown(out, session.unique_id()),
    },
    Variable {
        name: "session_time",
        meaning: "length of the session so far, seconds with milliseconds",
        write: |session, _, out| seconds(out, Some(session.started.elapsed())),
    },
    Variable {
        name: "ssl_alpn_protocol",
        meaning: "application protocol that client and headgate agreed on (ALPN)",
        write: |session, _, out| ssl(SslVar::Alpn, session, out),
    },
    Variable {
        name: "ssl_cipher",
        meaning: "cipher suite, by its OpenSSL name",
        write: |session, _, out| ssl(SslVar::Cipher, session, out),
    },
    Variable {
        name: "ssl_client_cert",
        meaning: "the client's certificate, PEM, lines indented",
        write: |session, _, out| ssl(SslVar::ClientCert, session, out),
    },
    Variable {
        name: "ssl_client_escaped_cert",
        meaning: "the same, URL-encoded",
        write: |session, _, out| ssl(SslVar::ClientEscapedCert, session, out),
    },
    Variable {
        name: "ssl_client_fingerprint",
        meaning: "SHA-1 of that certificate",
        write: |session, _, out| ssl(SslVar::ClientFingerprint, session, out),
    },
    Variable {
        name: "ssl_client_i_dn",
        meaning: "its issuer, RFC 2253",
        write: |session, _, out| ssl(SslVar::ClientIssuer, session, out),
    },
    Variable {
        name: "ssl_client_raw_cert",
        meaning: "the client's certificate, PEM",
        write: |session, _, out| ssl(SslVar::ClientRawCert, session, out),
    },
    Variable {
        name: "ssl_client_s_dn",
        meaning: "its subject, RFC 2253",
        write: |session, _, out| ssl(SslVar::ClientSubject, session, out),
    },
    Variable {
        name: "ssl_client_san",
        meaning: "its subject alternative names, `DNS:a.test,IP:10.0.0.1`; headgate's own variable",
        write: |session, _, out| ssl(SslVar::ClientAlternativeNames, session, out),
    },
    Variable {
        name: "ssl_client_serial",
        meaning: "its serial number",
        write: |session, _, out| ssl(SslVar::ClientSerial, session, out),
    },
    Variable {
        name: "ssl_client_v_end",
        meaning: "end of its validity",
        write: |session, _, out| ssl(SslVar::ClientValidTo, session, out),
    },
    Variable {
        name: "ssl_client_v_remain",
        meaning: "days until then",
        write: |session, _, out| ssl(SslVar::ClientDaysLeft, session, out),
    },
    Variable {
        name: "ssl_client_v_start",
        meaning: "begin of its validity",
        write: |session, _, out| ssl(SslVar::ClientValidFrom, session, out),
    },
    Variable {
        name: "ssl_client_verify",
        meaning: "`SUCCESS`, or `NONE` without a certificate",
        write: |session, _, out| ssl(SslVar::ClientVerify, session, out),
    },
    Variable {
        name: "ssl_curve",
        meaning: "group of the key exchange",
        write: |session, _, out| ssl(SslVar::Curve, session, out),
    },
    Variable {
        name: "ssl_protocol",
        meaning: "`TLSv1.2` or `TLSv1.3`",
        write: |session, _, out| ssl(SslVar::Protocol, session, out),
    },
    Variable {
        name: "ssl_server_name",
        meaning: "server name of the client, or `fallback_sni`",
        write: |session, _, out| ssl(SslVar::ServerName, session, out),
    },
    Variable {
        name: "ssl_session_reused",
        meaning: "`r` when a session was resumed, else `.`",
        write: |session, _, out| ssl(SslVar::SessionReused, session, out),
    },
    Variable {
        name: "status",
        meaning: "200 once an upstream was connected, else what went wrong",
        write: |session, end, out| write_some(ended(end), |end| put(out, end.status(session))),
    },
    Variable {
        name: "stream_listen_addr",
        meaning: "the listener as configured",
        write: |session, _, out| shown(out, &session.listener.addr),
    },
    Variable {
        name: "stream_session_reason",
        meaning: "why the session ended, in the words of the reference",
        write: |_, end, out| {
            let reason = ended(end).and_then(|end| end.reason.session_reason());
            write_some(reason, |reason| put(out, reason))
        },
    },
    Variable {
        name: "throttled_time",
        meaning: "time in which bandwidth limits held it up, both directions together, seconds; unset without limits",
        write: |session, _, out| {
            seconds(out, session.throttle.as_ref().map(|throttle| throttle.waited()))
        },
    },
    Variable {
        name: "time_iso8601",
        meaning: "time of the log line, ISO 8601",
        write: |_, end, out| write_some(end, |end| end.iso8601(out)),
    },
    Variable {
        name: "time_local",
        meaning: "time of the log line, common log format",
        write: |_, end, out| write_some(end, |end| end.local(out)),
    },
    Variable {
        name: "upstream_addr",
        meaning: "endpoints tried, comma-separated",
        write: |session, _, out| {
            for (index, endpoint) in session.upstream.tried.iter().enumerate() {
                put(out, if index == 0 { "" } else { ", " });
                put(out, &endpoint.address);
            }
            !session.upstream.tried.is_empty()
        },
    },
    Variable {
        name: "upstream_attempts",
        meaning: "number of endpoints tried",
        write: |session, _, out| number(out, session.upstream.tried.len() as u64),
    },
    Variable {
        name: "upstream_bytes_received",
        meaning: "bytes read from the upstream",
        write: |session, _, out| connected(session) && number(out, session.traffic.from_upstream),
    },
    Variable {
        name: "upstream_bytes_sent",
        meaning: "bytes written to the upstream",
        write: |session, _, out| connected(session) && number(out, session.traffic.to_upstream),
    },
    Variable {
        name: "upstream_connect_time",
        meaning: "time to connect, seconds",
        write: |session, _, out| seconds(out, session.upstream.connect_time),
    },
    Variable {
        name: "upstream_first_byte_time",
        meaning: "connect to first byte, seconds",
        write: |session, _, out| seconds(out, session.upstream.first_byte_time),
    },
    Variable {
        name: "upstream_queue_time",
        meaning: "time in the `queue` of the upstream, seconds; unset without waiting",
        write: |session, _, out| seconds(out, session.upstream.queue_time),
    },
    Variable {
        name: "upstream_session_time",
        meaning: "time since connected, seconds",
        write: |session, _, out| {
            seconds(out, session.upstream.connected.map(|connected| connected.elapsed()))
        },
    },
    Variable {
        name: "upstream_sni",
        meaning: "server name that the upstream's TLS is asked for",
        write: |session, _, out| {
            let tls = upstream(session).and_then(|upstream| upstream.tls());
            write_some(tls, |tls| put(out, tls.name(sni(session))))
        },
    },
];

/// A name that the reference knows and that has no value in this version.
static UNSET: Variable =
    Variable { name: "unset", meaning: "never has a value", write: |_, _, _| false };

/// Names of the reference that have no value here: accepted, unset.
static NOT_SET: &[&str] = &["ssl_ciphers", "ssl_curves", "ssl_session_id"];

/// The variable of that name.
#[must_use]
pub fn find(name: &str) -> Option<Var> {
    if name == JA4 {
        ja4::want();
    }
    if let Some(known) = TABLE.iter().find(|known| known.name == name) {
        return Some(Var(Which::Row(known)));
    }
    let tlv = name.strip_prefix("proxy_protocol_tlv_");
    if let Some(tlv) = tlv.and_then(Tlv::parse) {
        return Some(Var(Which::Tlv(tlv)));
    }
    let is_unset = NOT_SET.contains(&name) || tlv.is_some();
    is_unset.then_some(Var(Which::Row(&UNSET)))
}

fn ssl(var: SslVar, session: &Session, out: &mut Vec<u8>) -> bool {
    secure::write(var, session, out)
}

fn ended<'a, 'b>(end: Option<&'a End<'b>>) -> Option<&'a End<'b>> {
    end.filter(|end| end.has_come())
}

fn proxied(session: &Session) -> Option<&crate::session::Proxied> {
    session.proxied.as_deref()
}

fn server(session: &Session) -> Option<SocketAddr> {
    session.server.get().copied().flatten()
}

fn sni(session: &Session) -> Option<&str> {
    session.tls.as_ref()?.sni.as_deref()
}

/// The upstream that a session goes to.
fn upstream(session: &Session) -> Option<&headgate_upstream::Upstream> {
    let chosen = session.redirect.as_deref();
    chosen.or_else(|| match &session.route.as_ref()?.target {
        Target::Upstream(upstream) => Some(upstream),
        Target::Broken { .. } => None,
    })
}

fn service(session: &Session) -> Option<&(String, Option<String>)> {
    session.route.as_ref()?.service.as_ref()
}

fn last_endpoint(session: &Session) -> Option<SocketAddr> {
    match session.upstream.tried.last()?.address {
        headgate_upstream::Address::Ip(address) => Some(address),
        headgate_upstream::Address::Unix(_) => None,
    }
}

const fn connected(session: &Session) -> bool {
    session.upstream.connected.is_some()
}

/// Name of this machine.
#[must_use]
pub fn hostname() -> &'static str {
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
        assert!(TABLE.windows(2).all(|pair| pair[0].name < pair[1].name));
        assert!(NOT_SET.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(NOT_SET.iter().all(|name| TABLE.iter().all(|known| known.name != *name)));
    }

    #[test]
    fn unknown_names_are_told_apart_from_unset_ones() {
        assert_eq!(format!("{:?}", find("remote_addr")), "Some($remote_addr)");
        assert_eq!(format!("{:?}", find("proxy_protocol_tlv_vpce")), "Some($unset)");
        assert!(find("proxy_protocol_tlv_alpn").is_some());
        assert!(find("request_uri").is_none());
    }

    #[test]
    fn the_reference_page_is_current() {
        let mut page = String::from(
            "# Variables\n\nFor `access_log_format`, hash keys, `vars`, `_meta.filter`, keys of plugins and \
             log formats. In the access log a variable without a value prints `-` (nothing with \
             `json` escaping).\n\n| name | meaning |\n|---|---|\n",
        );
        for Variable { name, meaning, .. } in TABLE {
            page.push_str(&format!("| `${name}` | {meaning} |\n"));
        }
        page.push_str("\nAccepted and always unset in this version: ");
        let unset: Vec<_> = NOT_SET.iter().map(|name| format!("`${name}`")).collect();
        page.push_str(&unset.join(", "));
        page.push_str(
            ".\n\n`$proxy_protocol_tlv_NAME` is an extension of the PROXY header of version 2. `NAME` is \
             `alpn`, `authority`, `unique_id`, `ssl`, `netns` or the number of its type, such as `0x01`; inside `ssl`: \
             `ssl_version`, `ssl_cn`, `ssl_cipher`, `ssl_sig_alg`, `ssl_key_alg`, a number such as `ssl_0x22`, and \
             `ssl_verify`, 0 when a certificate was verified.\n",
        );
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/variables.md");
        if std::env::var_os("HEADGATE_BLESS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let current = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(current, page, "run the test with HEADGATE_BLESS=1");
    }
}
