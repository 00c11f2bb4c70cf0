//! A file that plugins follow while somebody uses it: it is looked at every second, and read again
//! when it has changed and then been left alone for a look. What cannot be read leaves what was
//! known in place.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::{ArcSwapOption, Guard};

use crate::plugin::{Build, Seen, seen};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What a file says.
pub(super) trait Content: fmt::Debug + Send + Sync + Sized + 'static {
    /// What such a file is called in messages, e.g. `an ip-set`.
    const WHAT: &'static str;

    /// Reads the file; it may take a while.
    ///
    /// # Errors
    /// What is wrong with it, with its path.
    fn read(path: &Path) -> Result<Self, String>;
}

/// A file and what it says.
#[derive(Debug)]
pub(super) struct Followed<T> {
    path: PathBuf,
    content: ArcSwapOption<T>,
    /// Whether it is followed: it was read once.
    is_open: Mutex<bool>,
}

impl<T: Content> Followed<T> {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, content: ArcSwapOption::empty(), is_open: Mutex::new(false) }
    }

    /// Reads the file for the first time, and again whenever it changes, until nobody uses it.
    ///
    /// # Errors
    /// It is not there, or not right. Whoever asked is built anew when it has changed.
    pub(super) fn open(file: &Arc<Self>, build: &Build<'_>) -> Result<(), String> {
        let mut is_open = file.is_open.lock().unwrap_or_else(PoisonError::into_inner);
        if !*is_open {
            let read = seen(&file.path);
            let content =
                T::read(&file.path).inspect_err(|_| build.await_file(file.path.clone(), read))?;
            file.content.store(Some(Arc::new(content)));
            let background = build.background();
            let follower = follow(Arc::downgrade(file), read, background.stopping());
            background.spawn(Box::pin(follower));
            *is_open = true;
        }
        Ok(())
    }

    /// What the file says now; something once it was opened.
    pub(super) fn content(&self) -> Guard<Option<Arc<T>>> {
        self.content.load()
    }

    fn refresh(&self) {
        match T::read(&self.path) {
            Ok(content) => {
                tracing::info!(path = %self.path.display(), "{} was read", T::WHAT);
                self.content.store(Some(Arc::new(content)));
            }
            Err(error) => {
                tracing::error!(%error, "{} cannot be read; it stays as it was", T::WHAT);
            }
        }
    }
}

async fn follow<T: Content>(
    file: Weak<Followed<T>>,
    mut taken: Seen,
    mut stopping: Pin<Box<dyn Future<Output = ()> + Send>>,
) {
    let mut before = taken;
    loop {
        tokio::select! {
            () = &mut stopping => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let Some(file) = file.upgrade() else { return };
        let now = seen(&file.path);
        let is_changed = now != taken && now == before; // and left alone since the last look
        before = now;
        if is_changed {
            taken = now;
            // Files may be large.
            let _ = tokio::task::spawn_blocking(move || file.refresh()).await;
        }
    }
}

/// Size of a file that may be read into memory.
///
/// # Errors
/// It is not there, or larger than `most` bytes.
pub(super) fn checked_size(path: &Path, most: u64) -> Result<(), String> {
    let shown = path.display();
    let size = fs::metadata(path).map_err(|error| format!("{shown}: {error}"))?.len();
    if size > most {
        return Err(format!("{shown}: {size} bytes are more than {most}"));
    }
    Ok(())
}
