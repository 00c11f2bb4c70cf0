//! Builds everything and wires it together; read this to see how the program hangs together.

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use headgate_admin::{Admin, Control, Limits, ensure_admin_key};
use headgate_model::check::Checker;
use headgate_model::plugin::PluginCatalog;
use headgate_model::settings::{Role, Settings, StoreSettings, StreamSettings, WhenFull};
use headgate_net::limits::{SessionLimit, raise_descriptor_limit};
use headgate_store::{Keyring, Store, Whole};
use headgate_stream::plugin::{PluginDef, PluginFactory, Registry};
use headgate_stream::{Compiler, ConnectionCap, SecretLookup, Shared, TrustedPeers};
use headgate_telemetry::log;
use headgate_upstream::Names;
use headgate_upstream::health::Supervisor;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::background::ControlThreads;
use crate::catalog::Catalog;
use crate::cores::Cores;
use crate::gateway::{Gateway, StreamPlane};
use crate::listeners::Listeners;
use crate::live::Planes;
use crate::management::Management;
use crate::names::Resolver;
use crate::reconcile::{Published, Reconciler};
use crate::secrets::Secrets;
use crate::source::{Opened, open_store};
use crate::upgrade::{Inherited, Succession};
use crate::watchdog::Watchdog;
use crate::{access_log, catalog, cluster, memory_budget, metrics};

/// How long a store that was let go may seem to be in use.
const RELEASE_LIMIT: std::time::Duration = std::time::Duration::from_secs(5);
const RELEASE_CHECK: std::time::Duration = std::time::Duration::from_millis(20);
/// Most connections of the metrics server.
const SCRAPERS: usize = 32;

/// Starts everything, in order; nothing serves before there is something to serve.
///
/// # Errors
/// What could not be opened, with its place in config.yaml.
pub(crate) async fn start(
    mut settings: Settings,
    log: log::Handle,
    registry: &Registry,
    succession: &mut Succession,
) -> anyhow::Result<Gateway> {
    let keyring = keyring(&settings)?;
    let decrypt = {
        let ring = Arc::clone(&keyring);
        Box::new(move |text: &str| ring.decrypt(text))
    };
    let catalog = Arc::new(Catalog::new(&settings, registry)?);
    let checker = catalog.checker(None);
    succession.take_over().await.context("taking over from the old process")?;
    let Opened { store, standalone } = open(&settings, &catalog, succession).await?;

    let workers = settings.process.workers.unwrap_or_else(available_cpus).max(1);
    let shared = Arc::new(shared_state(&settings, workers));
    let names = Arc::<Names>::default();
    let resolver = Arc::new(Resolver::new(Arc::clone(&names), settings.resolver.clone()));
    let background = ControlThreads::current();
    let secrets = Arc::new(Secrets::new(settings.secrets, settings.trusted_certificate.as_deref()));
    let published = Arc::new(Published { secrets: Arc::clone(&secrets), ..Published::default() });
    let look_up = {
        let secrets = Arc::clone(&secrets);
        SecretLookup::new(move |reference| secrets.look_up(reference))
    };
    let plugins = PluginFactory::new(
        catalog.enabled(),
        settings.http_plugins.clone(),
        Arc::new(background.clone()),
    )
    .with_secrets(look_up.clone());
    let trusted = settings.trusted_certificate.clone();
    let compiler = Compiler::new(names, Arc::new(plugins))
        .with_tls(&settings.ssl, decrypt, trusted)
        .with_secrets(look_up);
    let listeners = Arc::new(Listeners::new(&settings));
    let reconciler = Reconciler::new(
        Arc::clone(&store),
        Arc::clone(&checker),
        compiler,
        Arc::clone(&resolver),
        Arc::clone(&shared),
        Arc::clone(&published),
    )
    .following(&catalog);
    let mut reconciler = reconciler.with_listeners(&listeners);
    // Ports open only once there is something to serve.
    let changes = reconciler.load().await.context("loading the configuration from the store")?;
    let (orders, ordered) = mpsc::channel(16);
    tokio::spawn(reconciler.follow(changes, ordered));
    tokio::spawn(secrets.keep_fresh());
    tokio::spawn(resolver.keep_fresh(published.upstreams.subscribe()));
    let supervisor = Supervisor::new(
        settings.trusted_certificate.as_deref(),
        settings.disable_upstream_healthcheck,
    );
    tokio::spawn(supervisor.follow(published.watched.subscribe()));
    tokio::spawn(Arc::clone(&listeners).retry());

    let stream = match &settings.stream {
        Some(stream) if settings.role != Role::ControlPlane => {
            Some(start_stream(&settings, stream, &shared, workers)?)
        }
        _ => None,
    };
    let planes = Arc::new(Planes {
        published,
        shared: Arc::clone(&shared),
        store: Arc::clone(&store),
        cores: stream.as_ref().map(|stream| Arc::clone(&stream.cores)),
        watchdog: match &stream {
            Some(stream) => Some(Watchdog::start(&stream.cores, settings.watchdog)?),
            None => None,
        },
        is_elsewhere: settings.stream.is_some() && settings.role == Role::ControlPlane,
        listeners: Arc::clone(&listeners),
        is_ready: AtomicBool::new(false),
    });
    let directory = settings.directory.clone();
    show_generated_key(&mut settings, &directory)?;
    let mut gateway = Gateway {
        settings,
        log,
        shared,
        stream,
        planes,
        servers: TaskTracker::new(),
        stop_servers: CancellationToken::new(),
        background,
        management: Management::default(),
        is_replaced: false,
        orders,
    };
    let prefix = gateway.settings.store.prefix().to_owned();
    let parts = (Arc::clone(&store), standalone, checker, keyring, prefix);
    let inherited = &mut succession.inherited;
    gateway.management = bind_servers(&gateway, inherited, parts).await?;
    serve(&gateway, succession).await?;
    if let Some(stream) = &gateway.stream {
        let (shared, cores) = (Arc::clone(&gateway.shared), Arc::clone(&stream.cores));
        gateway.servers.spawn(memory_budget::watch(shared, cores, gateway.stop_servers.clone()));
    }
    if matches!(gateway.settings.store, StoreSettings::Etcd(_)) {
        let id = cluster::instance_id(&gateway.settings);
        let facts = cluster::facts(&gateway.settings);
        let (planes, store) = (Arc::clone(&gateway.planes), Arc::clone(&store));
        let stop = gateway.stop_servers.clone();
        gateway.servers.spawn(cluster::report(id, facts, planes, store, stop));
    }
    if let Some(own) = shared_plugins(&gateway.settings) {
        gateway.servers.spawn(async move { catalog::share(&*store, &own).await });
    }
    Ok(gateway)
}

