//! DELETE, refused while another resource needs the one to be deleted.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::Response;
use headgate_model::Kind;
use headgate_store::{Precondition, Revision, Store, Stored};
use tokio::task::JoinSet;

use super::options::Options;
use super::target::Target;
use super::{ids, users};
use crate::admin_api::Context;
use crate::answer::{self, Refused};
use crate::request::Query;

/// How many of what belongs to a resource are deleted together.
const TOGETHER: usize = 256;

/// Deletes one resource. `?force=true` does not ask who uses it.
pub(super) async fn delete(
    context: &Context,
    target: &Target,
    query: &Query,
    options: Options,
) -> Result<Response, Refused> {
    let kind = target.kind;
    let id = target.full_id().ok_or_else(|| ids::missing(kind))?;
    let key = kind.key(&id);
    let store = &context.admin.store;
    let writing = context.writing.write().await;
    let current = store.get(&key).await?;
    options.matches(current.as_ref())?;
    let current = current.ok_or_else(Refused::key_not_found)?;
    if query.get("force") != Some("true") {
        unused(context, kind, &id).await?;
    }
    let write = options.write_options(options.precondition(Some(&current)));
    let deleted = store.delete(&key, write).await.map_err(|error| options.refused(error))?;
    let mut revision = deleted.ok_or_else(Refused::key_not_found)?.revision;
    // Credentials do not outlive their consumer, entries not their set.
    let below = match kind {
        Kind::Consumer => store.list(&format!("{key}/credentials/")).await?,
        Kind::IpSet => store.list(&format!("{key}/entries/")).await?,
        _ => Vec::new(),
    };
    revision = revision.max(delete_all(store, below, &options).await?);
    drop(writing);
    tracing::info!(author = %options.author, %kind, %id, revision, "resource deleted");
    context.applied(revision).await;
    Ok(answer::json(StatusCode::OK, &context.envelope.deleted(&context.shown(&key))))
}

/// Deletes many, several at a time: the store makes them durable together. Answers with the last
/// revision.
async fn delete_all(
    store: &Arc<dyn Store>,
    below: Vec<Stored>,
    options: &Options,
) -> Result<Revision, Refused> {
    let mut revision = 0;
    let mut running = JoinSet::new();
    let mut waiting = below.into_iter();
    loop {
        while running.len() < TOGETHER
            && let Some(stored) = waiting.next()
        {
            let (store, write) = (Arc::clone(store), options.write_options(Precondition::None));
            running.spawn(async move { store.delete(&stored.key, write).await });
        }
        match running.join_next().await {
            None => return Ok(revision),
            Some(Ok(deleted)) => {
                revision = revision.max(deleted?.map_or(0, |deleted| deleted.revision));
            }
            Some(Err(error)) => {
                let message = format!("deleting what belongs to it failed: {error}");
                return Err(Refused::new(StatusCode::INTERNAL_SERVER_ERROR, message));
            }
        }
    }
}

async fn unused(context: &Context, kind: Kind, id: &str) -> Result<(), Refused> {
    let never_used = matches!(
        kind,
        Kind::PluginMetadata
            | Kind::Secret
            | Kind::GlobalRule
            | Kind::Credential
            | Kind::IpSetEntry
    );
    if never_used {
        return Ok(());
    }
    let all = context.admin.store.load().await?.values;
    match users::refusal(kind, id, &all) {
        None => Ok(()),
        Some(message) => Err(Refused::bad(message)),
    }
}
