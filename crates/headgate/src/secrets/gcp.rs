//! Google Cloud's Secret Manager: a token for a signed claim of the service account (RFC 7523), then
//! one GET (`spec/schemas.md`, section 12).

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::{rand, signature};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use headgate_upstream::client_tls::Connector;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Uri};
use serde_json::{Value, json};

use super::http::{self, Call};

const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";
const ENTRIES_URI: &str = "https://secretmanager.googleapis.com/v1";
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
const FORM: &str = "application/x-www-form-urlencoded";
const GRANT: &str = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer";
/// How long a token is asked for, seconds.
const LASTS: u64 = 3600;

/// What to ask, and with whose name.
pub(super) struct Question {
    token_uri: Uri,
    /// What the token is for; it names the token's URI as it is written.
    audience: String,
    entry: Uri,
    email: String,
    scope: String,
    key_pair: KeyPair,
    field: Option<String>,
    key: String,
    verify: bool,
}

impl Question {
    /// The question for `key`: the name of a secret, or of a JSON secret with `/` and a member of
    /// it. `auth_file` is read.
    ///
    /// # Errors
    /// The document or the file is not right; keys are not shown.
    pub(super) fn new(
        document: &Value,
        key: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        let account = match document.get("auth_config") {
            Some(account) => account.clone(),
            None => {
                let path = http::text(document, "auth_file", env)?;
                let text = std::fs::read_to_string(&path)
                    .map_err(|error| format!("auth_file {path}: {error}"))?;
                serde_json::from_str(&text).map_err(|_| format!("auth_file {path} is not JSON"))?
            }
        };
        let text = |name: &str| http::text(&account, name, env);
        let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
        let (name, field) = match key.rsplit_once('/') {
            Some((name, field)) if !name.is_empty() && !field.is_empty() => (name, Some(field)),
            _ => (key, None),
        };
        let audience = or(text("token_uri")?, TOKEN_URI);
        let entries = or(text("entries_uri")?, ENTRIES_URI);
        let entries = entries.trim_end_matches('/');
        let project = text("project_id")?;
        let scopes = account.get("scope").and_then(Value::as_array);
        let scopes: Vec<_> = scopes.into_iter().flatten().filter_map(Value::as_str).collect();
        Ok(Self {
            token_uri: http::uri(&audience)?,
            audience,
            entry: http::uri(&format!(
                "{entries}/projects/{project}/secrets/{name}/versions/latest:access"
            ))?,
            email: text("client_email")?,
            scope: or(scopes.join(" "), SCOPE),
            key_pair: key_pair(&text("private_key")?)?,
            field: field.map(str::to_owned),
            key: key.to_owned(),
            verify: document.get("ssl_verify") != Some(&Value::Bool(false)),
        })
    }

    /// Asks, and answers with the value.
    ///
    /// # Errors
    /// What failed; the bodies of answers are not shown.
    pub(super) async fn ask(self, connector: &Connector) -> Result<String, String> {
        let intro = "failed to retrieve data from gcp secret manager";
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let call = Call {
            method: Method::POST,
            uri: self.token_uri.clone(),
            headers: vec![(CONTENT_TYPE, HeaderValue::from_static(FORM))],
            body: format!("grant_type={GRANT}&assertion={}", self.claim(now)?).into_bytes(),
            limit: http::TIMEOUT,
            verify: self.verify,
        };
        let (status, body) =
            call.send(connector).await.map_err(|error| format!("{intro}: {error}"))?;
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        let Some(token) = answer.get("access_token").and_then(Value::as_str) else {
            return Err(format!("{intro}: no token from {}, status {status}", self.token_uri));
        };
        let mut bearer = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| format!("{intro}: the token is not printable text"))?;
        bearer.set_sensitive(true);
        let call = Call {
            method: Method::GET,
            uri: self.entry.clone(),
            headers: vec![(AUTHORIZATION, bearer)],
            body: Vec::new(),
            limit: http::TIMEOUT,
            verify: self.verify,
        };
        match call.send(connector).await {
            Ok((200, body)) => self.value(&body),
            Ok((status, _)) => Err(format!("{intro}: {} answered {status}", self.entry)),
            Err(error) => Err(format!("{intro}: {error}")),
        }
    }

    /// The signed claim (RFC 7519, RS256).
    fn claim(&self, now: u64) -> Result<String, String> {
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = part(json!({"alg": "RS256", "typ": "JWT"}));
        let claims = part(json!({"iss": self.email, "scope": self.scope, "aud": self.audience,
            "iat": now, "exp": now + LASTS}));
        let text = format!("{header}.{claims}");
        let mut signature = vec![0; self.key_pair.public_modulus_len()];
        self.key_pair
            .sign(
                &signature::RSA_PKCS1_SHA256,
                &rand::SystemRandom::new(),
                text.as_bytes(),
                &mut signature,
            )
            .map_err(|_| "private_key of the secret manager cannot sign".to_owned())?;
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The secret of an answer, or the member of it that was asked for.
    fn value(&self, body: &[u8]) -> Result<String, String> {
        let answer: Value = serde_json::from_slice(body).unwrap_or_default();
        let data = answer.pointer("/payload/data").and_then(Value::as_str);
        let data = data.and_then(|data| STANDARD.decode(data).ok());
        let Some(whole) = data.and_then(|data| String::from_utf8(data).ok()) else {
            return Err("failed to decode result: the answer has no payload.data".to_owned());
        };
        let Some(field) = &self.field else { return Ok(whole) };
        let object: Option<Value> = serde_json::from_str(&whole).ok();
        match object.as_ref().and_then(|object| object.get(field)) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(Value::Null) | None => Err(format!("can't find sub key, key: {}", self.key)),
            Some(other) => Ok(other.to_string()),
        }
    }
}

