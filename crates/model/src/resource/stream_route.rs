//! A stream route: which connections it takes and where they go (`spec/schemas.md`, section 3).

use serde::Deserialize;

use super::lenient::{list, object, optional_count, optional_id, optional_port, plugins};
use super::{Plugins, Upstream};

/// Typed view of a stream route.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct StreamRoute {
    /// Name for people and logs.
    pub name: Option<String>,
    /// IP or CIDR the client's address must be in.
    pub remote_addr: Option<String>,
    /// IP or CIDR the address the client connected to must be in.
    pub server_addr: Option<String>,
    /// Port the client connected to.
    #[serde(default, deserialize_with = "optional_port")]
    pub server_port: Option<u16>,
    /// Name in the TLS ClientHello, with an optional leading `*`.
    pub sni: Option<String>,
    /// Several names, each as `sni`; a bare `*` means no restriction.
    #[serde(default, deserialize_with = "list")]
    pub snis: Vec<String>,
    /// Application protocols of which the client has to offer one (extension).
    #[serde(default, deserialize_with = "list")]
    pub alpn: Vec<String>,
    /// TLS is not terminated but relayed as it is.
    #[serde(default)]
    pub tls_passthrough: bool,
    /// Upstream written into the route.
    pub upstream: Option<Upstream>,
    /// Id of an upstream object; beats everything else.
    #[serde(default, deserialize_with = "optional_id")]
    pub upstream_id: Option<String>,
    /// Id of a service that lends its upstream and plugins.
    #[serde(default, deserialize_with = "optional_id")]
    pub service_id: Option<String>,
    /// Plugins by name.
    #[serde(default, deserialize_with = "plugins")]
    pub plugins: Plugins,
    /// Application protocol handled request by request (xRPC).
    pub protocol: Option<Protocol>,
    /// Limits of its UDP flows (headgate's own member).
    #[serde(default, deserialize_with = "object")]
    pub udp: UdpLimits,
}

/// The `udp` member of a stream route.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
pub struct UdpLimits {
    /// Seconds without a datagram after which a flow ends; the upstream's timeout when absent.
    pub idle_timeout: Option<f64>,
    /// Datagrams of a client after which its next one begins another flow.
    #[serde(default, deserialize_with = "optional_count")]
    pub requests: Option<u32>,
    /// Answers expected to each datagram of a client; the flow ends when all have come.
    #[serde(default, deserialize_with = "optional_count")]
    pub responses: Option<u32>,
}

impl StreamRoute {
    /// The names it asks for; none if it takes sessions of any name and without one.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let any = self.snis.iter().any(|name| name == "*");
        let snis = self.snis.iter().filter(move |_| !any);
        self.sni.iter().chain(snis).map(String::as_str)
    }
}

/// The `protocol` member of a stream route.
#[derive(Debug, Clone, Deserialize)]
pub struct Protocol {
    /// Name of the protocol, e.g. `redis`.
    pub name: String,
    /// Route that hands sessions to this one; a route with it never matches by itself.
    #[serde(default, deserialize_with = "optional_id")]
    pub superior_id: Option<String>,
}
