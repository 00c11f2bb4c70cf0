//! DELETE, refused while another resource needs the one to be deleted.

use axum::http::StatusCode;
use axum::response::Response;
use headgate_model::Kind;
use headgate_store::Precondition;

use super::options::Options;
use super::target::Target;
use super::{ids, users};
use crate::admin_api::Context;
use crate::answer::{self, Refused};
use crate::request::Query;

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
    if kind == Kind::Consumer {
        // Credentials do not outlive their consumer.
        for credential in store.list(&format!("{key}/credentials/")).await? {
            let write = options.write_options(Precondition::None);
            if let Some(deleted) = store.delete(&credential.key, write).await? {
                revision = deleted.revision;
            }
        }
    }
    drop(writing);
    tracing::info!(author = %options.author, %kind, %id, revision, "resource deleted");
    context.applied(revision).await;
    Ok(answer::json(StatusCode::OK, &context.envelope.deleted(&context.shown(&key))))
}

async fn unused(context: &Context, kind: Kind, id: &str) -> Result<(), Refused> {
    if matches!(kind, Kind::PluginMetadata | Kind::Secret | Kind::GlobalRule | Kind::Credential) {
        return Ok(());
    }
    let all = context.admin.store.load().await?.values;
    match users::refusal(kind, id, &all) {
        None => Ok(()),
        Some(message) => Err(Refused::bad(message)),
    }
}
