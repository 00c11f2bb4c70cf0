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

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::http::{self, Response};
use crate::log::{Log, Mark};
use crate::metrics::Metrics;
use crate::port::Port;
use crate::process::{Finished, Process};
use crate::{SOON, proc, wait};

/// Key with full access to the Admin API of a gateway under test.
pub const ADMIN_KEY: &str = "testkit-admin-key-5f2d1c0b9a8e7f60";
/// Key that may only read.
pub const VIEWER_KEY: &str = "testkit-viewer-key-1a2b3c4d5e6f7081";
/// What the gateway logs when its listeners are bound.
pub const READY: &str = "headgate is ready";

/// The access log format that [`Gateway::access`] understands.
const ACCESS_FORMAT: &str = "$protocol client=$remote_addr:$remote_port local=$server_addr:$server_port \
     status=$status reason=$close_reason in=$bytes_received out=$bytes_sent \
     upstream=$upstream_addr time=$session_time";

/// Configuration of a gateway to start.
#[derive(Debug)]
pub struct GatewayBuilder {
    binary: PathBuf,
    tcp: Vec<Entry>,
    udp: Vec<Entry>,
    stream_mode: Option<String>,
    apisix: String,
    admin: String,
    deployment: String,
    role: Option<String>,
    admin_api: bool,
    files: Vec<(String, String)>,
    nginx: String,
    stream: String,
    top: String,
    workers: usize,
    log_level: String,
    access_log: bool,
    access_to: Option<String>,
    access_format: String,
    metrics: bool,
    limit: Option<u64>,
    environment: Vec<(String, String)>,
    control: Option<Port>,
}

/// An entry of `stream_proxy.tcp` or `.udp` and the ports it stands for.
#[derive(Debug)]
struct Entry {
    yaml: String,
    ports: Vec<Port>,
}

impl Entry {
    fn new(template: &str, ports: Vec<Port>) -> Self {
        let first = ports.first().map_or(0, Port::number).to_string();
        let last = ports.last().map_or(0, Port::number).to_string();
        let yaml = template.replace("{port}", &first).replace("{last}", &last);
        Self { yaml, ports }
    }
}

impl GatewayBuilder {
    /// Adds `count` TCP listeners on the IPv4 wildcard, in the form `- 9100`.
    #[must_use]
    pub fn tcp(mut self, count: usize) -> Self {
        for _ in 0..count {
            self = self.tcp_entry("{port}");
        }
        self
    }

    /// Adds `count` UDP listeners on the IPv4 wildcard.
    #[must_use]
    pub fn udp(mut self, count: usize) -> Self {
        for _ in 0..count {
            self = self.udp_entry("{port}");
        }
        self
    }

    /// Adds a TCP listener in a form of one's choice; `{port}` stands for its port. An entry that
    /// does not mention it (`unix:/path`) has none, and [`Gateway::tcp`] does not count it.
    #[must_use]
    pub fn tcp_entry(mut self, template: &str) -> Self {
        self.tcp.push(Entry::new(template, ports_of(template)));
        self
    }

    /// Adds a UDP listener in a form of one's choice.
    #[must_use]
    pub fn udp_entry(mut self, template: &str) -> Self {
        self.udp.push(Entry::new(template, ports_of(template)));
        self
    }

    /// Adds one entry for `count` consecutive TCP ports from `{port}` to `{last}`.
    #[must_use]
    pub fn tcp_range(mut self, template: &str, count: u16) -> Self {
        self.tcp.push(Entry::new(template, Port::take_range(count)));
        self
    }

    /// Adds one entry for `count` consecutive UDP ports from `{port}` to `{last}`.
    #[must_use]
    pub fn udp_range(mut self, template: &str, count: u16) -> Self {
        self.udp.push(Entry::new(template, Port::take_range(count)));
        self
    }

    /// `apisix.proxy_mode`; an empty string leaves the key out. Default `http&stream`.
    #[must_use]
    pub fn proxy_mode(mut self, mode: &str) -> Self {
        self.stream_mode = Some(mode.to_owned()).filter(|mode| !mode.is_empty());
        self
    }

