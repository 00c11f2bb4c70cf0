//! Checks without storing: `/apisix/admin/schema/validate/{resource}` and
//! `/apisix/admin/configs/validate`.

use std::collections::HashSet;
use std::path::Path;

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use headgate_model::check::Checker;
use headgate_model::standalone::LISTS;
use headgate_model::yaml::Document;
use headgate_model::{Kind, PluginList, plugin_list};
use serde_json::{Map, Value, json};

use crate::admin_api::Context;
use crate::answer::{self, Refused};
use crate::{json, resources};

/// Checks a document against the schema of its kind only.
pub(crate) fn schema(context: &Context, resource: &str, bytes: &[u8]) -> Response {
    let checked = check_schema(&context.admin.checker, resource, bytes);
    checked.map_or_else(Refused::into_response, |()| answer::text(StatusCode::OK, ""))
}

fn check_schema(checker: &Checker, resource: &str, bytes: &[u8]) -> Result<(), Refused> {
    let kind = match resource {
        "credentials" => Some(Kind::Credential),
        _ => Kind::from_segment(resource),
    };
    let kind = kind.ok_or_else(|| {
        Refused::new(StatusCode::NOT_FOUND, format!("Unsupported resource type: {resource}"))
    })?;
    if bytes.is_empty() {
        return Err(Refused::bad("missing configurations"));
    }
    let document = resources::document(bytes)?;
    checker.schema(kind, &document).map_err(Refused::bad)
}

/// Checks a whole configuration, as JSON or YAML, and answers every error found.
pub(crate) fn configs(context: &Context, headers: &HeaderMap, bytes: &[u8]) -> Response {
    let config = match read(headers, bytes) {
        Ok(config) => config,
        Err(error) => {
            return Refused::bad(format!("invalid request body: {error}")).into_response();
        }
    };
    let errors = Configs { checker: &context.admin.checker, config: &config }.errors();
    if errors.is_empty() {
        return answer::json(StatusCode::OK, &json!({}));
    }
    let body = json!({"error_msg": "Configuration validation failed", "errors": errors});
    answer::json(StatusCode::BAD_REQUEST, &body)
}

pub(crate) fn read(headers: &HeaderMap, bytes: &[u8]) -> Result<Map<String, Value>, String> {
    if bytes.is_empty() {
        return Err("empty request body".to_owned());
    }
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let value = if kind.starts_with("application/yaml") {
        std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| Document::parse(text, Path::new("request body")).ok())
            .map(|document| document.value)
            .filter(Value::is_object)
            .ok_or_else(|| "invalid yaml request body".to_owned())?
    } else {
        json::parse(bytes)?
    };
    match value {
        Value::Object(config) => Ok(config),
        Value::Array(items) if items.is_empty() => Ok(Map::new()),
        _ => Err("should be an object".to_owned()),
    }
}

/// A whole configuration to be checked.
pub(crate) struct Configs<'a> {
    pub(crate) checker: &'a Checker,
    pub(crate) config: &'a Map<String, Value>,
}

