//! A stream listener: what an entry of `stream_proxy` is, as a resource that comes and goes at run
//! time. It is headgate's own kind.

use serde::Deserialize;
use serde_json::Value;

use super::lenient::{list, optional_count};
use crate::listen::{ListenDefaults, ListenerSpec, ProxyVersion, Transport};
use crate::settings::entry;

/// What the ids of the listeners of config.yaml begin with.
pub const CONFIGURED: &str = "config.";

/// Typed view of a stream listener.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct StreamListener {
    /// A port, `address:port`, a range of ports, or `unix:/path`.
    pub addr: Value,
    /// `tcp` or `udp`; TCP when absent.
    pub protocol: Option<String>,
    /// TLS is terminated.
    #[serde(default)]
    pub tls: bool,
    /// TLS is relayed as it is.
    #[serde(default)]
    pub tls_passthrough: bool,
    /// Application protocols that TLS offers, the preferred one first.
    #[serde(default, deserialize_with = "list")]
    pub alpn: Vec<String>,
    /// A PROXY protocol header is expected; the node's default when absent.
    pub proxy_protocol: Option<bool>,
    /// A PROXY protocol header is sent; the node's default when absent.
    pub proxy_protocol_to_upstream: Option<bool>,
    /// Version of that header; the node's default when absent.
    #[serde(default, deserialize_with = "optional_count")]
    pub proxy_protocol_version: Option<u32>,
    /// Most sessions of each address at once.
    #[serde(default, deserialize_with = "optional_count")]
    pub max_connections: Option<u32>,
}

impl StreamListener {
    /// TCP or UDP.
    #[must_use]
    pub fn transport(&self) -> Transport {
        if self.protocol.as_deref() == Some("udp") { Transport::Udp } else { Transport::Tcp }
    }

    /// The listening sockets, ranges expanded. Datagrams know no defaults and only version 2.
    ///
    /// # Errors
    /// What is wrong with `addr`, and how to mend it.
    pub fn specs(&self, defaults: &ListenDefaults) -> Result<Vec<ListenerSpec>, String> {
        let transport = self.transport();
        let addresses = entry::parse(&self.addr, transport)
            .map_err(|refusal| format!("{} ({})", refusal.reason, refusal.help))?;
        let is_tcp = transport == Transport::Tcp;
        let own = |own: Option<bool>, default: bool| own.unwrap_or(is_tcp && default);
        let version = match self.proxy_protocol_version {
            _ if !is_tcp => ProxyVersion::V2,
            Some(1) => ProxyVersion::V1,
            Some(_) => ProxyVersion::V2,
            None => defaults.proxy_protocol_version,
        };
        let sends = own(self.proxy_protocol_to_upstream, defaults.proxy_protocol_to_upstream);
        let spec = |addr| ListenerSpec {
            addr,
            transport,
            tls: self.tls,
            tls_passthrough: self.tls_passthrough,
            alpn: self.alpn.clone(),
            proxy_protocol: own(self.proxy_protocol, defaults.proxy_protocol),
            proxy_protocol_to_upstream: sends.then_some(version),
            max_connections: self.max_connections,
        };
        Ok(addresses.into_iter().map(spec).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn specs(value: Value, defaults: &ListenDefaults) -> Vec<ListenerSpec> {
        serde_json::from_value::<StreamListener>(value).unwrap().specs(defaults).unwrap()
    }

    #[test]
    fn a_listener_is_what_an_entry_is() {
        let all = specs(json!({"addr": "127.0.0.1:9100-9101", "tls": true}), &Default::default());
        let texts: Vec<_> = all.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["tls://127.0.0.1:9100", "tls://127.0.0.1:9101"]);
        let all = specs(json!({"addr": 53.0, "protocol": "udp"}), &Default::default());
        assert_eq!(all[0].to_string(), "udp://0.0.0.0:53");
    }

    #[test]
    fn defaults_are_for_tcp_and_may_be_overruled() {
        let defaults = ListenDefaults {
            proxy_protocol: true,
            proxy_protocol_to_upstream: true,
            proxy_protocol_version: ProxyVersion::V2,
        };
        let seen = |value| {
            let spec = specs(value, &defaults).remove(0);
            (spec.proxy_protocol, spec.proxy_protocol_to_upstream)
        };
        assert_eq!(seen(json!({"addr": 1})), (true, Some(ProxyVersion::V2)));
        assert_eq!(
            seen(json!({"addr": 1, "proxy_protocol_version": 1})),
            (true, Some(ProxyVersion::V1))
        );
        let none = json!({"addr": 1, "proxy_protocol": false, "proxy_protocol_to_upstream": false});
        assert_eq!(seen(none), (false, None));
        assert_eq!(seen(json!({"addr": 1, "protocol": "udp"})), (false, None));
        let sends = json!({"addr": 1, "protocol": "udp", "proxy_protocol_to_upstream": true});
        assert_eq!(seen(sends), (false, Some(ProxyVersion::V2)));
    }
}
