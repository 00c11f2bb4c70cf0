//! The control API: what this process runs with. It has no authentication and is meant for the
//! local machine; private keys and other secrets are never answered.

mod cluster;
mod data_plane;
mod dump;
mod health;
mod history;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post, put};
use headgate_model::check::Checker;
use headgate_model::schema::main_schemas;
use headgate_model::{Kind, Problem};
use headgate_store::Store;
use serde_json::{Value, json};

use crate::answer::{self, Refused};
use crate::live::Live;
use crate::schema_api::{http_attributes, stream_attributes};

/// What the control API works with.
#[derive(Clone)]
pub struct Control {
    /// Where resources are kept.
    pub store: Arc<dyn Store>,
    /// The running planes.
    pub live: Arc<dyn Live>,
    /// The known plugins.
    pub checker: Arc<Checker>,
    /// Prefix of keys in answers, e.g. `/apisix`.
    pub prefix: String,
}

type Shared = State<Arc<Control>>;

/// The control API as a router, to be served by [`crate::serve`].
pub fn router(control: Control) -> Router {
    Router::new()
        .route("/v1/schema", get(schema))
        .route("/v1/healthcheck", get(health::all))
        .route("/v1/healthcheck/{kind}", get(health::without_id))
        .route("/v1/healthcheck/{kind}/{id}", get(health::one))
        .route("/v1/gc", post(async || StatusCode::OK))
        .route("/v1/plugins/reload", put(async || plain(StatusCode::OK, "done".to_owned())))
        .route("/v1/plugin_metadatas", get(plugin_metadatas))
        .route("/v1/plugin_metadata/{name}", get(plugin_metadata))
        .route("/v1/problems", get(problems))
        .route("/v1/counters", get(counters))
        .route("/v1/history", get(history::history))
        .route("/v1/cluster", get(cluster::nodes))
        .route("/v1/listeners", get(data_plane::listeners))
        .route("/v1/drain", get(data_plane::drain))
        .route("/v1/cores", get(data_plane::cores))
        .route("/v1/{kind}", get(dump::list))
        .route("/v1/{kind}/{id}", get(dump::one))
        .fallback(not_found)
        .method_not_allowed_fallback(not_found)
        .with_state(Arc::new(control))
}

async fn not_found() -> Response {
    answer::page(StatusCode::NOT_FOUND)
}

fn plain(status: StatusCode, body: String) -> Response {
    let mut response = answer::text(status, body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

fn ok(body: &Value) -> Response {
    answer::json(StatusCode::OK, body)
}

async fn schema(State(control): Shared) -> Response {
    let catalog = control.checker.catalog();
    ok(&json!({
        "main": main_schemas(),
        "plugins": http_attributes(catalog),
        "stream_plugins": stream_attributes(catalog),
    }))
}

async fn plugin_metadatas(State(control): Shared) -> Response {
    let directory = format!("/{}/", Kind::PluginMetadata.segment());
    match control.store.list(&directory).await {
        Ok(all) => ok(&all.into_iter().map(|stored| stored.value).collect()),
        Err(error) => Refused::from(error).into_response(),
    }
}

async fn plugin_metadata(State(control): Shared, Path(name): Path<String>) -> Response {
    match control.store.get(&Kind::PluginMetadata.key(&name)).await {
        Ok(Some(stored)) => ok(&stored.value),
        Ok(None) => plain(StatusCode::NOT_FOUND, format!("plugin metadata[{name}] not found")),
        Err(error) => Refused::from(error).into_response(),
    }
}

async fn problems(State(control): Shared) -> Response {
    ok(&control.live.problems().iter().map(problem).collect())
}

async fn counters(State(control): Shared) -> Response {
    let counters = control.live.counters().into_iter();
    let object: serde_json::Map<String, Value> =
        counters.map(|(name, count)| (name, Value::from(count))).collect();
    answer::json(StatusCode::OK, &Value::Object(object))
}

fn problem(problem: &Problem) -> Value {
    let place = problem.place.as_ref().map(|place| {
        json!({"file": place.file.display().to_string(), "line": place.line, "column": place.column})
    });
    json!({
        "severity": problem.severity.as_str(),
        "code": problem.code,
        "subject": problem.subject,
        "message": problem.message,
        "help": problem.help,
        "place": place,
    })
}
