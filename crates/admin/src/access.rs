//! The networks that may use the Admin API (`deployment.admin.allow_admin`).

use std::net::IpAddr;

use ipnet::IpNet;

/// An entry of `allow_admin` that is neither an address nor a network.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` in allow_admin is neither an IP address nor a network")]
pub struct BadNetwork(String);

/// Who may connect.
#[derive(Debug)]
pub(crate) struct AllowList(Option<Vec<IpNet>>);

impl AllowList {
    /// `None`: everyone.
    pub(crate) fn new(entries: Option<&[String]>) -> Result<Self, BadNetwork> {
        let Some(entries) = entries else { return Ok(Self(None)) };
        let mut networks = Vec::with_capacity(entries.len());
        for entry in entries {
            let entry = entry.trim();
            if entry == "all" {
                return Ok(Self(None));
            }
            let network = entry
                .parse::<IpNet>()
                .or_else(|_| entry.parse::<IpAddr>().map(IpNet::from))
                .map_err(|_| BadNetwork(entry.to_owned()))?;
            networks.push(network);
        }
        Ok(Self(Some(networks)))
    }

    /// Whether a peer may connect; a peer without address (`None`) only when everyone may.
    pub(crate) fn permits(&self, peer: Option<IpAddr>) -> bool {
        let Some(networks) = &self.0 else { return true };
        peer.is_some_and(|peer| {
            networks.iter().any(|network| network.contains(&peer.to_canonical()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&str]) -> AllowList {
        let entries: Vec<String> = entries.iter().map(|&entry| entry.to_owned()).collect();
        AllowList::new(Some(&entries)).unwrap()
    }

    #[test]
    fn networks_and_addresses() {
        let some = list(&["127.0.0.0/24", "10.1.2.3", "fd00::/8"]);
        for (peer, expected) in [
            ("127.0.0.1", true),
            ("::ffff:127.0.0.1", true),
            ("127.0.1.1", false),
            ("10.1.2.3", true),
            ("10.1.2.4", false),
            ("fd12::1", true),
            ("::1", false),
        ] {
            assert_eq!(some.permits(peer.parse().ok()), expected, "{peer}");
        }
        assert!(!some.permits(None));
        assert!(!list(&[]).permits("127.0.0.1".parse().ok()));
        assert!(list(&["all"]).permits("8.8.8.8".parse().ok()));
        assert!(AllowList::new(None).unwrap().permits(None));
        assert!(AllowList::new(Some(&["nope".to_owned()])).is_err());
    }
}
