//! An upstream: the servers and how to choose among them (`spec/schemas.md`, section 4, and
//! `spec/upstream.md`).

use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::Secret;
use super::checks::Checks;
use super::lenient::{count, optional_count, optional_id, optional_list, optional_port, signed};

/// Balancers that exist; the first is the default.
pub const BALANCERS: &[&str] = &["roundrobin", "chash", "least_conn", "ewma", "random", "maglev"];

/// Typed view of an upstream.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Upstream {
    /// Name for people and logs.
    pub name: Option<String>,
    /// The servers, both spellings normalised to a list.
    #[serde(default, deserialize_with = "nodes")]
    pub nodes: Vec<Node>,
    /// Balancer name; `roundrobin` when absent.
    #[serde(rename = "type")]
    pub balancer: Option<String>,
    /// What consistent hashing takes its key from.
    pub hash_on: Option<String>,
    /// Key of consistent hashing.
    pub key: Option<String>,
    /// Extra attempts after the first; number of nodes - 1 when absent.
    #[serde(default, deserialize_with = "optional_count")]
    pub retries: Option<u32>,
    /// Seconds after which no further attempt starts; 0 means no limit.
    pub retry_timeout: Option<f64>,
    /// Seconds to connect, send and read.
    pub timeout: Option<Timeout>,
    /// Only `tls` changes anything for streams.
    pub scheme: Option<String>,
    /// TLS towards the servers.
    #[serde(default, deserialize_with = "tls")]
    pub tls: Option<Box<UpstreamTls>>,
    /// Health checks.
    #[serde(default, deserialize_with = "checks")]
    pub checks: Option<Arc<Checks>>,
    /// `rewrite`: probes name `upstream_host`.
    pub pass_host: Option<String>,
    /// See `pass_host`.
    pub upstream_host: Option<String>,
    /// Sessions wait here while no node takes them (extension).
    pub queue: Option<Queue>,
    /// Seconds in which a node that is new or well again comes to its full weight (extension).
    pub slow_start: Option<f64>,
    /// Most sessions of each node at a time (extension).
    #[serde(default, deserialize_with = "optional_count")]
    pub max_conns: Option<u32>,
    /// What happens to the sessions of a node that turns unhealthy (extension).
    #[serde(default)]
    pub on_unhealthy: OnUnhealthy,
    /// What happens to the UDP flows of a node that is down or gone (extension).
    #[serde(default)]
    pub on_node_down: OnNodeDown,
    /// Local addresses that nodes are connected to from, in turn (extension).
    #[serde(default)]
    pub source_addresses: Vec<String>,
    /// Service discovery that supplies the nodes.
    pub discovery_type: Option<String>,
    /// Name of the service in discovery.
    pub service_name: Option<String>,
    /// Id inside an inline object; unused.
    #[serde(default, deserialize_with = "optional_id")]
    pub id: Option<String>,
}

/// `tls` of an upstream: what headgate shows and demands when `scheme` is `tls`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct UpstreamTls {
    /// Certificate chain to show, PEM or a reference.
    pub client_cert: Option<String>,
    /// Its private key: PEM, encrypted with the keyring, or a reference.
    pub client_key: Option<Secret>,
    /// Id of an ssl object with `type: client`, instead of the pair.
    #[serde(default, deserialize_with = "optional_id")]
    pub client_cert_id: Option<String>,
    /// Verify the server's certificate and name (extension; the reference never does).
    #[serde(default)]
    pub verify: bool,
    /// Authorities to trust, PEM; those of the system when absent (extension).
    #[serde(default, deserialize_with = "optional_list")]
    pub ca_certs: Option<Vec<String>>,
    /// Name to send and to verify, instead of the client's (extension).
    pub sni: Option<String>,
}

/// An empty list stands for an empty object, as Lua writes it.
fn tls<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Box<UpstreamTls>>, D::Error> {
    match Option::<Value>::deserialize(input)? {
        Some(value @ Value::Object(_)) => {
            Box::<UpstreamTls>::deserialize(value).map(Some).map_err(serde::de::Error::custom)
        }
        _ => Ok(None),
    }
}

/// One server of an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Node {
    /// IPv4, IPv6 (with or without brackets), a domain name, or `unix:/path`.
    pub host: String,
    /// Port; a stream upstream cannot be reached without one.
    #[serde(default, deserialize_with = "optional_port")]
    pub port: Option<u16>,
    /// Share of the traffic; 0 takes none while another node has more.
    #[serde(deserialize_with = "count")]
    pub weight: u32,
    /// Higher tiers are used first.
    #[serde(default, deserialize_with = "signed")]
    pub priority: i32,
    /// Most sessions at a time; that of the upstream when absent (extension).
    #[serde(default, deserialize_with = "optional_count")]
    pub max_conns: Option<u32>,
}

