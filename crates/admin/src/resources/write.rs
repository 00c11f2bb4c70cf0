//! PUT and POST, and what every write shares: locking, timestamps, the answer.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use axum::response::Response;
use headgate_model::Kind;
use headgate_model::warning::warnings;
use headgate_store::{Precondition, Revision, Stored, Written};
use serde_json::{Map, Value};

use super::options::Options;
use super::target::Target;
use super::{check, ids, protect};
use crate::admin_api::Context;
use crate::answer::{self, Refused};
use crate::envelope::Action;
use crate::json;

/// Stands for an id while a POST is checked; no revision looks like it.
const UNNAMED: &str = "00000000000000000000";

/// Creates or replaces a resource.
pub(super) async fn put(
    context: &Context,
    target: &Target,
    body: Option<Value>,
    options: Options,
) -> Result<Response, Refused> {
    let mut value = configuration(body)?;
    let id = ids::settle(target, &mut value)?;
    ids::refuse_times(&value)?;
    let writing = context.writing(target.kind).await;
    check::check(context, target.kind, &id, &value).await?;
    let _held = context.reserve(target.kind, &id, &value).await?;
    let key = target.kind.key(&id);
    let current = context.admin.store.get(&key).await?;
    options.matches(current.as_ref())?;
    protect::encrypt(target.kind, &mut value, &context.admin.encrypt);
    stamp(target.kind, &mut value, current.as_ref());
    let write = options.write_options(options.precondition(current.as_ref()));
    let written = context
        .admin
        .store
        .put(&key, value, write)
        .await
        .map_err(|error| options.refused(error))?;
    drop(writing);
    let status = if written.previous.is_none() { StatusCode::CREATED } else { StatusCode::OK };
    Ok(context.written(target.kind, &id, written, &options, status, Action::Set).await)
}

/// Creates a resource whose id is the revision that the store gives out.
pub(super) async fn post(
    context: &Context,
    target: &Target,
    body: Option<Value>,
    options: Options,
) -> Result<Response, Refused> {
    let mut value = configuration(body)?;
    ids::refuse_any(target, &value)?;
    ids::refuse_times(&value)?;
    let writing = context.writing(target.kind).await;
    // Checked before an id is taken, so that refused requests leave no trace in the store.
    check::check(context, target.kind, UNNAMED, &value).await?;
    let _held = context.reserve(target.kind, UNNAMED, &value).await?;
    let id = format!("{:020}", context.admin.store.next_id().await?);
    ids::set_id(&mut value, &id);
    protect::encrypt(target.kind, &mut value, &context.admin.encrypt);
    stamp(target.kind, &mut value, None);
    let write = options.write_options(Precondition::None);
    let written = context.admin.store.put(&target.kind.key(&id), value, write).await?;
    drop(writing);
    let status = StatusCode::CREATED;
    Ok(context.written(target.kind, &id, written, &options, status, Action::Create).await)
}

/// The document, which must be an object. An empty array is one to the reference, whose language
/// has a single type for both.
fn configuration(body: Option<Value>) -> Result<Value, Refused> {
    match body {
        None | Some(Value::Null | Value::Bool(false)) => {
            Err(Refused::bad("missing configurations"))
        }
        Some(Value::Array(items)) if items.is_empty() => Ok(Value::Object(Map::new())),
        Some(value @ Value::Object(_)) => Ok(value),
        Some(other) => Err(Refused::bad(format!(
            "invalid configuration: wrong type: expected object, got {}",
            json::lua_type(&other)
        ))),
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Sets `create_time`, kept from what is replaced, and `update_time`.
pub(super) fn stamp(kind: Kind, value: &mut Value, current: Option<&Stored>) {
    if kind == Kind::PluginMetadata {
        return;
    }
    let now = Value::from(now());
    let created = current.and_then(|stored| stored.value.get("create_time").cloned());
    if let Some(members) = value.as_object_mut() {
        members.insert("create_time".to_owned(), created.unwrap_or_else(|| now.clone()));
        members.insert("update_time".to_owned(), now);
    }
}

/// Held while a write checks and stores.
pub(super) enum Writing<'a> {
    /// Other writes may run.
    Shared(#[expect(dead_code, reason = "held, not read")] tokio::sync::RwLockReadGuard<'a, ()>),
    /// No other write runs.
    Alone(#[expect(dead_code, reason = "held, not read")] tokio::sync::RwLockWriteGuard<'a, ()>),
}

impl Context {
    /// Waits until a write of that kind may check and store.
    pub(super) async fn writing(&self, kind: Kind) -> Writing<'_> {
        match kind {
            // Look at all others of their kind.
            Kind::GlobalRule | Kind::StreamListener => Writing::Alone(self.writing.write().await),
            _ => Writing::Shared(self.writing.read().await),
        }
    }

    /// Logs a write, waits until it is in use, and answers with it and its warnings.
    pub(super) async fn written(
        &self,
        kind: Kind,
        id: &str,
        written: Written,
        options: &Options,
        status: StatusCode,
        action: Action,
    ) -> Response {
        let revision = written.revision;
        tracing::info!(author = %options.author, %kind, %id, revision, "resource written");
        self.applied(revision).await;
        let key = self.shown(&written.stored.key);
        let mut body = self.envelope.written(action, &key, written.stored.value);
        if self.admin.settings.warnings {
            let live = &self.admin.live;
            let catalog = self.admin.checker.catalog();
            let mut found = warnings(kind, id, &live.resources(), &live.listeners(), catalog);
            if kind == Kind::Ssl {
                // Whether key and certificate fit is found when they are put to use.
                let subject = format!("{}/{id}", kind.segment());
                let problems = live.problems();
                found.extend(problems.iter().filter(|it| it.subject == subject).map(Into::into));
            }
            if !found.is_empty() {
                body.insert("warnings".to_owned(), serde_json::json!(found));
            }
        }
        answer::json(status, &Value::Object(body))
    }

    /// Waits until new connections see a change.
    pub(crate) async fn applied(&self, revision: Revision) {
        if !self.admin.live.applied(revision).await {
            tracing::warn!(revision, "a change is stored but not in use yet");
        }
    }
}
