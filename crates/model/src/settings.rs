//! `config.yaml`, typed: what the program needs, after defaults, substitution and checks.
//!
//! [`Settings`] is plain data; [`Settings::load`] fills it from a file. The modules below are the
//! steps of that: `environment`, `legacy`, `known` and `merge` are generic and work from the table
//! of keys in `keys`; the others read one section each.

mod admin;
pub mod codes;
mod duration;
pub(crate) mod entry;
pub(crate) mod environment;
mod etcd;
mod fitting;
mod keyring;
pub mod keys;
mod known;
mod legacy;
mod load;
mod management;
mod masking;
mod merge;
mod nearest;
mod own;
mod process;
mod prometheus;
mod reading;
mod resolver;
pub mod ssl;
mod store;
mod stream_proxy;
pub mod syslog;
#[cfg(test)]
mod tests;
mod wording;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::listen::{ListenDefaults, ListenerSpec};
use crate::problem::Problem;

/// What reading a file gave.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings, unless there is an error among the problems.
    pub settings: Option<Settings>,
    /// Everything found: errors first, then by position.
    pub problems: Vec<Problem>,
    /// Text of the file for excerpts; secrets are covered with `*`.
    pub source: String,
}

/// Everything config.yaml decides.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The file it came from.
    pub file: PathBuf,
    /// The stream plane; `None` when `proxy_mode` (or a missing `stream_proxy`) leaves it off.
    /// A control plane knows its listeners and opens none.
    pub stream: Option<StreamSettings>,
    /// The Admin API; `None` when it is switched off.
    pub admin: Option<AdminSettings>,
    /// Address of the control API, when enabled.
    pub control: Option<SocketAddr>,
    /// Address of the status server, when enabled.
    pub status: Option<SocketAddr>,
    /// The server of metrics, unless it is switched off.
    pub prometheus: Option<PrometheusSettings>,
    /// Names in `stream_plugins`.
    pub stream_plugins: Vec<String>,
    /// Names in `plugins` (HTTP; only known so that configurations can be stored).
    pub http_plugins: Vec<String>,
    /// Names in `xrpc.protocols`; stream routes may use no others.
    pub xrpc_protocols: Vec<String>,
    /// What this process does of a deployment.
    pub role: Role,
    /// Where resources come from.
    pub store: StoreSettings,
    /// Keys that encrypt secrets at rest: first encrypts, all decrypt. Empty: no encryption.
    pub keyring: Vec<Keyring>,
    /// Process-level settings from `nginx_config`.
    pub process: ProcessSettings,
    /// Resolving of node names.
    pub resolver: ResolverSettings,
    /// How long what secret managers answer is kept.
    pub secrets: SecretSettings,
    /// TLS on stream listeners.
    pub ssl: SslSettings,
    /// CA bundle for outgoing TLS; `None` is the system's.
    pub trusted_certificate: Option<PathBuf>,
    /// `apisix.disable_upstream_healthcheck`.
    pub disable_upstream_healthcheck: bool,
    /// `apisix.id`, if set.
    pub instance_id: Option<String>,
    /// How sessions end that have to (`headgate.drain`).
    pub drain: DrainSettings,
    /// How long a turn of a core may last before it is reported (`headgate.watchdog.threshold`).
    pub watchdog: Option<Duration>,
    /// Bounds of the process (`headgate.limits`).
    pub limits: LimitSettings,
    /// Directory of what this process writes for itself (`deployment.embedded.path`).
    pub directory: PathBuf,
}

/// Bounds of the process (`headgate.limits`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitSettings {
    /// Most connections that are being set up.
    pub pending_handshakes: usize,
    /// Most TCP connections at once, all listeners and workers together; `None`: what descriptors
    /// and `worker_connections` allow.
    pub connections: Option<usize>,
    /// What happens to further ones.
    pub when_full: WhenFull,
    /// Most memory.
    pub memory: MemoryBudget,
}

/// What happens to connections beyond the bound on all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// They wait in the kernel's queue until others end.
    #[default]
    Wait,
    /// They are closed at once.
    Refuse,
}

