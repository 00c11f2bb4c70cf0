//! Resources out of `apisix.yaml` or `apisix.json`, read again when the file changes.
//!
//! The file is looked at once a second, as the reference does, by name and not by descriptor: that
//! also sees a symbolic link that points elsewhere now (a Kubernetes ConfigMap). A file that cannot
//! be used changes nothing.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use aws_lc_rs::digest::{self, Digest};
use headgate_model::check::CheckerFor;
use headgate_model::problem::Place;
use headgate_model::settings::FileSettings;
use headgate_model::standalone::{self, Standalone};
use headgate_model::{Problem, Severity, plugin_list};
use serde_json::Value;
use tracing::{error, warn};

use crate::{
    Health, HistoryEntry, Loaded, Revision, Store, StoreError, Stored, Watch, Whole, WholeItem,
    WriteOptions, Written,
};

/// How often the file is looked at.
const POLL: Duration = Duration::from_secs(1);
/// A file changed so short before it was read may change again without a new time of change.
const RACY: Duration = Duration::from_secs(2);
/// A failure that lasts is told again after so long.
const REMINDER: Duration = Duration::from_secs(30);
/// Largest file that is read.
const MOST_BYTES: u64 = 256 << 20;

/// A store that follows a file.
#[derive(Debug)]
pub struct File {
    whole: Arc<Whole>,
    /// Dropped to end the thread.
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl File {
    /// Reads the file and follows it. A missing or broken file is no error: the store is empty, and
    /// says so in its health, until the file is there and can be used.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn follow(settings: FileSettings, checkers: CheckerFor) -> io::Result<Self> {
        let refusal = format!("resources come from the file {}", settings.path.display());
        let whole = Arc::new(Whole::new(refusal));
        let mut reader = Reader {
            whole: Arc::clone(&whole),
            settings,
            checkers,
            seen: None,
            content: None,
            failure: None,
        };
        reader.look(true);
        let (stop, stopped) = mpsc::sync_channel::<()>(0);
        let thread = thread::Builder::new().name("config-file".into()).spawn(move || {
            while stopped.recv_timeout(POLL) == Err(RecvTimeoutError::Timeout) {
                reader.look(false);
            }
        })?;
        Ok(Self { whole, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Which file was read and in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    file: (u64, u64),
    changed: (i64, i64),
    modified: (i64, i64),
    size: u64,
}

impl Seen {
    fn of(meta: &Metadata) -> Self {
        Self {
            file: (meta.dev(), meta.ino()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            modified: (meta.mtime(), meta.mtime_nsec()),
            size: meta.size(),
        }
    }

    fn is_racy(self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let changed = Duration::from_secs(u64::try_from(self.changed.0).unwrap_or_default());
        now.saturating_sub(changed) < RACY
    }
}

/// Reads the file when it has changed.
struct Reader {
    whole: Arc<Whole>,
    settings: FileSettings,
    checkers: CheckerFor,
    /// The file as it was read last; `None` makes the next look read it in any case.
    seen: Option<Seen>,
    /// Digest of its text, to tell a rewritten file from a changed one.
    content: Option<Digest>,
    /// The last failure, and when it was told.
    failure: Option<(String, Instant)>,
}

impl Reader {
    fn look(&mut self, first: bool) {
        let path = self.settings.path.clone();
        let shown = path.display();
        let seen = match fs::metadata(&path) {
            Ok(meta) if meta.is_file() => Seen::of(&meta),
            Ok(_) => {
                return self.fail(format!("failed to fetch {shown} attributes: not a file"), None);
            }
            Err(error) => {
                self.seen = None;
                return self.fail(format!("failed to fetch {shown} attributes: {error}"), None);
            }
        };
        if self.seen == Some(seen) {
            return;
        }
        let text = match read(&path) {
            Ok(text) => text,
            Err(error) => {
                return self.fail(format!("failed to read local file {shown}: {error}"), None);
            }
        };
        self.seen = Some(seen).filter(|seen| !seen.is_racy());
        let content = digest::digest(&digest::SHA256, text.as_bytes());
        if self.content.as_ref().is_some_and(|old| old.as_ref() == content.as_ref()) {
            return;
        }
        let result = self.apply(&text);
        self.content = Some(content);
        match result {
            Ok(()) => {
                self.failure = None;
                if !first {
                    warn!("config file {shown} reloaded.");
                }
            }
            Err(problem) => {
                let at = problem.place.as_ref().map(position).unwrap_or_default();
                let line =
                    format!("failed to parse the content of file {shown}: {}{at}", problem.message);
                self.fail(line, Some(*problem));
            }
        }
    }

    fn apply(&self, text: &str) -> Result<(), Box<Problem>> {
        let (path, format) = (&self.settings.path, self.settings.format);
        let env = |name: &str| std::env::var(name).ok();
        let mut file = standalone::parse(text, path, format, &env)?;
        for problem in &file.problems {
            // With the reference's words, which begin the message.
            match problem.severity {
                Severity::Error => error!("{problem}"),
                Severity::Warning => warn!("{problem}"),
            }
        }
        let checker = (self.checkers)(file.plugins.as_ref());
        file.check(&checker, &mut |line, place| {
            error!("{line}{}", place.map(position).unwrap_or_default());
        });
        let Standalone { items, plugins, problems, .. } = file;
        if self.settings.strict
            && let Some(problem) =
                problems.iter().find(|problem| problem.severity == Severity::Error)
        {
            let message = format!("refused as a whole (strict): {}", problem.message);
            return Err(Box::new(Problem { message, ..problem.clone() }));
        }
        let items = items.into_iter().map(|item| WholeItem { key: item.key(), value: item.value });
        let plugins = plugins
            .map(|list| WholeItem { key: plugin_list::KEY.to_owned(), value: list.to_value() });
        self.whole.replace(items.chain(plugins).collect());
        self.whole.report(|health| {
            health.problems = problems;
            health.stale = None;
            health.confirmed = None;
        });
        Ok(())
    }

    /// Says what is wrong, once and then now and again; what was read before stays.
    fn fail(&mut self, line: String, problem: Option<Problem>) {
        let told = self.failure.as_ref().filter(|(told, _)| *told == line);
        if told.is_some_and(|(_, at)| at.elapsed() < REMINDER) {
            return;
        }
        error!("{line}");
        let (place, help) = match problem {
            Some(problem) => (problem.place, problem.help),
            None => (None, Some("write the file; it is looked for every second".to_owned())),
        };
        let subject = self.settings.path.display().to_string();
        let mut problem = Problem::error("standalone/file", subject, &line).at(place);
        problem.help = help;
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let since = since.map_or(0, |since| since.as_secs());
        self.whole.report(|health| {
            let since = health.stale.take().map_or(since, |stale| stale.since);
            health.stale = Some(crate::Stale { since, reason: line.clone() });
            health.confirmed = Some(since);
            // The problems of the content that is still served stay.
            health.problems.retain(|old| !old.code.starts_with("standalone/file"));
            health.problems.push(problem);
        });
        self.failure = Some((line, Instant::now()));
    }
}

fn position(place: &Place) -> String {
    format!(" ({}:{}:{})", place.file.display(), place.line, place.column)
}

fn read(path: &Path) -> io::Result<String> {
    let size = fs::metadata(path)?.len();
    if size > MOST_BYTES {
        return Err(io::Error::other(format!(
            "it has {size} bytes; at most {MOST_BYTES} are read"
        )));
    }
    fs::read_to_string(path)
}

#[async_trait]
impl Store for File {
    async fn load(&self) -> Result<Loaded, StoreError> {
        self.whole.load().await
    }
    async fn get(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        self.whole.get(key).await
    }
    async fn list(&self, prefix: &str) -> Result<Vec<Stored>, StoreError> {
        self.whole.list(prefix).await
    }
    async fn put(
        &self,
        key: &str,
        value: Value,
        options: WriteOptions,
    ) -> Result<Written, StoreError> {
        self.whole.put(key, value, options).await
    }
    async fn delete(
        &self,
        key: &str,
        options: WriteOptions,
    ) -> Result<Option<Written>, StoreError> {
        self.whole.delete(key, options).await
    }
    async fn next_id(&self) -> Result<Revision, StoreError> {
        self.whole.next_id().await
    }
    fn watch(&self, from: Revision) -> Watch {
        self.whole.watch(from)
    }
    async fn history(
        &self,
        key: Option<&str>,
        limit: usize,
    ) -> Result<Vec<HistoryEntry>, StoreError> {
        self.whole.history(key, limit).await
    }
    fn health(&self) -> Health {
        self.whole.health()
    }
}
