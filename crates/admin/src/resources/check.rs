//! Checks that need other resources: fetches what a document refers to, then asks the checker.

use std::collections::HashMap;

use headgate_model::Kind;
use headgate_model::reference::global_rule_conflict;
use serde_json::Value;

use crate::admin_api::Context;
use crate::answer::Refused;

/// Everything that must hold before `value` is stored as `kind/id`.
pub(super) async fn check(
    context: &Context,
    kind: Kind,
    id: &str,
    value: &Value,
) -> Result<(), Refused> {
    let store = &context.admin.store;
    let checker = &context.admin.checker;
    let mut found = HashMap::new();
    for reference in checker.references(kind, value) {
        if let Some(stored) = store.get(&reference.kind.key(&reference.id)).await? {
            found.insert((reference.kind, reference.id), stored.value);
        }
    }
    let lookup = |kind: Kind, id: &str| found.get(&(kind, id.to_owned())).cloned();
    checker.check(kind, id, value, &lookup).map_err(Refused::bad)?;
    // The key must lead back to the resource, whatever the schema lets through.
    if Kind::parse_key(&kind.key(id)) != Some((kind, id)) {
        return Err(Refused::bad(format!("wrong {kind} id")));
    }
    match kind {
        Kind::GlobalRule => unique_plugins(context, id, value).await,
        Kind::IpSetEntry => set_exists(context, id),
        Kind::Credential => consumer_exists(context, id).await,
        _ => Ok(()),
    }
}

/// A plugin may be in one global rule only.
async fn unique_plugins(context: &Context, id: &str, value: &Value) -> Result<(), Refused> {
    let rules = context.admin.store.list(&format!("/{}/", Kind::GlobalRule.segment())).await?;
    let mut others = rules.iter().filter_map(|stored| {
        let (kind, id) = Kind::parse_key(&stored.key)?;
        Some((kind, id, &stored.value))
    });
    match global_rule_conflict(id, value, &mut others) {
        None => Ok(()),
        Some(message) => Err(Refused::bad(message)),
    }
}

/// An entry belongs to a set. That is asked of what is being served: a large set takes a while to
/// be read from the store.
fn set_exists(context: &Context, id: &str) -> Result<(), Refused> {
    let set = id.split('/').next().unwrap_or_default();
    match context.admin.live.resources().ip_sets.get(set) {
        Some(_) => Ok(()),
        None => {
            let message = format!("ip set [{set}] not found, create it first");
            Err(Refused::new(axum::http::StatusCode::NOT_FOUND, message))
        }
    }
}

/// A credential belongs to a consumer.
async fn consumer_exists(context: &Context, id: &str) -> Result<(), Refused> {
    let consumer = id.split('/').next().unwrap_or_default();
    match context.admin.store.get(&Kind::Consumer.key(consumer)).await? {
        Some(_) => Ok(()),
        None => Err(Refused::new(axum::http::StatusCode::NOT_FOUND, "consumer not found")),
    }
}
