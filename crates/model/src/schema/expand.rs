//! Replaces `{"$ref": "name"}` by the named definition, so that clients get whole schemas and the
//! files say everything once.

use serde_json::{Map, Value};

/// Definitions that are expanded already, by name.
pub(super) type Definitions = Map<String, Value>;

/// `schema` with every reference replaced. Members beside `$ref` are added to what it names.
///
/// # Errors
/// A name that is not defined. Definitions are expanded in order and can only name earlier ones,
/// so there are no cycles and the result is a finite tree.
pub(super) fn expand(schema: &Value, known: &Definitions) -> Result<Value, String> {
    match schema {
        Value::Object(members) => {
            let mut out = Map::new();
            for (name, member) in members {
                match member {
                    Value::String(target) if name == "$ref" => {
                        let Some(Value::Object(found)) = known.get(target) else {
                            return Err(format!("definition `{target}` is missing"));
                        };
                        out.extend(found.clone());
                    }
                    _ => {
                        out.insert(name.clone(), expand(member, known)?);
                    }
                }
            }
            Ok(Value::Object(out))
        }
        Value::Array(items) => {
            items.iter().map(|item| expand(item, known)).collect::<Result<_, _>>().map(Value::Array)
        }
        _ => Ok(schema.clone()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn members_beside_a_reference_are_kept() {
        let Value::Object(known) = json!({"a": {"type": "string"}}) else { unreachable!() };
        let schema = json!({"items": {"$ref": "a", "default": "x"}});
        assert_eq!(
            expand(&schema, &known),
            Ok(json!({"items": {"type": "string", "default": "x"}}))
        );
        assert!(expand(&json!({"$ref": "b"}), &known).is_err());
    }
}
