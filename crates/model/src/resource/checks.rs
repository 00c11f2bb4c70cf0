//! Health checks of an upstream: `checks` with the defaults of `spec/upstream.md`, section 5.
//!
//! Read by hand, because the schema lets numbers be `1.0`, empty arrays be `{}`, and unknown
//! members stand beside the known ones; whatever it accepts can be read.

use std::time::Duration;

use serde_json::Value;

/// `checks`.
#[derive(Debug, Clone, PartialEq)]
pub struct Checks {
    /// Probes that headgate sends.
    pub active: Active,
    /// What sessions tell.
    pub passive: Passive,
}

/// What a probe does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeKind {
    /// An HTTP request; the answer's status counts.
    Http,
    /// The same over TLS.
    Https,
    /// A connection; with `send` and `expect` a conversation (extension).
    Tcp,
    /// A datagram that must be answered (extension).
    Udp,
    /// `PING` (extension).
    Redis,
    /// The greeting of a MySQL or MariaDB server and an answer to it (extension).
    Mysql,
    /// The start of a PostgreSQL session (extension).
    Postgres,
}

impl ProbeKind {
    const NAMES: [(&str, Self); 7] = [
        ("http", Self::Http),
        ("https", Self::Https),
        ("tcp", Self::Tcp),
        ("udp", Self::Udp),
        ("redis", Self::Redis),
        ("mysql", Self::Mysql),
        ("postgres", Self::Postgres),
    ];

    /// Its name in `type`.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    /// Whether the status of an HTTP answer counts.
    #[must_use]
    pub const fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }
}

/// `checks.active`.
#[derive(Debug, Clone, PartialEq)]
pub struct Active {
    /// `type`.
    pub kind: ProbeKind,
    /// Whether `type` was written; without it the probe is `http`.
    pub kind_is_written: bool,
    /// Limit for each step of a probe.
    pub timeout: Duration,
    /// Nodes probed at the same time.
    pub concurrency: usize,
    /// Name in the `Host` header and for TLS.
    pub host: Option<String>,
    /// Port to probe instead of the node's.
    pub port: Option<u16>,
    /// `http_method`.
    pub method: String,
    /// `http_path`.
    pub path: String,
    /// `http_req_body`.
    pub body: String,
    /// `https_verify_certificate`.
    pub verify: bool,
    /// `req_headers`: whole header lines.
    pub headers: Vec<String>,
    /// What a `tcp` or `udp` probe sends (extension).
    pub send: Option<String>,
    /// What the answer must contain (extension).
    pub expect: Option<String>,
    /// `healthy`.
    pub healthy: Healthy,
    /// `unhealthy`.
    pub unhealthy: Unhealthy,
}

/// When a node counts as healthy again.
#[derive(Debug, Clone, PartialEq)]
pub struct Healthy {
    /// Time between two probes of a healthy node; zero: healthy nodes are not probed.
    pub interval: Duration,
    /// Statuses that are a success.
    pub statuses: Vec<u16>,
    /// Successes in a row that are needed; 0: they do not count.
    pub successes: u8,
}

/// When a node counts as unhealthy.
#[derive(Debug, Clone, PartialEq)]
pub struct Unhealthy {
    /// Time between two probes of an unhealthy node; zero: it is never probed again.
    pub interval: Duration,
    /// Statuses that are a failure.
    pub statuses: Vec<u16>,
    /// Limits; 0: they do not count.
    pub limits: Limits,
}

/// How many failures of each kind make a node unhealthy; 0 switches the kind off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Refused, reset, or a wrong answer.
    pub tcp: u8,
    /// A bad HTTP status.
    pub http: u8,
    /// No answer in time.
    pub timeouts: u8,
}

/// `checks.passive`.
#[derive(Debug, Clone, PartialEq)]
pub struct Passive {
    /// Whether it is written; without it only retried attempts count.
    pub is_written: bool,
    /// Limits.
    pub limits: Limits,
}

const HEALTHY_STATUSES: [u16; 2] = [200, 302];
const UNHEALTHY_STATUSES: [u16; 8] = [429, 404, 500, 501, 502, 503, 504, 505];

impl Checks {
    /// Reads what the schema has accepted; `None` without `active`.
    #[must_use]
    pub fn read(checks: &Value) -> Option<Self> {
        let active = checks.get("active").filter(|active| active.is_object())?;
        let passive = checks.get("passive").filter(|passive| passive.is_object());
        let limits = passive.and_then(|passive| passive.get("unhealthy"));
        Some(Self {
            active: Active::read(active),
            passive: Passive {
                is_written: passive.is_some(),
                limits: Limits {
                    tcp: small(limits, "tcp_failures", 2),
                    http: small(limits, "http_failures", 5),
                    timeouts: small(limits, "timeouts", 7),
                },
            },
        })
    }
}

