//! One watch: follows etcd from a revision on, through lost connections, and notices when it is
//! told nothing although there is something to tell.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::client::Stream;
use super::mirror::{Comparison, Mirror};
use super::shared::{Shared, lock};
use super::wire::{self, WatchAnswer, prefix_range};
use crate::{Change, Revision, WatchError};

/// How often the revision of the cluster is asked for, and the limit for the answer.
const CHECK: Duration = Duration::from_secs(5);
const CHECK_LIMIT: Duration = Duration::from_secs(3);
/// How long changes may be on their way before the watch counts as silent.
const GRACE: Duration = Duration::from_secs(2);
/// Limit for the first answer to a watch.
const CREATE_LIMIT: Duration = Duration::from_secs(10);
/// First pause after a failure; it doubles up to `resync_delay`.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

pub(super) type Sender = mpsc::Sender<Result<Vec<Change>, WatchError>>;

pub(super) struct Follower {
    shared: Arc<Shared>,
    sender: Sender,
    /// Everything up to this revision was passed on.
    seen: Revision,
    /// The cluster had nothing else at this revision.
    known: Revision,
    /// After an outage, or a start from the local copy: the past may be another one, so everything
    /// is compared before it counts as up to date.
    is_unsure: bool,
    /// `None`: the watch does not continue a load, so there is nothing to compare.
    mirror: Option<Mirror>,
    /// Since when changes are missing, and what was seen then.
    missing: Option<(Revision, Instant)>,
}

/// Why a stream of a watch ended.
enum End {
    /// To be opened again.
    Failed(String),
    /// To be opened again without further ado.
    Quiet,
    /// The reader has to know.
    Told(WatchError),
}

impl Follower {
    pub(super) fn new(shared: Arc<Shared>, sender: Sender, from: Revision) -> Self {
        let mirror = lock(&shared.mirror).take_if(|(revision, _)| *revision == from);
        let mirror = mirror.map(|(_, mirror)| mirror);
        let is_unsure = !shared.has_loaded.load(Relaxed);
        Self { shared, sender, seen: from, known: from, is_unsure, mirror, missing: None }
    }

    /// Runs until the reader is gone, has to load anew, or the store is dropped.
    pub(super) async fn run(mut self, mut open: watch::Receiver<()>) {
        let sender = self.sender.clone();
        let error = tokio::select! {
            error = self.follow() => error,
            _ = open.changed() => WatchError::Lost("the store was closed".to_owned()),
            () = sender.closed() => return,
        };
        let _ = sender.try_send(Err(error));
    }

    async fn follow(&mut self) -> WatchError {
        let mut pause = FIRST_PAUSE;
        loop {
            let seen = self.seen;
            match self.stream().await {
                End::Told(error) => {
                    self.shared.report(|health| health.resyncs += 1);
                    return error;
                }
                End::Quiet => {}
                End::Failed(reason) => {
                    self.shared.is_stale(&reason);
                    self.is_unsure = true;
                    if self.seen > seen {
                        pause = FIRST_PAUSE;
                    }
                    sleep(pause + pause.mul_f64(fastrand::f64() / 2.0)).await;
                    pause = (pause * 2).min(self.shared.resync_delay).max(FIRST_PAUSE);
                }
            }
        }
    }

    /// Opens the watch and passes on what it says, until it ends.
    async fn stream(&mut self) -> End {
        let mut create = prefix_range(&format!("{}/", self.shared.prefix));
        create.insert("start_revision".to_owned(), (self.seen + 1).to_string().into());
        create.insert("progress_notify".to_owned(), true.into());
        let mut stream = match self.shared.client.open_watch(&json!(create)).await {
            Ok(stream) => stream,
            Err(error) => return End::Failed(error.to_string()),
        };
        match self.created(&mut stream).await {
            Ok(()) => {}
            Err(end) => return end,
        }
        if let Err(end) = self.check().await {
            return end;
        }
        if self.missing.is_none() {
            self.shared.agrees();
        }
        self.relay(&mut stream).await
    }

    async fn created(&mut self, stream: &mut Stream) -> Result<(), End> {
        let line = timeout(CREATE_LIMIT, stream.next()).await;
        let line =
            line.map_err(|_| End::Failed("the watch is not answered: timeout".to_owned()))?;
        let answer = parse(line)?;
        if answer.revision < self.seen {
            return Err(self.smaller(answer.revision));
        }
        // Nothing to continue from: what there is has to be loaded.
        if self.seen == 0 && !self.shared.has_loaded.load(Relaxed) && self.mirror.is_none() {
            return Err(End::Told(WatchError::Lost("etcd answers now".to_owned())));
        }
        self.take(answer)
    }

