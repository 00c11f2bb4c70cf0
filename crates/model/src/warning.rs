//! What an accepted object will not do as written: the reference accepts it, so it is stored, but
//! whoever wrote it should know. Codes are listed in `docs/reference/warnings.md`.

mod chain;
mod circle;
mod listener;
mod plugin;
mod route;
mod secret;
mod shadow;
mod sni;
mod upstream;

#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::listen::ListenerSpec;
use crate::plugin::PluginCatalog;
use crate::{Kind, Problem, ResourceSet};

/// Something that was accepted but will not do what was probably meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// Stable code; listed in `docs/reference/warnings.md`.
    pub code: &'static str,
    /// What will not happen, in one sentence without a full stop.
    pub message: String,
    /// How to mend it.
    pub hint: String,
}

impl Warning {
    fn new(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: hint.into() }
    }
}

/// A problem of an object that was just written: what was found only when it was put to use.
impl From<&Problem> for Warning {
    fn from(problem: &Problem) -> Self {
        let hint = problem.help.clone().unwrap_or_else(|| "mend the object".to_owned());
        Self { code: problem.code, message: problem.message.clone(), hint }
    }
}

/// What is known besides the object itself.
#[derive(Clone, Copy)]
struct Context<'a> {
    set: &'a ResourceSet,
    listeners: &'a [ListenerSpec],
    catalog: &'a PluginCatalog,
}

/// What the object `kind/id` of `set` will not do as written. Empty for an object that is not in
/// the set.
#[must_use]
pub fn warnings(
    kind: Kind,
    id: &str,
    set: &ResourceSet,
    listeners: &[ListenerSpec],
    catalog: &PluginCatalog,
) -> Vec<Warning> {
    let context = Context { set, listeners, catalog };
    let mut out = Vec::new();
    if let Some(document) = document(kind, id, set) {
        secret::references(context, &document, &mut out);
    }
    match kind {
        Kind::StreamRoute => {
            if let Some(entry) = set.stream_routes.get(id) {
                route::route(context, entry, &mut out);
            }
        }
        Kind::Upstream => {
            if let Some(entry) = set.upstreams.get(id) {
                upstream::upstream(&entry.value, "the upstream", &mut out);
                let users = set.stream_routes.iter();
                let mut users = users.filter(|it| it.value.upstream_id.as_deref() == Some(id));
                while out.iter().all(|warning| warning.code != circle::CODE)
                    && let Some(user) = users.next()
                {
                    circle::circle(context, user, &mut out);
                }
            }
        }
        Kind::Service => {
            if let Some(entry) = set.services.get(id) {
                route::service(context, &entry.value, &mut out);
            }
        }
        Kind::Ssl => {
            if let Some(entry) = set.ssls.get(id) {
                sni::certificate(context, &entry.value, &mut out);
            }
        }
        Kind::PluginMetadata
        | Kind::Secret
        | Kind::IpSet
        | Kind::IpSetEntry
        | Kind::StreamListener => {}
        _ => out.push(not_executed(kind)),
    }
    out
}

/// What is stored of an object whose references are resolved.
fn document(kind: Kind, id: &str, set: &ResourceSet) -> Option<serde_json::Value> {
    let document = match kind {
        Kind::StreamRoute => &set.stream_routes.get(id)?.document,
        Kind::Upstream => &set.upstreams.get(id)?.document,
        Kind::Service => &set.services.get(id)?.document,
        Kind::Ssl => &set.ssls.get(id)?.document,
        Kind::PluginMetadata => &set.plugin_metadata.get(id)?.document,
        _ => return None,
    };
    Some(document.value())
}

/// Kinds that only an HTTP gateway would use.
fn not_executed(kind: Kind) -> Warning {
    Warning::new(
        "kind/not-executed",
        format!("a {kind} is stored but has no effect: headgate does not serve HTTP"),
        "keep it for a gateway that shares this store, or delete it",
    )
}
