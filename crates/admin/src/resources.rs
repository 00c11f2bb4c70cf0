//! Requests on resources: one set of verbs for every [`Kind`].

mod check;
mod delete;
mod ids;
mod ip_set;
mod ip_set_bulk;
mod list;
mod listeners;
mod options;
mod patch;
mod protect;
mod read;
mod target;
mod users;
mod write;

pub(crate) use self::write::now;

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use headgate_model::Kind;
use serde_json::Value;

use crate::admin_api::Context;
use crate::answer::Refused;
use crate::request::{Query, body};
use crate::resources::options::Options;
use crate::resources::target::Target;
use crate::{json, schema_api};

/// A request as it arrived, without its body.
pub(crate) struct Arrived {
    pub(crate) method: Method,
    /// What follows `/apisix/admin/`; at least one segment.
    pub(crate) segments: Vec<String>,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    /// Name of the key that sent it.
    pub(crate) author: String,
}

/// Checks in the reference's order, then runs the verb.
///
/// The verb runs in a task of its own, so that a client that goes away cannot stop a write halfway.
pub(crate) async fn respond(context: Arc<Context>, request: Arrived, body: Body) -> Response {
    let resource = match Resource::find(&context, &request) {
        Ok(resource) => resource,
        Err(refused) => return refused.into_response(),
    };
    let most = match resource {
        Resource::Kind(Kind::IpSet) => ip_set::MAX_BODY,
        _ => body::MAX_BODY,
    };
    let limits = &context.admin.limits;
    let bytes = match body::read_within(&request.headers, body, limits.body, most).await {
        Ok(bytes) => bytes,
        Err(error) => return error.into_response(),
    };
    let task = tokio::spawn(async move { run(&context, resource, request, &bytes).await });
    match task.await {
        Ok(Ok(response)) => response,
        Ok(Err(refused)) => refused.into_response(),
        Err(error) => {
            tracing::error!(%error, "a request of the Admin API failed");
            Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error").into_response()
        }
    }
}

enum Resource {
    Kind(Kind),
    Schema,
    Plugins,
}

impl Resource {
    fn find(context: &Context, request: &Arrived) -> Result<Self, Refused> {
        let segment = request.segments.first().map_or("", String::as_str);
        let is_enabled = context.admin.live.stream_enabled();
        for kind in [Kind::StreamRoute, Kind::StreamListener] {
            if segment == kind.segment() && !is_enabled {
                let message = format!("stream mode is disabled, can not add {kind}s");
                return Err(Refused::bad(message));
            }
        }
        let resource = match segment {
            "schema" => Self::Schema,
            "plugins" => Self::Plugins,
            _ => Kind::from_segment(segment).map(Self::Kind).ok_or_else(|| {
                let message = format!("Unsupported resource type: {segment}");
                Refused::new(StatusCode::NOT_FOUND, message)
            })?,
        };
        if !matches!(resource, Self::Kind(_)) && request.method != Method::GET {
            return Err(Refused::new(StatusCode::NOT_FOUND, "not found"));
        }
        Ok(resource)
    }
}

async fn run(
    context: &Context,
    resource: Resource,
    request: Arrived,
    bytes: &[u8],
) -> Result<Response, Refused> {
    let mut body = if bytes.is_empty() { None } else { Some(document(bytes)?) };
    let mut options = Options::from_request(&request)?;
    let rest = request.segments.get(1..).unwrap_or_default();
    let kind = match resource {
        Resource::Schema => return schema_api::schema(context, rest, &request.query),
        Resource::Plugins => return schema_api::plugins(context, rest, &request.query),
        Resource::Kind(kind) => kind,
    };
    let target = Target::parse(kind, rest);
    if request.method != Method::GET {
        listeners::refuse_configured(&target)?;
    }
    let kind = target.kind;
    if request.method == Method::POST && kind == Kind::IpSetEntry && target.id.is_none() {
        return ip_set_bulk::post(context, &target, body, options).await;
    }
    let refused = (request.method == Method::POST && !kind.allows_post())
        || (request.method == Method::PATCH && !kind.allows_patch());
    if refused {
        let message = format!("not supported `{}` method for {kind}", request.method);
        return Err(Refused::new(StatusCode::METHOD_NOT_ALLOWED, message));
    }
    if request.method != Method::PATCH && !target.sub_path.is_empty() {
        // Or else `DELETE /upstreams/1/nodes` would delete the upstream.
        let message = format!("invalid sub-path: /{}", target.sub_path.join("/"));
        return Err(Refused::bad(message));
    }
    if request.method == Method::PUT || request.method == Method::POST {
        ip_set::settle(kind, &mut body, &mut options.ttl)?;
    }
    match request.method {
        Method::GET => read::get(context, &target, &request.query).await,
        Method::PUT => write::put(context, &target, body, options).await,
        Method::POST => write::post(context, &target, body, options).await,
        Method::PATCH => patch::patch(context, &target, body, options).await,
        _ => delete::delete(context, &target, &request.query, options).await,
    }
}

/// The body as JSON; the refusal shows the body.
pub(crate) fn document(bytes: &[u8]) -> Result<Value, Refused> {
    json::parse(bytes).map_err(|error| Refused {
        status: StatusCode::BAD_REQUEST,
        body: serde_json::json!({
            "error_msg": format!("invalid request body: {error}"),
            "req_body": String::from_utf8_lossy(bytes),
        }),
    })
}
