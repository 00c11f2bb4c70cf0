//! The path of one TCP connection, stage by stage. Read this file from top to bottom.
//!
//! Stages that may wait are an `async fn` on the core's executor; when they are done the future
//! ends and the pair of sockets becomes a [`relay`]. Every session ends in [`Core::finish`].

use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use headgate_net::Socket;
use headgate_net::proxy_header::{self, HeaderError};
use headgate_net::tls::Connection;
use headgate_telemetry::LogLimit;
use headgate_upstream::{Address, ConnectError, Opening, TlsFailure, Upstream, connector};

use crate::core::{Core, Pinned};
use crate::handshakes::Cut;
use crate::hash_key;
use crate::outcome::CloseReason;
use crate::plugin::{Client, Step};
use crate::proxy_out;
use crate::relay::{self, Pair};
use crate::secure::{self, Layer};
use crate::session::{Proxied, Session, Traffic};
use crate::snapshot::{Snapshot, Target};
use crate::stats::micros;

/// Time for a whole PROXY header (`spec/routing.md`, section 9).
const PROXY_HEADER_LIMIT: Duration = Duration::from_secs(30);

static CUT: LogLimit = LogLimit::per_minute(6);
static BROKEN_HEADER: LogLimit = LogLimit::per_second(10);
static NO_ROUTE: LogLimit = LogLimit::per_second(10);
static UNUSABLE: LogLimit = LogLimit::per_second(10);
static CONNECT_FAILED: LogLimit = LogLimit::per_second(20);

/// Takes an accepted connection. Whoever cannot be routed is refused at once, before anything is
/// spent on it; the stages that may wait are spawned.
pub(crate) fn begin(core: &Rc<Core>, fd: OwnedFd, mut session: Box<Session>, snapshot: Rc<Pinned>) {
    core.stats().accepted.increment();
    let admitted = if session.listener.proxy_protocol || session.listener.reads_tls() {
        None // the header may change who the client is; the hello says where it wants to go
    } else {
        match admit(&snapshot, &mut session) {
            Ok(step) => Some(step),
            Err(CloseReason::NoRoute) if secure::is_worth_a_look(&snapshot) => None,
            Err(reason) => {
                if let Some(text) = last_words(&session) {
                    headgate_net::socket::say_last(&fd, text);
                }
                return core.finish(&session, reason);
            }
        }
    };
    let client = match Socket::accepted(&core.events, fd) {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(%error, "cannot watch an accepted connection");
            return core.finish(&session, CloseReason::Internal);
        }
    };
    let mut setup = SetUp { core: Rc::clone(core), session: Some(session) };
    core.events.spawn(async move {
        let core = Rc::clone(&setup.core);
        let Some(session) = &mut setup.session else { return };
        let mut tls = None;
        let outcome = {
            let stages = pin!(stages(&core, &client, &mut tls, &snapshot, admitted, session));
            unless_broken(&client, stages).await
        };
        let outcome = outcome.unwrap_or(Err(CloseReason::ClientReset));
        let Some(session) = setup.session.take() else { return };
        match outcome {
            Ok(ready) => relay::start(&core, ready.with(client, tls), session),
            Err(reason) => {
                match last_words(&session) {
                    text if session.tls.is_some() => secure::say_last(&client, tls, text),
                    Some(text) => headgate_net::socket::say_last(&client, text),
                    None => {}
                }
                drop(client);
                core.finish(&session, reason);
            }
        }
    });
}

/// A session in set-up: it is finished even when its future is dropped, by a stop or a panic.
struct SetUp {
    core: Rc<Core>,
    session: Option<Box<Session>>,
}

impl Drop for SetUp {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            let stopping = self.core.is_stopping();
            let reason = if stopping { CloseReason::Drain } else { CloseReason::Internal };
            self.core.finish(&session, reason);
        }
    }
}

/// The output of `future`, or `None` if the client resets its connection first: nobody is left
/// to connect for.
async fn unless_broken<F: Future + Unpin>(client: &Socket, mut future: F) -> Option<F::Output> {
    let mut broken = pin!(client.broken());
    poll_fn(move |context| {
        if let Poll::Ready(output) = Pin::new(&mut future).poll(context) {
            return Poll::Ready(Some(output));
        }
        broken.as_mut().poll(context).map(|()| None)
    })
    .await
}

