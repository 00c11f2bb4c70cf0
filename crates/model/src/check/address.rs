//! IP addresses and networks.

use std::net::IpAddr;

use ipnet::IpNet;

/// The network that `text`, an IP address or a CIDR, stands for.
#[must_use]
pub fn parse(text: &str) -> Option<IpNet> {
    if text.contains('/') {
        text.parse().ok()
    } else {
        text.parse::<IpAddr>().ok().map(IpNet::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_bounded() {
        for good in ["1.2.3.4", "1.2.3.4/0", "10.0.0.0/32", "::1", "::/0", "fe80::/128"] {
            assert!(parse(good).is_some(), "{good}");
        }
        for bad in ["1.2.3.4/33", "::/129", "::::/1", "", "x", "1.2.3"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