impl Configs<'_> {
    /// Every error found, in the form of the answer.
    pub(crate) fn errors(&self) -> Vec<Value> {
        let mut errors = Vec::new();
        for kind in LISTS {
            self.version_errors(kind.segment(), &mut errors);
            self.list_errors(kind, &mut errors);
        }
        self.version_errors(plugin_list::NAME, &mut errors);
        if let Some(Err(error)) = self.config.get(plugin_list::NAME).map(PluginList::read) {
            let error = format!("invalid configuration: {error}");
            errors.push(json!({"resource_type": plugin_list::NAME, "error": error}));
        }
        errors
    }

    fn version_errors(&self, list: &str, errors: &mut Vec<Value>) {
        let name = format!("{list}_conf_version");
        if let Some(version) = self.config.get(&name).filter(|version| !version.is_number()) {
            let error = format!("{name} must be a number, got {}", json::lua_type(version));
            errors.push(json!({"resource_type": list, "error": error}));
        }
    }

    fn list_errors(&self, kind: Kind, errors: &mut Vec<Value>) {
        let list = kind.segment();
        let items = match self.config.get(list) {
            None => return,
            Some(Value::Array(items)) => items,
            Some(Value::Object(members)) if members.is_empty() => return,
            Some(other) => {
                let error = format!("wrong type: expected array, got {}", json::lua_type(other));
                errors.push(json!({"resource_type": list, "error": error}));
                return;
            }
        };
        let mut seen = HashSet::new();
        for (index, item) in items.iter().enumerate() {
            let id = item_id(kind, item);
            let checked = self
                .item(kind, id.as_deref(), item)
                .and_then(|()| unique(kind, id.as_deref(), &mut seen));
            if let Err(error) = checked {
                let mut entry = json!({"resource_type": list, "index": index, "error": error});
                if let (Some(id), Some(members)) = (id, entry.as_object_mut()) {
                    members.insert("resource_id".to_owned(), id.into());
                }
                errors.push(entry);
            }
        }
    }

    fn item(&self, list: Kind, id: Option<&str>, item: &Value) -> Result<(), String> {
        if !item.is_object() {
            let found = json::lua_type(item);
            return Err(format!("invalid configuration: wrong type: expected object, got {found}"));
        }
        let id = id.unwrap_or_default();
        let kind = kind_of(list, id);
        if kind == Kind::Secret && Kind::parse_key(&kind.key(id)).is_none_or(|_| !id.contains('/'))
        {
            return Err(format!("invalid secret id: {id}"));
        }
        let mut document = item.clone();
        if document.get("modifiedIndex").is_some_and(Value::is_u64)
            && !matches!(kind, Kind::PluginMetadata | Kind::Secret)
            && let Some(members) = document.as_object_mut()
        {
            members.shift_remove("modifiedIndex");
        }
        let found = |kind: Kind, wanted: &str| Some(self.found(kind, wanted, item));
        self.checker.check(kind, id, &document, &found)
    }

    /// What a reference leads to. References out of the configuration are not checked: they lead
    /// to something that fits.
    fn found(&self, kind: Kind, id: &str, from: &Value) -> Value {
        let items = self.config.get(kind.segment()).and_then(Value::as_array);
        let found =
            items.into_iter().flatten().find(|item| item_id(kind, item).as_deref() == Some(id));
        match (found, kind) {
            (Some(found), _) => found.clone(),
            (None, Kind::Ssl) => json!({"type": "client"}),
            (None, Kind::StreamRoute) => json!({"protocol": from.get("protocol")}),
            (None, _) => json!({}),
        }
    }
}

/// Credentials stand among the consumers, entries among the IP sets.
fn kind_of(list: Kind, id: &str) -> Kind {
    match list {
        Kind::Consumer if id.contains("/credentials/") => Kind::Credential,
        Kind::IpSet if id.contains("/entries/") => Kind::IpSetEntry,
        list => list,
    }
}

fn item_id(list: Kind, item: &Value) -> Option<String> {
    let id = match list {
        Kind::Consumer => item.get("id").or_else(|| item.get("username")),
        _ => item.get("id"),
    };
    match id? {
        Value::String(id) => Some(id.clone()),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    }
}

fn unique(list: Kind, id: Option<&str>, seen: &mut HashSet<String>) -> Result<(), String> {
    let Some(id) = id else { return Ok(()) };
    if seen.insert(id.to_owned()) {
        return Ok(());
    }
    let (what, name) = match kind_of(list, id) {
        Kind::Credential => ("credential id", "consumers"),
        Kind::Consumer => ("username", "consumers"),
        Kind::IpSetEntry => ("entry", "ip_sets"),
        kind => ("id", kind.segment()),
    };
    Err(format!("found duplicate {what} {id} in {name}"))
}