/// `headgate.limits.memory`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MemoryBudget {
    /// Nine tenths of the limit of the process's cgroup; off where there is none.
    #[default]
    Auto,
    /// No bound.
    Off,
    /// So many bytes.
    Bytes(u64),
}

/// How long what secret managers answer is kept (`apisix.lru.secret`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecretSettings {
    /// A value.
    pub valid: Duration,
    /// That there is none.
    pub failed: Duration,
}

impl Default for SecretSettings {
    fn default() -> Self {
        Self { valid: Duration::from_secs(300), failed: Duration::from_secs(60) }
    }
}

/// How sessions end that have to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DrainSettings {
    /// At a graceful stop.
    pub stop: DrainPolicy,
    /// Those of a listener that was removed.
    pub listener: DrainPolicy,
    /// Those of a node that was removed.
    pub node: DrainPolicy,
}

/// How the sessions of one thing end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainPolicy {
    /// All at once, or not.
    pub mode: DrainMode,
    /// When the last ones end in graceful mode; `None`: when they want to.
    pub timeout: Option<Duration>,
    /// Over how long gradual mode spreads the ends.
    pub period: Duration,
}

/// See [`DrainPolicy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainMode {
    /// Sessions end at once.
    Immediate,
    /// They may go on until the timeout.
    Graceful,
    /// They end one by one.
    Gradual,
}

impl Default for DrainPolicy {
    fn default() -> Self {
        Self { mode: DrainMode::Graceful, timeout: None, period: Duration::ZERO }
    }
}

/// TLS on stream listeners (`apisix.ssl`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SslSettings {
    /// Name assumed for clients that send none; lower case, without a final dot.
    pub fallback_sni: Option<String>,
    /// Versions: `TLSv1.2`, `TLSv1.3`.
    pub protocols: Vec<String>,
    /// TLS 1.2 suites by OpenSSL's names; `None`: all that are built in.
    pub ciphers: Option<Vec<String>>,
    /// Give out session tickets.
    pub session_tickets: bool,
    /// Id of the ssl object whose certificate is served where no other is found (extension).
    pub default_certificate: Option<String>,
    /// Time for a ClientHello and the handshake after it together (extension).
    pub handshake_timeout: Duration,
}

impl Default for SslSettings {
    fn default() -> Self {
        Self {
            fallback_sni: None,
            protocols: vec!["TLSv1.2".to_owned(), "TLSv1.3".to_owned()],
            ciphers: None,
            session_tickets: true,
            default_certificate: None,
            handshake_timeout: Duration::from_secs(60),
        }
    }
}

/// A secret string; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Keyring(pub String);

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// The server of metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrometheusSettings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Path of the metrics.
    pub uri: String,
    /// What the names of the reference's metrics begin with.
    pub prefix: String,
}

/// The stream plane.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamSettings {
    /// Listening sockets, ranges expanded, in the order of the file.
    pub listeners: Vec<ListenerSpec>,
    /// The entries of the file that they come from.
    pub entries: Vec<ListenEntry>,
    /// What TCP listeners do that do not say it themselves.
    pub defaults: ListenDefaults,
    /// Peers whose PROXY header replaces the client's address (IP address, CIDR or `unix:`).
    pub real_ip_from: Vec<String>,
    /// `SO_REUSEPORT` per core.
    pub reuseport: bool,
    /// The access log, when enabled.
    pub access_log: Option<AccessLogSettings>,
    /// Most UDP flows at once, all cores together (`nginx_config.stream.udp_max_flows`, extension).
    pub udp_max_flows: usize,
}

/// An entry of `stream_proxy.tcp` or `.udp`.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenEntry {
    /// Where it stands, e.g. `apisix.stream_proxy.tcp[0]`.
    pub path: String,
    /// The entry in the form of a stream listener, with what the defaults add.
    pub document: serde_json::Value,
    /// What it opens.
    pub listeners: Vec<ListenerSpec>,
}

