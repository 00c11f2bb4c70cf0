//! TLS on a connection to a server.

use std::io;
use std::sync::Arc;

use headgate_net::Socket;
use headgate_net::tls::{ClientConfig, Connection, handshake};
use rustls_pki_types::ServerName;

use crate::connector::Opening;

/// Name sent when the client sent none (`spec/tls.md`, section 8).
const NAMELESS: &str = "apisix_backend";

/// How TLS is spoken to the servers of an upstream.
#[derive(Debug, Clone)]
pub struct UpstreamTls {
    /// What is shown, and who is trusted. Sessions are kept in it, to be resumed.
    pub config: Arc<ClientConfig>,
    /// Name to send and to verify instead of the client's.
    pub sni: Option<String>,
}

impl UpstreamTls {
    /// The name for a session whose client sent `sni`.
    #[must_use]
    pub fn name<'a>(&'a self, sni: Option<&'a str>) -> &'a str {
        self.sni.as_deref().or(sni).unwrap_or(NAMELESS)
    }

    /// Sends the preface and does the handshake.
    ///
    /// # Errors
    /// The server's certificate is refused, the server refuses ours, it does not speak TLS, or
    /// the connection broke; a [`TlsFailure`] inside says which.
    pub(crate) async fn secure(
        &self,
        socket: Socket,
        opening: Opening<'_>,
    ) -> io::Result<(Socket, Option<Box<Connection>>)> {
        let mut preface = opening.preface;
        while !preface.is_empty() {
            socket.writable().await;
            match socket.write(preface) {
                Ok(count) => preface = preface.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        let name = self.name(opening.sni);
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| TlsFailure::of(format!("{name:?} cannot be sent as a server name")))?;
        match handshake::connect(&socket, Arc::clone(&self.config), name).await {
            Ok(connection) => Ok((socket, Some(connection))),
            Err(error) => Err(TlsFailure::of(error.to_string())),
        }
    }
}

/// Why a server could be connected to, but not in TLS. Travels inside an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("{0} while SSL handshaking to upstream")]
pub struct TlsFailure(String);

impl TlsFailure {
    fn of(text: String) -> io::Error {
        io::Error::other(Self(text))
    }

    pub(crate) fn timed_out() -> io::Error {
        let text = "upstream timed out (110: Connection timed out)".to_owned();
        io::Error::new(io::ErrorKind::TimedOut, Self(text))
    }

    /// The failure inside an error, if it is one.
    #[must_use]
    pub fn inside(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}
