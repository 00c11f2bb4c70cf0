//! Configurations of the client side: TLS towards upstreams.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::material::KeyPair;
use super::policy::{Policy, built_in};
use super::trust::Trust;

/// Makes a configuration. Without `trust` any certificate is accepted, as the reference does.
///
/// # Errors
/// rustls refuses it.
pub fn config(trust: Option<&Trust>, own: Option<KeyPair>) -> Result<Arc<ClientConfig>, String> {
    let policy = Policy::default();
    let builder = ClientConfig::builder_with_provider(policy.provider())
        .with_protocol_versions(&policy.versions())
        .map_err(|error| error.to_string())?;
    let builder = match trust {
        Some(trust) => {
            let verifier =
                WebPkiServerVerifier::builder_with_provider(Arc::clone(&trust.0), built_in())
                    .build()
                    .map_err(|error| error.to_string())?;
            builder.dangerous().with_custom_certificate_verifier(verifier)
        }
        None => {
            let accepting = Arc::new(AcceptAny(built_in()));
            builder.dangerous().with_custom_certificate_verifier(accepting)
        }
    };
    Ok(Arc::new(match own {
        Some(pair) => builder.with_client_cert_resolver(Arc::new(Own(pair))),
        None => builder.with_no_client_auth(),
    }))
}

/// Shows the same certificate to every server that asks for one.
#[derive(Debug)]
struct Own(KeyPair);

impl ResolvesClientCert for Own {
    fn resolve(&self, _hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.0.key.choose_scheme(schemes).map(|_| Arc::clone(&self.0.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Takes any certificate. Its signature is not looked at either: whoever may show any certificate
/// has a key for it, and old certificates (X.509 version 1) stay usable.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