/// The stream access log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLogSettings {
    /// Write a line when a session's upstream is connected, too (extension).
    pub at_start: bool,
    /// Write a line this often while a session lasts (extension).
    pub every: Option<Duration>,
    /// File, or `/dev/stdout` and the like; of a syslog server what was written.
    pub path: PathBuf,
    /// The syslog server that gets it instead of a file.
    pub syslog: Option<syslog::SyslogTarget>,
    /// Format with `$variables`.
    pub format: String,
    /// How values are escaped.
    pub escape: Escape,
}

/// Escaping of values in the access log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escape {
    /// `"`, `\` and bytes below 32 or above 126 as `\xHH`.
    Default,
    /// As inside a JSON string.
    Json,
    /// None.
    None,
}

/// The Admin API.
#[derive(Debug, Clone, PartialEq)]
pub struct AdminSettings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Serve HTTPS instead of HTTP.
    pub tls: Option<AdminTls>,
    /// `None`: no authentication at all.
    pub keys: Option<Vec<AdminKey>>,
    /// Networks that may connect; `None`: everyone.
    pub allow: Option<Vec<String>>,
    /// CORS headers.
    pub cors: bool,
    /// v3 envelopes; else v2.
    pub v3: bool,
    /// `Server: APISIX/<version>` or only `APISIX`.
    pub server_tokens: bool,
    /// Warnings beside `key` and `value` (`deployment.admin.warnings`, extension, default true).
    pub warnings: bool,
}

/// Certificate files of the Admin API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminTls {
    /// Certificate chain, PEM.
    pub cert: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
    /// CA that client certificates must come from.
    pub client_ca: Option<PathBuf>,
}

/// One key of the Admin API.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminKey {
    /// Who uses it; the author in the store's history.
    pub name: String,
    /// The secret. Empty: one is generated at start.
    pub key: String,
    /// `viewer` may only GET.
    pub viewer: bool,
}

impl std::fmt::Debug for AdminKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminKey")
            .field("name", &self.name)
            .field("key", &"***")
            .field("viewer", &self.viewer)
            .finish()
    }
}

/// What a process does of a deployment (`deployment.role`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Admin API and traffic.
    Traditional,
    /// Admin API, no traffic.
    ControlPlane,
    /// Traffic, no Admin API.
    DataPlane,
}

impl Role {
    /// As it is written in config.yaml.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Traditional => "traditional",
            Self::ControlPlane => "control_plane",
            Self::DataPlane => "data_plane",
        }
    }
}

/// Where resources come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreSettings {
    /// headgate's own store in one file.
    Embedded(EmbeddedSettings),
    /// An etcd, which others may share.
    Etcd(EtcdSettings),
    /// A file beside config.yaml (file-driven standalone).
    File(FileSettings),
    /// Memory, filled through `/apisix/admin/configs` (API-driven standalone).
    Api,
}

impl StoreSettings {
    /// What stands before keys in answers: the prefix in etcd, nothing in standalone.
    #[must_use]
    pub fn prefix(&self) -> &str {
        match self {
            Self::Embedded(embedded) => &embedded.prefix,
            Self::Etcd(etcd) => &etcd.prefix,
            Self::File(_) | Self::Api => "",
        }
    }
}

/// `deployment.etcd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdSettings {
    /// `scheme://name[:port]` of each member.
    pub hosts: Vec<String>,
    /// What all keys begin with, without a slash at the end.
    pub prefix: String,
    /// Limit of one request.
    pub timeout: Duration,
    /// A watch that says nothing for so long is opened again.
    pub watch_timeout: Duration,
    /// Pause after an error of the watch.
    pub resync_delay: Duration,
    /// How long a failed member is left out.
    pub health_check_timeout: Duration,
    /// Attempts for each member at start.
    pub startup_retry: u32,
    /// Name and password.
    pub user: Option<(String, Keyring)>,
    /// TLS towards members with `https`.
    pub tls: EtcdTls,
    /// Where the local copy is kept (`deployment.embedded.path`).
    pub directory: PathBuf,
    /// Stay ready for traffic while etcd does not answer (extension).
    pub ready_while_stale: bool,
}

