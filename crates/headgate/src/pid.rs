//! The pid file, and signals to the process it names.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rustix::process::{Pid, kill_process, test_kill_process};

/// What a running headgate can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Stop now.
    Terminate,
    /// Stop when the sessions have ended.
    Quit,
    /// Read config.yaml again.
    Hangup,
    /// Hand over to a new process.
    Upgrade,
}

/// The process id in a pid file; `None` when there is no file.
///
/// # Errors
/// The file cannot be read or does not hold a process id.
pub fn read(file: &Path) -> io::Result<Option<i32>> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match text.trim().parse::<i32>() {
        Ok(pid) if pid > 1 => Ok(Some(pid)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it does not hold a process id")),
    }
}

/// Whether a process with that id exists.
#[must_use]
pub fn is_running(pid: i32) -> bool {
    Pid::from_raw(pid)
        .is_some_and(|pid| matches!(test_kill_process(pid), Ok(()) | Err(rustix::io::Errno::PERM)))
}

/// Sends a signal.
///
/// # Errors
/// The process does not exist or belongs to somebody else.
pub fn signal(pid: i32, signal: Signal) -> io::Result<()> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(kill_process(pid, kernel(signal))?)
}

/// The number that the kernel knows it by.
pub(crate) fn number(signal: Signal) -> i32 {
    kernel(signal).as_raw()
}

const fn kernel(signal: Signal) -> rustix::process::Signal {
    match signal {
        Signal::Terminate => rustix::process::Signal::TERM,
        Signal::Quit => rustix::process::Signal::QUIT,
        Signal::Hangup => rustix::process::Signal::HUP,
        Signal::Upgrade => rustix::process::Signal::USR2,
    }
}

/// The pid file of this process; removed when dropped.
#[derive(Debug)]
pub(crate) struct PidFile(PathBuf);

impl PidFile {
    /// Writes the file, unless another running process owns it.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        if let Ok(Some(other)) = read(path)
            && other != std::process::id().cast_signed()
            && is_running(other)
        {
            tracing::warn!(
                path = %path.display(), pid = other,
                "the pid file names a running process; it is overwritten"
            );
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = Self(path.to_owned());
        file.write()?;
        Ok(file)
    }

    /// Takes the file over from the process that this one succeeds.
    pub(crate) fn succeed(path: &Path) -> io::Result<Self> {
        let file = Self(path.to_owned());
        file.write()?;
        Ok(file)
    }

    /// Writes the number of this process. Whoever reads finds the old number or the new one, never
    /// an empty file.
    pub(crate) fn write(&self) -> io::Result<()> {
        let draft = self.0.with_extension("pid.new");
        let mut file = fs::File::create(&draft)?;
        writeln!(file, "{}", std::process::id())?;
        drop(file);
        fs::rename(&draft, &self.0).inspect_err(|_| drop(fs::remove_file(&draft)))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Only if it is still ours: a successor may have written its own.
        if matches!(read(&self.0), Ok(Some(pid)) if pid == std::process::id().cast_signed()) {
            let _ = fs::remove_file(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_read_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/headgate.pid");
        assert_eq!(read(&path).unwrap(), None);
        let file = PidFile::create(&path).unwrap();
        let pid = read(&path).unwrap().unwrap();
        assert!(is_running(pid));
        drop(file);
        assert_eq!(read(&path).unwrap(), None);
        fs::write(&path, "x").unwrap();
        assert!(read(&path).is_err());
    }
}