/// A connection that is set up.
struct Ready {
    server: Socket,
    server_tls: Option<Box<Connection>>,
    /// Goes to the server before anything else.
    first: Vec<u8>,
    /// How much of that is headgate's own.
    preface: usize,
}

impl Ready {
    fn with(self, client: Socket, client_tls: Option<Box<Connection>>) -> Pair {
        let Self { server, server_tls, first, preface } = self;
        Pair { client, server, client_tls, server_tls, first, preface }
    }
}

/// The stages that may wait, in order. `client_tls` is set once TLS is spoken with the client.
async fn stages(
    core: &Core,
    client: &Socket,
    client_tls: &mut Option<Box<Connection>>,
    snapshot: &Snapshot,
    admitted: Option<Step>,
    session: &mut Session,
) -> Result<Ready, CloseReason> {
    let waits = admitted != Some(Step::Passed);
    let peeked = if waits {
        let most = core.shared.handshakes_per_core.load(Ordering::Relaxed);
        let place = core.handshakes.enter(most);
        let introduction =
            Box::pin(introduce(core, client, client_tls, snapshot, admitted, session));
        match place.unless_cut(introduction).await {
            Ok(peeked) => peeked?,
            Err(Cut::TooMany) => return Err(cut(session)),
            Err(Cut::Memory) => return Err(CloseReason::OutOfMemory),
        }
    } else {
        Vec::new()
    };
    let upstream = Arc::clone(target(session)?);
    let mut first = proxy_out::header(session, || client.local_addr());
    let (server, server_tls) = connect(core, &upstream, session, &first).await?;
    session.idle_limit = upstream.settings().idle_timeout;
    session.on_unhealthy = upstream.settings().on_unhealthy;
    let preface = if server_tls.is_some() { 0 } else { first.len() };
    if server_tls.is_some() {
        // Sent in clear, before TLS.
        session.count(&Traffic { to_upstream: first.len() as u64, ..Traffic::default() });
        first = peeked;
    } else {
        first.extend_from_slice(&peeked);
    }
    Ok(Ready { server, server_tls, first, preface })
}

/// What comes before connecting: header, TLS, route and plugins, all of which may wait for bytes of
/// the client. Returns what was read of them and goes to the server first.
async fn introduce(
    core: &Core,
    client: &Socket,
    client_tls: &mut Option<Box<Connection>>,
    snapshot: &Snapshot,
    admitted: Option<Step>,
    session: &mut Session,
) -> Result<Vec<u8>, CloseReason> {
    let mut peeked = Vec::new();
    // Boxed, so that other connections do not carry the state of these stages.
    if session.listener.proxy_protocol {
        peeked = Box::pin(read_proxy_header(core, client, session)).await?;
    }
    if session.listener.reads_tls() {
        match Box::pin(secure::secure(core, client, snapshot, session, peeked)).await? {
            Layer::Terminated(connection) => (*client_tls, peeked) = (Some(connection), Vec::new()),
            Layer::Through(hello) => peeked = hello,
        }
    } else if admitted.is_none() && !session.listener.proxy_protocol {
        return Err(secure::look(core, client, session).await);
    }
    session.count(&Traffic { from_client: peeked.len() as u64, ..Traffic::default() });
    let step = match admitted {
        Some(step) => step,
        None => admit(snapshot, session)?,
    };
    if step != Step::Passed {
        let tls = client_tls.as_deref_mut();
        peeked = Box::pin(preread(core, client, tls, step, session, peeked)).await?;
    }
    Ok(peeked)
}

/// Says that there are more connections being set up than there may be.
fn cut(session: &Session) -> CloseReason {
    if let Some(suppressed) = CUT.check(Instant::now()) {
        tracing::warn!(
            client = %session.client_text(), listener = %session.listener, suppressed,
            "too many connections are being set up (headgate.limits.pending_handshakes); the oldest \
             is cut"
        );
    }
    CloseReason::HandshakeBudget
}