/// `queue` of an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default)]
pub struct Queue {
    /// Most sessions that wait; more are closed at once.
    #[serde(deserialize_with = "count")]
    pub max: u32,
    /// Longest wait, seconds.
    pub timeout: f64,
}

impl Default for Queue {
    fn default() -> Self {
        Self { max: 1000, timeout: 5.0 }
    }
}

/// `on_unhealthy` of an upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnUnhealthy {
    /// Sessions go on.
    #[default]
    Keep,
    /// Sessions end at their first pause.
    Drain,
    /// Sessions end at once.
    Close,
}

/// `on_node_down` of an upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnNodeDown {
    /// Not written: as `Repick`, but a flow stays with a node that a change of the configuration
    /// has removed, as in the reference.
    #[default]
    #[serde(skip)]
    Unset,
    /// The next datagram goes to another node.
    Repick,
    /// The flow stays with its node.
    Keep,
    /// Datagrams are dropped until the flow has been idle long enough.
    Drop,
}

fn checks<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Arc<Checks>>, D::Error> {
    Ok(Option::<Value>::deserialize(input)?.and_then(|checks| Checks::read(&checks)).map(Arc::new))
}

/// `timeout` of an upstream, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Timeout {
    /// Limit for one connection attempt.
    pub connect: f64,
    /// With `read`: the larger one is the idle limit.
    pub send: f64,
    /// With `send`: the larger one is the idle limit.
    pub read: f64,
}

fn nodes<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<Node>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Nodes {
        List(Vec<Node>),
        Map(serde_json::Map<String, Value>),
    }
    let Some(nodes) = Option::<Nodes>::deserialize(input)? else { return Ok(Vec::new()) };
    match nodes {
        Nodes::List(list) => Ok(list),
        Nodes::Map(map) => map
            .into_iter()
            .map(|(key, weight)| {
                let weight = weight
                    .as_f64()
                    .filter(|weight| *weight >= 0.0)
                    .map(|weight| weight as u32)
                    .ok_or_else(|| serde::de::Error::custom("weight is not a number"))?;
                // The upstream inside a stream route may have any key: one that is not a host and
                // a port is a node that cannot be reached, not a reason to lose the route.
                let (host, port) = split_host_port(&key).unwrap_or((&key, None));
                let host = host.to_owned();
                Ok(Node { host, port, weight, priority: 0, max_conns: None })
            })
            .collect(),
    }
}

/// Splits `host:port`, `host`, `[v6]:port`, `[v6]` or a bare IPv6 address; brackets are removed.
///
/// # Errors
/// The port is not a number from 1 to 65535; the text names it.
pub fn split_host_port(text: &str) -> Result<(&str, Option<u16>), String> {
    let parse = |port: &str| match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(Some(port)),
        _ => Err(format!("invalid port {port}")),
    };
    if text.starts_with("unix:") {
        return Ok((text, None));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(|| format!("`]` missing in {text}"))?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, parse(port)?)),
            None => Ok((host, None)),
        };
    }
    match text.split_once(':') {
        Some((_, rest)) if rest.contains(':') => Ok((text, None)),
        Some((host, port)) => Ok((host, parse(port)?)),
        None => Ok((text, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_every_spelling() {
        assert_eq!(split_host_port("a:1"), Ok(("a", Some(1))));
        assert_eq!(split_host_port("a"), Ok(("a", None)));
        assert_eq!(split_host_port("[::1]:80"), Ok(("::1", Some(80))));
        assert_eq!(split_host_port("[::1]"), Ok(("::1", None)));
        assert_eq!(split_host_port("::1"), Ok(("::1", None)));
        assert_eq!(split_host_port("a:0"), Err("invalid port 0".to_owned()));
        assert_eq!(split_host_port("a:65536"), Err("invalid port 65536".to_owned()));
    }

    #[test]
    fn both_node_forms_mean_the_same() {
        let map: Upstream = serde_json::from_str(r#"{"nodes":{"127.0.0.1:1980":2}}"#).unwrap();
        let list: Upstream = serde_json::from_str(
            r#"{"nodes":[{"host":"127.0.0.1","port":1980,"weight":2}],"id":7}"#,
        )
        .unwrap();
        assert_eq!(map.nodes, list.nodes);
        assert_eq!(list.id.as_deref(), Some("7"));
    }
}
