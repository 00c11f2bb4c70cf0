//! The address predicates of one route.

use std::net::IpAddr;

use headgate_model::resource::StreamRoute;
use ipnet::IpNet;

use super::Facts;

/// `remote_addr`, `server_addr`, `server_port` and `alpn`; all present ones must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Predicates {
    /// Network the client must be in.
    pub remote: Option<IpNet>,
    /// Network the address the client connected to must be in.
    pub server: Option<IpNet>,
    /// Port the client connected to.
    pub port: Option<u16>,
    /// Application protocols of which the client has to offer one; empty: any client.
    pub alpn: Vec<String>,
}

/// A `remote_addr` or `server_addr` that is neither an address nor a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {field}: {value}")]
pub struct InvalidAddress {
    /// Name of the field.
    pub field: &'static str,
    /// What it holds.
    pub value: String,
}

impl Predicates {
    /// Reads the predicates of a route.
    ///
    /// # Errors
    /// An address field that does not parse.
    pub fn of(route: &StreamRoute) -> Result<Self, InvalidAddress> {
        Ok(Self {
            remote: network("remote_addr", route.remote_addr.as_deref())?,
            server: network("server_addr", route.server_addr.as_deref())?,
            port: route.server_port,
            alpn: route.alpn.clone(),
        })
    }

    pub(super) const fn needs_server(&self) -> bool {
        self.server.is_some()
    }

    /// Whether all predicates hold.
    #[must_use]
    pub fn hold(&self, facts: &Facts<'_>) -> bool {
        self.remote.is_none_or(|net| facts.client.is_some_and(|ip| net.contains(&ip)))
            && self.server.is_none_or(|net| facts.server.is_some_and(|at| net.contains(&at.ip())))
            && self.port.is_none_or(|port| facts.server.is_some_and(|at| at.port() == port))
            && (self.alpn.is_empty()
                || self.alpn.iter().any(|it| facts.alpn.iter().any(|o| o == it.as_bytes())))
    }
}

fn network(field: &'static str, text: Option<&str>) -> Result<Option<IpNet>, InvalidAddress> {
    let Some(text) = text else { return Ok(None) };
    let parsed = match text.parse::<IpAddr>() {
        Ok(ip) => Some(IpNet::from(ip)),
        Err(_) => text.parse::<IpNet>().ok(),
    };
    match parsed {
        Some(net) => Ok(Some(net.trunc())),
        None => Err(InvalidAddress { field, value: text.to_owned() }),
    }
}