/// Reads who the client is, and returns the bytes behind the header that were read along.
async fn read_proxy_header(
    core: &Core,
    client: &Socket,
    session: &mut Session,
) -> Result<Vec<u8>, CloseReason> {
    match proxy_header::read(&core.events, client, PROXY_HEADER_LIMIT).await {
        Ok((header, peeked)) => {
            if let (Some(source), Some(destination)) = (header.source, header.destination) {
                session.proxied =
                    Some(Box::new(Proxied { source, destination, tlvs: header.tlvs }));
                if core.shared.trusted_peers.load().contains(session.peer) {
                    session.client = Some(source);
                }
            }
            Ok(peeked)
        }
        Err(error @ HeaderError::Empty) => {
            tracing::info!(client = %session.client_text(), listener = %session.listener, "{error}");
            Err(CloseReason::ProxyHeader)
        }
        Err(error) => {
            if let Some(suppressed) = BROKEN_HEADER.check(Instant::now()) {
                let (client, listener) = (session.client_text(), &session.listener);
                tracing::error!(
                    %client, %listener, suppressed,
                    "{error} while reading PROXY protocol"
                );
            }
            Err(CloseReason::ProxyHeader)
        }
    }
}

/// Finds the route and runs its plugins as far as they need no time. A session that has passed
/// them all is known to lead somewhere.
pub(crate) fn admit(snapshot: &Snapshot, session: &mut Session) -> Result<Step, CloseReason> {
    let Some(route) = snapshot.routes.find(&session.facts()) else {
        explain_no_route(snapshot, session);
        return Err(CloseReason::NoRoute);
    };
    session.route = Some(Arc::clone(route));
    if let Some(tls) = &mut session.tls {
        tls.alpn = Vec::new(); // it has done its duty
    }
    let listener = &session.listener;
    if route.tls_passthrough && listener.tls && !listener.tls_passthrough {
        if let Some(suppressed) = UNUSABLE.check(Instant::now()) {
            tracing::error!(
                route = route.id, %listener, suppressed,
                "the route relays TLS as it is, but the listener does not have tls_passthrough"
            );
        }
        return Err(CloseReason::NotPassedThrough);
    }
    match route.plugins.run(0, session) {
        Step::Ended(reason) => Err(reason),
        Step::Passed => target(session).map(|_| Step::Passed),
        step => Ok(step),
    }
}

/// Waits for what the route's plugins wait for. Returns what was read of the client so far.
async fn preread(
    core: &Core,
    client: &Socket,
    tls: Option<&mut Connection>,
    step: Step,
    session: &mut Session,
    peeked: Vec<u8>,
) -> Result<Vec<u8>, CloseReason> {
    let Some(route) = session.route.clone() else { return Ok(peeked) };
    let before = peeked.len();
    let mut client = Client::connected(&core.events, client, tls, peeked);
    let passed = route.plugins.finish(step, session, &mut client).await;
    let peeked = client.into_peeked();
    session.count(&Traffic { from_client: (peeked.len() - before) as u64, ..Traffic::default() });
    passed.map(|()| peeked)
}

/// The upstream of a session that its plugins let pass: the one they chose, or the route's.
pub(crate) fn target(session: &Session) -> Result<&Arc<Upstream>, CloseReason> {
    if let Some(chosen) = &session.redirect {
        return Ok(chosen);
    }
    let route = session.route.as_ref().ok_or(CloseReason::NoRoute)?;
    match &route.target {
        Target::Upstream(upstream) => Ok(upstream),
        Target::Broken { message, reason } => {
            if let Some(suppressed) = UNUSABLE.check(Instant::now()) {
                tracing::error!(route = route.id, suppressed, "{message}");
            }
            Err(*reason)
        }
    }
}

/// What the client of a refused session is sent, if its plugin was told to.
fn last_words(session: &Session) -> Option<&[u8]> {
    session.rejection?;
    session.route.as_ref()?.plugins.error_response(session)
}

