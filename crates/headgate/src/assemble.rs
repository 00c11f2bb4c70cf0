//! Builds everything and wires it together; read this to see how the program hangs together.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use headgate_admin::{Admin, Control, Limits, ensure_admin_key};
use headgate_model::check::Checker;
use headgate_model::settings::{Loaded, LogLevel, Settings, StoreSettings, StreamSettings};
use headgate_net::limits::{SessionLimit, raise_descriptor_limit};
use headgate_store::Store;
use headgate_store::cipher::Keyring;
use headgate_store::{Embedded, Options as StoreOptions};
use headgate_stream::{AccessFormat, Shared};
use headgate_telemetry::{access_log, log};
use headgate_upstream::Names;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cores::Cores;
use crate::live::Planes;
use crate::names::Resolver;
use crate::pid::PidFile;
use crate::reconcile::{Published, Reconciler};
use crate::signals::{Request, Signals};
use crate::{catalog, reload, report};

/// Threads of the control side.
const CONTROL_THREADS: usize = 2;
/// How often a graceful stop looks whether sessions are left.
const DRAIN_CHECK: Duration = Duration::from_millis(50);

/// Reads a configuration file with the environment of this process.
#[must_use]
pub fn load(path: &Path) -> Loaded {
    Settings::load(path, &|name| std::env::var(name).ok())
}

