//! API-driven standalone (`spec/admin-api.md`, section 6): the whole configuration is one document
//! in memory, replaced with `PUT /apisix/admin/configs`.

use std::sync::{Mutex, PoisonError};

use axum::body::Body;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use headgate_model::standalone::{self, LISTS};
use headgate_model::{Kind, PluginList, plugin_list, yaml};
use headgate_store::WholeItem;
use serde_json::{Map, Value};

use crate::admin_api::Context;
use crate::answer::{self, Refused};
use crate::request::body;
use crate::resources::now;
use crate::validate_api;

const DIGEST: HeaderName = HeaderName::from_static("x-digest");
const LAST_MODIFIED: HeaderName = HeaderName::from_static("x-last-modified");
/// Largest document.
const MOST_BYTES: u64 = 64 << 20;

/// The document that is in use.
#[derive(Default)]
pub(crate) struct Configs(Mutex<Document>);

#[derive(Default, Clone)]
struct Document {
    /// Lists that are there.
    lists: Map<String, Value>,
    /// Versions by list; a missing one is 0.
    versions: Map<String, Value>,
    /// Digest and time (unix seconds) of the last replacement.
    stamp: Option<(String, u64)>,
}

/// GET, HEAD and PUT of the document.
pub(crate) async fn respond(
    context: &Context,
    parts: &Parts,
    body: Body,
    author: &str,
) -> Response {
    if parts.method != Method::PUT {
        return show(context, parts);
    }
    let deadline = context.admin.limits.body;
    let bytes = match body::read_within(&parts.headers, body, deadline, MOST_BYTES).await {
        Ok(bytes) => bytes,
        Err(error) => return error.into_response(),
    };
    match replace(context, parts, &bytes) {
        Ok(None) => answer::text(StatusCode::NO_CONTENT, ""),
        Ok(Some((stamp, revision))) => {
            tracing::info!(%author, revision, digest = %stamp.0, "configuration replaced");
            context.applied(revision).await;
            stamped(answer::text(StatusCode::ACCEPTED, ""), Some(&stamp))
        }
        Err(refused) => refused.into_response(),
    }
}

fn show(context: &Context, parts: &Parts) -> Response {
    let document = context.configs.lock().clone();
    let accept = parts.headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    let is_yaml = accept.is_some_and(|accept| accept.starts_with("application/yaml"));
    let body = document.shown();
    let response = if parts.method == Method::HEAD {
        answer::text(StatusCode::OK, "")
    } else if is_yaml {
        let mut response = answer::text(StatusCode::OK, yaml::write(&body));
        let kind = HeaderValue::from_static("application/yaml");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    } else {
        answer::json(StatusCode::OK, &body)
    };
    stamped(response, document.stamp.as_ref())
}

fn stamped(mut response: Response, stamp: Option<&(String, u64)>) -> Response {
    if let Some((digest, time)) = stamp {
        if let Ok(digest) = HeaderValue::from_str(digest) {
            response.headers_mut().insert(DIGEST, digest);
        }
        response.headers_mut().insert(LAST_MODIFIED, HeaderValue::from(*time));
    }
    response
}

type Replaced = Option<((String, u64), u64)>;

/// Replaces the document, all of it or nothing; `None` when the digest is that of the one in use.
fn replace(context: &Context, parts: &Parts, bytes: &[u8]) -> Result<Replaced, Refused> {
    let digest = parts.headers.get(DIGEST).and_then(|value| value.to_str().ok());
    let digest = digest.ok_or_else(|| Refused::bad("missing digest header"))?;
    let config = validate_api::read(&parts.headers, bytes)
        .map_err(|error| Refused::bad(format!("invalid request body: {error}")))?;
    // Held to the end: of two replacements the later one sees the versions of the earlier.
    let mut current = context.configs.lock();
    if current.stamp.as_ref().is_some_and(|(known, _)| known == digest) {
        return Ok(None);
    }
    let names = || LISTS.into_iter().map(Kind::segment).chain(["plugins"]);
    for name in names() {
        let key = version_key(name);
        if config.get(&key).is_some_and(|version| version.as_i64().is_none()) {
            return Err(Refused::bad(format!("{key} must be a number")));
        }
    }
    let checked = validate_api::Configs { checker: &context.admin.checker, config: &config };
    if let Some(error) = checked.errors().first().and_then(|error| error.get("error")?.as_str()) {
        return Err(Refused::bad(error));
    }
    let mut next = current.clone();
    for name in names() {
        next.take(name, &config)?;
    }
    let stamp = (digest.to_owned(), now());
    next.stamp = Some(stamp.clone());
    let revision = match &context.admin.standalone {
        Some(whole) => whole.replace(items(&next, &current)),
        None => 0,
    };
    *current = next;
    Ok(Some((stamp, revision)))
}

