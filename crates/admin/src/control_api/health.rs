//! `/v1/healthcheck`. No plane runs health checks yet, so there is never a checker to show.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use headgate_model::Kind;
use serde_json::json;

use super::dump::resources;
use super::{Shared, ok};
use crate::answer::Refused;

const SOURCES: [Kind; 4] = [Kind::Route, Kind::StreamRoute, Kind::Service, Kind::Upstream];

pub(super) async fn all() -> Response {
    ok(&json!([]))
}

pub(super) async fn without_id(Path(name): Path<String>) -> Response {
    match source(&name) {
        Ok(_) => {
            let message = format!("missing src id for src type {name}");
            Refused::new(StatusCode::NOT_FOUND, message).into_response()
        }
        Err(refused) => refused.into_response(),
    }
}

pub(super) async fn one(
    State(control): Shared,
    Path((name, id)): Path<(String, String)>,
) -> Response {
    let kind = match source(&name) {
        Ok(kind) => kind,
        Err(refused) => return refused.into_response(),
    };
    let key = kind.key(&id);
    match resources(&control, kind).await {
        Ok(all) => {
            let message = if all.iter().any(|stored| stored.key == key) {
                format!("no checker for {name}[{id}]")
            } else {
                format!("{name}[{id}] not found")
            };
            Refused::new(StatusCode::NOT_FOUND, message).into_response()
        }
        Err(error) => Refused::from(error).into_response(),
    }
}

fn source(name: &str) -> Result<Kind, Refused> {
    SOURCES
        .into_iter()
        .find(|kind| kind.segment() == name)
        .ok_or_else(|| Refused::bad(format!("invalid src type {name}")))
}
