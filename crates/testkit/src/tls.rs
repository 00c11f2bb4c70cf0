//! TLS clients and nodes in the test's own process, for what `openssl` cannot show.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind, RootCertStore,
    ServerConfig, ServerConnection, SignatureScheme, StreamOwned, SupportedProtocolVersion,
};

use crate::certificate::Certificate;
use crate::client;
use crate::peer::{Conversation, TcpPeer};

pub use rustls::version::{TLS12, TLS13};

/// An established connection to the gateway.
pub type Stream = StreamOwned<ClientConnection, TcpStream>;
/// An established connection from the gateway, as a node has it.
pub type ServerStream = StreamOwned<ServerConnection, TcpStream>;

/// A client; clones share the sessions that they can resume.
#[derive(Debug, Clone)]
pub struct TlsClient {
    config: ClientConfig,
}

impl Default for TlsClient {
    fn default() -> Self {
        Self::with_versions(&[&TLS13, &TLS12])
    }
}

impl TlsClient {
    /// A client that accepts any certificate and speaks only `versions`.
    #[must_use]
    pub fn with_versions(versions: &[&'static SupportedProtocolVersion]) -> Self {
        let config = builder(versions).with_no_client_auth();
        Self { config }
    }

    /// A client that shows a certificate.
    #[must_use]
    pub fn showing(own: &Certificate, versions: &[&'static SupportedProtocolVersion]) -> Self {
        let (chain, key) = read(own);
        let config = builder(versions).with_client_auth_cert(chain, key).expect("a client key");
        Self { config }
    }

    /// Sends no server name.
    #[must_use]
    pub const fn without_sni(mut self) -> Self {
        self.config.enable_sni = false;
        self
    }

    /// Offers application protocols.
    #[must_use]
    pub fn offering(mut self, protocols: &[&str]) -> Self {
        self.config.alpn_protocols =
            protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        self
    }

    /// Takes over the sessions of another client, to resume them.
    #[must_use]
    pub fn resuming(mut self, other: &Self) -> Self {
        self.config.resumption = other.config.resumption.clone();
        self
    }

    /// A connection that has not begun, and the bytes of its ClientHello.
    #[must_use]
    pub fn hello(&self, name: &str) -> (ClientConnection, Vec<u8>) {
        let name = ServerName::try_from(name.to_owned()).expect("a server name");
        let mut tls = ClientConnection::new(Arc::new(self.config.clone()), name).expect("a client");
        let mut bytes = Vec::new();
        tls.write_tls(&mut bytes).expect("a hello");
        (tls, bytes)
    }

    /// Goes on after the hello was sent.
    ///
    /// # Errors
    /// The text of what went wrong.
    pub fn finish(mut tls: ClientConnection, mut socket: TcpStream) -> Result<Stream, String> {
        while tls.is_handshaking() {
            tls.complete_io(&mut socket).map_err(|error| error.to_string())?;
        }
        Ok(StreamOwned::new(tls, socket))
    }

    /// Connects and does the handshake.
    ///
    /// # Errors
    /// The text of what went wrong.
    pub fn connect(&self, to: SocketAddr, name: &str) -> Result<Stream, String> {
        self.over(client::connect(to), name)
    }

    /// Does the handshake on an open connection.
    ///
    /// # Errors
    /// The text of what went wrong.
    pub fn over(&self, mut socket: TcpStream, name: &str) -> Result<Stream, String> {
        let name = ServerName::try_from(name.to_owned()).expect("a server name");
        let mut tls = ClientConnection::new(Arc::new(self.config.clone()), name)
            .map_err(|error| error.to_string())?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket).map_err(|error| error.to_string())?;
        }
        Ok(StreamOwned::new(tls, socket))
    }
}

/// The leaf certificate that the gateway showed.
#[must_use]
pub fn shown(stream: &Stream) -> Vec<u8> {
    let chain = stream.conn.peer_certificates().unwrap_or_default();
    chain.first().map(|der| der.to_vec()).unwrap_or_default()
}

/// Whether the session was resumed.
#[must_use]
pub fn is_resumed(stream: &Stream) -> bool {
    stream.conn.handshake_kind() == Some(HandshakeKind::Resumed)
}

/// The DER form of a certificate's leaf.
#[must_use]
pub fn der(certificate: &Certificate) -> Vec<u8> {
    read(certificate).0.first().map(|der| der.to_vec()).unwrap_or_default()
}

/// Sends bytes and reads as many back.
///
/// # Errors
/// The connection ended first.
pub fn echo(stream: &mut Stream, bytes: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(bytes)?;
    stream.flush()?;
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back)?;
    Ok(back)
}

/// Reads to the end; whether it was an orderly one (`close_notify`), or an error.
pub fn read_to_end(stream: &mut Stream) -> (Vec<u8>, io::Result<()>) {
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes).map(drop);
    (bytes, end)
}

fn builder(
    versions: &[&'static SupportedProtocolVersion],
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAny))
}

fn read(own: &Certificate) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_slice_iter(own.cert.as_bytes()).collect::<Result<_, _>>();
    let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes());
    (chain.expect("certificates"), key.expect("a key"))
}

/// A node that speaks TLS, and demands certificates of `client_ca` if there is one. `serve` gets
/// every connection whose handshake succeeds.
#[must_use]
pub fn node(
    own: &Certificate,
    client_ca: Option<&str>,
    serve: impl Fn(ServerStream) + Send + Sync + 'static,
) -> TcpPeer {
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions");
    let builder = match client_ca {
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(
                CertificateDer::pem_slice_iter(ca.as_bytes()).filter_map(Result::ok),
            );
            let provider = Arc::new(aws_lc_rs::default_provider());
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("a client CA"))
        }
        None => builder.with_no_client_auth(),
    };
    let (chain, key) = read(own);
    let config = Arc::new(builder.with_single_cert(chain, key).expect("a server key"));
    TcpPeer::new(move |conversation: Conversation| {
        let Ok(mut socket) = conversation.stream.try_clone() else { return };
        let Ok(mut tls) = ServerConnection::new(Arc::clone(&config)) else { return };
        while tls.is_handshaking() {
            if tls.complete_io(&mut socket).is_err() {
                return;
            }
        }
        serve(StreamOwned::new(tls, socket));
    })
}

/// A TLS node that answers with the server name it was asked for, a line, and then echoes.
#[must_use]
pub fn naming_node(own: &Certificate, client_ca: Option<&str>) -> TcpPeer {
    node(own, client_ca, |mut stream| {
        let name = stream.conn.server_name().unwrap_or("no name").to_owned();
        let peer = stream.conn.peer_certificates().map_or("", |_| " with certificate");
        let _ = stream.write_all(format!("{name}{peer}\n").as_bytes());
        let mut buffer = [0; 16 * 1024];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
        stream.conn.send_close_notify();
        let _ = stream.flush();
    })
}

#[derive(Debug)]
struct AcceptAny;

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
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
