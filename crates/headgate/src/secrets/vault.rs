//! HashiCorp Vault's key-value store: one GET for each reference (`spec/schemas.md`, section 12).

use std::time::Duration;

use headgate_upstream::client_tls::Connector;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Uri};
use serde_json::Value;

use super::http::{self, Call};

/// Longest time that a document may set.
const LONGEST: f64 = 60.0;

/// One request, ready to be sent.
pub(super) struct Question {
    uri: Uri,
    token: HeaderValue,
    namespace: Option<HeaderValue>,
    field: String,
    key: String,
    limit: Duration,
}

impl Question {
    /// The question for `key`, which is `<path>/<field>`.
    ///
    /// # Errors
    /// The key or the document is not right; tokens are not shown.
    pub(super) fn new(
        document: &Value,
        key: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        let (path, field) =
            key.rsplit_once('/').ok_or_else(|| format!("error key format, key: {key}"))?;
        if path.is_empty() {
            return Err(format!("can't find main key, key: {key}"));
        }
        if field.is_empty() {
            return Err(format!("can't find sub key, key: {key}"));
        }
        let text = |name: &str| http::text(document, name, env);
        let (base, prefix) = (text("uri")?, text("prefix")?);
        let (base, prefix) = (base.trim_end_matches('/'), prefix.trim_matches('/'));
        let uri = http::uri(&format!("{base}/v1/{prefix}/{path}"))?;
        let header = |name: &str| {
            let mut value = HeaderValue::from_str(text(name)?.trim())
                .map_err(|_| format!("{name} of the secret manager is not printable text"))?;
            value.set_sensitive(true);
            Ok::<_, String>(value)
        };
        let token = header("token")?;
        let namespace = Some(header("namespace")?).filter(|value| !value.is_empty());
        let timeout = document.get("timeout").and_then(Value::as_f64);
        let timeout = timeout.filter(|seconds| *seconds > 0.0).map(|it| it.min(LONGEST));
        let limit = timeout.map_or(http::TIMEOUT, Duration::from_secs_f64);
        Ok(Self { uri, token, namespace, field: field.to_owned(), key: key.to_owned(), limit })
    }

    /// Asks, and answers with the value.
    ///
    /// # Errors
    /// In the reference's wording; the body of an answer is not shown.
    pub(super) async fn ask(self, connector: &Connector) -> Result<String, String> {
        let intro = "failed to retrtive data from vault kv engine"; // as the reference spells it
        let mut headers = vec![(HeaderName::from_static("x-vault-token"), self.token.clone())];
        if let Some(namespace) = &self.namespace {
            headers.push((HeaderName::from_static("x-vault-namespace"), namespace.clone()));
        }
        let call = Call {
            method: Method::GET,
            uri: self.uri.clone(),
            headers,
            body: Vec::new(),
            limit: self.limit,
            verify: true,
        };
        match call.send(connector).await {
            Ok((200, body)) => self.value(&body),
            Ok((status, _)) => Err(format!("{intro}: {} answered {status}", self.uri)),
            Err(error) => Err(format!("{intro}: {error}")),
        }
    }

    /// The field of an answer: of version 1 of the store in `data`, of version 2 in `data.data`
    /// beside `data.metadata`.
    fn value(&self, body: &[u8]) -> Result<String, String> {
        let answer: Value = serde_json::from_slice(body)
            .map_err(|_| "failed to decode result: the answer is not JSON".to_owned())?;
        let first = answer.get("data").unwrap_or(&Value::Null);
        let second = first.get("data").filter(|_| first.get("metadata").is_some());
        match second.unwrap_or(first).get(&self.field) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(Value::Null) | None => Err(format!("can't find sub key, key: {}", self.key)),
            Some(other) => Ok(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn question(document: Value, key: &str) -> Result<Question, String> {
        Question::new(&document, key, &|name| (name == "TOKEN").then(|| "from-env".to_owned()))
    }

    #[test]
    fn the_request() {
        let document = json!({"uri": "http://vault:8200/base/", "prefix": "/kv/headgate",
            "token": "$ENV://TOKEN", "namespace": "team", "timeout": 0.5});
        let question = question(document, "tls/db/key").unwrap_or_else(|it| panic!("{it}"));
        assert_eq!(question.uri, "http://vault:8200/base/v1/kv/headgate/tls/db");
        assert_eq!(question.token, "from-env");
        assert!(question.token.is_sensitive());
        assert_eq!((question.field.as_str(), question.limit), ("key", Duration::from_millis(500)));
    }

    #[test]
    fn what_is_not_right() {
        let good = json!({"uri": "http://v", "prefix": "kv", "token": "t"});
        for (document, key, part) in [
            (good.clone(), "key", "error key format, key: key"),
            (good.clone(), "/key", "can't find main key"),
            (good.clone(), "a/", "can't find sub key"),
            (good, "a b/c", "is not a URI"),
            (json!({"uri": "ftp://v", "prefix": "kv", "token": "t"}), "a/b", "does not begin"),
            (
                json!({"uri": "http://v", "prefix": "kv", "token": "$env://NO"}),
                "a/b",
                "variable NO of token is not set",
            ),
            (json!({"uri": "http://v", "prefix": "kv", "token": "a\nb"}), "a/b", "token of the"),
        ] {
            let error = question(document, key).err().unwrap_or_default();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn both_versions_of_the_store() {
        let question = question(json!({"uri": "http://v", "prefix": "kv", "token": "t"}), "a/key");
        let question = question.unwrap_or_else(|it| panic!("{it}"));
        let value = |answer: Value| question.value(answer.to_string().as_bytes());
        assert_eq!(value(json!({"data": {"key": "x"}})), Ok("x".into()));
        assert_eq!(value(json!({"data": {"key": 7}})), Ok("7".into()));
        let second = json!({"data": {"data": {"key": "y"}, "metadata": {"version": 3}}});
        assert_eq!(value(second), Ok("y".into()));
        assert_eq!(
            value(json!({"data": {"data": "z"}})),
            Err("can't find sub key, key: a/key".into())
        );
        assert!(question.value(b"<html>").is_err());
    }
}
