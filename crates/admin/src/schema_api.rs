//! JSON schemas and plugin lists: `/apisix/admin/schema/...` and `/apisix/admin/plugins...`.

use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use headgate_model::plugin::{PluginCatalog, PluginMeta};
use headgate_model::{plugin_list, schema};
use headgate_store::WriteOptions;
use serde_json::{Map, Value, json};

use crate::admin_api::Context;
use crate::answer::{self, Refused};
use crate::request::Query;

enum Subsystem {
    Http,
    Stream,
}

impl Subsystem {
    /// `http` unless the argument says otherwise; the error is what it says.
    fn of(query: &Query) -> Result<Self, &str> {
        match query.get("subsystem") {
            None | Some("http") => Ok(Self::Http),
            Some("stream") => Ok(Self::Stream),
            Some(other) => Err(other),
        }
    }
}

/// `GET /apisix/admin/plugins/list`: names, those that run first in front.
pub(crate) fn plugin_names(context: &Context, query: &Query) -> Response {
    let catalog = context.admin.checker.catalog();
    let names: Value = match Subsystem::of(query) {
        Ok(Subsystem::Http) => catalog.http.iter().map(String::as_str).collect(),
        Ok(Subsystem::Stream) => catalog.stream.iter().map(|meta| meta.name).collect(),
        Err(_) => return answer::text(StatusCode::BAD_REQUEST, "invalid subsystem passed"),
    };
    answer::json(StatusCode::OK, &names)
}

/// `PUT /apisix/admin/plugins/reload`: nodes without an Admin API are told which plugins there are. On
/// this node that needs a restart.
pub(crate) async fn reload(context: &Context, author: String) -> Response {
    if let Some(list) = &context.admin.plugins {
        let options = WriteOptions { author, ..WriteOptions::default() };
        let written = context.admin.store.put(plugin_list::KEY, list.to_value(), options).await;
        if let Err(error) = written {
            return Refused::from(error).into_response();
        }
    }
    answer::text(StatusCode::OK, "done")
}

/// Any method but PUT on `/apisix/admin/plugins/reload`.
pub(crate) fn reload_misused(method: &Method) -> Response {
    let message =
        format!("please use PUT method to reload the plugins, {method} method is not allowed.");
    Refused::new(StatusCode::METHOD_NOT_ALLOWED, message).into_response()
}

/// `GET /apisix/admin/schema/{name}` and `/apisix/admin/schema/plugins/{name}`.
pub(crate) fn schema(
    context: &Context,
    rest: &[String],
    query: &Query,
) -> Result<Response, Refused> {
    match rest {
        [word, name, ..] if word == "plugins" => {
            plugins(context, std::slice::from_ref(name), query)
        }
        _ => {
            let name = rest.first().map_or("", String::as_str);
            let found = schema::named(name)
                .ok_or_else(|| Refused::bad(format!("not found schema: {name}")))?;
            Ok(answer::json(StatusCode::OK, found))
        }
    }
}

/// `GET /apisix/admin/plugins/{name}` and `/apisix/admin/plugins?all=true`.
pub(crate) fn plugins(
    context: &Context,
    rest: &[String],
    query: &Query,
) -> Result<Response, Refused> {
    let catalog = context.admin.checker.catalog();
    let subsystem = Subsystem::of(query)
        .map_err(|other| Refused::bad(format!("unsupported subsystem: {other}")))?;
    let Some(name) = rest.first() else {
        if query.get("all") != Some("true") {
            return Err(not_found(&subsystem));
        }
        let all = match subsystem {
            Subsystem::Http => http_attributes(catalog),
            Subsystem::Stream => stream_attributes(catalog),
        };
        return Ok(answer::json(StatusCode::OK, &Value::Object(all)));
    };
    let (main, metadata) = match subsystem {
        Subsystem::Stream => {
            let meta = catalog.stream(name).ok_or_else(|| not_found(&subsystem))?;
            (schema::plugin_schema(meta), metadata_schema(meta))
        }
        Subsystem::Http if catalog.has_http(name) => (http_schema(), None),
        Subsystem::Http => return Err(not_found(&subsystem)),
    };
    let found = match query.get("schema_type") {
        Some("consumer") => None,
        Some("metadata") => metadata,
        _ => Some(main),
    };
    let found = found.ok_or_else(|| Refused::bad("not found schema"))?;
    Ok(answer::json(StatusCode::OK, &found))
}

fn not_found(subsystem: &Subsystem) -> Refused {
    let name = match subsystem {
        Subsystem::Http => "http",
        Subsystem::Stream => "stream",
    };
    Refused::new(StatusCode::NOT_FOUND, format!("plugin not found in subsystem {name}"))
}

/// What is known of every stream plugin, by name.
pub(crate) fn stream_attributes(catalog: &PluginCatalog) -> Map<String, Value> {
    let attributes = |meta: &PluginMeta| {
        let mut attributes = json!({
            // A number in the reference; who has a version of three parts keeps it as text.
            "version": meta.version.parse::<f64>().map_or_else(|_| json!(meta.version), Value::from),
            "priority": meta.priority,
            "schema": schema::plugin_schema(meta),
        });
        if let (Some(metadata), Some(members)) = (metadata_schema(meta), attributes.as_object_mut())
        {
            members.insert("metadata_schema".to_owned(), metadata);
        }
        (meta.name.to_owned(), attributes)
    };
    catalog.stream.iter().map(|meta| attributes(meta)).collect()
}

/// What is known of every HTTP plugin, by name.
pub(crate) fn http_attributes(catalog: &PluginCatalog) -> Map<String, Value> {
    catalog.http.iter().map(|name| (name.clone(), json!({"schema": http_schema()}))).collect()
}

fn metadata_schema(meta: &PluginMeta) -> Option<Value> {
    serde_json::from_str(meta.metadata_schema?).ok()
}

/// HTTP plugins are stored, not run, and any configuration of theirs is accepted.
fn http_schema() -> Value {
    let injected = schema::named("plugin_injected_schema");
    let mut properties = Map::new();
    if let Some(meta) = injected.and_then(|injected| injected.get("_meta")) {
        properties.insert("_meta".to_owned(), meta.clone());
    }
    json!({
        "type": "object",
        "properties": properties,
        "$comment": "this is a mark for our injected plugin schema",
    })
}
