//! Reaching a server: pick, connect, and try the next one when that fails. No byte of the client
//! has been relayed at this point, so a retry can never duplicate anything.

use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headgate_net::socket::Peer;
use headgate_net::tls::Connection;
use headgate_net::{EventLoop, Socket, origin};
use rustix::io::Errno;

use crate::secured::TlsFailure;
use crate::sources::Attempts;
use crate::{Address, Endpoint, KeyHash, Lease, Sources, Tried, Upstream, sources};

/// Pause before looking for a free descriptor again.
const DESCRIPTOR_WAIT: Duration = Duration::from_millis(50);

/// A connection to an endpoint.
#[derive(Debug)]
pub struct Connected {
    /// The socket.
    pub socket: Socket,
    /// TLS on it.
    pub tls: Option<Box<Connection>>,
    /// Whom it reaches; to be kept until the session ends.
    pub lease: Lease,
    /// When it stood.
    pub since: Instant,
    /// Time of the successful attempt.
    pub connect_time: Duration,
    /// Time in the upstream's queue, if there was nothing else to do than to wait.
    pub queued: Option<Duration>,
}

/// Why no endpoint was reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The upstream has no endpoint: no nodes, or none of its names resolves.
    #[error("no valid upstream node")]
    NoEndpoint,
    /// Every endpoint has as many sessions as it may (`max_conns`).
    #[error("every node has max_conns sessions")]
    Full,
    /// Every allowed attempt failed.
    #[error("{attempts} attempt(s) failed, the last one, to {endpoint}: {error}")]
    Failed {
        /// How many were made.
        attempts: u32,
        /// The last endpoint tried.
        endpoint: Address,
        /// What went wrong with it.
        error: io::Error,
    },
    /// This machine has no descriptor, memory or local port for another connection; the endpoint
    /// is not to blame, and others would fail the same way.
    #[error("no connection could be opened: {0}")]
    Exhausted(io::Error),
    /// `retry_timeout` passed before the next attempt.
    #[error("proxy retry timeout, retry count: {retries}, after {elapsed:?}")]
    RetryTimeout {
        /// Retries made.
        retries: u32,
        /// Time since the first attempt.
        elapsed: Duration,
    },
}

impl ConnectError {
    /// Whether the last attempt took longer than it may.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::Failed { error, .. } => error.kind() == io::ErrorKind::TimedOut,
            Self::RetryTimeout { .. } => true,
            Self::NoEndpoint | Self::Full | Self::Exhausted(_) => false,
        }
    }

    /// Whether this machine has no local port left for another connection to the endpoint
    /// ([`origin::is_out_of_ports`]).
    #[must_use]
    pub fn is_out_of_ports(&self) -> bool {
        matches!(self, Self::Exhausted(error) if origin::is_out_of_ports(error))
    }

    /// Whether no source address of the upstream can be used.
    #[must_use]
    pub fn is_without_source(&self) -> bool {
        matches!(self, Self::Exhausted(error) if sources::is_to_blame(error))
    }

    /// Whether it may be different in a moment.
    const fn may_pass(&self) -> bool {
        matches!(self, Self::NoEndpoint | Self::Full | Self::Failed { .. })
    }
}

/// What a server is told before any byte of the client.
#[derive(Debug, Clone, Copy, Default)]
pub struct Opening<'a> {
    /// Bytes in clear, before TLS; only sent here if TLS follows.
    pub preface: &'a [u8],
    /// Server name that the client asked for.
    pub sni: Option<&'a str>,
}

/// Connects to an endpoint of `upstream`, for a session with that key. `on_attempt` hears of every
/// endpoint before it is tried; `on_failure` of every attempt that failed. With a `queue` the
/// session waits while no endpoint takes it.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect(
    owner: &EventLoop,
    upstream: &Upstream,
    key: KeyHash,
    opening: Opening<'_>,
    mut on_attempt: impl FnMut(&Arc<Endpoint>),
    mut on_failure: impl FnMut(&Address, &io::Error),
) -> Result<Connected, ConnectError> {
    let Some(queue) = upstream.settings().queue else {
        return round(owner, upstream, key, opening, &mut on_attempt, &mut on_failure).await;
    };
    let began = Instant::now();
    let (line, until) = (upstream.line(), began + queue.timeout);
    let mut events = line.events();
    let mut place = None;
    if line.is_behind_full() {
        // Others wait for a place to come free: this one is theirs.
        place = line.join(queue.most);
        if let Some(place) = &mut place
            && !place.turn(owner, true, events, until).await
        {
            return Err(ConnectError::Full);
        }
    }
    loop {
        events = line.events();
        let waited = place.as_ref().map(|_| began.elapsed());
        let mut begin = |endpoint: &Arc<Endpoint>| {
            if let Some(place) = &mut place {
                place.call_next();
            }
            on_attempt(endpoint);
        };
        let attempt = round(owner, upstream, key, opening, &mut begin, &mut on_failure);
        let error = match attempt.await {
            Err(error) if error.may_pass() => error,
            result => return result.map(|connected| Connected { queued: waited, ..connected }),
        };
        place = place.or_else(|| line.join(queue.most));
        let is_full = matches!(error, ConnectError::Full);
        let may_go_on = match &mut place {
            Some(place) => place.turn(owner, is_full, events, until).await,
            None => false,
        };
        if !may_go_on {
            return Err(error);
        }
    }
}

