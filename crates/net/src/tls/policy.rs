//! Which protocol versions and cipher suites a side offers.

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{CipherSuite, NamedGroup, SupportedProtocolVersion};

/// OpenSSL's names of the TLS 1.2 suites that there are. All have forward secrecy and
/// authenticated encryption; nothing else is built in.
const TLS12: &[(&str, CipherSuite)] = &[
    ("ECDHE-ECDSA-AES128-GCM-SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-AES128-GCM-SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-AES256-GCM-SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-CHACHA20-POLY1305", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

static BUILT_IN: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));

/// The suites of TLS 1.3, which OpenSSL names as RFC 8446 does.
const TLS13: &[(&str, CipherSuite)] = &[
    ("TLS_AES_128_GCM_SHA256", CipherSuite::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", CipherSuite::TLS13_AES_256_GCM_SHA384),
    ("TLS_CHACHA20_POLY1305_SHA256", CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
];

/// OpenSSL's name of a cipher suite.
#[must_use]
pub fn openssl_name(suite: CipherSuite) -> Option<&'static str> {
    let named = TLS12.iter().chain(TLS13).find(|(_, known)| *known == suite);
    named.map(|(name, _)| *name).or(suite.as_str())
}

/// OpenSSL's short name of a group of the key exchange; where it has none, the official one.
#[must_use]
pub fn openssl_group(group: NamedGroup) -> Option<&'static str> {
    match group {
        NamedGroup::secp256r1 => Some("prime256v1"),
        group => group.as_str(),
    }
}

/// Versions and suites. The default offers everything that is built in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Policy {
    /// Offer TLS 1.2.
    pub tls12: bool,
    /// Offer TLS 1.3.
    pub tls13: bool,
    /// TLS 1.2 suites by OpenSSL's names; `None` offers all. TLS 1.3 always offers all of its own.
    pub ciphers: Option<Vec<String>>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { tls12: true, tls13: true, ciphers: None }
    }
}

impl Policy {
    /// Takes over a list of versions as `TLSv1.2` and `TLSv1.3`; others are not built in.
    #[must_use]
    pub fn with_versions<'a>(mut self, versions: impl IntoIterator<Item = &'a str>) -> Self {
        (self.tls12, self.tls13) = (false, false);
        for version in versions {
            self.tls12 |= version == "TLSv1.2";
            self.tls13 |= version == "TLSv1.3";
        }
        self
    }

    pub(super) fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        let mut versions = Vec::new();
        if self.tls13 {
            versions.push(&rustls::version::TLS13);
        }
        if self.tls12 {
            versions.push(&rustls::version::TLS12);
        }
        versions
    }

    pub(super) fn provider(&self) -> Arc<CryptoProvider> {
        let Some(names) = &self.ciphers else { return Arc::clone(&BUILT_IN) };
        let chosen: Vec<_> = names
            .iter()
            .filter_map(|name| TLS12.iter().find(|(known, _)| known == name))
            .map(|(_, suite)| *suite)
            .collect();
        let mut provider = CryptoProvider::clone(&BUILT_IN);
        let place = |suite: CipherSuite| chosen.iter().position(|known| *known == suite);
        provider
            .cipher_suites
            .retain(|suite| suite.tls13().is_some() || place(suite.suite()).is_some());
        // TLS 1.3 first, then the order of the list.
        provider.cipher_suites.sort_by_key(|suite| place(suite.suite()));
        Arc::new(provider)
    }
}

pub(super) fn built_in() -> Arc<CryptoProvider> {
    Arc::clone(&BUILT_IN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_means_a_suite_that_is_built_in() {
        for (_, suite) in TLS12 {
            assert!(BUILT_IN.cipher_suites.iter().any(|known| known.suite() == *suite));
        }
        let built_in = BUILT_IN.cipher_suites.iter().filter(|suite| suite.tls13().is_none());
        assert_eq!(built_in.count(), TLS12.len());
        for suite in BUILT_IN.cipher_suites.iter().filter(|suite| suite.tls13().is_some()) {
            let name = openssl_name(suite.suite());
            assert!(name.is_some_and(|name| name.starts_with("TLS_")), "{name:?}");
        }
    }

    #[test]
    fn groups_have_the_names_of_openssl() {
        let names = [NamedGroup::secp256r1, NamedGroup::secp384r1, NamedGroup::X25519];
        let names = names.map(|group| openssl_group(group).unwrap());
        assert_eq!(names, ["prime256v1", "secp384r1", "X25519"]);
    }

    #[test]
    fn a_list_of_ciphers_leaves_tls13_alone() {
        let ciphers = vec!["ECDHE-RSA-AES256-GCM-SHA384".to_owned(), "DES-CBC3-SHA".to_owned()];
        let provider = Policy { ciphers: Some(ciphers), ..Policy::default() }.provider();
        let names: Vec<_> =
            provider.cipher_suites.iter().filter_map(|it| openssl_name(it.suite())).collect();
        assert_eq!(names.len(), 4);
        assert_eq!(names.last(), Some(&"ECDHE-RSA-AES256-GCM-SHA384"));
    }

    #[test]
    fn versions() {
        let policy = Policy::default().with_versions(["TLSv1.1", "TLSv1.3"]);
        assert_eq!((policy.tls12, policy.tls13), (false, true));
        assert!(Policy::default().with_versions(["TLSv1.1"]).versions().is_empty());
    }
}
