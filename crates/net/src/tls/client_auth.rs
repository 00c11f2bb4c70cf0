//! Certificates that clients have to show.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::material::certificates;
use super::policy::built_in;

/// A chain with more intermediate certificates than `depth` allows.
#[derive(Debug, thiserror::Error)]
#[error("certificate chain too long: more than {0} intermediate certificate(s)")]
struct TooLong(usize);

/// A verifier that demands a certificate below one of the authorities in `ca`.
///
/// # Errors
/// What is wrong with `ca`.
pub(super) fn verifier(ca: &str, depth: usize) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), built_in())
        .build()
        .map_err(|error| error.to_string())?;
    Ok(Arc::new(DepthVerifier { inner, depth }))
}

/// Path validation with a bound on intermediates: `depth` of OpenSSL counts the certificates
/// between the client's own and a trusted one.
#[derive(Debug)]
struct DepthVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    depth: usize,
}

impl ClientCertVerifier for DepthVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // Certificates come in the order of the chain, so a path of allowed length needs no
        // others than the first ones.
        let allowed = intermediates.get(..self.depth).unwrap_or(intermediates);
        let verified = self.inner.verify_client_cert(end_entity, allowed, now);
        let is_cut = allowed.len() < intermediates.len();
        if verified.is_err()
            && is_cut
            && self.inner.verify_client_cert(end_entity, intermediates, now).is_ok()
        {
            let reason = CertificateError::Other(OtherError(Arc::new(TooLong(self.depth))));
            return Err(Error::InvalidCertificate(reason));
        }
        verified
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    /// A chain from a root to a leaf with `between` intermediates: root, then leaf first.
    fn chain(between: usize) -> (String, Vec<CertificateDer<'static>>) {
        let authority = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params
        };
        let key = KeyPair::generate().unwrap();
        let params = authority("root");
        let root = params.self_signed(&key).unwrap().pem();
        let mut issuer = Issuer::new(params, key);
        let mut sent = Vec::new();
        for number in 0..between {
            let (params, key) =
                (authority(&format!("intermediate {number}")), KeyPair::generate().unwrap());
            sent.insert(0, params.signed_by(&key, &issuer).unwrap().der().clone());
            issuer = Issuer::new(params, key);
        }
        let params = CertificateParams::new(vec!["client".to_owned()]).unwrap();
        let leaf = params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
        sent.insert(0, leaf.der().clone());
        (root, sent)
    }

    #[test]
    fn mt_05_depth_counts_intermediates() {
        for (between, depth, accepted) in
            [(0, 0, true), (1, 0, false), (1, 1, true), (2, 1, false), (2, 2, true), (0, 9, true)]
        {
            let (root, sent) = chain(between);
            let verifier = verifier(&root, depth).unwrap();
            let result = verifier.verify_client_cert(&sent[0], &sent[1..], UnixTime::now());
            assert_eq!(result.is_ok(), accepted, "{between} {depth}");
            if let Err(error) = result {
                assert!(error.to_string().contains("TooLong"), "{error}");
            }
        }
    }

    #[test]
    fn strangers_are_refused() {
        let ((root, _), (_, sent)) = (chain(0), chain(0));
        let verifier = verifier(&root, 1).unwrap();
        assert!(verifier.client_auth_mandatory());
        // The issuers have the same name and different keys.
        let error = verifier.verify_client_cert(&sent[0], &[], UnixTime::now()).unwrap_err();
        assert!(matches!(error, Error::InvalidCertificate(_)), "{error}");
    }
}
