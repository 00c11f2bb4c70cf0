//! GET of one resource and of lists.

use axum::http::StatusCode;
use axum::response::Response;
use headgate_model::Kind;

use super::protect::hide;
use super::target::Target;
use super::{list, listeners};
use crate::admin_api::Context;
use crate::answer::{self, Refused};
use crate::envelope::{Envelope, node};
use crate::request::Query;

/// One resource when the path has an id, else the list.
pub(super) async fn get(
    context: &Context,
    target: &Target,
    query: &Query,
) -> Result<Response, Refused> {
    let Some(id) = target.full_id() else { return get_list(context, target, query).await };
    let key = target.kind.key(&id);
    let stored = match listeners::configured(context, target.kind, &id) {
        Some(configured) => Some(configured),
        None => context.admin.store.get(&key).await?,
    };
    let mut stored = stored.ok_or_else(Refused::key_not_found)?;
    hide(target.kind, &mut stored.value);
    let key = context.shown(&key);
    Ok(answer::json(StatusCode::OK, &context.envelope.one(&key, stored)))
}

async fn get_list(context: &Context, target: &Target, query: &Query) -> Result<Response, Refused> {
    let directory = target.directory();
    let mut all = context.admin.store.list(&format!("{directory}/")).await?;
    // Credentials live below consumers and are not part of their list.
    all.retain(|stored| Kind::parse_key(&stored.key).is_some_and(|(kind, _)| kind == target.kind));
    all.extend(listeners::all_configured(context, target.kind));
    let selection = match context.envelope {
        Envelope::V2 => list::Selection::everything(all),
        Envelope::V3 => match list::select(target.kind, all, query) {
            Ok(selection) => selection,
            Err(list::ListError::PageSize) => {
                return Ok(answer::text(StatusCode::BAD_REQUEST, list::PAGE_SIZE_MESSAGE));
            }
            Err(list::ListError::Pattern(name)) => {
                return Err(Refused::bad(format!(
                    "invalid argument {name}: bad regular expression"
                )));
            }
        },
    };
    let nodes = selection.values.map(|values| {
        let show = |mut stored: headgate_store::Stored| {
            hide(target.kind, &mut stored.value);
            node(&context.shown(&stored.key), stored)
        };
        values.into_iter().map(show).collect()
    });
    let body = context.envelope.list(&context.shown(&directory), selection.total, nodes);
    Ok(answer::json(StatusCode::OK, &body))
}

impl Context {
    /// A key as answers show it, with the prefix.
    pub(crate) fn shown(&self, key: &str) -> String {
        format!("{}{key}", self.admin.prefix)
    }
}
