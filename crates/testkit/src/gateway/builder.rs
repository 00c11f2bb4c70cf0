//! What a gateway under test is started with.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::{ADMIN_KEY, Gateway, VIEWER_KEY};
use crate::port::Port;

/// The access log format that [`Gateway::access`] understands.
const ACCESS_FORMAT: &str = "$protocol client=$remote_addr:$remote_port local=$server_addr:$server_port \
     status=$status reason=$close_reason in=$bytes_received out=$bytes_sent \
     upstream=$upstream_addr time=$session_time";

/// Configuration of a gateway to start.
#[derive(Debug)]
pub struct GatewayBuilder {
    pub(super) binary: PathBuf,
    pub(super) tcp: Vec<Entry>,
    pub(super) udp: Vec<Entry>,
    pub(super) stream_mode: Option<String>,
    apisix: String,
    admin: String,
    deployment: String,
    pub(super) role: Option<String>,
    pub(super) admin_api: bool,
    files: Vec<(String, String)>,
    nginx: String,
    stream: String,
    top: String,
    workers: usize,
    log_level: String,
    access_log: bool,
    pub(super) access_to: Option<String>,
    access_format: String,
    metrics: bool,
    pub(super) limit: Option<u64>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) control: Option<Port>,
}

/// An entry of `stream_proxy.tcp` or `.udp` and the ports it stands for.
#[derive(Debug)]
pub(super) struct Entry {
    yaml: String,
    pub(super) ports: Vec<Port>,
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
}
