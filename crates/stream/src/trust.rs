//! Which peers may say who the client is (`nginx_config.stream.real_ip_from`).

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// Networks whose PROXY headers replace the client's address. Empty: none are trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedPeers {
    networks: Vec<IpNet>,
    unix: bool,
}

impl TrustedPeers {
    /// Reads addresses, networks and `unix:`; what is neither is left out (config.yaml's own check
    /// has refused it).
    #[must_use]
    pub fn new(entries: &[String]) -> Self {
        let network = |text: &String| match text.parse::<IpAddr>() {
            Ok(ip) => Some(IpNet::from(ip)),
            Err(_) => text.parse().ok(),
        };
        Self {
            networks: entries.iter().filter_map(network).collect(),
            unix: entries.iter().any(|entry| entry == "unix:"),
        }
    }

    /// Whether `peer` is trusted; `None` is a Unix socket.
    #[must_use]
    pub fn contains(&self, peer: Option<SocketAddr>) -> bool {
        match peer {
            Some(peer) => self.networks.iter().any(|network| network.contains(&peer.ip())),
            None => self.unix,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_trusted_by_default() {
        let peer = Some(([10, 1, 2, 3], 5).into());
        assert!(!TrustedPeers::default().contains(peer));
        let some = TrustedPeers::new(&["10.0.0.0/8".to_owned(), "unix:".to_owned()]);
        assert!(some.contains(peer) && some.contains(None));
        assert!(!some.contains(Some(([11, 1, 2, 3], 5).into())));
    }
}