    /// Adds lines below `apisix:`.
    #[must_use]
    pub fn apisix(mut self, yaml: &str) -> Self {
        indent(&mut self.apisix, 2, yaml);
        self
    }

    /// Adds lines below `deployment.admin:`.
    #[must_use]
    pub fn admin(mut self, yaml: &str) -> Self {
        indent(&mut self.admin, 4, yaml);
        self
    }

    /// Adds lines below `deployment:`.
    #[must_use]
    pub fn deployment(mut self, yaml: &str) -> Self {
        indent(&mut self.deployment, 2, yaml);
        self
    }

    /// Replaces the lines below `deployment:` that name role, provider and store.
    #[must_use]
    pub fn role(mut self, yaml: &str) -> Self {
        let mut role = String::new();
        indent(&mut role, 2, yaml);
        self.role = Some(role);
        self
    }

    /// A gateway without an Admin API, which need not answer to be ready.
    #[must_use]
    pub const fn no_admin_api(mut self) -> Self {
        self.admin_api = false;
        self
    }

    /// A file that is there before the start; the path is relative to the folder.
    #[must_use]
    pub fn file(mut self, path: &str, text: &str) -> Self {
        self.files.push((path.to_owned(), text.to_owned()));
        self
    }

    /// Adds lines below `nginx_config:`.
    #[must_use]
    pub fn nginx(mut self, yaml: &str) -> Self {
        indent(&mut self.nginx, 2, yaml);
        self
    }

    /// Adds lines below `nginx_config.stream:`.
    #[must_use]
    pub fn stream(mut self, yaml: &str) -> Self {
        indent(&mut self.stream, 4, yaml);
        self
    }

    /// Adds top-level lines.
    #[must_use]
    pub fn top(mut self, yaml: &str) -> Self {
        indent(&mut self.top, 0, yaml);
        self
    }

    /// `nginx_config.worker_processes`, default 2. Per-core state is exact with 1.
    #[must_use]
    pub const fn workers(mut self, count: usize) -> Self {
        self.workers = count;
        self
    }

    /// `nginx_config.error_log_level`, default `info`.
    #[must_use]
    pub fn log_level(mut self, level: &str) -> Self {
        level.clone_into(&mut self.log_level);
        self
    }

    /// The access log format; an empty string leaves the default format.
    #[must_use]
    pub fn access_format(mut self, format: &str) -> Self {
        format.clone_into(&mut self.access_format);
        self
    }

    /// Writes the access log there instead of into the gateway's folder.
    #[must_use]
    pub fn access_to(mut self, place: &str) -> Self {
        self.access_to = Some(place.to_owned());
        self
    }

    /// Without an access log.
    #[must_use]
    pub const fn no_access_log(mut self) -> Self {
        self.access_log = false;
        self
    }

    /// With a metrics server, on a port of its own.
    #[must_use]
    pub const fn metrics(mut self) -> Self {
        self.metrics = true;
        self
    }

    /// Starts the binary with at most this many descriptors (hard and soft limit).
    #[must_use]
    pub const fn descriptor_limit(mut self, count: u64) -> Self {
        self.limit = Some(count);
        self
    }

    /// Switches the control API on, on a free port.
    #[must_use]
    pub fn control(mut self) -> Self {
        self.control = Some(Port::take());
        self
    }

    /// Sets a variable in the gateway's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Writes the configuration without starting anything.
    #[must_use]
    pub fn prepare(self) -> Gateway {
        let folder = TempDir::with_prefix("headgate-test-").expect("a temporary folder");
        let admin_port = Port::take();
        fs::create_dir_all(folder.path().join("conf")).expect("a folder");
        fs::create_dir_all(folder.path().join("logs")).expect("a folder");
        let gateway = Gateway {
            admin: admin_port.local(),
            _admin_port: admin_port,
            metrics_port: self.metrics.then(Port::take),
            builder: self,
            folder,
            process: None,
            past: Vec::new(),
            key: ADMIN_KEY.to_owned(),
        };
        gateway.write_config(&gateway.builder.yaml(&gateway));
        for (path, text) in &gateway.builder.files {
            gateway.write_file(path, text);
        }
        gateway
    }

