//! The path of one TCP connection, stage by stage. Read this file from top to bottom.
//!
//! Stages that may wait are an `async fn` on the core's executor; when they are done the future
//! ends and the pair of sockets becomes a [`relay`]. Every session ends in [`Core::finish`].

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use headgate_net::Socket;
use headgate_telemetry::LogLimit;
use headgate_upstream::{Address, ConnectError, Upstream, connector};

use crate::core::Core;
use crate::outcome::CloseReason;
use crate::relay;
use crate::session::Session;
use crate::snapshot::{Snapshot, Target};

static NO_ROUTE: LogLimit = LogLimit::per_second(10);
static UNUSABLE: LogLimit = LogLimit::per_second(10);
static CONNECT_FAILED: LogLimit = LogLimit::per_second(20);

/// Takes an accepted connection. What needs no waiting happens at once; the rest is spawned.
pub(crate) fn begin(core: &Rc<Core>, fd: OwnedFd, mut session: Session) {
    core.stats().accepted.increment();
    let snapshot = core.snapshot(); // pinned once: one connection, one configuration
    let upstream = match route(&snapshot, &mut session) {
        Ok(upstream) => upstream,
        Err(reason) => return core.finish(&session, reason),
    };
    let client = match Socket::accepted(&core.events, fd) {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(%error, "cannot watch an accepted connection");
            return core.finish(&session, CloseReason::Internal);
        }
    };
    let owner = Rc::clone(core);
    let session = Box::new(session);
    core.events.spawn(async move { serve(&owner, client, upstream, session).await });
}

/// The stages that may wait.
async fn serve(
    core: &Rc<Core>,
    client: Socket,
    upstream: Arc<Upstream>,
    mut session: Box<Session>,
) {
    match connect(core, &upstream, &mut session).await {
        Ok(server) => relay::start(core, client, server, &upstream, session),
        Err(reason) => {
            drop(client);
            core.finish(&session, reason);
        }
    }
}

/// Finds the route and the upstream it leads to.
pub(crate) fn route(
    snapshot: &Snapshot,
    session: &mut Session,
) -> Result<Arc<Upstream>, CloseReason> {
    let Some(route) = snapshot.routes.find(&session.facts()) else {
        explain_no_route(snapshot, session);
        return Err(CloseReason::NoRoute);
    };
    let route = session.route.insert(Arc::clone(route));
    match &route.target {
        Target::Upstream(upstream) => Ok(Arc::clone(upstream)),
        Target::Broken { message, reason } => {
            if let Some(suppressed) = UNUSABLE.check(Instant::now()) {
                tracing::error!(route = route.id, suppressed, "{message}");
            }
            Err(*reason)
        }
    }
}

/// Connects to an endpoint of the upstream, trying others when one fails.
async fn connect(
    core: &Core,
    upstream: &Upstream,
    session: &mut Session,
) -> Result<Socket, CloseReason> {
    let tried = &mut session.upstream.tried;
    let on_failure = |endpoint: &Address, error: &std::io::Error| {
        log_failure(upstream, endpoint, error);
    };
    let on_attempt = |endpoint: &Arc<headgate_upstream::Endpoint>| {
        tracing::info!(conn = session.number, "proxy request to {}", endpoint.address);
        tried.push(Arc::clone(endpoint));
    };
    match connector::connect(&core.events, upstream, on_attempt, on_failure).await {
        Ok(connected) => {
            session.upstream.connected = Some(Instant::now());
            session.upstream.connect_time = Some(connected.connect_time);
            Ok(connected.socket)
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
                };
                let upstream = upstream.key();
                tracing::error!(conn = session.number, upstream, %error, suppressed, "{text}");
            }
            Err(match error {
                ConnectError::NoEndpoint => CloseReason::NoUpstream,
                error if error.is_timeout() => CloseReason::ConnectTimeout,
                _ => CloseReason::ConnectFailed,
            })
        }
    }
}

fn log_failure(upstream: &Upstream, endpoint: &Address, error: &std::io::Error) {
    let Some(suppressed) = CONNECT_FAILED.check(Instant::now()) else { return };
    let upstream = upstream.key();
    if error.kind() == std::io::ErrorKind::TimedOut {
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
