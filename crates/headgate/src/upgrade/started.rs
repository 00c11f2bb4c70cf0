//! How this process was started, so that its successor is started the same way.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use super::FROM;

/// The program and its arguments.
#[derive(Debug)]
pub(crate) struct Started {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl Started {
    /// Call it before anything changes the working directory.
    pub(crate) fn now() -> Self {
        let mut arguments = std::env::args_os();
        let name = arguments.next().map(PathBuf::from);
        // The name as it was given: a link that is moved to another version leads to that one.
        let named = name.and_then(|name| find(&name));
        let program = named.or_else(|| std::env::current_exe().ok());
        Self { program: program.unwrap_or_default(), arguments: arguments.collect() }
    }

    /// The program that a successor runs.
    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    /// Starts a successor with one end of a channel as its standard input.
    pub(super) fn again(&self, program: &Path, channel: OwnedFd) -> std::io::Result<Child> {
        Command::new(program)
            .args(&self.arguments)
            .stdin(channel)
            .env(FROM, std::process::id().to_string())
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_FDNAMES")
            .spawn()
    }
}

/// The file that a shell would have run.
fn find(name: &Path) -> Option<PathBuf> {
    if name.components().count() > 1 {
        return std::env::current_dir().ok().map(|here| here.join(name)).filter(|it| it.is_file());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|it| it.is_file())
}
