//! Sockets of the three servers: binding, accepting, limits, TLS and graceful stop.

mod connection;
mod spare;
mod stalling;
pub mod tls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use spare::Spare;

/// Pause after an error of `accept` such as `EMFILE`, which would come again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections that a server takes while sessions hold every other descriptor of the process.
const SPARE_DESCRIPTORS: usize = 4;

/// What one server spends on its clients at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once; more wait in the kernel's queue.
    pub connections: usize,
    /// Time for a TLS handshake.
    pub handshake: Duration,
    /// Time until the next request's header has arrived whole, idle time included.
    pub header: Duration,
    /// Time until a request's body has arrived whole.
    pub body: Duration,
    /// Time during which a client may take nothing of an answer that is being sent.
    pub stalled: Duration,
    /// Size of a request's header in bytes.
    pub header_bytes: usize,
    /// Number of header fields.
    pub header_fields: usize,
    /// Time for requests in progress when the server stops.
    pub stop: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(60),
            body: Duration::from_secs(60),
            stalled: Duration::from_secs(60),
            header_bytes: 32 << 10,
            header_fields: 100,
            stop: Duration::from_secs(5),
        }
    }
}

/// The address of the peer, in the extensions of each request.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Opens a listening socket.
///
/// # Errors
/// The address is in use, not local, or not permitted.
pub async fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(addr).await
}

/// Serves `router` on `listener` until `shutdown`, then waits for requests in progress for at most
/// [`Limits::stop`].
pub async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<TlsAcceptor>,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let spare = Arc::new(Spare::new(SPARE_DESCRIPTORS));
    let connections = TaskTracker::new();
    // Ends connections that outlive the time for a graceful stop.
    let kill = CancellationToken::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &places, &spare) => accepted,
        };
        let Some((place, stream, peer)) = accepted else { break };
        let connection = connection::Connection {
            peer,
            router: router.clone(),
            tls: tls.clone(),
            limits,
            shutdown: shutdown.clone(),
        };
        let (kill, spare) = (kill.clone(), Arc::clone(&spare));
        connections.spawn(async move {
            tokio::select! {
                () = kill.cancelled() => {}
                () = connection.run(stream) => {}
            }
            spare.refill();
            drop(place);
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(limits.stop, connections.wait()).await.is_err() {
        kill.cancel();
        connections.wait().await;
    }
}

type Accepted = (tokio::sync::OwnedSemaphorePermit, tokio::net::TcpStream, SocketAddr);

/// `None` only when the semaphore was closed, which nobody does.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    spare: &Spare,
) -> Option<Accepted> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return Some((place, stream, peer)),
            Err(error) if spare::is_out_of_descriptors(&error) && spare.give_up_one() => {}
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
