//! PATCH: changes part of a resource, if nobody else changed it in between.

use axum::http::StatusCode;
use axum::response::Response;
use headgate_model::Kind;
use headgate_store::{Precondition, Stored};
use serde_json::{Map, Value};

use super::options::Options;
use super::target::Target;
use super::write::now;
use super::{check, ids, protect};
use crate::admin_api::Context;
use crate::answer::Refused;
use crate::envelope::Action;

/// Merges the body into the resource, or replaces the member that the sub-path names.
pub(super) async fn patch(
    context: &Context,
    target: &Target,
    body: Option<Value>,
    options: Options,
) -> Result<Response, Refused> {
    let kind = target.kind;
    ids::known_manager(target)?;
    let id = target.full_id().ok_or_else(|| match kind {
        Kind::Secret => Refused::bad("no secret id"),
        _ => ids::missing(kind),
    })?;
    let body = body.ok_or_else(|| Refused::bad("missing new configuration"))?;
    let writing = context.writing(kind).await;
    let key = kind.key(&id);
    let current = context.admin.store.get(&key).await?;
    options.matches(current.as_ref())?;
    let Stored { mut value, modified, .. } = current.ok_or_else(Refused::key_not_found)?;
    change(&mut value, &target.sub_path, body)?;
    ids::settle(target, &mut value)?;
    check::check(context, kind, &id, &value).await?;
    let _held = context.reserve(kind, &id, &value).await?;
    protect::encrypt(kind, &mut value, &context.admin.encrypt);
    let write = options.write_options(Precondition::Modified(modified));
    let written = context
        .admin
        .store
        .put(&key, value, write)
        .await
        .map_err(|error| options.refused(error))?;
    drop(writing);
    let status = StatusCode::OK;
    Ok(context.written(kind, &id, written, &options, status, Action::CompareAndSwap).await)
}

/// Applies a body to a stored document and renews its `update_time`.
fn change(value: &mut Value, sub_path: &[String], body: Value) -> Result<(), Refused> {
    let mut updated = None;
    if sub_path.is_empty() {
        let patch = match body {
            Value::Object(patch) => patch,
            Value::Array(items) if items.is_empty() => Map::new(),
            _ => return Err(Refused::bad("invalid configuration")),
        };
        updated = patch.get("update_time").filter(|time| !time.is_null()).cloned();
        merge(value, patch);
    } else {
        replace(value, sub_path, body)
            .map_err(|path| Refused::bad(format!("invalid sub-path: {path}")))?;
    }
    if let Some(members) = value.as_object_mut() {
        let updated = updated.unwrap_or_else(|| now().into());
        if !members.contains_key("create_time") {
            members.insert("create_time".to_owned(), updated.clone());
        }
        members.insert("update_time".to_owned(), updated);
    }
    Ok(())
}

/// Objects are merged, null deletes, everything else (arrays too) replaces.
fn merge(value: &mut Value, patch: Map<String, Value>) {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let Some(members) = value.as_object_mut() else { return };
    for (name, new) in patch {
        match new {
            Value::Null => {
                members.shift_remove(&name);
            }
            Value::Object(patch) => merge(members.entry(name).or_insert(Value::Null), patch),
            other => {
                members.insert(name, other);
            }
        }
    }
}

/// Sets the member that `path` names; objects on the way are made, null deletes. The error is the
/// path up to the member that is not an object.
fn replace(value: &mut Value, path: &[String], new: Value) -> Result<(), String> {
    let Some((last, parents)) = path.split_last() else { return Ok(()) };
    let mut at = value;
    let mut walked = String::new();
    for name in parents {
        walked.push('/');
        walked.push_str(name);
        let members = at.as_object_mut().ok_or_else(|| walked.clone())?;
        at = members.entry(name.as_str()).or_insert_with(|| Value::Object(Map::new()));
        if !at.is_object() {
            return Err(walked);
        }
    }
    let members = at.as_object_mut().ok_or(walked)?;
    if new.is_null() {
        members.shift_remove(last);
    } else {
        members.insert(last.clone(), new);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::request::segments;

    #[test]
    fn merging() {
        let mut value = json!({"a": {"x": 1, "y": 2}, "n": [1, 2], "s": "t", "u": 1});
        let patch =
            json!({"a": {"y": null, "z": 3}, "n": [3], "s": {"q": 1, "r": null}, "u": null});
        let Value::Object(patch) = patch else { unreachable!() };
        merge(&mut value, patch);
        assert_eq!(value, json!({"a": {"x": 1, "z": 3}, "n": [3], "s": {"q": 1}}));
    }

    #[test]
    fn parts_are_replaced() {
        let start = json!({"nodes": {"a": 1}, "list": [1]});
        for (path, new, expected) in [
            ("nodes", json!({"b": 2}), Ok(json!({"nodes": {"b": 2}, "list": [1]}))),
            ("nodes/a", json!(5), Ok(json!({"nodes": {"a": 5}, "list": [1]}))),
            ("nodes/a", json!(null), Ok(json!({"nodes": {}, "list": [1]}))),
            ("x/y", json!("z"), Ok(json!({"nodes": {"a": 1}, "list": [1], "x": {"y": "z"}}))),
            ("list/1", json!(2), Err("/list".to_owned())),
            ("nodes/a/b/c", json!(2), Err("/nodes/a".to_owned())),
        ] {
            let mut value = start.clone();
            let result = replace(&mut value, &segments(path), new).map(|()| value);
            assert_eq!(result, expected, "{path}");
        }
    }
}
