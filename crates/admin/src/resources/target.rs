//! What a path below `/apisix/admin/` names.

use headgate_model::Kind;
use headgate_model::resource::ip_set;

/// A directory, or one resource in it, or a part of that.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) kind: Kind,
    /// What stands before ids in keys: the manager of a secret, `{consumer}/credentials`.
    pub(crate) scope: Option<String>,
    /// The id as the URI has it, without the scope.
    pub(crate) id: Option<String>,
    /// The part of the resource that a PATCH is about.
    pub(crate) sub_path: Vec<String>,
}

impl Target {
    /// Reads the segments that follow the one that named `kind`.
    pub(crate) fn parse(kind: Kind, rest: &[String]) -> Self {
        let (kind, scope, rest) = match (kind, rest) {
            (Kind::Consumer, [consumer, word, rest @ ..]) if word == "credentials" => {
                (Kind::Credential, Some(format!("{consumer}/credentials")), rest)
            }
            (Kind::IpSet, [set, word, network @ ..]) if word == "entries" => {
                let network = ip_set::canonical(&network.join("/"));
                let id = (!network.is_empty()).then_some(network);
                let scope = Some(format!("{set}/entries"));
                return Self { kind: Kind::IpSetEntry, scope, id, sub_path: Vec::new() };
            }
            (Kind::Secret, [manager, rest @ ..]) => (kind, Some(manager.clone()), rest),
            _ => (kind, None, rest),
        };
        let (id, sub_path) = match rest {
            [] => (None, Vec::new()),
            [id, sub_path @ ..] => (Some(id.clone()), sub_path.to_vec()),
        };
        Self { kind, scope, id, sub_path }
    }

    /// The id with its scope, as [`Kind::key`] takes it.
    pub(crate) fn scoped(&self, id: &str) -> String {
        match &self.scope {
            Some(scope) => format!("{scope}/{id}"),
            None => id.to_owned(),
        }
    }

    /// The id of the URI with its scope.
    pub(crate) fn full_id(&self) -> Option<String> {
        self.id.as_deref().map(|id| self.scoped(id))
    }

    /// The directory in the store, without a slash at the end.
    pub(crate) fn directory(&self) -> String {
        match (self.kind, &self.scope) {
            (Kind::Credential, Some(scope)) => format!("/consumers/{scope}"),
            (Kind::IpSetEntry, Some(scope)) => format!("/ip_sets/{scope}"),
            // All secrets are listed together, whatever manager the path names.
            _ => format!("/{}", self.kind.segment()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::segments;

    #[test]
    fn scopes_and_parts() {
        let cases = [
            (Kind::Upstream, "", "/upstreams", None, 0),
            (Kind::Upstream, "1/nodes/a", "/upstreams", Some("1"), 2),
            (Kind::Secret, "vault", "/secrets", None, 0),
            (Kind::Secret, "vault/1/token", "/secrets", Some("vault/1"), 1),
            (Kind::Consumer, "jack", "/consumers", Some("jack"), 0),
            (Kind::Consumer, "jack/credentials", "/consumers/jack/credentials", None, 0),
            (Kind::IpSet, "a/entries", "/ip_sets/a/entries", None, 0),
            (
                Kind::IpSet,
                "a/entries/10.1.0.0/8",
                "/ip_sets/a/entries",
                Some("a/entries/10.0.0.0/8"),
                0,
            ),
            (Kind::IpSet, "a/entries/::1/128", "/ip_sets/a/entries", Some("a/entries/::1"), 0),
            (Kind::IpSet, "a/entries/x", "/ip_sets/a/entries", Some("a/entries/x"), 0),
            (
                Kind::Consumer,
                "jack/credentials/1",
                "/consumers/jack/credentials",
                Some("jack/credentials/1"),
                0,
            ),
        ];
        for (kind, path, directory, id, parts) in cases {
            let target = Target::parse(kind, &segments(path));
            assert_eq!(target.directory(), directory, "{path}");
            assert_eq!(target.full_id().as_deref(), id, "{path}");
            assert_eq!(target.sub_path.len(), parts, "{path}");
        }
    }
}
