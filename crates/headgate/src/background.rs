//! Work of plugins on the control threads.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use headgate_stream::plugin::Background;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long the work of plugins may go on after the last session has ended.
const LAST_MOMENT: Duration = Duration::from_secs(5);

/// The control threads as plugins see them.
#[derive(Debug, Clone)]
pub(crate) struct ControlThreads {
    runtime: Handle,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

impl ControlThreads {
    /// Those of the runtime that this is called on.
    pub(crate) fn current() -> Self {
        Self {
            runtime: Handle::current(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        }
    }

    /// Tells all tasks to end and waits a moment for them.
    pub(crate) async fn stop(&self) {
        self.stopping.cancel();
        self.tasks.close();
        if tokio::time::timeout(LAST_MOMENT, self.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.tasks.len(), "work of plugins was cut short by the stop");
        }
    }
}

impl Background for ControlThreads {
    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.tasks.spawn_on(task, &self.runtime);
    }

    fn stopping(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(self.stopping.clone().cancelled_owned())
    }
}
