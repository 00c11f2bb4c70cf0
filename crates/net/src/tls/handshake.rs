//! Handshakes, while a connection is set up. None has a time limit of its own: the caller has one
//! for all of it.

use std::io;
use std::sync::Arc;

use headgate_wire::client_hello::{ClientHello, HelloReader, NotHello};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, Connection, Error,
    ProtocolVersion, ServerConfig, ServerConnection,
};
use rustls_pki_types::ServerName;

use super::tickets;
use super::transfer::{Flushed, flush};
use crate::socket::Socket;

/// Bytes read at once; nearly every hello fits.
const CHUNK: usize = 4096;

/// Type of a record with an alert.
const ALERT_RECORD: u8 = 21;
/// Level of an alert that ends the connection.
const FATAL: u8 = 2;

/// Alerts that are sent without a configuration (RFC 8446, section 6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alert {
    /// The client may not go on.
    AccessDenied = 49,
    /// The hello cannot be read.
    DecodeError = 50,
    /// There is no certificate for the name, as the reference says it.
    InternalError = 80,
}

/// Why there is no hello.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// Something else came.
    #[error(transparent)]
    NotHello(#[from] NotHello),
    /// The peer finished before it sent anything: a health check, most likely.
    #[error("the connection ended without a ClientHello")]
    Empty,
    /// The peer finished inside the hello.
    #[error("the connection ended inside the ClientHello")]
    Ended,
    /// The connection broke.
    #[error(transparent)]
    Io(io::Error),
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The peer finished before the end of the handshake.
    #[error("peer closed connection in SSL handshake")]
    Ended,
    /// The connection broke.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The client offered to resume a session of another server name where only sessions of this
    /// one are let in.
    #[error("the offered session belongs to {hostname}")]
    OtherSession {
        /// That name.
        hostname: String,
    },
    /// One side refused; an alert was sent or received.
    #[error("SSL_do_handshake() failed ({})", explain(.0))]
    Tls(#[from] Error),
}

impl HandshakeError {
    /// Whether it is about the certificate of the peer.
    #[must_use]
    pub const fn concerns_certificate(&self) -> bool {
        matches!(self, Self::Tls(Error::InvalidCertificate(_) | Error::NoCertificatesPresented))
    }
}

/// The error in words that operators know from OpenSSL, where there are some.
fn explain(error: &Error) -> String {
    match error {
        Error::NoCertificatesPresented => "peer did not return a certificate".to_owned(),
        Error::InvalidCertificate(reason) => {
            let why = match reason {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "certificate has expired".to_owned()
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "certificate is not yet valid".to_owned()
                }
                CertificateError::UnknownIssuer => "unknown issuer".to_owned(),
                CertificateError::Other(other) => other.to_string(),
                other => other.to_string(),
            };
            format!("certificate verify failed: {why}")
        }
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the peer requires a certificate".to_owned()
        }
        Error::AlertReceived(alert) => match alert.as_str() {
            Some(name) => format!("the peer sent the alert {name}"),
            None => format!("the peer sent the alert {}", u8::from(*alert)),
        },
        other => other.to_string(),
    }
}

/// Reads the first message of a client; `received` holds what was read before. Gives it back with
/// all bytes read.
///
/// # Errors
/// See [`HelloError`].
pub async fn read_hello(
    socket: &Socket,
    received: &[u8],
) -> Result<(ClientHello, Vec<u8>), HelloError> {
    let mut reader = HelloReader::default();
    if let Some(hello) = reader.push(received)? {
        return Ok((hello, reader.into_received()));
    }
    loop {
        socket.readable().await;
        if let Some(hello) = read_more(socket, &mut reader)? {
            return Ok((hello, reader.into_received()));
        }
    }
}

/// Not part of the future, so that waiting for a hello costs no buffer.
fn read_more(socket: &Socket, reader: &mut HelloReader) -> Result<Option<ClientHello>, HelloError> {
    let mut chunk = [0; CHUNK];
    match socket.read(&mut chunk) {
        Ok(0) if reader.is_empty() => Err(HelloError::Empty),
        Ok(0) => Err(HelloError::Ended),
        Ok(count) => Ok(reader.push(chunk.get(..count).unwrap_or_default())?),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(HelloError::Io(error)),
    }
}

