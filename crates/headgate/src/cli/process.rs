//! `headgate stop`, `quit` and `reload`: signals to the process that the pid file names.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::pid::{self, Signal};
use anyhow::{Context as _, bail};
use headgate_model::settings::Loaded;

use super::test;
use crate::console;

/// How long `stop` waits; also what `quit` adds to the time that connections get.
const PATIENCE: Duration = Duration::from_secs(10);
pub(super) const POLL: Duration = Duration::from_millis(20);

/// Ends the running gateway at once.
pub(super) fn stop(file: &Path) -> anyhow::Result<()> {
    let running = Running::find(&crate::load(file))?;
    running.send(Signal::Terminate)?;
    running.wait_end(PATIENCE)
}

/// Ends the running gateway when its connections have finished.
pub(super) fn quit(file: &Path) -> anyhow::Result<()> {
    let loaded = crate::load(file);
    let running = Running::find(&loaded)?;
    let limit = loaded.settings.map(|settings| settings.process.shutdown_timeout);
    let limit = limit.unwrap_or_default();
    running.send(Signal::Quit)?;
    console::out(&format!(
        "process {} takes no new connections; the open ones have {} s to finish",
        running.pid,
        limit.as_secs()
    ));
    running.wait_end(limit + PATIENCE)
}

/// Makes the running gateway read its configuration again, if the new one passes the test.
pub(super) fn reload(file: &Path) -> anyhow::Result<()> {
    let loaded = crate::load(file);
    test::print(&loaded);
    if loaded.settings.is_none() {
        bail!("configuration test failed; the running gateway keeps its configuration");
    }
    let running = Running::find(&loaded)?;
    running.send(Signal::Hangup)?;
    console::out(&format!(
        "process {} reads {} again; its log tells what it cannot apply",
        running.pid,
        file.display()
    ));
    Ok(())
}

/// The process that a pid file names.
pub(super) struct Running {
    pub(super) pid: i32,
}

impl Running {
    /// Finds it by the configuration it was started with.
    pub(super) fn find(loaded: &Loaded) -> anyhow::Result<Self> {
        let Some(settings) = &loaded.settings else {
            test::print(loaded);
            bail!("the configuration is broken, so the pid file is unknown; mend it, or use kill");
        };
        let file = &settings.process.pid_file;
        let shown = file.display();
        match pid::read(file).with_context(|| format!("reading the pid file {shown}"))? {
            None => bail!("not running: there is no process id in {shown}"),
            Some(pid) if !is_alive(pid) => {
                bail!("not running: process {pid} in {shown} does not exist any more")
            }
            // After a reboot the number may belong to anybody.
            Some(pid) if program(pid) != program(own_pid()) => {
                bail!("not running: process {pid} in {shown} is another program now")
            }
            Some(pid) => Ok(Self { pid }),
        }
    }

    /// Whether the process does something of its own when it gets the signal (proc(5), `SigCgt`).
    pub(super) fn catches(&self, signal: Signal) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid));
        let status = status.unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        caught.is_some_and(|mask| mask >> (pid::number(signal) - 1) & 1 == 1)
    }

    pub(super) fn send(&self, signal: Signal) -> anyhow::Result<()> {
        pid::signal(self.pid, signal).with_context(|| format!("signalling process {}", self.pid))
    }

    fn wait_end(&self, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        while is_alive(self.pid) {
            if Instant::now() >= deadline {
                bail!("process {} still runs after {} s", self.pid, limit.as_secs());
            }
            std::thread::sleep(POLL);
        }
        console::out(&format!("process {} has ended", self.pid));
        Ok(())
    }
}

/// Whether the process runs. One that has ended but whose parent has not noticed yet does not.
pub(super) fn is_alive(pid: i32) -> bool {
    pid::is_running(pid) && !is_zombie(pid)
}

/// Name of the program that a process runs.
fn program(pid: i32) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()
}

fn own_pid() -> i32 {
    std::process::id().cast_signed()
}

fn is_zombie(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name, which is in parentheses and may hold anything.
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_was_not_waited_for_has_ended() {
        assert!(!is_zombie(own_pid()));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_zombie(pid) {
            assert!(Instant::now() < deadline);
            std::thread::sleep(POLL);
        }
        child.wait().unwrap();
        assert!(!is_zombie(pid));
    }

    #[test]
    fn only_the_same_program_is_signalled() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.yaml");
        std::fs::write(&file, "").unwrap();
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        std::fs::create_dir(folder.path().join("logs")).unwrap();
        let pid_file = folder.path().join("logs/headgate.pid");
        std::fs::write(&pid_file, format!("{}\n", other.id())).unwrap();
        let refused = stop(&file).unwrap_err().to_string();
        assert!(refused.contains("another program"), "{refused}");
        assert!(other.try_wait().unwrap().is_none(), "it was signalled");
        other.kill().unwrap();
        other.wait().unwrap();
        let refused = stop(&file).unwrap_err().to_string();
        assert!(refused.contains("does not exist any more"), "{refused}");
        std::fs::remove_file(&pid_file).unwrap();
        let refused = stop(&file).unwrap_err().to_string();
        assert!(refused.contains("no process id"), "{refused}");
    }
}
