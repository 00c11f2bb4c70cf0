//! The kinds of resources: their Admin API path, their name in messages, and what may be done
//! with them (`spec/admin-api.md`, section 1, table "Resources").

use std::fmt;

/// A kind of resource that the Admin API stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// L4 routes.
    StreamRoute,
    /// Sets of servers.
    Upstream,
    /// Shared upstream and plugins of several routes.
    Service,
    /// Certificates and client CAs.
    Ssl,
    /// Configuration that all instances of one plugin share.
    PluginMetadata,
    /// Places that `$secret://` references point to.
    Secret,
    /// Plugins of every HTTP request; stored, not executed by the stream plane.
    GlobalRule,
    /// Named plugin sets; stored, not executed by the stream plane.
    PluginConfig,
    /// API consumers; stored, not executed by the stream plane.
    Consumer,
    /// Groups of consumers; stored, not executed by the stream plane.
    ConsumerGroup,
    /// Credentials of a consumer (`consumers/{name}/credentials/{id}`).
    Credential,
    /// Protobuf definitions; stored, not executed by the stream plane.
    Proto,
    /// HTTP routes; stored, not executed by the stream plane.
    Route,
    /// Sets of networks for the plugin ip-set; headgate's own.
    IpSet,
    /// Networks added to such a set one by one (`ip_sets/{id}/entries/{network}`).
    IpSetEntry,
    /// Listeners that come and go at run time (headgate's own kind).
    StreamListener,
}

/// How the id of a resource is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdRule {
    /// `id` in the URI or in the body.
    Id,
    /// The plugin's name, in the URI only.
    PluginName,
    /// `{manager}/{id}` in the URI.
    ManagerAndId,
    /// `username` of the body.
    Username,
}

impl Kind {
    /// Every kind, in the order in which snapshots are loaded.
    pub const ALL: [Self; 16] = [
        Self::StreamRoute,
        Self::Upstream,
        Self::Service,
        Self::Ssl,
        Self::PluginMetadata,
        Self::Secret,
        Self::GlobalRule,
        Self::PluginConfig,
        Self::Consumer,
        Self::ConsumerGroup,
        Self::Credential,
        Self::Proto,
        Self::Route,
        Self::IpSet,
        Self::IpSetEntry,
        Self::StreamListener,
    ];

    /// The path segment of the Admin API and of the store, e.g. `stream_routes`.
    ///
    /// Credentials live below `consumers`, entries below `ip_sets`: they have no directory of their
    /// own in the store.
    #[must_use]
    pub const fn segment(self) -> &'static str {
        match self {
            Self::StreamRoute => "stream_routes",
            Self::Upstream => "upstreams",
            Self::Service => "services",
            Self::Ssl => "ssls",
            Self::PluginMetadata => "plugin_metadata",
            Self::Secret => "secrets",
            Self::GlobalRule => "global_rules",
            Self::PluginConfig => "plugin_configs",
            Self::Consumer => "consumers",
            Self::ConsumerGroup => "consumer_groups",
            Self::Credential => "credentials",
            Self::Proto => "protos",
            Self::Route => "routes",
            Self::IpSet => "ip_sets",
            Self::IpSetEntry => "entries",
            Self::StreamListener => "stream_listeners",
        }
    }

    /// The kind as messages name it, e.g. `stream route`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::StreamRoute => "stream route",
            Self::Upstream => "upstream",
            Self::Service => "service",
            Self::Ssl => "ssl",
            Self::PluginMetadata => "plugin_metadata",
            Self::Secret => "secret",
            Self::GlobalRule => "global rule",
            Self::PluginConfig => "plugin config",
            Self::Consumer => "consumer",
            Self::ConsumerGroup => "consumer group",
            Self::Credential => "credential",
            Self::Proto => "proto",
            Self::Route => "route",
            Self::IpSet => "ip set",
            Self::IpSetEntry => "ip set entry",
            Self::StreamListener => "stream listener",
        }
    }

    /// The kind for a path segment; `ssl` is accepted for `ssls` and `proto` for `protos`, the
    /// names of the 2.x Admin API.
    #[must_use]
    pub fn from_segment(segment: &str) -> Option<Self> {
        match segment {
            "ssl" => Some(Self::Ssl),
            "proto" => Some(Self::Proto),
            "credentials" | "entries" => None,
            _ => Self::ALL.into_iter().find(|kind| kind.segment() == segment),
        }
    }

    /// Whether POST (an id made by the server) is allowed.
    #[must_use]
    pub const fn allows_post(self) -> bool {
        matches!(
            self,
            Self::StreamRoute
                | Self::Upstream
                | Self::Service
                | Self::Ssl
                | Self::Proto
                | Self::Route
                | Self::IpSet
                | Self::StreamListener
        )
    }

    /// Whether PATCH is allowed.
    #[must_use]
    pub const fn allows_patch(self) -> bool {
        matches!(
            self,
            Self::Upstream
                | Self::Service
                | Self::Ssl
                | Self::Secret
                | Self::GlobalRule
                | Self::PluginConfig
                | Self::ConsumerGroup
                | Self::Route
                | Self::StreamListener
        )
    }

    /// Where the id comes from.
    #[must_use]
    pub const fn id_rule(self) -> IdRule {
        match self {
            Self::PluginMetadata => IdRule::PluginName,
            Self::Secret => IdRule::ManagerAndId,
            Self::Consumer => IdRule::Username,
            _ => IdRule::Id,
        }
    }

    /// The key below the store's prefix, e.g. `/stream_routes/1`.
    #[must_use]
    pub fn key(self, id: &str) -> String {
        match self {
            // A credential's id is `{consumer}/credentials/{id}`.
            Self::Credential => format!("/consumers/{id}"),
            // An entry's is `{set}/entries/{network}`.
            Self::IpSetEntry => format!("/ip_sets/{id}"),
            _ => format!("/{}/{id}", self.segment()),
        }
    }

    /// Kind and id of a key below the store's prefix, the reverse of [`Kind::key`].
    #[must_use]
    pub fn parse_key(key: &str) -> Option<(Self, &str)> {
        let (segment, id) = key.strip_prefix('/')?.split_once('/')?;
        if id.is_empty() {
            return None;
        }
        let kind = Self::ALL.into_iter().find(|kind| kind.segment() == segment)?;
        match kind {
            Self::Consumer if id.contains("/credentials/") => Some((Self::Credential, id)),
            Self::IpSet if id.contains("/entries/") => Some((Self::IpSetEntry, id)),
            Self::Credential | Self::IpSetEntry => None,
            _ => Some((kind, id)),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip() {
        for kind in Kind::ALL {
            let id = match kind {
                Kind::Credential => "jack/credentials/1",
                Kind::IpSetEntry => "banned/entries/10.0.0.0/8",
                _ => "a",
            };
            assert_eq!(Kind::parse_key(&kind.key(id)), Some((kind, id)));
        }
        assert_eq!(Kind::parse_key("/secrets/vault/1"), Some((Kind::Secret, "vault/1")));
        assert_eq!(Kind::parse_key("/upstreams/"), None);
        assert_eq!(Kind::parse_key("/gen_id"), None);
    }

    #[test]
    fn old_names_are_understood() {
        assert_eq!(Kind::from_segment("ssl"), Some(Kind::Ssl));
        assert_eq!(Kind::from_segment("proto"), Some(Kind::Proto));
        assert_eq!(Kind::from_segment("nope"), None);
    }
}