    /// Starts the gateway and waits until it is ready.
    #[track_caller]
    #[must_use]
    pub fn start(self) -> Gateway {
        let mut gateway = self.prepare();
        gateway.launch();
        gateway
    }

    fn yaml(&self, gateway: &Gateway) -> String {
        let mut yaml = String::from("apisix:\n");
        let mut line = |text: std::fmt::Arguments<'_>| {
            let _ = writeln!(yaml, "{text}");
        };
        if let Some(mode) = &self.stream_mode {
            line(format_args!("  proxy_mode: {mode}"));
        }
        match &self.control {
            Some(port) => line(format_args!("  control:\n    port: {}", port.number())),
            None => line(format_args!("  enable_control: false")),
        }
        if !self.tcp.is_empty() || !self.udp.is_empty() {
            line(format_args!("  stream_proxy:"));
        }
        for (name, entries) in [("tcp", &self.tcp), ("udp", &self.udp)] {
            if !entries.is_empty() {
                line(format_args!("    {name}:"));
            }
            for entry in entries {
                let mut block = String::new();
                indent(&mut block, 8, &entry.yaml);
                line(format_args!("      - {}", block.trim()));
            }
        }
        line(format_args!("{}nginx_config:", self.apisix));
        line(format_args!("  error_log_level: {}", self.log_level));
        line(format_args!("  worker_processes: {}", self.workers));
        line(format_args!("{}  stream:", self.nginx));
        line(format_args!("    enable_access_log: {}", self.access_log));
        match &self.access_to {
            Some(place) => line(format_args!("    access_log: \"{place}\"")),
            None => line(format_args!("    access_log: {}", gateway.access_path().display())),
        }
        if !self.access_format.is_empty() {
            line(format_args!("    access_log_format: '{}'", self.access_format));
        }
        line(format_args!("{}deployment:", self.stream));
        match &self.role {
            Some(role) => line(format_args!("{}", role.trim_end())),
            None => {
                line(format_args!("  role: traditional"));
                line(format_args!("  role_traditional:\n    config_provider: embedded"));
            }
        }
        line(format_args!("  embedded:\n    path: {}", gateway.data().display()));
        line(format_args!("{}  admin:", self.deployment));
        line(format_args!("    admin_listen:\n      ip: {}", gateway.admin.ip()));
        line(format_args!("      port: {}", gateway.admin.port()));
        if !self.admin.contains("admin_key:") {
            line(format_args!("    admin_key:"));
            for (name, key, role) in
                [("tester", ADMIN_KEY, "admin"), ("watcher", VIEWER_KEY, "viewer")]
            {
                line(format_args!(
                    "      - name: {name}\n        key: {key}\n        role: {role}"
                ));
            }
        }
        line(format_args!("{}{}", self.admin, self.top));
        if !self.top.contains("plugin_attr:") {
            line(format_args!("plugin_attr:\n  prometheus:"));
            match &gateway.metrics_port {
                Some(port) => line(format_args!("    export_addr:\n      port: {}", port.number())),
                None => line(format_args!("    enable_export_server: false")),
            }
        }
        yaml
    }
}

fn ports_of(template: &str) -> Vec<Port> {
    if template.contains("{port}") { vec![Port::take()] } else { Vec::new() }
}

