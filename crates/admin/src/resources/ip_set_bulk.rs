//! Many entries of an IP set in one request: `POST /apisix/admin/ip_sets/{set}/entries`.
//!
//! Everything is checked before anything is written. Writes go side by side, so that the store
//! commits them together; a request that a failing store cuts short may be sent again, because an
//! entry that is already there is only written once more.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use headgate_model::resource::ip_set;
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use super::options::Options;
use super::target::Target;
use super::{check, ids, ip_set as times, write};
use crate::admin_api::Context;
use crate::answer::{self, Refused};

/// Most entries of one request. More belong into the list of the set.
const MOST: usize = 10_000;
/// Writes that are under way at the same time.
const TOGETHER: usize = 256;

/// An entry that was checked: its network, its value, and how long it stays.
struct Prepared {
    network: String,
    value: Value,
    ttl: Option<Duration>,
}

/// Adds or replaces the entries of the body.
pub(super) async fn post(
    context: &Context,
    target: &Target,
    body: Option<Value>,
    options: Options,
) -> Result<Response, Refused> {
    let prepared = prepared(context, target, body, options.ttl).await?;
    let total = prepared.len();
    let writing = context.writing(target.kind).await;
    let mut waiting = prepared.into_iter();
    let (mut running, mut failed) = (JoinSet::new(), None);
    let (mut written, mut created, mut revision) = (0_usize, 0_usize, 0);
    loop {
        while running.len() < TOGETHER && failed.is_none() {
            let Some(Prepared { network, mut value, ttl }) = waiting.next() else { break };
            let store = std::sync::Arc::clone(&context.admin.store);
            let key = target.kind.key(&target.scoped(&network));
            let write = Options { ttl, ..options.clone() }.write_options(Default::default());
            let kind = target.kind;
            running.spawn(async move {
                let current = store.get(&key).await?;
                write::stamp(kind, &mut value, current.as_ref());
                store.put(&key, value, write).await
            });
        }
        match running.join_next().await {
            None => break,
            Some(Ok(Ok(done))) => {
                written += 1;
                created += usize::from(done.previous.is_none());
                revision = revision.max(done.revision);
            }
            Some(Ok(Err(error))) => failed = Some(error.into()),
            Some(Err(error)) => {
                tracing::error!(%error, "an entry of an ip set could not be written");
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                failed = Some(Refused::new(status, "internal error"));
            }
        }
    }
    drop(writing);
    let set = target.scope.as_deref().unwrap_or_default();
    tracing::info!(author = %options.author, set, written, created, revision, "entries written");
    if revision > 0 {
        context.applied(revision).await;
    }
    if let Some(mut refused) = failed {
        let reason = refused.body["error_msg"].as_str().unwrap_or_default().to_owned();
        refused.body["error_msg"] =
            format!("{written} of {total} entries were written; send them again: {reason}").into();
        return Err(refused);
    }
    let key = context.shown(&target.directory());
    let answer = json!({"key": key, "total": total, "created": created});
    Ok(answer::json(StatusCode::CREATED, &answer))
}

/// All entries of the body, checked; of one network the last.
async fn prepared(
    context: &Context,
    target: &Target,
    body: Option<Value>,
    ttl: Option<Duration>,
) -> Result<Vec<Prepared>, Refused> {
    let mut all = BTreeMap::new();
    for (index, item) in items(body)?.into_iter().enumerate() {
        let entry = one(context, target, item, ttl).await;
        let (network, value, ttl) = entry.map_err(|mut refused| {
            let reason = refused.body["error_msg"].as_str().unwrap_or_default().to_owned();
            refused.body["error_msg"] = format!("entries[{}]: {reason}", index + 1).into();
            refused
        })?;
        all.insert(network.clone(), Prepared { network, value, ttl });
    }
    Ok(all.into_values().collect())
}

/// What stands in `entries`, the only member.
fn items(body: Option<Value>) -> Result<Vec<Value>, Refused> {
    let Some(Value::Object(mut body)) = body else {
        let example = r#"{"entries": ["192.0.2.0/24", {"network": "::1", "ttl": 60}]}"#;
        return Err(Refused::bad(format!("invalid configuration: expected {example}")));
    };
    let entries = body.shift_remove("entries");
    if let Some(name) = body.keys().next() {
        return Err(Refused::bad(format!(
            "invalid configuration: additional properties forbidden, found {name}"
        )));
    }
    match entries {
        None => Err(Refused::bad("invalid configuration: property \"entries\" is required")),
        Some(Value::Array(items)) if items.len() > MOST => Err(Refused::bad(format!(
            "invalid configuration: property \"entries\" validation failed: expect array to have at \
             most {MOST} items (send several requests, or write them into the list of the set)"
        ))),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err(Refused::bad(
            "invalid configuration: property \"entries\" validation failed: wrong type: expected \
             array",
        )),
    }
}

async fn one(
    context: &Context,
    target: &Target,
    item: Value,
    ttl: Option<Duration>,
) -> Result<(String, Value, Option<Duration>), Refused> {
    ip_set::member(&item).map_err(Refused::bad)?;
    let (text, members) = match item {
        Value::Object(mut members) => {
            let network = members.shift_remove("network");
            (network.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned(), members)
        }
        item => (item.as_str().unwrap_or_default().to_owned(), Map::new()),
    };
    let network = ip_set::canonical(&text);
    // The time to live of the request is for entries that do not bring their own.
    let own = members.contains_key("ttl") || members.contains_key("until");
    let mut ttl = ttl.filter(|_| !own);
    let mut value = Some(Value::Object(members));
    times::settle(target.kind, &mut value, &mut ttl)?;
    let mut value = value.unwrap_or_default();
    let named = Target {
        kind: target.kind,
        scope: target.scope.clone(),
        id: Some(network.clone()),
        sub_path: Vec::new(),
    };
    let id = ids::settle(&named, &mut value)?;
    ids::refuse_times(&value)?;
    check::check(context, target.kind, &id, &value).await?;
    Ok((network, value, ttl))
}