/// Connects to an endpoint of the upstream, trying others when one fails.
async fn connect(
    core: &Core,
    upstream: &Upstream,
    session: &mut Session,
    preface: &[u8],
) -> Result<(Socket, Option<Box<Connection>>), CloseReason> {
    let key = hash_key::of(upstream, session);
    let sni = session.tls.as_ref().and_then(|tls| tls.sni.as_deref());
    let opening = Opening { preface, sni };
    let tried = &mut session.upstream.tried;
    let on_failure = |endpoint: &Address, error: &std::io::Error| {
        log_failure(upstream, endpoint, error);
    };
    let on_attempt = |endpoint: &Arc<headgate_upstream::Endpoint>| {
        tracing::info!(conn = session.number, "proxy request to {}", endpoint.address);
        tried.push(Arc::clone(endpoint));
    };
    let connecting =
        connector::connect(&core.events, upstream, key, opening, on_attempt, on_failure);
    match connecting.await {
        Ok(connected) => {
            session.upstream.connected = Some(connected.since);
            session.upstream.connect_time = Some(connected.connect_time);
            session.upstream.queue_time = connected.queued;
            if let Some(time) = connected.queued {
                core.stats().queue_time.record(micros(time));
            }
            session.upstream.lease = Some(connected.lease);
            Ok((connected.socket, connected.tls))
        }
        Err(error) => {
            if let Some(suppressed) = UNUSABLE.check(Instant::now()) {
                let text = match &error {
                    ConnectError::NoEndpoint => "failed to set upstream: no valid upstream node",
                    ConnectError::Failed { .. } => {
                        "failed to pick server: failed to find valid upstream server, all \
                         upstream servers tried"
                    }
                    ConnectError::RetryTimeout { .. } => "proxy retry timeout",
                    ConnectError::Full => "failed to pick server: all nodes are full",
                    error if error.is_out_of_ports() => {
                        "no local port is left for connections to this node (more nodes, source_addresses, \
                         or a wider net.ipv4.ip_local_port_range, give more)"
                    }
                    error if error.is_without_source() => "no source address can be used",
                    ConnectError::Exhausted(_) => "headgate ran out of descriptors or local ports",
                };
                let upstream = upstream.key();
                tracing::error!(conn = session.number, upstream, %error, suppressed, "{text}");
            }
            Err(match error {
                ConnectError::NoEndpoint | ConnectError::Full => CloseReason::NoUpstream,
                error if error.is_out_of_ports() => CloseReason::SourcePorts,
                error if error.is_without_source() => CloseReason::ConnectFailed,
                ConnectError::Exhausted(_) => CloseReason::Internal,
                error if error.is_timeout() => CloseReason::ConnectTimeout,
                _ => CloseReason::ConnectFailed,
            })
        }
    }
}

fn log_failure(upstream: &Upstream, endpoint: &Address, error: &std::io::Error) {
    let Some(suppressed) = CONNECT_FAILED.check(Instant::now()) else { return };
    let upstream = upstream.key();
    if let Some(failure) = TlsFailure::inside(error) {
        tracing::error!(upstream, %endpoint, suppressed, "{failure}");
    } else if error.kind() == std::io::ErrorKind::TimedOut {
        tracing::error!(
            upstream, %endpoint, suppressed,
            "upstream timed out (110: Connection timed out) while connecting to upstream"
        );
    } else {
        let code = error.raw_os_error().unwrap_or(0);
        let text = error.to_string();
        let text = text.split(" (os error").next().unwrap_or(&text);
        tracing::error!(
            upstream, %endpoint, suppressed,
            "connect() failed ({code}: {text}) while connecting to upstream"
        );
    }
}

/// Tells the operator what arrived and why the nearest route did not take it.
fn explain_no_route(snapshot: &Snapshot, session: &Session) {
    if !tracing::enabled!(tracing::Level::INFO) {
        return;
    }
    let Some(suppressed) = NO_ROUTE.check(Instant::now()) else { return };
    let client = session.client_text();
    let listener = &session.listener;
    match snapshot.routes.explain(&session.facts()) {
        Some((nearest, why)) => tracing::info!(
            %client, %listener, nearest_route = nearest.id, %why, suppressed,
            "not hit any route"
        ),
        None => tracing::info!(
            %client, %listener, why = "there are no stream routes", suppressed,
            "not hit any route"
        ),
    }
}