/// Tries endpoints, each at most once.
async fn round(
    owner: &EventLoop,
    upstream: &Upstream,
    key: KeyHash,
    opening: Opening<'_>,
    on_attempt: &mut impl FnMut(&Arc<Endpoint>),
    on_failure: &mut impl FnMut(&Address, &io::Error),
) -> Result<Connected, ConnectError> {
    let settings = *upstream.settings();
    let endpoints = arc_swap::Guard::into_inner(upstream.endpoints());
    let others = u32::try_from(endpoints.len().saturating_sub(1)).unwrap_or(u32::MAX);
    let retries = settings.retries.unwrap_or(others);
    // Nothing else could be chosen, so nothing is noted of it (`spec/upstream.md`, section 2).
    let is_sole = endpoints.has_a_sole_one();
    let started = Instant::now();
    let mut tried = Tried::default();
    let mut last: Option<(u32, Arc<Endpoint>, io::Error)> = None;
    for attempt in 0..=retries {
        let begun = if attempt == 0 { started } else { Instant::now() };
        if attempt > 0
            && let Some(limit) = settings.retry_timeout
            && begun.duration_since(started) >= limit
        {
            note_failure(last.as_ref(), is_sole, true);
            return Err(ConnectError::RetryTimeout {
                retries: attempt - 1,
                elapsed: started.elapsed(),
            });
        }
        let Some(lease) = endpoints.pick(key, &mut tried) else { break };
        note_failure(last.as_ref(), is_sole, false);
        let endpoint = lease.endpoint();
        on_attempt(endpoint);
        let peer = match &endpoint.address {
            Address::Ip(address) => Peer::Ip(*address),
            Address::Unix(path) => Peer::Unix(path),
        };
        let result = dial(owner, peer, upstream.sources(), settings.connect_timeout).await;
        // The handshake has the same limit again, as in the reference.
        let result = match (result, upstream.tls()) {
            (Ok(socket), Some(tls)) => owner
                .within(settings.connect_timeout, Box::pin(tls.secure(socket, opening)))
                .await
                .unwrap_or_else(|| Err(TlsFailure::timed_out())),
            (result, _) => result.map(|socket| (socket, None)),
        };
        match result {
            Ok((socket, tls)) => {
                let since = Instant::now();
                let connect_time = since.duration_since(begun);
                lease.record(connect_time);
                return Ok(Connected { socket, tls, lease, since, connect_time, queued: None });
            }
            Err(error) if is_local(&error) => return Err(ConnectError::Exhausted(error)),
            Err(error) => {
                on_failure(&endpoint.address, &error);
                last = Some((attempt + 1, Arc::clone(endpoint), error));
                lease.fail(begun.elapsed());
            }
        }
    }
    note_failure(last.as_ref(), is_sole, true);
    Err(match last {
        Some((attempts, endpoint, error)) => {
            ConnectError::Failed { attempts, endpoint: endpoint.address.clone(), error }
        }
        None if tried.met_a_full_one() => ConnectError::Full,
        None => ConnectError::NoEndpoint,
    })
}

/// Passive health: an attempt that failed. `is_last`: no other one follows.
fn note_failure(failed: Option<&(u32, Arc<Endpoint>, io::Error)>, is_sole: bool, is_last: bool) {
    if let (Some((_, endpoint, _)), false) = (failed, is_sole) {
        endpoint.note_failed_attempt(is_last);
    }
}

/// Connects within `limit`. While the process has no descriptor left the client waits: one comes
/// free when another session ends, and a connection that was accepted should not be lost to that.
async fn dial(
    owner: &EventLoop,
    peer: Peer<'_>,
    sources: Option<&Sources>,
    limit: Duration,
) -> io::Result<Socket> {
    let starved = Cell::new(None);
    let attempt = pin!(async {
        loop {
            let attempt = match (peer, sources) {
                (Peer::Ip(to), Some(sources)) => {
                    // Boxed, so that other connections do not carry its state.
                    Box::pin(connect_from_one(owner, peer, sources.attempts(to.ip()))).await
                }
                _ => Socket::connect(owner, peer).await,
            };
            match attempt {
                Err(error) if is_out_of_descriptors(&error) => {
                    owner.note_starved();
                    starved.set(error.raw_os_error());
                    owner.sleep(DESCRIPTOR_WAIT).await;
                }
                result => return result,
            }
        }
    });
    let result = owner.within(limit, attempt).await;
    result.unwrap_or_else(|| match starved.get() {
        Some(code) => Err(io::Error::from_raw_os_error(code)),
        None => Err(io::ErrorKind::TimedOut.into()),
    })
}

/// Connects from one source address after the other, until one has a port.
async fn connect_from_one(
    owner: &EventLoop,
    peer: Peer<'_>,
    mut attempts: Attempts<'_>,
) -> io::Result<Socket> {
    while let Some(from) = attempts.next_source() {
        if let Some(result) = attempts.judge(Socket::connect_from(owner, Some(from), peer).await) {
            return result;
        }
    }
    Err(attempts.failed())
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    let errors = [Errno::MFILE, Errno::NFILE];
    error.raw_os_error().is_some_and(|raw| errors.iter().any(|known| known.raw_os_error() == raw))
}

/// Whether an error says something about this machine, not about the endpoint (connect(2)).
pub(crate) fn is_local(error: &io::Error) -> bool {
    let errors = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::ADDRNOTAVAIL,
        Errno::ADDRINUSE,
        Errno::AGAIN,
    ];
    sources::is_to_blame(error)
        || error
            .raw_os_error()
            .is_some_and(|raw| errors.iter().any(|known| known.raw_os_error() == raw))
}
