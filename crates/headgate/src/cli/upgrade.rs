//! `headgate upgrade`: asks the running process to hand over to a new one, and follows how that
//! goes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::process::{POLL, Running, is_alive};
use super::test;
use crate::console;
use crate::pid::Signal;
use crate::upgrade::progress::{self, Request, State};

/// Time until the running process must say something.
const FIRST_WORD: Duration = Duration::from_secs(5);
/// What the command waits longer than the process does.
const MARGIN: Duration = Duration::from_secs(30);

/// Asks for an upgrade and prints what happens.
pub(super) fn run(file: &Path, binary: Option<PathBuf>, seconds: u64) -> anyhow::Result<()> {
    let loaded = crate::load(file);
    test::print(&loaded);
    let Some(settings) = &loaded.settings else {
        bail!("configuration test failed; the running gateway goes on as it is");
    };
    let binary = match binary {
        Some(path) => {
            let found = std::fs::canonicalize(&path);
            Some(found.with_context(|| format!("--binary {}", path.display()))?)
        }
        None => None,
    };
    let running = Running::find(&loaded)?;
    if !running.catches(Signal::Upgrade) {
        bail!(
            "process {} knows no upgrade, the signal would end it; start the new version with \
             `headgate quit` and `headgate run`",
            running.pid
        );
    }
    let pid_file = &settings.process.pid_file;
    let id = format!("{:016x}", fastrand::u64(..));
    let request = Request { id: id.clone(), binary, seconds };
    request
        .leave(pid_file)
        .with_context(|| format!("leaving a request beside {}", pid_file.display()))?;
    running.send(Signal::Upgrade)?;
    follow(pid_file, &id, running.pid, Duration::from_secs(seconds) + MARGIN)
}

fn follow(pid_file: &Path, id: &str, pid: i32, limit: Duration) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut shown = 0;
    loop {
        let is_running = is_alive(pid);
        let lines = progress::read(pid_file, id);
        for line in lines.iter().skip(shown) {
            match line.state {
                State::Failed => bail!("{}", line.text),
                State::Running | State::Done => console::out(&line.text),
            }
            if line.state == State::Done {
                return Ok(());
            }
        }
        shown = lines.len();
        if !is_running {
            bail!("process {pid} has ended before the upgrade was done");
        }
        if shown == 0 && begun.elapsed() > FIRST_WORD {
            bail!("process {pid} does not say how the upgrade goes; its log does");
        }
        if begun.elapsed() > limit {
            bail!("process {pid} has not finished the upgrade after {} s", limit.as_secs());
        }
        std::thread::sleep(POLL);
    }
}