    async fn relay(&mut self, stream: &mut Stream) -> End {
        let mut check_at = Instant::now() + if self.missing.is_some() { GRACE } else { CHECK };
        let mut quiet_at = Instant::now() + self.shared.watch_timeout;
        loop {
            let result = tokio::select! {
                line = stream.next() => {
                    quiet_at = Instant::now() + self.shared.watch_timeout;
                    parse(line).and_then(|answer| self.take(answer))
                }
                () = sleep_until(check_at) => {
                    let result = self.check().await;
                    let pause = if self.missing.is_some() { GRACE } else { CHECK };
                    check_at = Instant::now() + pause;
                    if result.is_ok() && self.missing.is_none() {
                        self.shared.agrees();
                    }
                    result
                }
                () = sleep_until(quiet_at) => return End::Quiet,
            };
            if let Err(end) = result {
                return end;
            }
        }
    }

    /// Passes on one answer.
    fn take(&mut self, answer: WatchAnswer) -> Result<(), End> {
        if answer.compacted > 0 {
            let compacted = answer.compacted;
            tracing::warn!("etcd compacted, compact_revision={compacted}");
            return Err(End::Told(WatchError::Compacted(compacted.saturating_sub(1))));
        }
        if let Some(reason) = answer.canceled {
            return Err(End::Failed(format!("the watch was canceled: {reason}")));
        }
        let mut changes = Vec::new();
        let mut kept = Vec::new();
        for (found, is_delete) in answer.events {
            self.seen = self.seen.max(found.modified);
            let Some(key) = self.shared.own_key(&found.key) else { continue };
            let change = if is_delete {
                Change::Delete { key: key.to_owned(), revision: found.modified }
            } else {
                match found.parse(&self.shared.prefix) {
                    Ok(stored) => Change::Put(stored),
                    Err(reason) => {
                        tracing::error!(
                            "invalid item data of [{}], it should be an object: not JSON: {reason}",
                            found.key
                        );
                        if let Some(mirror) = &mut self.mirror {
                            mirror.put(key, found.modified);
                        }
                        // Null is no valid resource: the reader keeps what it had.
                        changes.push(Change::Put(crate::Stored {
                            key: key.to_owned(),
                            value: serde_json::Value::Null,
                            created: found.created,
                            modified: found.modified,
                        }));
                        continue;
                    }
                }
            };
            if let Some(mirror) = &mut self.mirror {
                match &change {
                    Change::Put(stored) => mirror.put(&stored.key, stored.modified),
                    Change::Delete { key, .. } => mirror.remove(key),
                }
            }
            kept.push(change.clone());
            changes.push(change);
        }
        self.known = self.known.max(self.seen);
        if changes.is_empty() {
            return Ok(());
        }
        // Only the watch that continues a load tells the copy; others read the past.
        if self.mirror.is_some()
            && let Some(cache) = &self.shared.cache
        {
            cache.apply(self.seen, &kept);
        }
        // One place is left for the error that ends the watch.
        if self.sender.capacity() > 1 {
            let _ = self.sender.try_send(Ok(changes));
            return Ok(());
        }
        Err(End::Told(WatchError::Lost("the reader is too slow".to_owned())))
    }

    /// Asks the cluster where it is, and if it has gone on, what it has.
    async fn check(&mut self) -> Result<(), End> {
        let failed = |error: crate::StoreError| End::Failed(error.to_string());
        let now = self.shared.revision(CHECK_LIMIT).await.map_err(failed)?;
        if now < self.seen {
            return Err(self.smaller(now));
        }
        if now <= self.known && !self.is_unsure {
            self.missing = None;
            return Ok(());
        }
        let Some(mirror) = &self.mirror else { return Ok(()) };
        let (revision, keys) = self.shared.keys().await.map_err(failed)?;
        match mirror.compare(keys.into_iter(), self.seen) {
            Comparison::Equal => {
                self.known = revision;
                self.is_unsure = false;
                self.missing = None;
                Ok(())
            }
            Comparison::Differs(reason) => Err(self.drift(&reason)),
            Comparison::Behind(count) => match self.missing {
                Some((seen, since)) if seen == self.seen && since.elapsed() >= GRACE => {
                    Err(self.drift(&format!("the watch is silent, {count} keys are behind")))
                }
                Some((seen, _)) if seen == self.seen => Ok(()),
                _ => {
                    self.missing = Some((self.seen, Instant::now()));
                    Ok(())
                }
            },
        }
    }

    fn drift(&self, reason: &str) -> End {
        self.shared.report(|health| health.drifts += 1);
        End::Told(WatchError::Lost(format!("what is served differs from etcd: {reason}")))
    }

    fn smaller(&self, revision: Revision) -> End {
        let message = format!(
            "received smaller revision, rev={revision}, etcd may be restarted. resyncing...."
        );
        End::Told(WatchError::Lost(message))
    }
}

fn parse(line: Result<Option<Vec<u8>>, String>) -> Result<WatchAnswer, End> {
    match line {
        Err(error) => Err(End::Failed(format!("the watch broke: {error}"))),
        Ok(None) => Err(End::Failed("the watch was closed by etcd".to_owned())),
        Ok(Some(line)) => {
            wire::watch_answer(&line).map_err(|error| End::Failed(format!("the watch: {error}")))
        }
    }
}
