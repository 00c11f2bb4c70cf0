//! HashiCorp Vault's key-value store: one GET for each reference (`spec/schemas.md`, section 12).

use std::time::Duration;

use headgate_upstream::client_tls::{Connection, Connector};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// What the manager gets when its document sets no `timeout`.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time that a document may set.
const LONGEST: f64 = 60.0;
/// Largest answer, bytes.
const LARGEST: usize = 1024 * 1024;

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
        let text = |name: &str| document.get(name).and_then(Value::as_str).unwrap_or_default();
        let base = text("uri").trim_end_matches('/');
        let prefix = text("prefix").trim_matches('/');
        let uri = format!("{base}/v1/{prefix}/{path}");
        let uri: Uri = uri.parse().map_err(|error| format!("{uri} is not a URI: {error}"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
            return Err(format!("{uri} does not begin with http:// or https:// and a host"));
        }
        let header = |name: &str, text: &str| {
            let text = match text.get(..7).filter(|head| head.eq_ignore_ascii_case("$env://")) {
                Some(_) => {
                    let variable = text.get(7..).unwrap_or_default();
                    env(variable).ok_or_else(|| {
                        format!("the variable {variable} of {name} is not set in the environment")
                    })?
                }
                None => text.to_owned(),
            };
            let mut value = HeaderValue::from_str(text.trim())
                .map_err(|_| format!("{name} of the secret manager is not printable text"))?;
            value.set_sensitive(true);
            Ok::<_, String>(value)
        };
        let token = header("token", text("token"))?;
        let namespace = Some(text("namespace")).filter(|text| !text.is_empty());
        let namespace = namespace.map(|text| header("namespace", text)).transpose()?;
        let timeout = document.get("timeout").and_then(Value::as_f64);
        let timeout = timeout.filter(|seconds| *seconds > 0.0).map(|it| it.min(LONGEST));
        let limit = timeout.map_or(TIMEOUT, Duration::from_secs_f64);
        Ok(Self { uri, token, namespace, field: field.to_owned(), key: key.to_owned(), limit })
    }

    /// Asks, and answers with the value.
    ///
    /// # Errors
    /// In the reference's wording; the body of an answer is not shown.
    pub(super) async fn ask(self, connector: &Connector) -> Result<String, String> {
        let limit = self.limit;
        let intro = "failed to retrtive data from vault kv engine"; // as the reference spells it
        match tokio::time::timeout(limit, self.get(connector)).await {
            Ok(Ok((200, body))) => self.value(&body),
            Ok(Ok((status, _))) => Err(format!("{intro}: {} answered {status}", self.uri)),
            Ok(Err(error)) => Err(format!("{intro}: {}: {error}", self.uri)),
            Err(_) => Err(format!("{intro}: {} did not answer within {limit:?}", self.uri)),
        }
    }

    async fn get(&self, connector: &Connector) -> Result<(u16, Bytes), String> {
        let is_secure = self.uri.scheme_str() == Some("https");
        let host = self.uri.host().unwrap_or_default();
        let port = self.uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((bare, port)).await.map_err(|error| error.to_string())?;
        let mut stream: Box<dyn Connection> = Box::new(stream);
        if is_secure {
            let secured = connector.connect(stream, host, true).await;
            stream = secured.map_err(|error| error.to_string())?;
        }
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        // Ends when the sender is dropped, or the connection is.
        tokio::spawn(connection);
        let authority = self.uri.authority().map_or(host, |authority| authority.as_str());
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request =
            Request::get(path).header(HOST, authority).header("X-Vault-Token", &self.token);
        if let Some(namespace) = &self.namespace {
            request = request.header("X-Vault-Namespace", namespace);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), LARGEST).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        Ok((status, body))
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
