//! A real PostgreSQL server with a cluster of its own.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::SOON;
use crate::port::Port;
use crate::process::{Finished, Process, need_below, run};
use crate::server::wait_ready;

/// Where Debian keeps the programs of each version.
const PROGRAMS: &str = "/usr/lib/postgresql";

/// A PostgreSQL server that lets everybody in, as [`Postgres::USER`].
#[derive(Debug)]
pub struct Postgres {
    addr: SocketAddr,
    server: PathBuf,
    client: PathBuf,
    owner: Option<(u32, u32)>,
    process: Option<Process>,
    folder: TempDir,
    _port: Port,
}

impl Postgres {
    /// The only account.
    pub const USER: &str = "gate";

    /// Starts a server.
    #[track_caller]
    #[must_use]
    pub fn start() -> Option<Self> {
        let make = need_below(PROGRAMS, "initdb", "postgresql")?;
        let server = need_below(PROGRAMS, "postgres", "postgresql")?;
        let client = need_below(PROGRAMS, "psql", "postgresql")?;
        let folder = TempDir::with_prefix("headgate-postgres-").expect("a temporary folder");
        // It refuses to run as root.
        let owner = is_root().then(unprivileged);
        if let Some((user, group)) = owner {
            chown(folder.path(), Some(user), Some(group)).expect("a folder of its own");
        }
        let port = Port::take();
        let mut postgres =
            Self { addr: port.local(), server, client, owner, process: None, folder, _port: port };
        let _ = run(
            postgres.command(&make).arg("-D").arg(postgres.data()).args([
                "--auth=trust",
                "--no-sync",
                "--locale=C",
                "--encoding=UTF8",
                "--username",
                Self::USER,
            ]),
            SOON * 6,
        )
        .success();
        postgres.start_again();
        Some(postgres)
    }

    /// Ends the server at once, as a crash would: clients are cut off, nothing is written.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal("QUIT");
            let _ = process.wait(SOON * 2);
        }
    }

    /// Starts it on the same port, after [`Postgres::kill`].
    #[track_caller]
    pub fn start_again(&mut self) {
        let mut command = self.command(&self.server);
        let _ = command.arg("-D").arg(self.data()).args(["-p", &self.addr.port().to_string()]);
        let folder = self.folder.path().display();
        for setting in [
            "listen_addresses=127.0.0.1".to_owned(),
            format!("unix_socket_directories={folder}"),
            "fsync=off".to_owned(),
            "shared_buffers=1MB".to_owned(),
            "max_connections=20".to_owned(),
            "log_connections=on".to_owned(),
        ] {
            let _ = command.args(["-c", &setting]);
        }
        let mut process = Process::spawn(&mut command);
        let ready = || self.query(self.addr, "SELECT 1").status.success();
        wait_ready("postgres", &mut process, ready);
        self.process = Some(process);
    }

    /// Where the server listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What the server has logged since it was started last.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.as_ref().map(|process| process.stderr.text()).unwrap_or_default()
    }

    /// Runs SQL with the real client, connected to `to`, and returns when it has ended.
    #[track_caller]
    #[must_use]
    pub fn query(&self, to: SocketAddr, sql: &str) -> Finished {
        let mut command = Command::new(&self.client);
        let _ = command
            .args(["--no-psqlrc", "--tuples-only", "--no-align", "--dbname=postgres"])
            .arg(format!("--host={}", to.ip()))
            .arg(format!("--port={}", to.port()))
            .arg(format!("--username={}", Self::USER))
            .args(["--command", sql])
            .env("PGCONNECT_TIMEOUT", "10")
            .env("PGSSLMODE", "disable");
        run(&mut command, SOON * 3)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A command that runs as the owner of the cluster.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        let _ = command.current_dir(self.folder.path()).env("LC_ALL", "C");
        if let Some((user, group)) = self.owner {
            let _ = command.uid(user).gid(group);
        }
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Its own processes must be gone before the folder is.
        self.kill();
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// User and group `postgres`, or `nobody`, of /etc/passwd.
fn unprivileged() -> (u32, u32) {
    let accounts = fs::read_to_string("/etc/passwd").expect("accounts");
    let numbers = |name: &str| {
        let line = accounts.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    ["postgres", "nobody"].into_iter().find_map(numbers).expect("an unprivileged account")
}
