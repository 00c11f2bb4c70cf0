//! TLS connections that the control side makes: `https` probes, log servers.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use headgate_net::tls::trust::Trust;
use headgate_net::tls::{ClientConfig, client};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

/// A connection, plain or with TLS.
pub trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

/// Makes TLS connections; what it needs is read when the first one is made.
#[derive(Debug)]
pub struct Connector {
    /// The bundle of trusted certificates; `None`: that of the system.
    trusted: Option<PathBuf>,
    verifying: OnceLock<Result<Arc<ClientConfig>, String>>,
    trusting: OnceLock<Result<Arc<ClientConfig>, String>>,
}

impl Connector {
    /// A connector that trusts the certificates in a file, or those of the system.
    #[must_use]
    pub fn new(trusted: Option<&Path>) -> Self {
        let trusted = trusted.map(Path::to_owned);
        Self { trusted, verifying: OnceLock::new(), trusting: OnceLock::new() }
    }

    /// Makes TLS of a connection to `host`. Unless `verify` is set any certificate will do.
    ///
    /// # Errors
    /// The handshake fails, or there are no trusted certificates to be read.
    pub async fn connect(
        &self,
        stream: Box<dyn Connection>,
        host: &str,
        verify: bool,
    ) -> io::Result<Box<dyn Connection>> {
        let config = match verify {
            true => self.verifying.get_or_init(|| {
                let trust = Trust::load(self.trusted.as_deref())?;
                client::config(Some(&trust), None)
            }),
            false => self.trusting.get_or_init(|| client::config(None, None)),
        };
        let config = config.as_ref().map_err(|error| io::Error::other(error.clone()))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await?;
        Ok(Box::new(stream))
    }
}
