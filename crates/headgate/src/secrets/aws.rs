//! AWS Secrets Manager: `GetSecretValue`, signed with version 4 of AWS signatures
//! (`spec/schemas.md`, section 12; AWS General Reference, "Signing AWS API requests").

use std::fmt::Write as _;

use aws_lc_rs::{digest, hmac};
use headgate_upstream::client_tls::Connector;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Uri};
use serde_json::{Value, json};

use super::http::{self, Call};

const SERVICE: &str = "secretsmanager";
const TARGET: &str = "secretsmanager.GetSecretValue";
const JSON: &str = "application/x-amz-json-1.1";

/// What to ask, and with whose name.
pub(super) struct Question {
    uri: Uri,
    keys: Keys,
    region: String,
    key: String,
}

struct Keys {
    id: String,
    secret: String,
    session: Option<String>,
}

impl Question {
    /// The question for `key`: the name of a secret, or of a JSON secret with `/` and a member of
    /// it.
    ///
    /// # Errors
    /// The document is not right; keys are not shown.
    pub(super) fn new(
        document: &Value,
        key: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        let text = |name: &str| http::text(document, name, env);
        let filled = |text: String| Some(text).filter(|text| !text.is_empty());
        let region = filled(text("region")?).unwrap_or_else(|| "us-east-1".to_owned());
        let endpoint = filled(text("endpoint_url")?)
            .unwrap_or_else(|| format!("https://{SERVICE}.{region}.amazonaws.com"));
        let uri = http::uri(&format!("{}/", endpoint.trim_end_matches('/')))?;
        let keys = Keys {
            id: text("access_key_id")?,
            secret: text("secret_access_key")?,
            session: filled(text("session_token")?),
        };
        Ok(Self { uri, keys, region, key: key.to_owned() })
    }

    /// Asks, and answers with the value.
    ///
    /// # Errors
    /// In the reference's wording; of an answer only the kind of its error is shown.
    pub(super) async fn ask(self, connector: &Connector) -> Result<String, String> {
        match self.secret(&self.key, connector).await {
            Err(Refused::NotThere) => {}
            Err(Refused::Other(error)) => return Err(error),
            Ok(whole) => return Ok(whole),
        }
        // The last part may name a member of a JSON secret.
        let parts = self.key.rsplit_once('/').filter(|(name, _)| !name.is_empty());
        let Some((name, member)) = parts else { return Err(not_there(&self.key)) };
        match self.secret(name, connector).await {
            Err(Refused::NotThere) => Err(not_there(&self.key)),
            Err(Refused::Other(error)) => Err(error),
            Ok(whole) => {
                let object: Option<Value> = serde_json::from_str(&whole).ok();
                match object.as_ref().and_then(|object| object.get(member)) {
                    Some(Value::String(text)) => Ok(text.clone()),
                    Some(Value::Null) | None => {
                        Err(format!("can't find sub key, key: {}", self.key))
                    }
                    Some(other) => Ok(other.to_string()),
                }
            }
        }
    }

    async fn secret(&self, name: &str, connector: &Connector) -> Result<String, Refused> {
        let call = self.call(name, &jiff::Timestamp::now()).map_err(Refused::Other)?;
        let failed = |error: String| {
            Refused::Other(format!("failed to retrieve data from aws secret manager: {error}"))
        };
        let (status, body) = call.send(connector).await.map_err(failed)?;
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        let kind = answer.get("__type").and_then(Value::as_str).unwrap_or_default();
        let kind = kind.rsplit('#').next().unwrap_or_default();
        match status {
            200 => match answer.get("SecretString").and_then(Value::as_str) {
                Some(text) => Ok(text.to_owned()),
                None => Err(failed("the answer has no SecretString".to_owned())),
            },
            _ if kind == "ResourceNotFoundException" => Err(Refused::NotThere),
            _ => Err(failed(format!("invalid status code {status}, {kind}"))),
        }
    }

