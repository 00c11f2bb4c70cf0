//! How far an upgrade is, for `headgate upgrade`: files beside the pid file. The command leaves a
//! request there before it sends the signal, and reads what the process writes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use headgate_telemetry::log::LIFECYCLE;
use serde::{Deserialize, Serialize};

/// Largest request.
const LARGEST: u64 = 16 << 10;
/// Time that a new process has until it serves.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(60);

/// What `headgate upgrade` asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Tells this request from earlier ones.
    pub(crate) id: String,
    /// The program to start in place of the one that runs.
    pub(crate) binary: Option<PathBuf>,
    /// Seconds until the new process must serve.
    pub(crate) seconds: u64,
}

impl Default for Request {
    fn default() -> Self {
        Self { id: String::new(), binary: None, seconds: START_LIMIT.as_secs() }
    }
}

impl Request {
    /// Leaves the request for the process that has `pid_file`.
    pub(crate) fn leave(&self, pid_file: &Path) -> io::Result<()> {
        let path = beside(pid_file, "upgrade-request");
        let _ = fs::remove_file(&path);
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o644).open(&path)?;
        file.write_all(&serde_json::to_vec(self)?)
    }

    /// Takes a request that was left; `None` if there is none, as when somebody sent the signal.
    ///
    /// # Errors
    /// It cannot be read, or somebody else may have written it.
    pub(super) fn take(pid_file: &Path) -> io::Result<Option<Self>> {
        let path = beside(pid_file, "upgrade-request");
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let _ = fs::remove_file(&path);
        let facts = file.metadata()?;
        let own = rustix::process::geteuid().as_raw();
        // Whoever writes it chooses what this process runs.
        if ![0, own].contains(&facts.uid()) || facts.mode() & 0o022 != 0 {
            let text = format!("{} may have been written by somebody else", path.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        let mut text = Vec::new();
        file.take(LARGEST).read_to_end(&mut text)?;
        Ok(Some(serde_json::from_slice(&text)?))
    }
}

/// Where an upgrade is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    Running,
    Done,
    Failed,
}

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) id: String,
    pub(crate) state: State,
    pub(crate) text: String,
}

/// What was written so far about the request `id`.
pub(crate) fn read(pid_file: &Path, id: &str) -> Vec<Line> {
    let text = fs::read_to_string(beside(pid_file, "upgrade")).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| text.get(..end).unwrap_or_default());
    let lines = whole.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    lines.filter(|line| line.id == id).collect()
}

/// Writes lines, to the file and to the log.
#[derive(Debug)]
pub(super) struct Progress {
    id: String,
    file: Option<File>,
}

impl Progress {
    pub(super) fn begin(pid_file: &Path, id: &str) -> Self {
        let path = beside(pid_file, "upgrade");
        let _ = fs::remove_file(&path);
        let mut options = OpenOptions::new();
        let file = options.append(true).create_new(true).mode(0o644).open(&path);
        let file = file.inspect_err(|error| {
            let path = path.display();
            tracing::warn!(%path, %error, "`headgate upgrade` will not see how the upgrade goes");
        });
        Self { id: id.to_owned(), file: file.ok() }
    }

    pub(super) fn say(&mut self, state: State, text: &str) {
        match state {
            State::Failed => tracing::error!("{text}"),
            State::Running | State::Done => tracing::info!(target: LIFECYCLE, "{text}"),
        }
        crate::service_manager::status(text);
        let line = Line { id: self.id.clone(), state, text: text.to_owned() };
        if let (Some(file), Ok(mut line)) = (&mut self.file, serde_json::to_vec(&line)) {
            line.push(b'\n');
            let _ = file.write_all(&line);
        }
    }
}

fn beside(pid_file: &Path, ending: &str) -> PathBuf {
    let mut name = pid_file.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_request_is_taken_once_and_only_from_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let pid_file = folder.path().join("headgate.pid");
        assert_eq!(Request::take(&pid_file).unwrap(), None);
        let request = Request { id: "1".into(), binary: Some("/x".into()), seconds: 3 };
        request.leave(&pid_file).unwrap();
        request.leave(&pid_file).unwrap();
        assert_eq!(Request::take(&pid_file).unwrap(), Some(request.clone()));
        assert_eq!(Request::take(&pid_file).unwrap(), None);
        request.leave(&pid_file).unwrap();
        let path = beside(&pid_file, "upgrade-request");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let refused = Request::take(&pid_file).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(Request::take(&pid_file).unwrap(), None);
    }

    #[test]
    fn only_lines_of_the_request_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let pid_file = folder.path().join("headgate.pid");
        Progress::begin(&pid_file, "old").say(State::Done, "long ago");
        assert_eq!(read(&pid_file, "new"), []);
        let mut progress = Progress::begin(&pid_file, "new");
        progress.say(State::Running, "one");
        progress.say(State::Failed, "two");
        let lines = read(&pid_file, "new");
        let seen: Vec<_> = lines.iter().map(|line| (line.state, line.text.as_str())).collect();
        assert_eq!(seen, [(State::Running, "one"), (State::Failed, "two")]);
    }
}
