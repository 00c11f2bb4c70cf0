//! A listening socket as the configuration describes it.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Transport of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Transport {
    /// `TCP` or `UDP`, as `$protocol` prints it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// Address of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ListenAddr {
    /// An IP address and port. An IPv6 address never takes IPv4 traffic (`IPV6_V6ONLY`).
    Ip(SocketAddr),
    /// A Unix stream socket.
    Unix(PathBuf),
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Version of a PROXY protocol header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProxyVersion {
    /// A line of text with addresses and ports.
    V1,
    /// Binary, with further facts of the connection.
    V2,
}

impl ProxyVersion {
    /// 1 or 2.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }
}

/// One listening socket of the stream plane; ranges are already expanded.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ListenerSpec {
    /// Where it listens.
    pub addr: ListenAddr,
    /// What it accepts.
    pub transport: Transport,
    /// TLS is terminated here.
    pub tls: bool,
    /// TLS is relayed as it is, by the server name in its ClientHello. With `tls` the route
    /// decides.
    pub tls_passthrough: bool,
    /// Application protocols that TLS offers (ALPN), the preferred one first; empty: none.
    pub alpn: Vec<String>,
    /// Every connection must begin with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// A PROXY protocol header of this version is sent to the upstream: with each connection, or
    /// with each datagram.
    pub proxy_protocol_to_upstream: Option<ProxyVersion>,
    /// Most sessions of this address at once; further ones are refused.
    pub max_connections: Option<u32>,
}

/// What listeners do that do not say it themselves (`apisix.proxy_protocol`); only for TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenDefaults {
    /// Every connection must begin with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// A PROXY protocol header is sent to the upstream.
    pub proxy_protocol_to_upstream: bool,
    /// The version of that header.
    pub proxy_protocol_version: ProxyVersion,
}

impl Default for ListenDefaults {
    fn default() -> Self {
        Self {
            proxy_protocol: false,
            proxy_protocol_to_upstream: false,
            proxy_protocol_version: ProxyVersion::V1,
        }
    }
}

impl ListenerSpec {
    /// Whether connections begin with a ClientHello that headgate reads.
    #[must_use]
    pub const fn reads_tls(&self) -> bool {
        self.tls || self.tls_passthrough
    }

    /// The port, unless it is a Unix socket.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match &self.addr {
            ListenAddr::Ip(addr) => Some(addr.port()),
            ListenAddr::Unix(_) => None,
        }
    }
}

impl fmt::Display for ListenerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match (self.transport, self.reads_tls()) {
            (Transport::Udp, _) => "udp",
            (Transport::Tcp, true) => "tls",
            (Transport::Tcp, false) => "tcp",
        };
        write!(f, "{scheme}://{}", self.addr)
    }
}
