//! A certificate object (`spec/schemas.md`, section 6).

use serde::{Deserialize, Deserializer};

use super::lenient::{count, list, optional_list};

/// Text that is never printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Typed view of an ssl object.
#[derive(Debug, Clone, Deserialize)]
pub struct Ssl {
    /// `server` or `client`.
    #[serde(default = "server", rename = "type")]
    pub purpose: String,
    /// Certificate chain in PEM, leaf first, or a reference.
    #[serde(default)]
    pub cert: String,
    /// Its private key: PEM, encrypted with the keyring, or a reference.
    #[serde(default = "no_secret")]
    pub key: Secret,
    /// More certificates for the same names, e.g. an ECDSA one beside an RSA one.
    #[serde(default, deserialize_with = "list")]
    pub certs: Vec<String>,
    /// Their keys, in the same order.
    #[serde(default, deserialize_with = "list")]
    pub keys: Vec<Secret>,
    /// The single name it serves.
    pub sni: Option<String>,
    /// The names it serves.
    #[serde(default, deserialize_with = "list")]
    pub snis: Vec<String>,
    /// What clients have to prove.
    pub client: Option<ClientAuth>,
    /// The only protocol versions offered for these names.
    #[serde(default, deserialize_with = "optional_list")]
    pub ssl_protocols: Option<Vec<String>>,
    /// Application protocols offered to clients (ALPN); `None`: those of the listener.
    #[serde(default, deserialize_with = "optional_list")]
    pub alpn: Option<Vec<String>>,
    /// 1 enabled, 0 disabled.
    #[serde(default = "enabled", deserialize_with = "status")]
    pub status: u8,
}

/// `client` of an ssl object: client certificates are demanded.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ClientAuth {
    /// The trusted authorities, PEM or a reference.
    pub ca: String,
    /// Most certificates between the client's own and a trusted one.
    #[serde(default = "depth", deserialize_with = "count")]
    pub depth: u32,
}

fn server() -> String {
    "server".to_owned()
}

const fn no_secret() -> Secret {
    Secret(String::new())
}

const fn depth() -> u32 {
    1
}

const fn enabled() -> u8 {
    1
}

fn status<'de, D: Deserializer<'de>>(input: D) -> Result<u8, D::Error> {
    Ok(u8::from(count(input)? == 1))
}

impl Ssl {
    /// Whether it can serve clients at all.
    #[must_use]
    pub fn is_served(&self) -> bool {
        self.purpose == "server" && self.status == 1
    }

    /// All names, lower-cased and without a trailing dot.
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        self.sni
            .iter()
            .chain(&self.snis)
            .map(|name| name.trim_end_matches('.').to_ascii_lowercase())
    }

    /// All certificates with their keys, the first pair first.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &Secret)> {
        let more = self.certs.iter().map(String::as_str).zip(&self.keys);
        std::iter::once((self.cert.as_str(), &self.key)).chain(more)
    }
}
