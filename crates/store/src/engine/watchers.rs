//! Who follows the changes.

use tokio::sync::mpsc::{self, Sender};

use crate::{Change, Watch, WatchError};

/// Batches a reader may be behind before it is cut off.
const BACKLOG: usize = 256;

/// The open watches.
#[derive(Default)]
pub(crate) struct Watchers(Vec<Sender<Result<Vec<Change>, WatchError>>>);

impl Watchers {
    /// A watch that starts with `replay` and receives what is sent from now on.
    pub(crate) fn add(&mut self, replay: Vec<Change>) -> Watch {
        // One place more than the backlog: the last one is for the error that ends the watch.
        let (sender, watch) = mpsc::channel(BACKLOG + 1);
        if !replay.is_empty() {
            let _ = sender.try_send(Ok(replay));
        }
        self.0.retain(|sender| !sender.is_closed());
        self.0.push(sender);
        watch
    }

    /// A watch that only says why it is none.
    pub(crate) fn refuse(error: WatchError) -> Watch {
        let (sender, watch) = mpsc::channel(1);
        let _ = sender.try_send(Err(error));
        watch
    }

    /// Hands a batch to every reader; a reader whose backlog is full is told so and cut off.
    pub(crate) fn send(&mut self, changes: &[Change]) {
        self.0.retain(|sender| {
            if sender.capacity() > 1 {
                return sender.try_send(Ok(changes.to_vec())).is_ok();
            }
            let _ = sender.try_send(Err(WatchError::Lost("the reader is too slow".to_owned())));
            false
        });
    }

    /// Ends every watch.
    pub(crate) fn close(&mut self, reason: &str) {
        for sender in self.0.drain(..) {
            let _ = sender.try_send(Err(WatchError::Lost(reason.to_owned())));
        }
    }
}
