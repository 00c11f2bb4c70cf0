//! The running planes as the admin side sees them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use headgate_admin::Live;
use headgate_model::listen::ListenerSpec;
use headgate_model::{Problem, ResourceSet};

use crate::cores::Cores;
use crate::reconcile::Published;

/// Longest wait of an Admin API answer for its change to be served.
const APPLY_LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Planes {
    pub(crate) published: Arc<Published>,
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

    fn ready(&self) -> Result<(), String> {
        if self.is_ready.load(Ordering::Acquire) { Ok(()) } else { Err("not ready".to_owned()) }
    }
}