/// Opens the store; the process that had it may need a moment to let go of the last reader.
async fn open(
    settings: &Settings,
    catalog: &Arc<Catalog>,
    succession: &Succession,
) -> anyhow::Result<Opened> {
    let is_ours = matches!(settings.store, StoreSettings::Embedded(_));
    let until = tokio::time::Instant::now() + RELEASE_LIMIT;
    loop {
        match open_store(settings, catalog).await {
            Err(error) if is_ours && succession.has_predecessor() => {
                if tokio::time::Instant::now() >= until {
                    return Err(error);
                }
                tokio::time::sleep(RELEASE_CHECK).await;
            }
            opened => return opened,
        }
    }
}

/// Opens all listeners. Everything that may fail comes first: nobody is accepted and then sent
/// away, and the process that is succeeded goes on until this one is sure.
async fn serve(gateway: &Gateway, succession: &mut Succession) -> anyhow::Result<()> {
    let inherited = std::mem::take(&mut succession.inherited);
    let (cores, listeners) =
        (gateway.stream.as_ref().map(|it| &it.cores), &gateway.planes.listeners);
    let failed = |errors: Vec<crate::cores::BindError>| {
        if let Some(cores) = cores {
            cores.stop();
        }
        let text: Vec<_> = errors.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("{}", text.join("\nheadgate: "))
    };
    let mut held = None;
    if let Some(cores) = cores {
        cores.inherit(inherited.into_places());
        let entries = listeners.entries();
        let wanted: Vec<_> = entries.iter().flat_map(|entry| &entry.listeners).cloned().collect();
        held = Some(cores.hold(&wanted).map_err(failed)?);
    }
    if succession.has_predecessor()
        && let Some(counts) = succession.may_serve().await.context("waiting for the old process")?
    {
        gateway.shared.stats.inherit(&counts);
    }
    if let Some(cores) = cores {
        listeners.start(cores).map_err(failed)?;
        drop(held);
        for (transport, at) in cores.drop_unwanted() {
            let transport = transport.as_str();
            tracing::warn!(
                transport,
                address = %at,
                "a socket was passed to this process, but the configuration has no listener there"
            );
        }
        cores.settle().await;
    }
    gateway.management.start(&gateway.servers, &gateway.stop_servers);
    Ok(())
}

/// The list of plugins that others follow: that of a node with an Admin API on etcd.
fn shared_plugins(settings: &Settings) -> Option<headgate_model::PluginList> {
    let is_shared = matches!(settings.store, StoreSettings::Etcd(_)) && settings.admin.is_some();
    is_shared.then(|| catalog::own_list(settings))
}