impl Active {
    fn read(active: &Value) -> Self {
        let text = |name: &str| active.get(name).and_then(Value::as_str).map(str::to_owned);
        let written = active.get("type").and_then(Value::as_str);
        let kind = ProbeKind::NAMES.into_iter().find(|(name, _)| Some(*name) == written);
        let (healthy, unhealthy) = (active.get("healthy"), active.get("unhealthy"));
        let lines = active.get("req_headers").and_then(Value::as_array).into_iter().flatten();
        let timeout = active.get("timeout").and_then(Value::as_f64).filter(|limit| *limit > 0.0);
        Self {
            kind: kind.map_or(ProbeKind::Http, |(_, kind)| kind),
            kind_is_written: written.is_some(),
            timeout: Duration::try_from_secs_f64(timeout.unwrap_or(1.0))
                .unwrap_or(Duration::MAX)
                .clamp(Duration::from_millis(1), Duration::from_secs(3600)),
            concurrency: number(Some(active), "concurrency").unwrap_or(10.0).max(1.0) as usize,
            host: text("host"),
            port: number(Some(active), "port").map(|port| port as u16).filter(|port| *port > 0),
            method: text("http_method").unwrap_or_else(|| "GET".to_owned()),
            path: text("http_path").unwrap_or_else(|| "/".to_owned()),
            body: text("http_req_body").unwrap_or_default(),
            verify: active.get("https_verify_certificate").and_then(Value::as_bool).unwrap_or(true),
            headers: lines.filter_map(Value::as_str).map(str::to_owned).collect(),
            send: text("send"),
            expect: text("expect"),
            healthy: Healthy {
                interval: interval(healthy),
                statuses: statuses(healthy, &HEALTHY_STATUSES),
                successes: small(healthy, "successes", 2),
            },
            unhealthy: Unhealthy {
                interval: interval(unhealthy),
                statuses: statuses(unhealthy, &UNHEALTHY_STATUSES),
                limits: Limits {
                    tcp: small(unhealthy, "tcp_failures", 2),
                    http: small(unhealthy, "http_failures", 5),
                    timeouts: small(unhealthy, "timeouts", 3),
                },
            },
        }
    }
}

fn number(object: Option<&Value>, name: &str) -> Option<f64> {
    object?.get(name)?.as_f64()
}

fn small(object: Option<&Value>, name: &str, default: u8) -> u8 {
    number(object, name).map_or(default, |number| number.clamp(0.0, 254.0) as u8)
}

/// Defaults apply inside an object that is present; without the object there is no probing.
fn interval(object: Option<&Value>) -> Duration {
    if object.is_none() {
        return Duration::ZERO;
    }
    let seconds = number(object, "interval").unwrap_or(1.0).clamp(1.0, 1e9);
    Duration::from_secs(seconds as u64)
}

fn statuses(object: Option<&Value>, default: &[u16]) -> Vec<u16> {
    match object.and_then(|object| object.get("http_statuses")).and_then(Value::as_array) {
        Some(list) => list.iter().filter_map(Value::as_f64).map(|status| status as u16).collect(),
        None => default.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_apply_only_inside_present_objects() {
        assert_eq!(Checks::read(&json!({"passive": {}})), None);
        let checks = Checks::read(&json!({"active": {}})).unwrap();
        assert_eq!(checks.active.kind, ProbeKind::Http);
        assert_eq!(checks.active.timeout, Duration::from_secs(1));
        assert_eq!((checks.active.concurrency, checks.active.verify), (10, true));
        assert_eq!((checks.active.method.as_str(), checks.active.path.as_str()), ("GET", "/"));
        assert_eq!(checks.active.healthy.interval, Duration::ZERO, "no object, no probes");
        assert_eq!(checks.active.unhealthy.interval, Duration::ZERO);
        assert_eq!(checks.active.unhealthy.limits, Limits { tcp: 2, http: 5, timeouts: 3 });
        assert!(!checks.passive.is_written);
        assert_eq!(checks.passive.limits, Limits { tcp: 2, http: 5, timeouts: 7 });

        let checks = json!({"active": {"healthy": {}, "unhealthy": {}}, "passive": {}});
        let checks = Checks::read(&checks).unwrap();
        assert_eq!(checks.active.healthy.interval, Duration::from_secs(1));
        assert_eq!(checks.active.healthy.statuses, [200, 302]);
        assert_eq!(checks.active.healthy.successes, 2);
        assert_eq!(checks.active.unhealthy.statuses.len(), 8);
        assert!(checks.passive.is_written);
    }

    #[test]
    fn every_field() {
        let checks = json!({
            "active": {
                "type": "https", "timeout": 0.5, "concurrency": 3.0, "host": "a.test",
                "port": 8443, "http_method": "HEAD", "http_path": "/up", "http_req_body": "x",
                "https_verify_certificate": false, "req_headers": ["A: 1", "B: 2"],
                "healthy": {"interval": 3, "http_statuses": [204], "successes": 1},
                "unhealthy": {
                    "interval": 2.0, "http_statuses": [500], "http_failures": 1,
                    "tcp_failures": 3, "timeouts": 4
                }
            },
            "passive": {"type": "tcp", "unhealthy": {"tcp_failures": 0, "timeouts": 1}}
        });
        let Checks { active, passive } = Checks::read(&checks).unwrap();
        assert_eq!((active.kind, active.kind.name()), (ProbeKind::Https, "https"));
        assert_eq!((active.timeout, active.concurrency), (Duration::from_millis(500), 3));
        assert_eq!((active.host.as_deref(), active.port), (Some("a.test"), Some(8443)));
        assert_eq!((active.method.as_str(), active.path.as_str()), ("HEAD", "/up"));
        assert_eq!((active.body.as_str(), active.verify), ("x", false));
        assert_eq!(active.headers, ["A: 1", "B: 2"]);
        assert_eq!(active.healthy.statuses, [204]);
        assert_eq!((active.healthy.successes, active.healthy.interval.as_secs()), (1, 3));
        assert_eq!(active.unhealthy.limits, Limits { tcp: 3, http: 1, timeouts: 4 });
        assert_eq!(passive.limits, Limits { tcp: 0, http: 5, timeouts: 1 });
    }
}
