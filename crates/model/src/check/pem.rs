//! Certificates and private keys in PEM. Only whether they can be read is checked; whether they
//! belong together or have expired is not, as in the reference.

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::asn1_rs::{Any, FromDer as _, Sequence};

use super::Checker;

/// Reads a certificate, leaf first, and its key.
///
/// # Errors
/// The reference's message: which of the two cannot be read.
pub(super) fn pair(checker: &Checker, cert: &str, key: &str) -> Result<(), String> {
    certificates(cert)?;
    if key.starts_with("---") {
        return private_key(key);
    }
    match (checker.decrypt)(key) {
        Some(key) => private_key(&key),
        None => Err("failed to decrypt previous encrypted key".to_owned()),
    }
}

/// Reads one certificate or more.
///
/// # Errors
/// The reference's message.
pub(super) fn certificates(text: &str) -> Result<(), String> {
    let mut count = 0;
    for der in CertificateDer::pem_slice_iter(text.as_bytes()) {
        let readable = der.is_ok_and(|der| x509_parser::parse_x509_certificate(&der).is_ok());
        if !readable {
            // The reference reads the leaf and the rest of the chain with different functions.
            let function = if count == 0 { "PEM_read_bio_X509_AUX" } else { "PEM_read_bio_X509" };
            return Err(format!("failed to parse cert: {function}() failed"));
        }
        count += 1;
    }
    match count {
        0 => Err("failed to parse cert: PEM_read_bio_X509_AUX() failed".to_owned()),
        _ => Ok(()),
    }
}

fn private_key(text: &str) -> Result<(), String> {
    match PrivateKeyDer::from_pem_slice(text.as_bytes()) {
        Ok(key) if is_key_structure(key.secret_der()) => Ok(()),
        _ if has_passphrase(text) => {
            Err("failed to parse key: PEM_read_bio_PrivateKey() failed: it is encrypted with a \
             passphrase; remove it: openssl pkey -in key.pem -out plain.pem"
                .to_owned())
        }
        _ => Err("failed to parse key: PEM_read_bio_PrivateKey() failed".to_owned()),
    }
}

/// PKCS#8 encrypted, or the older form of OpenSSL.
fn has_passphrase(text: &str) -> bool {
    text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED")
}

/// PKCS#8, PKCS#1 and SEC1 all are a sequence of at least a version and something else.
fn is_key_structure(der: &[u8]) -> bool {
    let Ok((rest, sequence)) = Sequence::from_der(der) else { return false };
    let Ok((content, version)) = Any::from_der(sequence.content.as_ref()) else { return false };
    rest.is_empty() && version.integer().is_ok() && Any::from_der(content).is_ok()
}
