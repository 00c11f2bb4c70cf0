//! The TLS stage of a connection: read the ClientHello, then relay TLS as it is or terminate it.
//!
//! The hello is read before anything is decided, because certificate, protocol versions, client
//! verification and (on mixed listeners) termination itself follow from the name in it.

pub mod challenges;
pub mod client_certificate;
pub(crate) mod ja4;
pub mod variables;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headgate_net::Socket;
use headgate_net::tls::handshake::{self, Alert, HandshakeError, HelloError};
use headgate_net::tls::policy::{openssl_group, openssl_name};
use headgate_net::tls::server::offering;
use headgate_net::tls::{Connection, HandshakeKind, ServerConfig, transfer};
use headgate_telemetry::LogLimit;
use headgate_wire::client_hello::{ClientHello, NotHello, looks_like_tls};

use crate::core::Core;
use crate::outcome::CloseReason;
use crate::session::Session;
use crate::snapshot::{Certificate, NoCertificate, Snapshot};
use crate::stats::micros;
use client_certificate::ClientCertificate;

/// Longest wait for the first bytes of a client that has no route.
const LOOK_LIMIT: Duration = Duration::from_millis(500);

static LOOKED_AT: LogLimit = LogLimit::per_second(10);
static NO_CERTIFICATE: LogLimit = LogLimit::per_second(10);
static FAILED: LogLimit = LogLimit::per_second(10);

/// What is known of the TLS of a session's client.
#[derive(Debug, Default)]
pub struct Secured {
    /// The server name, in lower case: the client's, or the one assumed for clients without.
    pub sni: Option<Arc<str>>,
    /// Protocols that the client offers; only kept until the route is found.
    pub(crate) alpn: Vec<Vec<u8>>,
    /// Fingerprint of the hello, if anybody wants it.
    pub ja4: Option<Box<str>>,
    /// What was agreed on; `None` when TLS is relayed as it is.
    pub agreed: Option<Agreed>,
}

/// What client and headgate agreed on.
#[derive(Debug)]
pub struct Agreed {
    /// `TLSv1.2` or `TLSv1.3`.
    pub protocol: &'static str,
    /// OpenSSL's name of the cipher suite.
    pub cipher: &'static str,
    /// Name of the key exchange group.
    pub curve: &'static str,
    /// The application protocol (ALPN).
    pub alpn: Option<Box<[u8]>>,
    /// Whether an earlier session was resumed.
    pub is_resumed: bool,
    /// The certificate that the client showed; it was verified.
    pub client: Option<Box<ClientCertificate>>,
}

/// How a client is spoken to behind this stage.
pub(crate) enum Layer {
    /// Decrypted and encrypted here.
    Terminated(Box<Connection>),
    /// As it is; the bytes of the hello go to the server first.
    Through(Vec<u8>),
}

/// Whether a connection without a route, on a listener without TLS, is worth a look: perhaps its
/// client speaks TLS and would have a route elsewhere. Few are looked at, because it takes time.
pub(crate) fn is_worth_a_look(snapshot: &Snapshot) -> bool {
    snapshot.routes.asks_for_tls() && LOOKED_AT.check(Instant::now()).is_some()
}

/// Waits a moment for the first bytes and says how the session ends.
pub(crate) async fn look(core: &Core, client: &Socket, session: &Session) -> CloseReason {
    let mut start = [0; 3];
    let came = core.events.within(LOOK_LIMIT, pin!(client.readable())).await.is_some();
    if !came || client.peek(&mut start).is_err() || !looks_like_tls(&start) {
        return CloseReason::NoRoute;
    }
    log_failure(
        session,
        "TLS on a listener without TLS: routes with sni, snis or alpn need tls: true or \
         tls_passthrough: true on the listener",
    );
    CloseReason::UnexpectedTls
}

