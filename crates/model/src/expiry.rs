//! Until when certificates hold.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

/// The Unix time at which the first certificate of a chain (the leaf) expires; `None` when it
/// cannot be read.
#[must_use]
pub fn of_leaf(pem: &str) -> Option<i64> {
    let der = CertificateDer::pem_slice_iter(pem.as_bytes()).next()?.ok()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_has_none() {
        assert_eq!(of_leaf(""), None);
        let text = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(of_leaf(text), None);
    }
}
