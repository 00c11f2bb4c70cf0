//! Starts a checker for every live upstream that has health checks, and stops it when no live
//! route uses the upstream any more. Runs on the control side.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::checker::{self, Probe, Target};
use super::grid::Grid;
use super::probe::{Prober, Way, to_knock_at};
use crate::Upstream;

/// The running checkers.
#[derive(Debug)]
pub struct Supervisor {
    prober: Arc<Prober>,
    checkers: HashMap<String, Running>,
    /// When checkers wake.
    grid: Grid,
    disabled: bool,
}

#[derive(Debug)]
struct Running {
    upstream: watch::Sender<Arc<Upstream>>,
    task: JoinHandle<()>,
}

impl Running {
    /// Whether it probes as `upstream` wants to be probed.
    fn checks_like(&self, upstream: &Upstream) -> bool {
        let old = self.upstream.borrow();
        old.checks() == upstream.checks() && old.probe_host() == upstream.probe_host()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
        self.upstream.borrow().plan.board.set_live(false);
    }
}

impl Supervisor {
    /// A supervisor without checkers. `disabled` (`disable_upstream_healthcheck`) keeps it so.
    #[must_use]
    pub fn new(trusted: Option<&std::path::Path>, disabled: bool) -> Self {
        let (prober, grid) = (Arc::new(Prober::new(trusted)), Grid::from(Instant::now()));
        Self { prober, checkers: HashMap::new(), grid, disabled }
    }

    /// Follows the list of live upstreams until its sender is gone.
    pub async fn follow(mut self, mut live: watch::Receiver<Vec<Arc<Upstream>>>) {
        loop {
            let upstreams = live.borrow_and_update().clone();
            self.take_over(&upstreams);
            drop(upstreams);
            if live.changed().await.is_err() {
                return;
            }
        }
    }

    /// Makes `upstreams` the watched ones. A checker whose checks have not changed goes on with
    /// the new nodes.
    fn take_over(&mut self, upstreams: &[Arc<Upstream>]) {
        let mut before = std::mem::take(&mut self.checkers);
        for upstream in upstreams.iter().filter(|upstream| upstream.wants_watching()) {
            let key = upstream.key();
            let running = match before.remove(key) {
                Some(running) if running.checks_like(upstream) => {
                    if !Arc::ptr_eq(&running.upstream.borrow(), upstream) {
                        running.upstream.send_replace(Arc::clone(upstream));
                    }
                    running
                }
                other => {
                    if let Some(old) = other {
                        self.release(key, old);
                    }
                    self.start(upstream)
                }
            };
            self.checkers.insert(key.to_owned(), running);
        }
        before.into_iter().for_each(|(key, running)| self.release(&key, running));
    }

    fn release(&self, key: &str, running: Running) {
        if let Some(checks) = running.upstream.borrow().checks().filter(|_| !self.disabled) {
            let kind = checks.active.kind.name();
            tracing::info!("try to release checker: {kind} for resource: /{key}");
        }
        drop(running);
    }

    fn start(&self, upstream: &Arc<Upstream>) -> Running {
        let checked = upstream.checks().is_some() && !self.disabled;
        if upstream.checks().is_some() && self.disabled {
            let upstream = upstream.key();
            tracing::info!(
                upstream,
                "healthchecker won't be created: disabled upstream healthcheck"
            );
        }
        if let Some(checks) = upstream.checks().filter(|_| checked) {
            let (kind, key, version) =
                (checks.active.kind.name(), upstream.key(), upstream.version);
            tracing::info!(
                "create new checker: {kind} for resource: /{key} and version: {version}"
            );
        }
        upstream.plan.board.set_live(checked);
        let (sender, receiver) = watch::channel(Arc::clone(upstream));
        let prober = Arc::clone(&self.prober);
        let probe = move |target: Target| {
            let (upstream, from_anywhere) = (&target.upstream, target.upstream.sources().is_none());
            let active = upstream.checks().map(|it| &it.active).filter(|_| from_anywhere);
            if let Some(address) = active.and_then(|active| to_knock_at(active, &target.endpoint)) {
                return Probe::Knock(address);
            }
            let prober = Arc::clone(&prober);
            Probe::Ask(async move {
                let Target { endpoint, upstream } = target;
                let checks = upstream.checks()?;
                let way = Way { host: upstream.probe_host(), sources: upstream.sources() };
                prober.probe(&checks.active, &endpoint, way).await
            })
        };
        let task = tokio::spawn(checker::run(receiver, probe, self.grid, checked));
        Running { upstream: sender, task }
    }
}
