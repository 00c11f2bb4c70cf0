//! The running program: what is alive between start and stop.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use headgate_model::settings::{Settings, SslSettings};
use headgate_stream::Shared;
use headgate_stream::core::Scope;
use headgate_telemetry::{access_log, log};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::background::ControlThreads;
use crate::cores::Cores;
use crate::drain;
use crate::live::Planes;
use crate::management::Management;
use crate::signals::{Request, Signals};
use crate::upgrade::News;

/// How often a graceful stop looks whether sessions are left.
const DRAIN_CHECK: Duration = Duration::from_millis(50);

/// The stream plane's threads and what belongs to them.
pub(crate) struct StreamPlane {
    pub(crate) cores: Arc<Cores>,
    pub(crate) access: Option<access_log::Writer>,
}

/// The running program.
pub(crate) struct Gateway {
    pub(crate) settings: Settings,
    pub(crate) log: log::Handle,
    pub(crate) shared: Arc<Shared>,
    pub(crate) stream: Option<StreamPlane>,
    pub(crate) planes: Arc<Planes>,
    pub(crate) servers: TaskTracker,
    pub(crate) stop_servers: CancellationToken,
    pub(crate) background: ControlThreads,
    pub(crate) management: Management,
    /// A successor serves: the service manager hears from that one.
    pub(crate) is_replaced: bool,
    /// To the reconciler.
    pub(crate) orders: mpsc::Sender<(SslSettings, oneshot::Sender<()>)>,
}

impl Gateway {
    /// Says that traffic may come.
    pub(crate) fn announce_ready(&self) {
        self.planes.is_ready.store(true, Ordering::Release);
        crate::service_manager::ready();
        let listeners = self.cores().map_or(0, |cores| cores.listeners().len());
        tracing::info!(target: log::LIFECYCLE, listeners, version = env!("CARGO_PKG_VERSION"), "headgate is ready");
        match headgate_net::memory::release_startup_code() {
            Ok(bytes) => tracing::debug!(bytes, "released the code of the start"),
            Err(error) => tracing::debug!(%error, "the code of the start stays in memory"),
        }
    }

    /// The data threads, when the stream plane is on.
    pub(crate) fn cores(&self) -> Option<&Cores> {
        self.stream.as_ref().map(|stream| &*stream.cores)
    }

    /// Opens all log files again under their names (rotation).
    pub(crate) fn reopen_logs(&self) {
        if let Err(error) = self.log.reopen() {
            tracing::error!(%error, "cannot open the log again; the old file stays in use");
        }
        if let Some(access) = self.stream.as_ref().and_then(|stream| stream.access.as_ref()) {
            access.reopen();
        }
    }

    /// Stops taking new sessions and waits until the old ones have ended, as `headgate.drain.stop`
    /// says. Another stop signal ends the wait.
    pub(crate) async fn drain(&self, signals: &mut Signals) {
        self.planes.is_ready.store(false, Ordering::Release);
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        if let Some(cores) = self.cores() {
            self.planes.listeners.close();
            // Whoever is in an accept queue becomes a session before anybody counts them.
            cores.settle().await;
        }
        let policy = self.settings.drain.stop;
        if let Some(cores) = self.cores() {
            cores.drain(&drain::order(&policy, Scope::All));
        }
        let limit = drain::longest(&policy);
        self.tell_drain(limit);
        let drained = async {
            while self.shared.is_serving() {
                tokio::time::sleep(DRAIN_CHECK).await;
            }
        };
        let interrupted = async {
            while !matches!(signals.next().await, Request::Stop | Request::GracefulStop) {}
        };
        tokio::select! {
            () = drained => {}
            () = interrupted => {}
            () = tokio::time::sleep(limit.unwrap_or(Duration::MAX)) => {}
        }
    }

    /// Says how many sessions are waited for, and for how long.
    pub(crate) fn tell_drain(&self, limit: Option<Duration>) {
        let sessions = self.shared.sessions.open();
        let limit = limit.map_or_else(|| "they end".to_owned(), |limit| format!("{limit:?}"));
        tracing::info!(target: log::LIFECYCLE, sessions, limit, "draining");
    }

    /// What a predecessor says that has ended, or is about to.
    pub(crate) fn take_news(&self, news: News) {
        match news {
            News::Counts(counts) => self.shared.stats.inherit(&counts),
            News::Gone => tracing::info!(target: log::LIFECYCLE, "the old process has ended"),
            News::Commit => {}
        }
    }

    /// Ends everything, writes what is left.
    pub(crate) async fn stop(self) {
        if !self.is_replaced {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        }
        self.planes.is_ready.store(false, Ordering::Release);
        self.stop_servers.cancel();
        self.servers.close();
        let Self { stream, servers, background, management, .. } = self;
        drop(management); // the last hold on the ports of its servers
        // An unfinished admin request must not keep the data threads running.
        let cores = stream.as_ref().map(|stream| Arc::clone(&stream.cores));
        let stopped = tokio::task::spawn_blocking(move || {
            if let Some(cores) = cores {
                cores.stop();
            }
        });
        let _ = tokio::join!(servers.wait(), stopped);
        background.stop().await; // plugins deliver what is left
        drop(stream); // the access log writes what is left
        tracing::info!(target: log::LIFECYCLE, "headgate has stopped");
    }
}