/// Ends TLS in order with a client that is refused, after telling it `text`, if any.
pub(crate) fn say_last(client: &Socket, tls: Option<Box<Connection>>, text: Option<&[u8]>) {
    let Some(mut tls) = tls else { return };
    if let Some(text) = text {
        let _ = transfer::write(&mut tls, text);
    }
    tls.send_close_notify();
    let _ = transfer::flush(&mut tls, client);
    if text.is_some() {
        client.finish_writing();
    }
}

/// Reads the hello and does what it and the listener ask for. `received` was read before.
pub(crate) async fn secure(
    core: &Core,
    client: &Socket,
    snapshot: &Snapshot,
    session: &mut Session,
    received: Vec<u8>,
) -> Result<Layer, CloseReason> {
    let began = Instant::now();
    let result = {
        let work = pin!(negotiate(core, client, snapshot, session, received));
        core.events.within(core.shared.handshake_limit(), work).await
    };
    match result {
        Some(result) => {
            if matches!(result, Ok(Layer::Terminated(_))) {
                core.stats().handshake_time.record(micros(began.elapsed()));
            }
            result
        }
        None => {
            log_failure(
                session,
                "client timed out (110: Connection timed out) while SSL handshaking",
            );
            Err(CloseReason::TlsFailed)
        }
    }
}

async fn negotiate(
    core: &Core,
    client: &Socket,
    snapshot: &Snapshot,
    session: &mut Session,
    received: Vec<u8>,
) -> Result<Layer, CloseReason> {
    let (hello, received) = match handshake::read_hello(client, &received).await {
        Ok(read) => read,
        Err(error) => return Err(no_hello(client, session, &error)),
    };
    let ClientHello { sni, alpn } = hello;
    let sni = snapshot.certificates.name_for(sni.as_deref());
    let challenge = match session.listener.tls {
        true => core.shared.challenges.answer(sni.as_deref(), &alpn),
        false => None,
    };
    session.tls = Some(Box::new(Secured { sni, alpn, ja4: ja4::of(&received), agreed: None }));
    if let Some(config) = challenge {
        return Err(answer_challenge(client, session, received, config).await);
    }
    if passes_through(snapshot, session) {
        return Ok(Layer::Through(received));
    }
    terminate(client, snapshot, session, received).await.map(Layer::Terminated)
}

/// Shows an authority its certificate; nothing is said behind the handshake (RFC 8737, section 3).
async fn answer_challenge(
    client: &Socket,
    session: &Session,
    received: Vec<u8>,
    config: Arc<ServerConfig>,
) -> CloseReason {
    match handshake::accept(client, received, config, None).await {
        Ok(connection) => {
            say_last(client, Some(connection), None);
            log_failure(session, "answered a challenge of ACME (acme-tls/1)");
            CloseReason::Done
        }
        Err(error) => handshake_failed(client, session, &error),
    }
}

/// On a mixed listener the route decides; without a route TLS is terminated.
fn passes_through(snapshot: &Snapshot, session: &Session) -> bool {
    let listener = &session.listener;
    listener.tls_passthrough
        && (!listener.tls
            || snapshot.routes.find(&session.facts()).is_some_and(|route| route.tls_passthrough))
}

async fn terminate(
    client: &Socket,
    snapshot: &Snapshot,
    session: &mut Session,
    received: Vec<u8>,
) -> Result<Box<Connection>, CloseReason> {
    let sni = session.tls.as_ref().and_then(|tls| tls.sni.clone());
    let found = snapshot.certificates.find(sni.as_deref());
    let certificate = found.map_err(|error| no_certificate(client, session, &error))?;
    let config = match &certificate.config {
        Ok(config) if certificate.says_alpn => Arc::clone(config),
        Ok(config) => offering(config, &session.listener.alpn),
        Err(error) => {
            log_unusable(session, certificate, error);
            handshake::refuse(client, Alert::InternalError);
            return Err(CloseReason::NoCertificate);
        }
    };
    let only_session_of = sni.as_deref().filter(|_| certificate.demands_client);
    match handshake::accept(client, received, config, only_session_of).await {
        Ok(connection) => {
            if let Some(tls) = &mut session.tls {
                tls.agreed = Some(Agreed::of(&connection));
            }
            Ok(connection)
        }
        Err(error) => Err(handshake_failed(client, session, &error)),
    }
}

