//! Certificates, keys and the references to them, as resources hold them.

use std::fmt;

use headgate_model::certificate_chain;
use headgate_net::tls::KeyPair;

use crate::secret::{SCHEME, SecretLookup};

/// Decrypts what the keyring encrypted.
pub type Decrypt = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Reads key material.
pub(super) struct Material {
    decrypt: Decrypt,
    secrets: SecretLookup,
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Material")
    }
}

impl Material {
    pub(super) fn new(decrypt: Decrypt) -> Self {
        Self { decrypt, secrets: SecretLookup::default() }
    }

    /// Resolves `$secret://` references with that lookup.
    pub(super) fn set_secrets(&mut self, secrets: SecretLookup) {
        self.secrets = secrets;
    }

    /// A certificate chain and its key, each PEM or a reference; the key may be encrypted.
    ///
    /// # Errors
    /// In the reference's wording.
    pub(super) fn pair(&self, cert: &str, key: &str) -> Result<KeyPair, String> {
        let cert = self.text(cert, "cert")?;
        let key = self.text(key, "key")?;
        let key = match key.trim_start().starts_with("---") {
            true => key,
            false => (self.decrypt)(&key).ok_or("decrypt ssl key failed")?,
        };
        match certificate_chain::read(&cert) {
            Some(chain) => KeyPair::of(chain.certificates, &key),
            None => KeyPair::read(&cert, &key),
        }
        .map_err(|error| error.to_string())
    }

    /// What a reference stands for; other text stands for itself.
    ///
    /// # Errors
    /// In the reference's wording.
    pub(super) fn text(&self, text: &str, field: &str) -> Result<String, String> {
        let failed = |why: &str| {
            format!("failed to resolve secret reference: {text}, field: {field}, err: {why}")
        };
        if text.starts_with(SCHEME) {
            return self.secrets.find(text).map_err(|why| failed(&why));
        }
        let Some(path) = strip_scheme(text, "$env://") else { return Ok(text.to_owned()) };
        let (name, member) = match path.split_once('/') {
            Some((name, member)) => (name, Some(member)),
            None => (path, None),
        };
        let value = std::env::var(name).map_err(|_| failed("no such environment variable"))?;
        let Some(member) = member else { return Ok(value) };
        let object: serde_json::Value =
            serde_json::from_str(&value).map_err(|_| failed("the variable is not JSON"))?;
        match object.get(member).and_then(serde_json::Value::as_str) {
            Some(text) => Ok(text.to_owned()),
            None => Err(failed("the JSON object has no such string")),
        }
    }
}

fn strip_scheme<'a>(text: &'a str, scheme: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(scheme.len())?;
    head.eq_ignore_ascii_case(scheme).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        let material = Material::new(Box::new(|_| None));
        assert_eq!(material.text("plain", "cert").as_deref(), Ok("plain"));
        let home = std::env::var("PATH").unwrap();
        assert_eq!(material.text("$ENV://PATH", "cert"), Ok(home));
        for (text, why) in [
            ("$env://HEADGATE_NO_SUCH", "no such environment variable"),
            ("$env://PATH/a", "the variable is not JSON"),
            ("$secret://vault/1/a", "no secret manager is asked here"),
        ] {
            let expected =
                format!("failed to resolve secret reference: {text}, field: key, err: {why}");
            assert_eq!(material.text(text, "key"), Err(expected));
        }
    }

    #[test]
    fn a_key_that_cannot_be_decrypted() {
        let material = Material::new(Box::new(|_| None));
        assert_eq!(material.pair("x", "AAAA").unwrap_err(), "decrypt ssl key failed");
    }
}
