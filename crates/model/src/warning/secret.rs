//! `$secret://` references, and the managers that they name.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Context, Warning};

/// Adds the references of an object that lead nowhere.
pub(super) fn references(context: Context<'_>, document: &Value, out: &mut Vec<Warning>) {
    let mut managers = BTreeSet::new();
    collect(document, &mut managers);
    for id in managers {
        if context.set.secrets.get(id).is_none() {
            out.push(Warning::new(
                "secret/none",
                format!("there is no secret manager {id}, so what refers to it cannot be used"),
                format!("write it: PUT /apisix/admin/secrets/{id}"),
            ));
        }
    }
}

/// `<manager>/<name>` of every reference.
fn collect<'a>(value: &'a Value, out: &mut BTreeSet<&'a str>) {
    match value {
        Value::Object(members) => members.values().for_each(|member| collect(member, out)),
        Value::Array(items) => items.iter().for_each(|item| collect(item, out)),
        Value::String(text) => {
            let Some(path) = text.strip_prefix("$secret://") else { return };
            let name = path.find('/').map_or(path.len(), |at| at + 1);
            let rest = path.get(name..).unwrap_or_default();
            let end = rest.find('/').map_or(path.len(), |at| name + at);
            out.insert(path.get(..end).unwrap_or(path));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn managers_of_references() {
        let mut found = BTreeSet::new();
        let document = json!({"a": ["$secret://vault/1/b/c", "$secret://aws/2", "$secret://x"]});
        collect(&document, &mut found);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["aws/2", "vault/1", "x"]);
    }
}