/// `deployment.etcd.tls`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdTls {
    /// Certificate and key that this client shows.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Check the server's certificate.
    pub verify: bool,
    /// Name to expect instead of the host's.
    pub sni: Option<String>,
}

/// File-driven standalone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSettings {
    /// `apisix.yaml` or `apisix.json` beside config.yaml.
    pub path: PathBuf,
    /// How it is written.
    pub format: FileFormat,
    /// Refuse the whole file when one object of it is invalid
    /// (`deployment.standalone.strict`, extension).
    pub strict: bool,
}

/// How a file with resources is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
    /// YAML that ends with `#END`.
    Yaml,
    /// JSON.
    Json,
}

/// `deployment.embedded`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedSettings {
    /// Directory of the store (`deployment.embedded.path`, default `data` beside `conf`).
    pub path: PathBuf,
    /// Most revisions kept in history (`history.max_revisions`).
    pub history_revisions: u64,
    /// Longest time a revision is kept (`history.max_age`).
    pub history_age: Duration,
    /// Prefix that keys are answered with (`deployment.etcd.prefix`).
    pub prefix: String,
}

/// Process-level settings from `nginx_config`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessSettings {
    /// Number of cores to run; `None`: one per available CPU.
    pub workers: Option<usize>,
    /// Pin each worker to a CPU.
    pub cpu_affinity: bool,
    /// `RLIMIT_NOFILE` to ask for.
    pub rlimit_nofile: u64,
    /// Connections per worker; client and upstream sockets both count.
    pub worker_connections: usize,
    /// How long a graceful stop waits.
    pub shutdown_timeout: Duration,
    /// Process log: `None` is stderr.
    pub error_log: Option<PathBuf>,
    /// Level of the process log.
    pub log_level: LogLevel,
    /// File that holds the process id.
    pub pid_file: PathBuf,
    /// Whom to become when started as root (`nginx_config.user`): a user, and a group.
    pub user: Option<(String, Option<String>)>,
    /// What to give up for good at start (`headgate.sandbox`).
    pub sandbox: SandboxSettings,
}

/// `headgate.sandbox`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SandboxSettings {
    /// Whether it is on.
    pub is_on: bool,
    /// More files and folders that may be written.
    pub write: Vec<PathBuf>,
}

/// Levels of the process log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// `error`, `crit`, `alert`, `emerg`.
    Error,
    /// `warn`.
    Warn,
    /// `notice`, `info`.
    Info,
    /// `debug`.
    Debug,
}

/// Resolving of names in `nodes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolverSettings {
    /// Name servers; empty: those of the system.
    pub servers: Vec<SocketAddr>,
    /// Overrides the time to live of answers.
    pub valid: Option<Duration>,
    /// Limit for one query.
    pub timeout: Duration,
    /// Use `search` of resolv.conf.
    pub search: bool,
    /// Use AAAA records.
    pub ipv6: bool,
}

impl Settings {
    /// Reads and checks a file; `env` looks up environment variables.
    #[must_use]
    pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Loaded {
        load::file(path, env)
    }

    /// Checks a text as [`Settings::load`] does with the file at `path`, which need not exist.
    #[must_use]
    pub fn parse(text: &str, path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Loaded {
        load::text(text.to_owned(), path, env)
    }

    /// Directory that relative paths in the configuration start from: the parent of the folder
    /// `conf`, or the folder of the file when it is not called `conf`.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        home_of(&self.file)
    }
}

fn home_of(file: &Path) -> PathBuf {
    let folder = file.parent().unwrap_or_else(|| Path::new(""));
    let conf = folder.file_name().is_some_and(|name| name == "conf");
    let home = if conf { folder.parent().unwrap_or(folder) } else { folder };
    home.to_path_buf()
}

/// Whether an address answers on every local address.
#[must_use]
pub fn is_wildcard(ip: IpAddr) -> bool {
    ip.is_unspecified()
}