fn indent(to: &mut String, by: usize, yaml: &str) {
    for line in yaml.lines() {
        let _ = writeln!(to, "{:by$}{line}", "");
    }
}

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
    /// Begins a configuration; `binary` is `env!("CARGO_BIN_EXE_headgate")` in a test.
    #[must_use]
    pub fn builder(binary: impl Into<PathBuf>) -> GatewayBuilder {
        GatewayBuilder {
            binary: binary.into(),
            tcp: Vec::new(),
            udp: Vec::new(),
            stream_mode: Some("http&stream".into()),
            apisix: String::new(),
            admin: String::new(),
            deployment: String::new(),
            role: None,
            admin_api: true,
            files: Vec::new(),
            nginx: String::new(),
            stream: String::new(),
            top: String::new(),
            workers: 2,
            log_level: "info".into(),
            access_log: true,
            access_to: None,
            access_format: ACCESS_FORMAT.into(),
            metrics: false,
            limit: None,
            environment: Vec::new(),
            control: None,
        }
    }

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

    /// Uses another key for requests from now on.
    pub fn use_key(&mut self, key: &str) {
        key.clone_into(&mut self.key);
    }

    /// Sends a request to the Admin API with the admin key. `path` is relative to
    /// `/apisix/admin/` unless it begins with a slash.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, body: Option<&str>) -> Response {
        let headers = [("X-API-KEY", self.key.as_str()), ("Content-Type", "application/json")];
        self.request_with(method, path, &headers, body)
    }

    /// Sends a request with headers of one's choice and no key.
    #[track_caller]
    pub fn request_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> Response {
        match self.try_request(method, path, headers, body) {
            Ok(response) => response,
            Err(error) => panic!("{method} {path}: {error}"),
        }
    }

    /// As [`Gateway::request_with`], for requests that may fail as such.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn try_request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> std::io::Result<Response> {
        http::request(
            self.admin,
            method,
            &admin_path(path),
            headers,
            body.map(str::as_bytes),
            SOON * 2,
        )
    }

    /// GET.
    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path, None)
    }

    /// GET from the control API, which [`GatewayBuilder::control`] switches on.
    #[track_caller]
    pub fn control(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        let to = self.builder.control.as_ref().expect("switched on").local();
        match http::request(to, "GET", path, headers, None, SOON * 2) {
            Ok(response) => response,
            Err(error) => panic!("GET {path}: {error}"),
        }
    }

    /// PUT of a JSON value.
    #[track_caller]
    pub fn put(&self, path: &str, body: &Value) -> Response {
        self.request("PUT", path, Some(&body.to_string()))
    }

    /// POST of a JSON value.
    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.request("POST", path, Some(&body.to_string()))
    }

    /// PATCH with a JSON value.
    #[track_caller]
    pub fn patch(&self, path: &str, body: &Value) -> Response {
        self.request("PATCH", path, Some(&body.to_string()))
    }

    /// DELETE.
    #[track_caller]
    pub fn delete(&self, path: &str) -> Response {
        self.request("DELETE", path, None)
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
fn admin_path(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/apisix/admin/{path}") }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_has_every_part() {
        let gateway = Gateway::builder("/nonexistent")
            .tcp(1)
            .tcp_entry("addr: \"127.0.0.1:{port}\"\nproxy_protocol: false")
            .tcp_range("{port}-{last}", 3)
            .udp(1)
            .apisix("dns_resolver:\n  - 127.0.0.1")
            .nginx("event:\n  worker_connections: 50")
            .admin("enable_admin_cors: false")
            .stream("real_ip_from:\n  - 10.0.0.0/8")
            .top("stream_plugins: []")
            .workers(1)
            .prepare();
        let yaml = gateway.config();
        let expected = format!(
            "apisix:\n  proxy_mode: http&stream\n  enable_control: false\n  stream_proxy:\n    tcp:\n\
             \x20     - {}\n      - addr: \"127.0.0.1:{}\"\n        proxy_protocol: false\n      - {}-{}\n\
             \x20   udp:\n      - {}\n  dns_resolver:\n    - 127.0.0.1\nnginx_config:\n",
            gateway.tcp_port(0),
            gateway.tcp_port(1),
            gateway.tcp_port(2),
            gateway.tcp_port(4),
            gateway.udp_port(0)
        );
        assert!(yaml.starts_with(&expected), "{yaml}\nexpected:\n{expected}");
        for part in [
            "  worker_processes: 1\n  event:\n    worker_connections: 50\n  stream:\n",
            "    real_ip_from:\n      - 10.0.0.0/8\ndeployment:\n",
            "    enable_admin_cors: false\nstream_plugins: []\n",
            &format!(
                "      port: {}\n    admin_key:\n      - name: tester\n",
                gateway.admin.port()
            ),
        ] {
            assert!(yaml.contains(part), "{part}\nin\n{yaml}");
        }
    }

    #[test]
    fn paths_are_relative_to_the_admin_api() {
        assert_eq!(admin_path("stream_routes/1"), "/apisix/admin/stream_routes/1");
        assert_eq!(admin_path("/v1/schema"), "/v1/schema");
    }
}
