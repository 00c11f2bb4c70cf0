//! The gateway under test: the built binary with a configuration of its own in a temporary folder.
//!
//! ```no_run
//! # use headgate_testkit::{Gateway, TcpPeer};
//! # use serde_json::json;
//! let gateway = Gateway::builder("target/debug/headgate").tcp(1).start();
//! let node = TcpPeer::named("a");
//! gateway.put("stream_routes/1", &json!({"upstream": {"nodes": {node.node(): 1}}})).ok();
//! assert_eq!(headgate_testkit::client::reach(gateway.tcp(0)).as_deref(), Some("a"));
//! ```

mod builder;
mod requests;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use tempfile::TempDir;

use crate::http;
use crate::log::{Log, Mark};
use crate::metrics::Metrics;
use crate::port::Port;
use crate::process::{Finished, Process};
use crate::{SOON, proc, wait};

use builder::Entry;
pub use builder::GatewayBuilder;

/// Key with full access to the Admin API of a gateway under test.
pub const ADMIN_KEY: &str = "testkit-admin-key-5f2d1c0b9a8e7f60";
/// Key that may only read.
pub const VIEWER_KEY: &str = "testkit-viewer-key-1a2b3c4d5e6f7081";
/// What the gateway logs when its listeners are bound.
pub const READY: &str = "headgate is ready";

/// A gateway that runs until this value is dropped.
#[derive(Debug)]
pub struct Gateway {
    builder: GatewayBuilder,
    folder: TempDir,
    process: Option<Process>,
    past: Vec<Log>,
    admin: SocketAddr,
    _admin_port: Port,
    metrics_port: Option<Port>,
    key: String,
}

impl Gateway {
    /// Starts the binary and waits until it is ready.
    #[track_caller]
    pub fn launch(&mut self) {
        self.spawn();
        let process = self.process.as_mut().expect("just started");
        let log = process.stderr.clone();
        let ready = log.try_wait_after(log.start(), READY, SOON * 2);
        if ready.is_none() {
            let ended = process.ended();
            panic!(
                "the gateway did not become ready (ended: {ended:?}); configuration:\n{}\nlog:\n{}",
                self.config(),
                log.text()
            );
        }
        if self.builder.admin_api {
            wait::until("the Admin API answers", SOON, || {
                http::request(self.admin, "HEAD", "/apisix/admin", &[], None, SOON).ok()
            });
        }
        for port in self.builder.tcp.iter().flat_map(|entry| &entry.ports) {
            assert!(
                self.builder.stream_mode.as_deref() == Some("http")
                    || !self.opens_listeners()
                    || proc::tcp_listens(port.number()),
                "ready, but nothing listens on {}",
                port.number()
            );
        }
    }

    fn opens_listeners(&self) -> bool {
        !self.builder.role.as_ref().is_some_and(|role| role.contains("role: control_plane"))
    }

    /// Starts the binary without waiting for anything.
    #[track_caller]
    pub fn spawn(&mut self) {
        assert!(self.process.is_none(), "already running");
        let mut command = match self.builder.limit {
            // `prlimit` replaces itself by the gateway, so the process id is the gateway's.
            Some(limit) => {
                let mut command = Command::new("prlimit");
                command.arg(format!("--nofile={limit}:{limit}")).arg(&self.builder.binary);
                command
            }
            None => Command::new(&self.builder.binary),
        };
        command.arg("run").arg("-c").arg(self.config_path()).current_dir(self.folder.path());
        command.envs(self.builder.environment.iter().map(|(name, value)| (name, value)));
        self.process = Some(Process::spawn(&mut command));
    }

    fn process(&self) -> &Process {
        self.process.as_ref().expect("the gateway runs")
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process().id()
    }

    /// What it printed on stderr since it was started last.
    #[must_use]
    pub fn log(&self) -> Log {
        self.process().stderr.clone()
    }

    /// Everything printed on stderr since the first start, over all restarts.
    #[must_use]
    pub fn everything_logged(&self) -> String {
        let running = self.process.as_ref().map(|process| &process.stderr);
        self.past.iter().chain(running).map(Log::text).collect::<Vec<_>>().join("\n")
    }

    /// Where the log ends now.
    #[must_use]
    pub fn mark(&self) -> Mark {
        self.log().mark()
    }

    /// Waits for a log line with `part`, from the start of the log.
    #[track_caller]
    pub fn wait_for_log(&self, part: &str, limit: Duration) -> String {
        let log = self.log();
        log.wait_after(log.start(), part, limit)
    }

    /// Waits for a log line with `part` after `mark`.
    #[track_caller]
    pub fn wait_for_log_after(&self, mark: Mark, part: &str) -> String {
        self.log().wait_after(mark, part, SOON)
    }

