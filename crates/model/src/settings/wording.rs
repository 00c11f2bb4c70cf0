//! Messages in the reference's words: merge errors, schema errors, names of Lua types.

use serde_json::Value;

/// Lua's name for the type of a value.
pub(super) const fn lua_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) | Value::Object(_) => "table",
    }
}

/// A value whose type differs from that of the default.
pub(super) fn merge(path: &str, default: &Value, value: &Value) -> String {
    let path = path.replace('.', "->");
    format!(
        "failed to merge, path[{path}] expect: {}, but got: {}",
        lua_type(default),
        lua_type(value)
    )
}

/// A value that the schema refuses; `path` is dotted, list positions are `[0]`.
pub(super) fn schema(role: &str, path: &str, reason: &str) -> String {
    let (mut message, path) = match path.strip_prefix("deployment.") {
        Some(rest) if rest != "role" => {
            (format!("invalid deployment {role} configuration: "), rest)
        }
        _ => ("failed to validate config: ".to_owned(), path),
    };
    for step in path.split('.') {
        let (name, positions) = step.split_once('[').unwrap_or((step, ""));
        message.push_str(&format!("property \"{name}\" validation failed: "));
        for position in positions.split(['[', ']']).filter_map(|part| part.parse::<usize>().ok()) {
            message.push_str(&format!("failed to validate item {}: ", position + 1));
        }
    }
    message.push_str(reason);
    message
}

/// A value of the wrong type.
pub(super) fn wrong_type(expected: &str, value: &Value) -> String {
    let got = if value.is_null() { "userdata" } else { lua_type(value) };
    format!("wrong type: expected {expected}, got {got}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words_are_those_of_the_reference() {
        assert_eq!(
            merge("deployment.etcd.host", &json!(["x"]), &json!("http://x")),
            "failed to merge, path[deployment->etcd->host] expect: table, but got: string"
        );
        assert_eq!(
            schema("traditional", "apisix.proxy_mode", "matches none of the enum values"),
            "failed to validate config: property \"apisix\" validation failed: \
             property \"proxy_mode\" validation failed: matches none of the enum values"
        );
        assert_eq!(
            schema("traditional", "deployment.admin.allow_admin[1]", "no"),
            "invalid deployment traditional configuration: property \"admin\" validation failed: \
             property \"allow_admin\" validation failed: failed to validate item 2: no"
        );
    }
}
