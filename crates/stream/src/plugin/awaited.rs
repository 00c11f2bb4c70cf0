//! Files without which plugins could not be built: whoever compiles routes looks for them, and
//! compiles again when one has come.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// What tells one state of a file from another; `None` for a file that is not there.
pub(crate) type Seen = Option<(SystemTime, u64)>;

/// The state of a file now.
pub(crate) fn seen(path: &Path) -> Seen {
    let about = fs::metadata(path).ok()?;
    Some((about.modified().ok()?, about.len()))
}

/// The files that the last compilation missed.
#[derive(Debug, Default)]
pub struct Awaited(Mutex<BTreeMap<PathBuf, Looks>>);

#[derive(Debug, Clone, Copy)]
struct Looks {
    /// When it could not be used.
    failed: Seen,
    last: Seen,
}

impl Awaited {
    /// A file could not be used in that state.
    pub(super) fn add(&self, path: PathBuf, failed: Seen) {
        self.all().insert(path, Looks { failed, last: failed });
    }

    /// Routes are about to be compiled: what they miss will be added again.
    pub(crate) fn clear(&self) {
        self.all().clear();
    }

    /// A file that is another than the one which could not be used, and was left alone since the
    /// last call.
    pub fn changed(&self) -> Option<PathBuf> {
        let mut changed = None;
        for (path, looks) in self.all().iter_mut() {
            let now = seen(path);
            if now.is_some() && now != looks.failed && now == looks.last {
                changed = Some(path.clone());
            }
            looks.last = now;
        }
        changed
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Looks>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_counts_when_it_is_left_alone() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("file");
        let awaited = Awaited::default();
        awaited.add(path.clone(), seen(&path));
        assert_eq!((awaited.changed(), awaited.changed()), (None, None), "it is not there");
        fs::write(&path, "half").unwrap();
        assert_eq!(awaited.changed(), None, "it may still be written");
        fs::write(&path, "the whole").unwrap();
        assert_eq!(awaited.changed(), None);
        assert_eq!(awaited.changed().as_ref(), Some(&path));
        // It was not right, so nothing more is said until it is another one.
        awaited.add(path.clone(), seen(&path));
        assert_eq!((awaited.changed(), awaited.changed()), (None, None));
        awaited.clear();
        fs::write(&path, "right").unwrap();
        assert_eq!((awaited.changed(), awaited.changed()), (None, None));
    }
}
