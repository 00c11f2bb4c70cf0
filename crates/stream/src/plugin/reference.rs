//! References in a plugin's configuration: `$env://NAME`, the value of a variable of the
//! environment, or with `$env://NAME/member/...` a member of the JSON object in it; and `$secret://`,
//! what a secret manager has.

use serde_json::Value;

use crate::secret::{SCHEME, SecretLookup};

/// Replaces every reference in `conf`, and makes whole numbers integers (`1.0` is one in JSON
/// schema).
///
/// # Errors
/// The reference that leads nowhere, without its value.
pub(super) fn resolve(conf: &mut Value, secrets: &SecretLookup) -> Result<(), String> {
    resolve_with(conf, secrets, &|name| std::env::var(name).ok())
}

fn resolve_with(
    conf: &mut Value,
    secrets: &SecretLookup,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<(), String> {
    match conf {
        Value::Object(members) => {
            members.values_mut().try_for_each(|member| resolve_with(member, secrets, env))
        }
        Value::Array(items) => {
            items.iter_mut().try_for_each(|item| resolve_with(item, secrets, env))
        }
        Value::String(text) => {
            if let Some(found) = look_up(text, secrets, env)? {
                *conf = Value::String(found);
            }
            Ok(())
        }
        Value::Number(number) => {
            if let Some(float) = number.as_f64()
                && !number.is_i64()
                && !number.is_u64()
                && float.fract() == 0.0
                && float.abs() < 9e15
            {
                *conf = Value::from(float as i64);
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn look_up(
    text: &str,
    secrets: &SecretLookup,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<String>, String> {
    if text.starts_with(SCHEME) {
        let found = secrets.find(text);
        return found
            .map(Some)
            .map_err(|why| format!("failed to resolve secret reference: {text}, err: {why}"));
    }
    let head = text.get(..7).filter(|head| head.eq_ignore_ascii_case("$env://"));
    let Some(path) = head.and_then(|_| text.get(7..)) else { return Ok(None) };
    let mut path = path.split('/');
    let name = path.next().unwrap_or_default();
    let value = env(name)
        .ok_or_else(|| format!("the variable {name} of {text} is not set in the environment"))?;
    let mut members = path.peekable();
    if members.peek().is_none() {
        return Ok(Some(value));
    }
    let object: Option<Value> = serde_json::from_str(&value).ok();
    let member = members.try_fold(object.unwrap_or_default(), |at, name| at.get(name).cloned());
    match member {
        Some(Value::String(found)) => Ok(Some(found)),
        Some(other) if !other.is_null() => Ok(Some(other.to_string())),
        _ => Err(format!("the variable {name} does not hold JSON with the member of {text}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn resolved(mut conf: Value) -> Result<Value, String> {
        let env = |name: &str| match name {
            "HOST" => Some("logs".to_owned()),
            "ALL" => Some(r#"{"redis":{"host":"r","port":1}}"#.to_owned()),
            _ => None,
        };
        let secrets = SecretLookup::new(|text| match text {
            "$secret://vault/1/redis/password" => Ok("sesame".to_owned()),
            _ => Err("no such thing".to_owned()),
        });
        resolve_with(&mut conf, &secrets, &env).map(|()| conf)
    }

    #[test]
    fn references_become_values() {
        let conf = json!({"a": "$env://HOST", "b": ["$ENV://ALL/redis/host", "plain", 1.0, 1.5],
                          "c": "$env://ALL/redis/port", "d": "$secret://vault/1/redis/password"});
        let expected = json!({"a": "logs", "b": ["r", "plain", 1, 1.5], "c": "1", "d": "sesame"});
        assert_eq!(resolved(conf), Ok(expected));
    }

    #[test]
    fn what_leads_nowhere_is_named() {
        for (text, part) in [
            ("$env://NONE", "variable NONE of $env://NONE is not set"),
            ("$env://HOST/a", "does not hold JSON"),
            ("$env://ALL/redis/x", "does not hold JSON"),
            ("$secret://vault/1/a", "secret reference: $secret://vault/1/a, err: no such thing"),
        ] {
            let error = resolved(json!([text])).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
