//! The schemas that are built in: the files beside the resource types and the definitions that
//! they share.

use std::collections::HashMap;
use std::sync::{LazyLock, OnceLock};

use serde_json::{Map, Value, json};

use super::compile::Compiled;
use super::expand::{Definitions, expand};
use crate::Kind;

/// What marks an object as injected into a plugin's schema.
pub(super) const INJECTED: &str = "this is a mark for our injected plugin schema";

/// Every built-in schema, expanded, and compiled when it is first asked for: most programs never
/// see a document of most kinds.
pub(crate) struct Registry {
    /// Documents by name, in the order of definition.
    pub(super) documents: Definitions,
    compiled: HashMap<String, OnceLock<Compiled>>,
}

/// Files whose schemas others refer to come first.
const FILES: &[(&str, &str)] = &[
    ("upstream", include_str!("../resource/upstream.schema.json")),
    ("stream_route", include_str!("../resource/stream_route.schema.json")),
    ("service", include_str!("../resource/service.schema.json")),
    ("ssl", include_str!("../resource/ssl.schema.json")),
    ("plugin_metadata", include_str!("../resource/plugin_metadata.schema.json")),
    ("global_rule", include_str!("../resource/global_rule.schema.json")),
    ("plugin_config", include_str!("../resource/plugin_config.schema.json")),
    ("consumer", include_str!("../resource/consumer.schema.json")),
    ("consumer_group", include_str!("../resource/consumer_group.schema.json")),
    ("credential", include_str!("../resource/credential.schema.json")),
    ("proto", include_str!("../resource/proto.schema.json")),
    ("route", include_str!("../resource/route.schema.json")),
    ("ip_set", include_str!("../resource/ip_set.schema.json")),
    ("ip_set_entry", include_str!("../resource/ip_set_entry.schema.json")),
    ("stream_listener", include_str!("../resource/stream_listener.schema.json")),
    ("plugins", include_str!("plugin_list.schema.json")),
    ("graphql_cost_decoration", include_str!("graphql_cost_decoration.schema.json")),
    ("http_syslog_metadata", include_str!("http_syslog_metadata.schema.json")),
    ("xrpc/redis", include_str!("xrpc/redis.schema.json")),
    ("xrpc/dubbo", include_str!("xrpc/dubbo.schema.json")),
];

/// Files that hold several schemas by name, with the prefix of those names.
const COLLECTIONS: &[(&str, &str)] = &[
    ("", include_str!("common.schema.json")),
    ("secret/", include_str!("../resource/secret.schema.json")),
];

static REGISTRY: LazyLock<Registry> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "the files are part of the program; tests load them")]
    Registry::load().expect("built-in schemas are sound")
});

impl Registry {
    /// The one registry.
    pub(crate) fn get() -> &'static Self {
        &REGISTRY
    }

    /// The schema of a kind. Secrets have one for each manager instead.
    pub(crate) fn kind(&self, kind: Kind) -> Option<&Compiled> {
        match kind {
            Kind::Secret => None,
            kind => self.named(&kind.name().replace(' ', "_")),
        }
    }

    /// The schema of that name, e.g. `upstream_hash_vars_schema` or `secret/vault`.
    pub(crate) fn named(&self, name: &str) -> Option<&Compiled> {
        let place = self.compiled.get(name)?;
        let document = self.documents.get(name)?;
        #[expect(
            clippy::expect_used,
            reason = "the files are part of the program; tests compile them"
        )]
        Some(place.get_or_init(|| Compiled::new(document).expect("built-in schemas are sound")))
    }

    fn load() -> Result<Self, String> {
        let mut documents = Definitions::new();
        for (prefix, text) in COLLECTIONS {
            let collection: Map<String, Value> =
                serde_json::from_str(text).map_err(|error| format!("{prefix}*: {error}"))?;
            for (name, schema) in collection {
                let expanded = expand(&schema, &documents)?;
                documents.insert(format!("{prefix}{name}"), expanded);
            }
        }
        for (name, text) in FILES {
            let schema: Value =
                serde_json::from_str(text).map_err(|error| format!("{name}: {error}"))?;
            let expanded = expand(&schema, &documents)?;
            documents.insert((*name).to_owned(), expanded);
        }
        let compiled = documents.keys().map(|name| (name.clone(), OnceLock::new())).collect();
        let meta = documents.get("plugin_meta").cloned().unwrap_or_default();
        documents.insert(
            "plugin_injected_schema".to_owned(),
            json!({"$comment": INJECTED, "_meta": meta}),
        );
        Ok(Self { documents, compiled })
    }
}