/// The key of a PEM text (PKCS #8), as service accounts have it.
fn key_pair(pem: &str) -> Result<KeyPair, String> {
    let wrong =
        || "private_key of the secret manager is not an RSA key in PEM (PKCS #8)".to_owned();
    let lines = pem.lines().map(str::trim).filter(|line| !line.starts_with("-----"));
    let der = STANDARD.decode(lines.collect::<String>()).map_err(|_| wrong())?;
    KeyPair::from_pkcs8(&der).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

    use super::*;

    fn pem(key: &KeyPair) -> String {
        let der: Pkcs8V1Der<'_> = key.as_der().unwrap();
        let text = STANDARD.encode(der.as_ref());
        let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        let lines = lines.join("\n");
        format!("-----BEGIN PRIVATE KEY-----\n{lines}\n-----END PRIVATE KEY-----\n")
    }

    fn question(key: &KeyPair, reference: &str) -> Question {
        let document = json!({"auth_config": {"client_email": "gate@p", "project_id": "p",
            "private_key": pem(key), "token_uri": "http://127.0.0.1:1/token",
            "entries_uri": "http://127.0.0.1:1/v1/"}});
        Question::new(&document, reference, &|_| None).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn a_claim_that_its_public_key_proves() {
        let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let question = question(&key, "db/password");
        assert_eq!(
            question.entry,
            "http://127.0.0.1:1/v1/projects/p/secrets/db/versions/latest:access"
        );
        let claim = question.claim(1000).unwrap();
        let (text, signature) = claim.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_key().as_ref());
        assert!(public.verify(text.as_bytes(), &signature).is_ok());
        let claims = URL_SAFE_NO_PAD.decode(text.split('.').nth(1).unwrap()).unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        let expected = json!({"iss": "gate@p", "scope": SCOPE, "aud": "http://127.0.0.1:1/token",
            "iat": 1000, "exp": 4600});
        assert_eq!(claims, expected);
    }

    #[test]
    fn answers() {
        let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let answer = |text: &str| {
            json!({"payload": {"data": STANDARD.encode(text)}}).to_string().into_bytes()
        };
        assert_eq!(question(&key, "a").value(&answer("x")), Ok("x".into()));
        assert_eq!(question(&key, "a/b").value(&answer(r#"{"b":"y"}"#)), Ok("y".into()));
        assert!(question(&key, "a/b").value(&answer("x")).is_err());
        assert!(question(&key, "a").value(b"{}").is_err());
        let bad = json!({"auth_config": {"private_key": "x"}});
        let error = Question::new(&bad, "a", &|_| None).err().unwrap();
        assert!(error.contains("not an RSA key") && !error.contains('\n'), "{error}");
        let missing = Question::new(&json!({"auth_file": "/nonexistent"}), "a", &|_| None);
        assert!(missing.err().unwrap().contains("auth_file /nonexistent"));
    }
}
