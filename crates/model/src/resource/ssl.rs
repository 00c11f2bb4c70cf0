//! A certificate object (`spec/schemas.md`, section 6). The foundation only needs its names; the
//! key material is read by the TLS code.

use serde::{Deserialize, Deserializer};

use super::lenient::count;

/// Typed view of an ssl object.
#[derive(Debug, Clone, Deserialize)]
pub struct Ssl {
    /// `server` or `client`.
    #[serde(default = "server", rename = "type")]
    pub purpose: String,
    /// The single name it serves.
    pub sni: Option<String>,
    /// The names it serves.
    #[serde(default)]
    pub snis: Vec<String>,
    /// 1 enabled, 0 disabled.
    #[serde(default = "enabled", deserialize_with = "status")]
    pub status: u8,
}

fn server() -> String {
    "server".to_owned()
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
}
