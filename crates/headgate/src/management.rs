//! The servers for operators: their sockets, which a successor may take over, and whether this
//! process accepts on them.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use headgate_admin::Limits;
use headgate_model::listen::{ListenAddr, Transport};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cores::Place;
use crate::upgrade::Inherited;

/// One server.
struct Server {
    at: SocketAddr,
    /// Duplicated for whoever accepts.
    listener: TcpListener,
    router: axum::Router,
    tls: Option<TlsAcceptor>,
    limits: Limits,
}

/// All of them.
#[derive(Default)]
pub(crate) struct Management {
    servers: Vec<Server>,
    /// Ends accepting.
    accepting: Mutex<CancellationToken>,
}

impl Management {
    /// Binds the socket of a server, or takes it from a predecessor. It accepts nothing yet.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub(crate) async fn add(
        &mut self,
        what: &str,
        at: SocketAddr,
        router: axum::Router,
        (tls, limits): (Option<TlsAcceptor>, Limits),
        inherited: &mut Inherited,
    ) -> anyhow::Result<()> {
        let listener = match inherited.take_server(at) {
            Some(fd) => TcpListener::from(fd),
            None => headgate_admin::bind(at)
                .await
                .and_then(tokio::net::TcpListener::into_std)
                .with_context(|| format!("opening {at} for the {what}"))?,
        };
        self.servers.push(Server { at, listener, router, tls, limits });
        Ok(())
    }

    /// Accepts on all of them, until `stop` or [`Management::pause`].
    pub(crate) fn start(&self, tasks: &TaskTracker, stop: &CancellationToken) {
        let token = stop.child_token();
        *self.accepting.lock().unwrap_or_else(PoisonError::into_inner) = token.clone();
        for server in &self.servers {
            let listener = match server.duplicate() {
                Ok(listener) => listener,
                Err(error) => {
                    tracing::error!(address = %server.at, %error, "cannot accept any more");
                    continue;
                }
            };
            let (router, tls) = (server.router.clone(), server.tls.clone());
            let serve = headgate_admin::serve(listener, router, tls, server.limits, token.clone());
            tasks.spawn(serve);
        }
    }

    /// Accepts again, after [`Management::pause`].
    pub(crate) fn resume(&self, tasks: &TaskTracker, stop: &CancellationToken) {
        let is_paused =
            self.accepting.lock().unwrap_or_else(PoisonError::into_inner).is_cancelled();
        if is_paused && !stop.is_cancelled() {
            self.start(tasks, stop);
        }
    }

    /// Accepts nothing more; requests in progress are answered.
    pub(crate) fn pause(&self) {
        self.accepting.lock().unwrap_or_else(PoisonError::into_inner).cancel();
    }

    /// Duplicates of the sockets.
    ///
    /// # Errors
    /// No descriptors left.
    pub(crate) fn lend(&self) -> io::Result<Vec<(Place, OwnedFd)>> {
        let lend = |server: &Server| {
            let place = (Transport::Tcp, ListenAddr::Ip(server.at));
            Ok((place, OwnedFd::from(server.listener.try_clone()?)))
        };
        self.servers.iter().map(lend).collect()
    }
}

impl Server {
    fn duplicate(&self) -> io::Result<tokio::net::TcpListener> {
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    }
}
