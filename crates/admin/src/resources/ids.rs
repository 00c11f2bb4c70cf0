//! Ids of written resources, and the members that only the server writes.

use headgate_model::Kind;
use headgate_model::kind::IdRule;
use serde_json::Value;

use super::target::Target;
use crate::answer::Refused;

/// Secret managers whose configurations can be stored.
const SECRET_MANAGERS: [&str; 3] = ["vault", "aws", "gcp"];
/// Members that PUT and POST must not send.
const TIMES: [&str; 2] = ["create_time", "update_time"];

/// Finds the id for PUT and PATCH, writes it into the document, and returns it with its scope.
pub(super) fn settle(target: &Target, value: &mut Value) -> Result<String, Refused> {
    let kind = target.kind;
    match kind.id_rule() {
        IdRule::PluginName => {
            let name = target.id.as_deref().ok_or_else(|| Refused::bad("missing plugin name"))?;
            set_id(value, name);
            Ok(name.to_owned())
        }
        IdRule::Username => {
            let name = value.get("username").and_then(Value::as_str).unwrap_or_default();
            if target.id.as_deref().is_some_and(|id| id != name) {
                return Err(Refused::bad("wrong username"));
            }
            Ok(name.to_owned())
        }
        IdRule::ManagerAndId => {
            known_manager(target)?;
            let id = target.full_id().ok_or_else(|| missing(kind))?;
            agree(kind, value, &id)?;
            set_id(value, &id);
            Ok(id)
        }
        IdRule::Id => {
            if let Some(id) = &target.id {
                agree(kind, value, id)?;
                set_id(value, id);
                return Ok(target.scoped(id));
            }
            let id = body_id(value).ok_or_else(|| missing(kind))?;
            Ok(target.scoped(&id))
        }
    }
}

/// Refuses a secret manager that does not exist.
pub(super) fn known_manager(target: &Target) -> Result<(), Refused> {
    match target.scope.as_deref() {
        Some(manager) if target.kind == Kind::Secret && !SECRET_MANAGERS.contains(&manager) => {
            Err(Refused::bad(format!("invalid secret manager: {manager}")))
        }
        _ => Ok(()),
    }
}

/// `missing <kind> id`.
pub(super) fn missing(kind: Kind) -> Refused {
    Refused::bad(format!("missing {kind} id"))
}

/// Refuses an id in a POST, whose id the server makes.
pub(super) fn refuse_any(target: &Target, value: &Value) -> Result<(), Refused> {
    if target.id.is_some() || body_id(value).is_some() {
        let message = format!("wrong {} id, do not need it", target.kind);
        return Err(Refused::bad(message));
    }
    Ok(())
}

/// Puts an id into a document.
pub(super) fn set_id(value: &mut Value, id: &str) {
    if let Some(members) = value.as_object_mut() {
        members.insert("id".to_owned(), id.into());
    }
}

/// Refuses timestamps in what a client sends, also in the upstream and among the plugins.
pub(super) fn refuse_times(value: &Value) -> Result<(), Refused> {
    for (prefix, members) in [
        ("", Some(value)),
        ("upstream.", value.get("upstream")),
        ("plugins.", value.get("plugins")),
    ] {
        let Some(members) = members.and_then(Value::as_object) else { continue };
        if let Some(name) = TIMES.into_iter().find(|name| members.contains_key(*name)) {
            // Two spaces: the reference writes them.
            return Err(Refused::bad(format!("the property is forbidden:  {prefix}{name}")));
        }
    }
    Ok(())
}

/// An id in the body must be that of the URI.
fn agree(kind: Kind, value: &Value, id: &str) -> Result<(), Refused> {
    match body_id(value) {
        Some(given) if given != id => Err(Refused::bad(format!("wrong {kind} id"))),
        _ => Ok(()),
    }
}

/// The id of the body as text; the schema refuses what is neither string nor integer.
fn body_id(value: &Value) -> Option<String> {
    match value.get("id")? {
        Value::String(id) => Some(id.clone()),
        // 1.0 is the id 1: the schema takes it for an integer.
        Value::Number(id) => match id.as_f64() {
            Some(number) if !id.is_u64() && number.fract() == 0.0 => Some(format!("{number:.0}")),
            _ => Some(id.to_string()),
        },
        other => Some(other.to_string()),
    }
}