/// Answers a hello that nothing can be negotiated for. Whether the client hears it is its luck.
pub fn refuse(socket: &Socket, alert: Alert) {
    let _ = socket.write(&[ALERT_RECORD, 3, 3, 0, 2, FATAL, alert as u8]);
}

/// Answers the hello of a client, which `received` begins with. With `only_session_of` a client
/// that offers a session of another name is refused; without, such a session is not resumed. The
/// connection may hold bytes of the client already.
///
/// # Errors
/// See [`HandshakeError`].
pub async fn accept(
    socket: &Socket,
    received: Vec<u8>,
    config: Arc<ServerConfig>,
    only_session_of: Option<&str>,
) -> Result<Box<Connection>, HandshakeError> {
    let server = ServerConnection::new(config)?;
    let mut connection = Box::new(Connection::Server(server));
    tickets::take_offered();
    let answered = feed(&mut connection, &received);
    // Decrypted in the call above, on this thread, or not at all.
    if let (Some(name), Some(hostname)) = (only_session_of, tickets::take_offered())
        && name != hostname
    {
        return Err(HandshakeError::OtherSession { hostname });
    }
    drop(received);
    finish(socket, &mut connection, answered).await?;
    Ok(connection)
}

/// Begins TLS towards a server. `name` is sent as SNI, and verified if the configuration verifies.
///
/// # Errors
/// See [`HandshakeError`].
pub async fn connect(
    socket: &Socket,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<Box<Connection>, HandshakeError> {
    let client = ClientConnection::new(config, name)?;
    let mut connection = Box::new(Connection::Client(client));
    finish(socket, &mut connection, Ok(())).await?;
    Ok(connection)
}

/// Moves messages until the handshake is over. A failure is told to the peer as far as possible.
async fn finish(
    socket: &Socket,
    connection: &mut Connection,
    mut step: Result<(), HandshakeError>,
) -> Result<(), HandshakeError> {
    connection.set_buffer_limit(None); // the relay writes only what it has room for
    loop {
        if let Err(error) = step {
            match error {
                HandshakeError::Tls(Error::NoCertificatesPresented) => {
                    let _ = socket.write(&last_words(connection));
                }
                _ => drop(flush(connection, socket)),
            }
            return Err(error);
        }
        while flush(connection, socket)? == Flushed::Blocked {
            socket.writable().await;
        }
        if !connection.is_handshaking() {
            return Ok(());
        }
        socket.readable().await;
        step = receive(socket, connection);
    }
}

/// What is left to be sent to a client that showed no certificate. rustls ends with the alert
/// `certificate_required` in every version, which TLS 1.2 does not know: there it is
/// `handshake_failure` (RFC 5246, section 7.4.6). It is not encrypted yet.
fn last_words(connection: &mut Connection) -> Vec<u8> {
    const REQUIRED: u8 = 116;
    const FAILURE: u8 = 40;
    let mut bytes = Vec::new();
    while connection.wants_write() && connection.write_tls(&mut bytes).is_ok() {}
    if connection.protocol_version() == Some(ProtocolVersion::TLSv1_2)
        && let [.., ALERT_RECORD, 3, _, 0, 2, FATAL, code @ REQUIRED] = bytes.as_mut_slice()
    {
        *code = FAILURE;
    }
    bytes
}

fn receive(socket: &Socket, connection: &mut Connection) -> Result<(), HandshakeError> {
    let mut chunk = [0; CHUNK];
    match socket.read(&mut chunk) {
        Ok(0) => Err(HandshakeError::Ended),
        Ok(count) => feed(connection, chunk.get(..count).unwrap_or_default()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn feed(connection: &mut Connection, mut bytes: &[u8]) -> Result<(), HandshakeError> {
    while !bytes.is_empty() {
        if connection.read_tls(&mut bytes)? == 0 {
            break; // the peer has said good-bye already
        }
        connection.process_new_packets()?;
    }
    Ok(())
}
