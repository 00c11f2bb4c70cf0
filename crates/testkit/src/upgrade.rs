//! Upgrades of a gateway under test: the process that serves afterwards is not a child of the test,
//! and only the pid file tells which it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::{Finished, run, signal};
use crate::{Gateway, SOON, wait};

/// Longest time of `headgate upgrade` on a loaded machine.
const UPGRADE: Duration = Duration::from_secs(60);

impl Gateway {
    /// The process that the pid file names; `None` while there is no file.
    ///
    /// # Panics
    /// The file is there and holds no number.
    #[must_use]
    pub fn serving_id(&self) -> Option<u32> {
        let text = fs::read_to_string(self.folder().join("logs/headgate.pid")).ok()?;
        Some(text.trim().parse().unwrap_or_else(|_| panic!("the pid file holds {text:?}")))
    }

    /// Runs `headgate upgrade` of `binary` to its end.
    #[must_use]
    pub fn upgrade(&self, binary: &str, more: &[&str]) -> Finished {
        let mut command = Command::new(binary);
        command.arg("upgrade").arg("-c").arg(self.config_path()).args(more);
        command.current_dir(self.folder());
        run(&mut command, UPGRADE)
    }

    /// Sends a signal to the process that serves.
    pub fn signal_serving(&self, name: &str) {
        signal(self.serving_id().expect("a pid file"), name);
    }

    /// Ends successors, those that only drain among them, and waits until they are gone.
    pub(crate) fn end_successors(&self) {
        if !self.folder().join("logs/headgate.pid.upgrade").exists() {
            return;
        }
        for name in ["TERM", "KILL"] {
            own(self.folder()).into_iter().for_each(|id| signal(id, name));
            let gone = || own(self.folder()).is_empty().then_some(());
            if wait::try_until(SOON, gone).is_some() {
                return;
            }
        }
    }
}

/// Processes that work in the folder of a gateway: nobody else does.
fn own(folder: &Path) -> Vec<u32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|id| is_own(*id, folder)).collect()
}

fn is_own(id: u32, folder: &Path) -> bool {
    let at: Option<PathBuf> = fs::read_link(format!("/proc/{id}/cwd")).ok();
    at.is_some_and(|at| fs::canonicalize(folder).is_ok_and(|folder| at == folder))
}

/// Whether a process runs, and is no zombie.
#[must_use]
pub fn is_alive(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}