    /// The signed request for a secret.
    fn call(&self, name: &str, now: &jiff::Timestamp) -> Result<Call, String> {
        let body = json!({"SecretId": name, "VersionStage": "AWSCURRENT"}).to_string();
        let time = now.strftime("%Y%m%dT%H%M%SZ").to_string();
        let host = http::authority(&self.uri);
        let mut signed =
            vec![("content-type", JSON), ("host", host), ("x-amz-date", time.as_str())];
        if let Some(session) = &self.keys.session {
            signed.push(("x-amz-security-token", session.as_str()));
        }
        signed.push(("x-amz-target", TARGET));
        let request = Request { method: "POST", path: self.uri.path(), headers: &signed };
        let authorization = request.authorization(
            body.as_bytes(),
            &self.keys.id,
            &self.keys.secret,
            &self.region,
            SERVICE,
        );
        let value = |text: &str| {
            let mut value = HeaderValue::from_str(text)
                .map_err(|_| "a key of the secret manager is not printable text".to_owned())?;
            value.set_sensitive(true);
            Ok::<_, String>(value)
        };
        let mut headers = vec![
            (CONTENT_TYPE, HeaderValue::from_static(JSON)),
            (HeaderName::from_static("x-amz-date"), value(&time)?),
            (HeaderName::from_static("x-amz-target"), HeaderValue::from_static(TARGET)),
            (AUTHORIZATION, value(&authorization)?),
        ];
        if let Some(session) = &self.keys.session {
            headers.push((HeaderName::from_static("x-amz-security-token"), value(session)?));
        }
        Ok(Call {
            method: Method::POST,
            uri: self.uri.clone(),
            headers,
            body: body.into_bytes(),
            limit: http::TIMEOUT,
            verify: true,
        })
    }
}

enum Refused {
    /// There is no secret of that name.
    NotThere,
    Other(String),
}

fn not_there(key: &str) -> String {
    format!(
        "failed to retrieve data from aws secret manager: ResourceNotFoundException, key: {key}"
    )
}

/// What is signed of a request without a query.
struct Request<'a> {
    method: &'a str,
    path: &'a str,
    /// Names in lower case and in order; `x-amz-date` among them.
    headers: &'a [(&'a str, &'a str)],
}

impl Request<'_> {
    /// The header `Authorization`.
    fn authorization(
        &self,
        body: &[u8],
        id: &str,
        secret: &str,
        region: &str,
        service: &str,
    ) -> String {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let mut canonical = format!("{}\n{}\n\n", self.method, self.path);
        for (name, value) in self.headers {
            let _ = writeln!(canonical, "{name}:{}", value.trim());
        }
        let _ = write!(canonical, "\n{names}\n{}", hash(body));
        let time = self.headers.iter().find(|(name, _)| *name == "x-amz-date");
        let time = time.map_or("", |(_, time)| *time);
        let day = time.get(..8).unwrap_or_default();
        let scope = format!("{day}/{region}/{service}/aws4_request");
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hash(canonical.as_bytes()));
        let mut key = format!("AWS4{secret}").into_bytes();
        for part in [day, region, service, "aws4_request"] {
            key = sign(&key, part.as_bytes());
        }
        let signature = hex(&sign(&key, text.as_bytes()));
        format!(
            "AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, \
             Signature={signature}"
        )
    }
}

fn sign(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
}

fn hash(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `get-vanilla` of AWS's test suite for signatures.
    #[test]
    fn the_published_signature() {
        let headers = [("host", "example.amazonaws.com"), ("x-amz-date", "20150830T123600Z")];
        let request = Request { method: "GET", path: "/", headers: &headers };
        let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
        let text = request.authorization(b"", "AKIDEXAMPLE", secret, "us-east-1", "service");
        assert_eq!(
            text,
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=host;x-amz-date, \
             Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
        );
    }

    #[test]
    fn the_request() {
        let document = json!({"access_key_id": "AKID", "secret_access_key": "$env://KEY",
            "session_token": "s", "region": "eu-central-1"});
        let env = |name: &str| (name == "KEY").then(|| "hidden".to_owned());
        let question = Question::new(&document, "db/password", &env);
        let question = question.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(question.uri, "https://secretsmanager.eu-central-1.amazonaws.com/");
        let call = question.call("db", &jiff::Timestamp::UNIX_EPOCH);
        let call = call.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(call.body, br#"{"SecretId":"db","VersionStage":"AWSCURRENT"}"#);
        let header = |name: &str| {
            let found = call.headers.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.to_str().unwrap_or_default().to_owned())
        };
        assert_eq!(header("x-amz-date").as_deref(), Some("19700101T000000Z"));
        assert_eq!(header("x-amz-target").as_deref(), Some(TARGET));
        let authorization = header("authorization").unwrap_or_default();
        let names = "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target,";
        assert!(authorization.contains(names), "{authorization}");
        assert!(!authorization.contains("hidden"));
        assert!(Question::new(&document, "a", &|_| None).is_err());
    }
}