/// What is checked before a resource is stored or put to use.
///
/// # Errors
/// The keyring has an entry that is no key.
pub(crate) fn checker(
    settings: &Settings,
    enabled: &[&'static PluginDef],
) -> anyhow::Result<Checker> {
    let keyring = keyring(settings)?;
    let catalog = PluginCatalog {
        stream: enabled.iter().map(|def| &def.meta).collect(),
        http: settings.http_plugins.clone(),
    };
    Ok(Checker::new(catalog)
        .with_protocols(settings.xrpc_protocols.clone())
        .with_decrypt(Box::new(move |text| keyring.decrypt(text))))
}

fn keyring(settings: &Settings) -> anyhow::Result<Arc<Keyring>> {
    let keys: Vec<_> = settings.keyring.iter().map(|key| key.0.as_str()).collect();
    Ok(Arc::new(Keyring::new(&keys).context("apisix.data_encryption.keyring")?))
}

/// What the servers work with: the store, the same as one document, the checks, the keys, the
/// prefix.
type Parts = (Arc<dyn Store>, Option<Arc<Whole>>, Arc<Checker>, Arc<Keyring>, String);

async fn bind_servers(
    gateway: &Gateway,
    inherited: &mut Inherited,
    (store, standalone, checker, keyring, prefix): Parts,
) -> anyhow::Result<Management> {
    let limits = Limits::default();
    let mut servers = Management::default();
    if let Some(admin) = gateway.settings.admin.clone() {
        let listen = admin.listen;
        let tls = match &admin.tls {
            Some(files) => Some(headgate_admin::server::tls::acceptor(files)?),
            None => None,
        };
        let router = headgate_admin::admin_api::router(Admin {
            standalone,
            settings: admin,
            store: Arc::clone(&store),
            live: Arc::clone(&gateway.planes) as _,
            checker: Arc::clone(&checker),
            encrypt: Box::new(move |text| keyring.encrypt(text)),
            prefix: prefix.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            plugins: shared_plugins(&gateway.settings),
            limits,
        })
        .context("deployment.admin.allow_admin")?;
        servers.add("Admin API", listen, router, (tls, limits), inherited).await?;
    }
    if let Some(listen) = gateway.settings.control {
        let live = Arc::clone(&gateway.planes) as _;
        let control = Control { store, live, checker, prefix };
        let router = headgate_admin::control_api::router(control);
        servers.add("control API", listen, router, (None, limits), inherited).await?;
    }
    if let Some(listen) = gateway.settings.status {
        let router = headgate_admin::status_api::router(Arc::clone(&gateway.planes) as _);
        servers.add("status server", listen, router, (None, limits), inherited).await?;
    }
    if let Some(prometheus) = &gateway.settings.prometheus {
        let registry = Arc::new(metrics::registry(gateway, &prometheus.prefix));
        let router = headgate_admin::metrics::router(prometheus.uri.clone(), registry);
        let what = "metrics server (plugin_attr.prometheus.export_addr)";
        let limits = Limits { connections: SCRAPERS, ..limits };
        servers.add(what, prometheus.listen, router, (None, limits), inherited).await?;
    }
    Ok(servers)
}

fn available_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn shared_state(settings: &Settings, workers: usize) -> Shared {
    let process = &settings.process;
    let descriptors = raise_descriptor_limit(process.rlimit_nofile);
    let by_descriptors = SessionLimit::of_process(descriptors);
    let by_workers = process.worker_connections * workers;
    let udp_flows = settings.stream.as_ref().map_or(1, |stream| stream.udp_max_flows);
    tracing::debug!(descriptors, by_descriptors, by_workers, "session limit");
    let shared = Shared::new(workers, by_descriptors.min(by_workers), udp_flows);
    shared.set_handshake_limit(settings.ssl.handshake_timeout);
    let limits = &settings.limits;
    shared.set_handshakes(limits.pending_handshakes);
    if let Some(most) = limits.connections {
        shared.set_cap(ConnectionCap::new(most, limits.when_full == WhenFull::Refuse));
    }
    memory_budget::apply(limits.memory, &shared.pressure);
    shared
}

fn start_stream(
    settings: &Settings,
    stream: &StreamSettings,
    shared: &Arc<Shared>,
    workers: usize,
) -> anyhow::Result<StreamPlane> {
    shared.access_format.store(access_log::format(stream)?);
    shared.trusted_peers.store(Arc::new(TrustedPeers::new(&stream.real_ip_from)));
    let access = access_log::open(stream)?;
    let pin = settings.process.cpu_affinity;
    let cores = Cores::start(workers, shared, access.as_ref(), pin, stream.reuseport)
        .context("starting the data threads")?;
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
