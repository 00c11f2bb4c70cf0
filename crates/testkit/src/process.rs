//! Programs that tests run: found, started, signalled and ended by process id.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::log::Log;
use crate::wait;

/// A running program whose output is collected. Killed and reaped when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Standard output.
    pub stdout: Log,
    /// Standard error.
    pub stderr: Log,
}

/// How a finished program ended and what it printed.
#[derive(Debug)]
pub struct Finished {
    /// Exit status.
    pub status: ExitStatus,
    /// Standard output, without the last line break.
    pub stdout: String,
    /// Standard error, without the last line break.
    pub stderr: String,
}

impl Finished {
    /// The exit code; `None` when a signal ended it.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Both streams, for messages.
    #[must_use]
    pub fn output(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }

    /// Panics unless it ended with 0.
    #[track_caller]
    #[must_use]
    pub fn success(self) -> Self {
        assert!(self.status.success(), "{} with output:\n{}", self.status, self.output());
        self
    }
}

impl Process {
    /// Starts `command` with its output collected and no standard input.
    #[track_caller]
    pub fn spawn(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let stdout = Log::collect(child.stdout.take().expect("piped"));
        let stderr = Log::collect(child.stderr.take().expect("piped"));
        Self { child, stdout, stderr }
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, given by name without `SIG`.
    pub fn signal(&self, name: &str) {
        signal(self.id(), name);
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("own child")
    }

    /// Waits for its end; `None` at the deadline.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let status = wait::try_until(limit, || self.ended())?;
        self.stdout.wait_end(Duration::from_secs(2));
        self.stderr.wait_end(Duration::from_secs(2));
        Some(status)
    }

    /// Kills it and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.wait(Duration::from_secs(10));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `command` to its end; panics at the deadline.
#[track_caller]
pub fn run(command: &mut Command, limit: Duration) -> Finished {
    let mut process = Process::spawn(command);
    match process.wait(limit) {
        Some(status) => {
            Finished { status, stdout: process.stdout.text(), stderr: process.stderr.text() }
        }
        None => panic!(
            "{command:?} still runs after {limit:?}; it printed:\n{}\n{}",
            process.stdout.text(),
            process.stderr.text()
        ),
    }
}

/// Sends the signal `name` (without `SIG`) to a process.
pub fn signal(id: u32, name: &str) {
    let status = Command::new("kill")
        .args([OsStr::new("-s"), OsStr::new(name), OsStr::new(&id.to_string())])
        .stderr(Stdio::null())
        .status();
    assert!(status.is_ok(), "the command `kill` does not run: {status:?}");
}

/// Finds a program in `PATH` and the `sbin` directories.
#[must_use]
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| is_program(candidate))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Finds a program that a test cannot do without. When it is missing: `None`, after saying so, if
/// `HEADGATE_SKIP_MISSING=1`, and a panic that names the package otherwise.
#[track_caller]
#[must_use]
pub fn need(name: &str, package: &str) -> Option<PathBuf> {
    let found = find(name);
    if found.is_none() {
        let skip = std::env::var_os("HEADGATE_SKIP_MISSING").is_some_and(|value| value == "1");
        assert!(
            skip,
            "`{name}` is not installed: apt-get install --no-install-recommends {package} \
             (scripts/test.sh does it as root; HEADGATE_SKIP_MISSING=1 skips the test)"
        );
        report(&format!("SKIPPED: `{name}` of package {package} is not installed"));
    }
    found
}

/// The same for a program that is not in `PATH` but in a folder `*/bin` below `root`, of the
/// newest version if there are several.
#[track_caller]
#[must_use]
pub fn need_below(root: &str, name: &str, package: &str) -> Option<PathBuf> {
    let versions = std::fs::read_dir(root).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions
        .map(|version| version.path().join("bin").join(name))
        .filter(|program| is_program(program))
        .collect();
    found.sort_by_key(|program| (program.as_os_str().len(), program.clone()));
    found.pop().or_else(|| need(name, package))
}

/// What `scripts/test.sh` installs out of the Python registry: an interpreter and the folder of the
/// packages. `None`, after saying so, when that folder is not there.
#[must_use]
pub fn python_packages() -> Option<(PathBuf, PathBuf)> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    let place = workspace.join(target).join("python");
    if place.join("complete").is_file() {
        return Some((place.join("python3"), place.join("packages")));
    }
    report(&format!("SKIPPED: no {} (scripts/test.sh --install-only makes it)", place.display()));
    None
}

/// The same for a library below `/usr/lib/*/*` that a program loads.
#[track_caller]
#[must_use]
pub fn need_library(name: &str, package: &str) -> Option<PathBuf> {
    let folders = |path: &Path| {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect::<Vec<_>>()
    };
    let mut all = folders(Path::new("/usr/lib")).into_iter().flat_map(|path| folders(&path));
    let found = all.find_map(|path| Some(path.join(name)).filter(|path| path.is_file()));
    found.or_else(|| need(name, package))
}

/// Prints a line for the reader of a test's output.
pub fn report(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_code_are_kept() {
        let done = run(
            Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]),
            Duration::from_secs(5),
        );
        assert_eq!(
            (done.code(), &*done.stdout, &*done.stderr),
            (Some(3), "out", "err"),
            "{done:?}"
        );
    }

    #[test]
    fn signals_reach_the_process() {
        let mut process =
            Process::spawn(Command::new("sh").args([
                "-c",
                "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.02; done",
            ]));
        let start = process.stdout.start();
        process.stdout.wait_after(start, "up", Duration::from_secs(5));
        process.signal("TERM");
        assert_eq!(process.wait(Duration::from_secs(5)).and_then(|s| s.code()), Some(0));
        assert!(process.stdout.text().ends_with("bye"));
    }
}