impl Agreed {
    fn of(connection: &Connection) -> Self {
        use headgate_net::tls::ProtocolVersion;
        let suite = connection.negotiated_cipher_suite();
        let group = connection.negotiated_key_exchange_group();
        let client = connection.peer_certificates().and_then(<[_]>::first);
        Self {
            protocol: match connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                _ => "TLSv1.2",
            },
            cipher: suite.and_then(|suite| openssl_name(suite.suite())).unwrap_or_default(),
            curve: group.and_then(|group| openssl_group(group.name())).unwrap_or_default(),
            alpn: connection.alpn_protocol().map(Into::into),
            is_resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            client: client.map(|der| Box::new(ClientCertificate::new(der))),
        }
    }
}

fn no_hello(client: &Socket, session: &Session, error: &HelloError) -> CloseReason {
    match error {
        HelloError::NotHello(NotHello::Plain(_)) => {
            log_failure(session, &format!("plain bytes on a TLS listener: {error}"));
            CloseReason::NotTls
        }
        HelloError::NotHello(NotHello::Malformed(_) | NotHello::TooLong) => {
            log_failure(session, &format!("{error} while SSL handshaking"));
            handshake::refuse(client, Alert::DecodeError);
            CloseReason::TlsFailed
        }
        HelloError::Io(_) => CloseReason::ClientReset,
        HelloError::Empty | HelloError::Ended => {
            log_failure(session, &format!("{error} while SSL handshaking"));
            CloseReason::TlsFailed
        }
    }
}

fn no_certificate(client: &Socket, session: &Session, error: &NoCertificate) -> CloseReason {
    if let Some(suppressed) = NO_CERTIFICATE.check(Instant::now()) {
        let (client, listener) = (session.client_text(), &session.listener);
        if let NoCertificate::None { sni, rejected: Some(candidate) } = error {
            tracing::warn!(
                %client, %listener,
                "failed to find any SSL certificate by SNI: {sni} {candidate}"
            );
        }
        tracing::error!(%client, %listener, suppressed, "{error}");
    }
    handshake::refuse(client, Alert::InternalError);
    CloseReason::NoCertificate
}

fn log_unusable(session: &Session, certificate: &Certificate, error: &str) {
    let Some(suppressed) = NO_CERTIFICATE.check(Instant::now()) else { return };
    let (client, listener) = (session.client_text(), &session.listener);
    tracing::error!(
        %client, %listener, ssl = certificate.id, suppressed,
        "failed to fetch ssl config: {error}"
    );
}

fn handshake_failed(client: &Socket, session: &Session, error: &HandshakeError) -> CloseReason {
    match error {
        HandshakeError::OtherSession { hostname } => {
            let sni = session.tls.as_ref().and_then(|tls| tls.sni.as_deref()).unwrap_or_default();
            if let Some(suppressed) = FAILED.check(Instant::now()) {
                let (client, listener) = (session.client_text(), &session.listener);
                tracing::error!(
                    %client, %listener, suppressed,
                    "sni in client hello mismatch hostname of ssl session, sni: {sni}, hostname: \
                     {hostname}"
                );
            }
            handshake::refuse(client, Alert::AccessDenied);
            CloseReason::ClientCertificate
        }
        error if error.concerns_certificate() => {
            log_failure(session, &format!("{error} while SSL handshaking"));
            CloseReason::ClientCertificate
        }
        error => {
            log_failure(session, &format!("{error} while SSL handshaking"));
            CloseReason::TlsFailed
        }
    }
}

fn log_failure(session: &Session, text: &str) {
    let Some(suppressed) = FAILED.check(Instant::now()) else { return };
    let (client, listener) = (session.client_text(), &session.listener);
    let sni = session.tls.as_ref().and_then(|tls| tls.sni.as_deref());
    tracing::info!(%client, %listener, sni, suppressed, "{text}");
}