impl Configs {
    fn lock(&self) -> std::sync::MutexGuard<'_, Document> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Document {
    fn version(&self, name: &str) -> i64 {
        self.versions.get(name).and_then(Value::as_i64).unwrap_or(0)
    }

    /// Takes over one list as its version says: a greater one replaces, an equal one keeps, none
    /// replaces and counts up.
    fn take(&mut self, name: &str, config: &Map<String, Value>) -> Result<(), Refused> {
        let key = version_key(name);
        let known = self.version(name);
        let version = match config.get(&key).and_then(Value::as_i64) {
            None => known + 1,
            Some(version) if version < known => {
                let message = format!("{key} must be greater than or equal to ({known})");
                return Err(Refused::bad(message));
            }
            Some(version) if version == known => return Ok(()),
            Some(version) => version,
        };
        self.versions.insert(name.to_owned(), version.into());
        match config.get(name) {
            Some(Value::Array(items)) if !items.is_empty() => {
                self.lists.insert(name.to_owned(), items.clone().into());
            }
            _ => drop(self.lists.shift_remove(name)),
        }
        Ok(())
    }

    fn shown(&self) -> Value {
        let mut body = Map::new();
        for name in LISTS.into_iter().map(Kind::segment).chain(["plugins"]) {
            if let Some(list) = self.lists.get(name) {
                body.insert(name.to_owned(), list.clone());
            }
            body.insert(version_key(name), self.version(name).into());
        }
        if let Some((digest, time)) = &self.stamp {
            body.insert("X-Last-Modified".to_owned(), (*time).into());
            body.insert("X-Digest".to_owned(), digest.clone().into());
        }
        Value::Object(body)
    }
}

/// What is served of a document. An object whose `modifiedIndex` is that of the one before stays as
/// it was.
fn items(next: &Document, current: &Document) -> Vec<WholeItem> {
    let indexed = |document: &Document| {
        let items = all(document);
        items
            .filter_map(|(key, index, value)| Some((key, (index?, value))))
            .collect::<std::collections::HashMap<_, _>>()
    };
    let mut before = indexed(current);
    all(next)
        .map(|(key, index, value)| match before.remove(&key) {
            Some((known, old)) if Some(known) == index => WholeItem { key, value: old },
            _ => WholeItem { key, value },
        })
        .chain(plugins(next))
        .collect()
}

/// The list of plugins of a document; it was checked.
fn plugins(document: &Document) -> Option<WholeItem> {
    let list = PluginList::read(document.lists.get(plugin_list::NAME)?).ok()?;
    Some(WholeItem { key: plugin_list::KEY.to_owned(), value: list.to_value() })
}

/// Every object of a document: its key, its explicit index, and itself without that.
fn all(document: &Document) -> impl Iterator<Item = (String, Option<u64>, Value)> + '_ {
    LISTS.into_iter().flat_map(|kind| {
        let items = document.lists.get(kind.segment()).and_then(Value::as_array);
        items.into_iter().flatten().enumerate().filter_map(move |(at, value)| {
            let mut value = value.clone();
            let index = value.get("modifiedIndex").and_then(Value::as_u64);
            if let Some(members) = value.as_object_mut() {
                members.shift_remove("modifiedIndex");
            }
            let item = standalone::item(kind, at, value, String::new()).ok()?;
            Some((item.key(), index, item.value))
        })
    })
}

fn version_key(list: &str) -> String {
    format!("{list}_conf_version")
}
