//! The list of enabled plugins that may stand beside the resources: `plugins` of a standalone file,
//! `<prefix>/plugins` in etcd (`spec/storage.md`, sections 1 and 4). Where it is followed it takes the
//! place of `plugins` and `stream_plugins` of `config.yaml`.

use serde_json::{Value, json};

/// Its key in a store.
pub const KEY: &str = "/plugins";
/// Its name in a file.
pub const NAME: &str = "plugins";

/// Names of enabled plugins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PluginList {
    /// Those of the HTTP plane.
    pub http: Vec<String>,
    /// Those of the stream plane (`stream: true`).
    pub stream: Vec<String>,
}

impl PluginList {
    /// Reads `[{"name": "a"}, {"name": "b", "stream": true}]`; `{}` is how Lua writes an empty list.
    ///
    /// # Errors
    /// It has another form.
    pub fn read(value: &Value) -> Result<Self, String> {
        let mut list = Self::default();
        let items = match value {
            Value::Array(items) => items.as_slice(),
            Value::Object(members) if members.is_empty() => &[],
            _ => return Err("it should be a list of {name: ..., stream: ...}".to_owned()),
        };
        for (index, item) in (1..).zip(items) {
            let wrong = |what: &str| format!("item {index} {what}");
            let members = item.as_object().ok_or_else(|| wrong("should be an object"))?;
            if let Some(other) =
                members.keys().find(|name| !matches!(name.as_str(), "name" | "stream"))
            {
                return Err(wrong(&format!("has the unknown property {other}")));
            }
            let name = match members.get("name") {
                Some(Value::String(name)) if !name.is_empty() => name.clone(),
                _ => return Err(wrong("has no name")),
            };
            match members.get("stream") {
                None | Some(Value::Bool(false)) => list.http.push(name),
                Some(Value::Bool(true)) => list.stream.push(name),
                Some(_) => {
                    return Err(wrong("has a property stream that is neither true nor false"));
                }
            }
        }
        Ok(list)
    }

    /// As it is stored: the HTTP plugins first.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let http = self.http.iter().map(|name| json!({"name": name}));
        http.chain(self.stream.iter().map(|name| json!({"name": name, "stream": true}))).collect()
    }

    /// Whether both name the same plugins, in whatever order.
    #[must_use]
    pub fn names_the_same_as(&self, other: &Self) -> bool {
        let same = |a: &[String], b: &[String]| {
            a.iter().all(|name| b.contains(name)) && b.iter().all(|name| a.contains(name))
        };
        same(&self.http, &other.http) && same(&self.stream, &other.stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_planes_are_told_apart() {
        let value = json!([
            {"name": "limit-conn"}, {"name": "mqtt-proxy", "stream": true},
            {"name": "prometheus", "stream": false}
        ]);
        let list = PluginList::read(&value).unwrap();
        assert_eq!((list.http.len(), list.stream.as_slice()), (2, &["mqtt-proxy".to_owned()][..]));
        let again = PluginList::read(&list.to_value()).unwrap();
        assert_eq!(again, list);
        let other = PluginList { http: list.http.iter().rev().cloned().collect(), ..list.clone() };
        assert!(other != list && other.names_the_same_as(&list));
        assert!(!PluginList::default().names_the_same_as(&list));
        assert_eq!(PluginList::read(&json!({})), Ok(PluginList::default()));
    }

    #[test]
    fn other_forms_are_refused() {
        for (value, expected) in [
            (json!("x"), "it should be a list of {name: ..., stream: ...}"),
            (json!({"a": 1}), "it should be a list of {name: ..., stream: ...}"),
            (json!([{"name": "a"}, "b"]), "item 2 should be an object"),
            (json!([{"stream": true}]), "item 1 has no name"),
            (json!([{"name": ""}]), "item 1 has no name"),
            (json!([{"name": "a", "streams": true}]), "item 1 has the unknown property streams"),
            (
                json!([{"name": "a", "stream": 1}]),
                "item 1 has a property stream that is neither true nor false",
            ),
        ] {
            assert_eq!(PluginList::read(&value).unwrap_err(), expected);
        }
    }
}