/// Runs the gateway until a signal ends it.
#[must_use]
pub fn serve(config: PathBuf) -> ExitCode {
    let loaded = load(&config);
    if !loaded.problems.is_empty() {
        let color = io::stderr().is_terminal();
        let text = report::human(&loaded.problems, &loaded.source, color);
        let _ = io::stderr().write_all(text.as_bytes());
    }
    let Some(settings) = loaded.settings else { return ExitCode::FAILURE };
    match run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "headgate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: Settings) -> anyhow::Result<()> {
    let log = start_log(&settings)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .context("starting the control threads")?;
    let result = runtime.block_on(Gateway::start_and_run(settings, log));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

fn start_log(settings: &Settings) -> anyhow::Result<log::Handle> {
    let target = match &settings.process.error_log {
        None => log::Target::Stderr,
        Some(path) => log::Target::File(path.clone()),
    };
    let options = log::Options {
        level: log_level(settings.process.log_level),
        target,
        ..log::Options::default()
    };
    log::init(options).context("opening the log (nginx_config.error_log)")
}

pub(crate) const fn log_level(level: LogLevel) -> log::Level {
    match level {
        LogLevel::Error => log::Level::Error,
        LogLevel::Warn => log::Level::Warn,
        LogLevel::Info => log::Level::Info,
        LogLevel::Debug => log::Level::Debug,
    }
}

/// The stream plane's threads and what belongs to them.
struct StreamPlane {
    cores: Arc<Cores>,
    access: Option<access_log::Writer>,
}

/// The running program.
pub(crate) struct Gateway {
    pub(crate) settings: Settings,
    pub(crate) log: log::Handle,
    pub(crate) shared: Arc<Shared>,
    stream: Option<StreamPlane>,
    planes: Arc<Planes>,
    servers: TaskTracker,
    stop_servers: CancellationToken,
}

impl Gateway {
    async fn start_and_run(settings: Settings, log: log::Handle) -> anyhow::Result<()> {
        let mut signals = Signals::listen().context("listening for signals")?;
        let pid_file = settings.process.pid_file.clone();
        let mut gateway = Self::start(settings, log).await?;
        let _pid_file = PidFile::create(&pid_file)
            .with_context(|| format!("writing the pid file {}", pid_file.display()))?;
        gateway.planes.is_ready.store(true, Ordering::Release);
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        let listeners = gateway.cores().map_or(0, |cores| cores.listeners().len());
        tracing::info!(listeners, version = env!("CARGO_PKG_VERSION"), "headgate is ready");
        loop {
            match signals.next().await {
                Request::Reload => reload::reload(&mut gateway),
                Request::ReopenLogs => gateway.reopen_logs(),
                Request::GracefulStop => {
                    gateway.drain(&mut signals).await;
                    break;
                }
                Request::Stop => break,
            }
        }
        gateway.stop().await;
        Ok(())
    }

    async fn start(mut settings: Settings, log: log::Handle) -> anyhow::Result<Self> {
        let StoreSettings::Embedded(embedded) = settings.store.clone();
        let store = open_store(&embedded)?;
        let keys: Vec<_> = settings.keyring.iter().map(|key| key.0.as_str()).collect();
        let keyring = Arc::new(Keyring::new(&keys).context("apisix.data_encryption.keyring")?);
        let ring = Arc::clone(&keyring);
        let checker = Checker::new(catalog::enabled(&settings))
            .with_protocols(settings.xrpc_protocols.clone())
            .with_decrypt(Box::new(move |text| ring.decrypt(text)));
        let checker = Arc::new(checker);

        let workers = settings.process.workers.unwrap_or_else(available_cpus).max(1);
        let shared = Arc::new(shared_state(&settings, workers));
        let published = Arc::new(Published::default());
        let names = Arc::<Names>::default();
        let resolver = Arc::new(Resolver::new(Arc::clone(&names), settings.resolver.clone()));
        let mut reconciler = Reconciler::new(
            Arc::clone(&store),
            Arc::clone(&checker),
            names,
            Arc::clone(&resolver),
            Arc::clone(&shared),
            Arc::clone(&published),
        );
        // Ports open only once there is something to serve.
        let changes =
            reconciler.load().await.context("loading the configuration from the store")?;
        tokio::spawn(reconciler.follow(changes));
        tokio::spawn(resolver.keep_fresh(published.upstreams.subscribe()));

        let stream = match &settings.stream {
            Some(stream) => Some(start_stream(&settings, stream, &shared, workers)?),
            None => None,
        };
        let planes = Arc::new(Planes {
            published,
            cores: stream.as_ref().map(|stream| Arc::clone(&stream.cores)),
            is_ready: AtomicBool::new(false),
        });
        show_generated_key(&mut settings, &embedded.path)?;
        let mut gateway = Self {
            settings,
            log,
            shared,
            stream,
            planes,
            servers: TaskTracker::new(),
            stop_servers: CancellationToken::new(),
        };
        gateway.start_servers(store, checker, keyring, embedded.prefix).await?;
        Ok(gateway)
    }

    async fn start_servers(
        &mut self,
        store: Arc<dyn Store>,
        checker: Arc<Checker>,
        keyring: Arc<Keyring>,
        prefix: String,
    ) -> anyhow::Result<()> {
        let limits = Limits::default();
        if let Some(admin) = self.settings.admin.clone() {
            let listen = admin.listen;
            let tls = match &admin.tls {
                Some(files) => Some(headgate_admin::server::tls::acceptor(files)?),
                None => None,
            };
            let router = headgate_admin::admin_api::router(Admin {
                settings: admin,
                store: Arc::clone(&store),
                live: Arc::clone(&self.planes) as _,
                checker: Arc::clone(&checker),
                encrypt: Box::new(move |text| keyring.encrypt(text)),
                prefix: prefix.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                limits,
            })
            .context("deployment.admin.allow_admin")?;
            self.serve("Admin API", listen, router, tls, limits).await?;
        }
        if let Some(listen) = self.settings.control {
            let live = Arc::clone(&self.planes) as _;
            let control = Control { store, live, checker, prefix };
            let router = headgate_admin::control_api::router(control);
            self.serve("control API", listen, router, None, limits).await?;
        }
        if let Some(listen) = self.settings.status {
            let router = headgate_admin::status_api::router(Arc::clone(&self.planes) as _);
            self.serve("status server", listen, router, None, limits).await?;
        }
        Ok(())
    }

    async fn serve(
        &self,
        what: &str,
        listen: std::net::SocketAddr,
        router: axum::Router,
        tls: Option<tokio_rustls::TlsAcceptor>,
        limits: Limits,
    ) -> anyhow::Result<()> {
        let listener = headgate_admin::bind(listen)
            .await
            .with_context(|| format!("opening {listen} for the {what}"))?;
        let stop = self.stop_servers.clone();
        self.servers.spawn(headgate_admin::serve(listener, router, tls, limits, stop));
        Ok(())
    }

    /// The data threads, when the stream plane is on.
    pub(crate) fn cores(&self) -> Option<&Cores> {
        self.stream.as_ref().map(|stream| &*stream.cores)
    }

    fn reopen_logs(&self) {
        if let Err(error) = self.log.reopen() {
            tracing::error!(%error, "cannot open the log again; the old file stays in use");
        }
        if let Some(access) = self.stream.as_ref().and_then(|stream| stream.access.as_ref()) {
            access.reopen();
        }
    }

    /// Stops taking new sessions and waits until the old ones have ended, within
    /// `worker_shutdown_timeout`. Another stop signal ends the wait.
    async fn drain(&self, signals: &mut Signals) {
        self.planes.is_ready.store(false, Ordering::Release);
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        if let Some(cores) = self.cores() {
            let _ = cores.listen(&[]);
        }
        let limit = self.settings.process.shutdown_timeout;
        tracing::info!(sessions = self.shared.sessions.open(), ?limit, "draining");
        let drained = async {
            while self.shared.sessions.open() > 0 {
                tokio::time::sleep(DRAIN_CHECK).await;
            }
        };
        let interrupted = async {
            while !matches!(signals.next().await, Request::Stop | Request::GracefulStop) {}
        };
        tokio::select! {
            () = drained => {}
            () = interrupted => {}
            () = tokio::time::sleep(limit) => {}
        }
    }

    async fn stop(self) {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        self.planes.is_ready.store(false, Ordering::Release);
        self.stop_servers.cancel();
        self.servers.close();
        self.servers.wait().await;
        let Self { stream, planes, .. } = self;
        drop(planes);
        if let Some(StreamPlane { cores, access }) = stream {
            match Arc::try_unwrap(cores) {
                Ok(cores) => cores.stop(),
                Err(_) => tracing::error!("the data threads are still in use at the end"),
            }
            drop(access); // writes what is left
        }
        tracing::info!("headgate has stopped");
    }
}

fn open_store(
    settings: &headgate_model::settings::EmbeddedSettings,
) -> anyhow::Result<Arc<dyn Store>> {
    let options = StoreOptions {
        history_revisions: settings.history_revisions,
        history_age: settings.history_age,
    };
    let store = Embedded::open(&settings.path, options)
        .with_context(|| format!("opening the store in {}", settings.path.display()))?;
    Ok(Arc::new(store))
}

fn available_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn shared_state(settings: &Settings, workers: usize) -> Shared {
    let process = &settings.process;
    let descriptors = raise_descriptor_limit(process.rlimit_nofile);
    let by_descriptors = SessionLimit::sessions_for(descriptors);
    let by_workers = (process.worker_connections * workers / 2).max(1);
    let udp_flows = settings.stream.as_ref().map_or(1, |stream| stream.udp_max_flows);
    tracing::debug!(descriptors, by_descriptors, by_workers, "session limit");
    Shared::new(workers, by_descriptors.min(by_workers), udp_flows)
}

/// Compiles the access-log format.
pub(crate) fn access_format(stream: &StreamSettings) -> anyhow::Result<Option<Arc<AccessFormat>>> {
    let Some(log) = &stream.access_log else { return Ok(None) };
    let escape = match log.escape {
        headgate_model::settings::Escape::Default => access_log::Escape::Default,
        headgate_model::settings::Escape::Json => access_log::Escape::Json,
        headgate_model::settings::Escape::None => access_log::Escape::None,
    };
    let format = AccessFormat::compile(&log.format, escape)
        .context("nginx_config.stream.access_log_format (docs/reference/variables.md lists all)")?;
    Ok(Some(Arc::new(format)))
}

fn start_stream(
    settings: &Settings,
    stream: &StreamSettings,
    shared: &Arc<Shared>,
    workers: usize,
) -> anyhow::Result<StreamPlane> {
    shared.access_format.store(access_format(stream)?);
    let access = match &stream.access_log {
        None => None,
        Some(log) => {
            let open = access_log::Writer::open(&log.path);
            Some(open.with_context(|| format!("opening the access log {}", log.path.display()))?)
        }
    };
    let pin = settings.process.cpu_affinity;
    let cores = Cores::start(workers, shared, access.as_ref(), pin, stream.reuseport)
        .context("starting the data threads")?;
    if let Err(errors) = cores.listen(&stream.listeners) {
        let text: Vec<_> = errors.iter().map(ToString::to_string).collect();
        cores.stop();
        anyhow::bail!("{}", text.join("\nheadgate: "));
    }
    Ok(StreamPlane { cores: Arc::new(cores), access })
}

/// Fills empty admin keys; a key made just now is shown this one time, and never logged.
fn show_generated_key(settings: &mut Settings, dir: &Path) -> anyhow::Result<()> {
    let Some(admin) = settings.admin.as_mut() else { return Ok(()) };
    let generated = ensure_admin_key(admin, dir).context("making the admin key")?;
    if let Some(generated) = generated.filter(|generated| generated.fresh) {
        let _ = writeln!(
            io::stderr(),
            "No admin key is configured (deployment.admin.admin_key), so one was made:\n\n    \
             X-API-KEY: {}\n\nIt is kept in {} and not shown again.\n",
            generated.key,
            generated.path.display()
        );
    }
    Ok(())
}
