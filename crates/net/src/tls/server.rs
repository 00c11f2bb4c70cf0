//! Configurations of the server side.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::client_auth;
use super::material::KeyPair;
use super::policy::Policy;
use super::tickets::{TicketContext, TicketKeys};

/// What clients have to prove.
#[derive(Debug, Clone, Copy)]
pub struct ClientAuth<'a> {
    /// Certificates of the trusted authorities, PEM.
    pub ca: &'a str,
    /// Most certificates between the client's own and a trusted one.
    pub depth: usize,
}

/// Why a server cannot be configured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServerError {
    /// None of the versions that are asked for is built in.
    #[error("failed to set ssl protocols: only TLSv1.2 and TLSv1.3 are built in")]
    NoProtocol,
    /// The authorities for client certificates cannot be read.
    #[error("failed to parse client cert: {0}")]
    ClientCa(String),
    /// rustls refuses the combination.
    #[error("{0}")]
    Refused(String),
}

/// Makes the configuration for one certificate object: any of `pairs`, by what the client can
/// verify.
///
/// # Errors
/// See [`ServerError`].
pub fn config(
    mut pairs: Vec<KeyPair>,
    client_auth: Option<ClientAuth<'_>>,
    policy: &Policy,
    tickets: Option<(&TicketKeys, TicketContext)>,
) -> Result<Arc<ServerConfig>, ServerError> {
    let versions = policy.versions();
    if versions.is_empty() {
        return Err(ServerError::NoProtocol);
    }
    let builder = ServerConfig::builder_with_provider(policy.provider())
        .with_protocol_versions(&versions)
        .map_err(|error| ServerError::Refused(error.to_string()))?;
    let builder = match client_auth {
        Some(ClientAuth { ca, depth }) => builder.with_client_cert_verifier(
            client_auth::verifier(ca, depth).map_err(ServerError::ClientCa)?,
        ),
        None => builder.with_no_client_auth(),
    };
    // Elliptic curves are several times cheaper than RSA and understood by nearly everyone.
    pairs.sort_by_key(KeyPair::is_rsa);
    let mut config = builder.with_cert_resolver(Arc::new(Pairs(pairs)));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    match tickets {
        Some((keys, context)) => config.ticketer = keys.within(context),
        None => config.send_tls13_tickets = 0,
    }
    Ok(Arc::new(config))
}

/// The same configuration, offering application protocols (RFC 7301), the preferred one first.
/// Clients that offer protocols and none of these are refused with `no_application_protocol`.
#[must_use]
pub fn offering(config: &Arc<ServerConfig>, protocols: &[String]) -> Arc<ServerConfig> {
    if protocols.is_empty() {
        return Arc::clone(config);
    }
    let mut config = ServerConfig::clone(config);
    config.alpn_protocols = protocols.iter().map(|name| name.clone().into_bytes()).collect();
    Arc::new(config)
}

#[derive(Debug)]
struct Pairs(Vec<KeyPair>);

impl ResolvesServerCert for Pairs {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let offered = hello.signature_schemes();
        let fitting = self.0.iter().find(|pair| pair.0.key.choose_scheme(offered).is_some());
        fitting.or(self.0.first()).map(|pair| Arc::clone(&pair.0))
    }
}
