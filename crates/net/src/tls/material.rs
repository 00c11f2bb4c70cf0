//! Certificates and private keys in PEM, made ready for handshakes.

use std::sync::Arc;

use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, SignatureAlgorithm};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::policy::built_in;

/// A certificate chain, leaf first, and the key of its leaf.
#[derive(Debug, Clone)]
pub struct KeyPair(pub(super) Arc<CertifiedKey>);

/// Why certificate or key cannot be used. The wording is the reference's; never with key material.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MaterialError {
    /// The certificate is not PEM, or not X.509.
    #[error("failed to parse PEM cert: {0}")]
    Certificate(String),
    /// The key is not PEM, or of a kind that is not supported.
    #[error("failed to parse PEM priv key: {0}")]
    Key(String),
    /// The key is that of another certificate.
    #[error(
        "failed to set PEM priv key: it does not belong to the certificate; write the key that the \
         certificate was requested with"
    )]
    Mismatch,
}

impl KeyPair {
    /// Reads a certificate chain and its key.
    ///
    /// # Errors
    /// See [`MaterialError`]. Validity and names are not checked: that is the peer's business.
    pub fn read(cert: &str, key: &str) -> Result<Self, MaterialError> {
        let chain = certificates(cert).map_err(MaterialError::Certificate)?;
        Self::of(chain, key)
    }

    /// The same with a chain that was read before.
    ///
    /// # Errors
    /// See [`MaterialError`].
    pub fn of(chain: Vec<CertificateDer<'static>>, key: &str) -> Result<Self, MaterialError> {
        let key = private_key(key).map_err(MaterialError::Key)?;
        let key = built_in()
            .key_provider
            .load_private_key(key)
            .map_err(|error| MaterialError::Key(error.to_string()))?;
        let pair = CertifiedKey::new(chain, key);
        match pair.keys_match() {
            Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                Err(MaterialError::Mismatch)
            }
            _ => Ok(Self(Arc::new(pair))),
        }
    }

    /// Whether the key is an RSA key.
    pub(super) fn is_rsa(&self) -> bool {
        self.0.key.algorithm() == SignatureAlgorithm::RSA
    }
}

/// Reads one certificate or more.
///
/// # Errors
/// What is wrong.
pub fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match all {
        Ok(all) if all.is_empty() => Err("there is no certificate in it".to_owned()),
        Ok(all) => Ok(all),
        Err(error) => Err(error.to_string()),
    }
}

fn private_key(text: &str) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| {
        let has_passphrase =
            text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED");
        match error {
            _ if has_passphrase => {
                "it is encrypted with a passphrase; remove it: openssl pkey -in \
                                    key.pem -out plain.pem"
                    .to_owned()
            }
            rustls_pki_types::pem::Error::NoItemsFound => "there is no key in it".to_owned(),
            other => other.to_string(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said() {
        let one = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(["b.test".to_owned()]).unwrap();
        let (cert, key) = (one.cert.pem(), one.signing_key.serialize_pem());
        assert!(KeyPair::read(&cert, &key).is_ok());
        let wrong = other.signing_key.serialize_pem();
        assert_eq!(KeyPair::read(&cert, &wrong).unwrap_err(), MaterialError::Mismatch);
        let text = |cert: &str, key: &str| KeyPair::read(cert, key).unwrap_err().to_string();
        assert_eq!(text("", &key), "failed to parse PEM cert: there is no certificate in it");
        assert_eq!(text(&cert, ""), "failed to parse PEM priv key: there is no key in it");
        let locked = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        assert_eq!(
            text(&cert, &locked),
            "failed to parse PEM priv key: it is encrypted with a passphrase; remove it: openssl \
             pkey -in key.pem -out plain.pem"
        );
        let broken = key.replace('M', "!");
        assert!(!text(&cert, &broken).contains("BEGIN"));
    }
}