    /// Folder of everything that this gateway reads and writes.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Folder of the embedded store.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Path of `config.yaml`.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("conf/config.yaml")
    }

    /// Text of `config.yaml`.
    #[must_use]
    pub fn config(&self) -> String {
        fs::read_to_string(self.config_path()).expect("the configuration")
    }

    /// Replaces `config.yaml`.
    pub fn write_config(&self, yaml: &str) {
        fs::write(self.config_path(), yaml).expect("a configuration file");
    }

    /// Address of the metrics server.
    #[must_use]
    pub fn metrics_addr(&self) -> SocketAddr {
        self.metrics_port.as_ref().expect("a gateway with .metrics()").local()
    }

    /// One scrape.
    #[track_caller]
    #[must_use]
    pub fn scrape(&self) -> Metrics {
        let path = "/apisix/prometheus/metrics";
        let response = http::request(self.metrics_addr(), "GET", path, &[], None, SOON);
        let response = response.expect("an answer of the metrics server").expect(200);
        Metrics::parse(response.body)
    }

    /// Replaces a file below the folder in one step, as editors do.
    pub fn write_file(&self, path: &str, text: &str) {
        let path = self.folder.path().join(path);
        let draft = path.with_extension("new");
        fs::write(&draft, text).expect("a file");
        fs::rename(&draft, &path).expect("a file in its place");
    }

    /// Path of the access log.
    #[must_use]
    pub fn access_path(&self) -> PathBuf {
        self.folder.path().join("logs/access_stream.log")
    }

    /// Lines of the access log so far, without a last line that is still being written.
    #[must_use]
    pub fn access(&self) -> Vec<String> {
        let text = fs::read_to_string(self.access_path()).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(str::to_owned).collect()
    }

    /// Waits for an access log line that contains every one of `parts`.
    #[track_caller]
    pub fn wait_access(&self, parts: &[&str]) -> String {
        let found = wait::try_until(SOON, || {
            self.access().into_iter().find(|line| parts.iter().all(|part| line.contains(part)))
        });
        match found {
            Some(line) => line,
            None => panic!("no access log line with {parts:?}:\n{}", self.access().join("\n")),
        }
    }

    /// Address of TCP listener `index`, on 127.0.0.1; ranges count each port.
    #[must_use]
    pub fn tcp(&self, index: usize) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.tcp_port(index)).into()
    }

    /// Port of TCP listener `index`.
    #[must_use]
    pub fn tcp_port(&self, index: usize) -> u16 {
        nth_port(&self.builder.tcp, index)
    }

    /// Address of UDP listener `index`, on 127.0.0.1.
    #[must_use]
    pub fn udp(&self, index: usize) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.udp_port(index)).into()
    }

    /// Port of UDP listener `index`.
    #[must_use]
    pub fn udp_port(&self, index: usize) -> u16 {
        nth_port(&self.builder.udp, index)
    }

    /// Address of the Admin API.
    #[must_use]
    pub const fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Sends a signal, given by name without `SIG`.
    pub fn signal(&self, name: &str) {
        self.process().signal(name);
    }

    /// Waits for the end of the process; panics when it does not come. Afterwards the gateway may
    /// be started again with [`Gateway::launch`].
    #[track_caller]
    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        self.finished(limit).status
    }

    /// As [`Gateway::wait_exit`], with everything that was printed.
    #[track_caller]
    pub fn finished(&mut self, limit: Duration) -> Finished {
        let process = self.process.as_mut().expect("the gateway runs");
        let Some(status) = process.wait(limit) else {
            panic!("the gateway still runs after {limit:?}; log:\n{}", process.stderr.text());
        };
        let process = self.process.take().expect("the gateway ran");
        self.past.push(process.stderr.clone());
        Finished { status, stdout: process.stdout.text(), stderr: process.stderr.text() }
    }

    /// Ends the process with SIGTERM and waits.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait_exit(SOON)
    }

    /// Ends the process with SIGKILL and waits.
    #[track_caller]
    pub fn kill(&mut self) {
        self.signal("KILL");
        self.wait_exit(SOON);
    }

    /// Ends the process orderly and starts it again with the same data and ports.
    #[track_caller]
    pub fn restart(&mut self) {
        self.stop();
        self.launch();
    }
}

/// The full path of an Admin API request.
#[track_caller]
fn nth_port(entries: &[Entry], index: usize) -> u16 {
    entries
        .iter()
        .flat_map(|entry| &entry.ports)
        .nth(index)
        .map_or_else(|| panic!("no listener {index}"), Port::number)
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal("TERM");
            if process.wait(Duration::from_secs(5)).is_none() {
                process.kill();
            }
            self.past.push(process.stderr.clone());
        }
        // A successor by upgrade is nobody's child any more.
        self.end_successors();
        let logs: Vec<String> = self.past.iter().map(Log::text).collect();
        if std::thread::panicking() {
            for log in logs {
                let lines: Vec<&str> = log.lines().collect();
                let shown = &lines[lines.len().saturating_sub(60)..];
                crate::process::report(&format!("--- gateway log:\n{}", shown.join("\n")));
            }
        } else {
            assert!(
                !logs.iter().any(|log| log.contains("panicked at")),
                "the gateway panicked:\n{}",
                logs.join("\n")
            );
        }
    }
}
