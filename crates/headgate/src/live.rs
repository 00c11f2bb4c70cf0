//! The running planes as the admin side sees them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use headgate_admin::Live;
use headgate_model::listen::ListenerSpec;
use headgate_model::{Problem, ResourceSet};
use headgate_stream::{CloseReason, Shared};

use crate::cores::Cores;
use crate::reconcile::Published;

/// Longest wait of an Admin API answer for its change to be served.
const APPLY_LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Planes {
    pub(crate) published: Arc<Published>,
    pub(crate) shared: Arc<Shared>,
    /// `None`: the stream plane is off.
    pub(crate) cores: Option<Arc<Cores>>,
    pub(crate) is_ready: AtomicBool,
}

#[async_trait]
impl Live for Planes {
    fn stream_enabled(&self) -> bool {
        self.cores.is_some()
    }

    fn listeners(&self) -> Vec<ListenerSpec> {
        self.cores.as_ref().map(|cores| cores.listeners()).unwrap_or_default()
    }

    fn resources(&self) -> Arc<ResourceSet> {
        Arc::clone(&self.published.served.load().resources)
    }

    async fn applied(&self, revision: u64) -> bool {
        let mut seen = self.published.revision.subscribe();
        let wait = seen.wait_for(|seen| *seen >= revision);
        matches!(tokio::time::timeout(APPLY_LIMIT, wait).await, Ok(Ok(_)))
    }

    fn problems(&self) -> Vec<Problem> {
        self.published.served.load().problems.clone()
    }

    fn counters(&self) -> Vec<(String, u64)> {
        let stats = &self.shared.stats;
        let mut counters = vec![
            ("sessions_now".to_owned(), self.shared.sessions.open() as u64),
            ("tcp_accepted".to_owned(), stats.sum(|core| core.accepted.get())),
            ("udp_flows".to_owned(), stats.sum(|core| core.flows.get())),
            ("bytes_received".to_owned(), stats.sum(|core| core.bytes_received.get())),
            ("bytes_sent".to_owned(), stats.sum(|core| core.bytes_sent.get())),
            ("accept_paused".to_owned(), stats.sum(|core| core.accept_paused.get())),
            ("datagrams_dropped".to_owned(), stats.sum(|core| core.datagrams_dropped.get())),
            ("panics".to_owned(), stats.sum(|core| core.panics.get())),
        ];
        counters.extend(
            CloseReason::ALL
                .map(|reason| (format!("closed_{}", reason.code()), stats.closed(reason))),
        );
        counters
    }

    fn ready(&self) -> Result<(), String> {
        if self.is_ready.load(Ordering::Acquire) { Ok(()) } else { Err("not ready".to_owned()) }
    }
}
