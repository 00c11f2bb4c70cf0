//! Opening the store that the configuration names.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use headgate_model::settings::{EmbeddedSettings, EtcdSettings, Role, Settings, StoreSettings};
use headgate_store::{Embedded, Etcd, EtcdOptions, File, Options, Store, Whole};

use crate::catalog::Catalog;

/// Where resources come from.
pub(crate) struct Opened {
    pub(crate) store: Arc<dyn Store>,
    /// The same, when the Admin API fills it as a whole.
    pub(crate) standalone: Option<Arc<Whole>>,
}

/// Opens the store that the configuration names.
///
/// # Errors
/// What could not be opened.
pub(crate) async fn open_store(
    settings: &Settings,
    catalog: &Arc<Catalog>,
) -> anyhow::Result<Opened> {
    let store: Arc<dyn Store> = match &settings.store {
        StoreSettings::Embedded(embedded) => {
            let store = Embedded::open(&embedded.path, embedded_options(embedded))
                .with_context(|| format!("opening the store in {}", embedded.path.display()))?;
            Arc::new(store)
        }
        StoreSettings::File(file) => {
            let store = File::follow(file.clone(), catalog.checker_for())
                .with_context(|| format!("following the file {}", file.path.display()))?;
            Arc::new(store)
        }
        StoreSettings::Etcd(etcd) => Arc::new(open_etcd(etcd, settings).await?),
        StoreSettings::Api => {
            let whole = Arc::new(Whole::new("resources come from PUT /apisix/admin/configs"));
            return Ok(Opened { store: Arc::clone(&whole) as _, standalone: Some(whole) });
        }
    };
    Ok(Opened { store, standalone: None })
}

async fn open_etcd(etcd: &EtcdSettings, settings: &Settings) -> anyhow::Result<Etcd> {
    let cache = Some(etcd.directory.join("etcd"));
    let store = Etcd::new(&etcd_options(etcd, settings, cache)).context("deployment.etcd")?;
    if settings.role == Role::DataPlane {
        tracing::info!(
            "access from the data plane to etcd should be read-only, skip initializing the data of etcd"
        );
        return Ok(store);
    }
    tracing::info!("trying to initialize the data of etcd");
    match store.initialize(etcd.startup_retry).await {
        Ok(()) => Ok(store),
        Err(error) if store.has_copy() => {
            tracing::error!("{error}; the start goes on from the local copy");
            Ok(store)
        }
        Err(error) => Err(anyhow::Error::new(error).context("deployment.etcd")),
    }
}

/// How much history is kept.
pub(crate) const fn embedded_options(embedded: &EmbeddedSettings) -> Options {
    Options { history_revisions: embedded.history_revisions, history_age: embedded.history_age }
}

/// Where the cluster is, and where its local copy goes.
pub(crate) fn etcd_options(
    etcd: &EtcdSettings,
    settings: &Settings,
    cache: Option<PathBuf>,
) -> EtcdOptions {
    let user = etcd.user.clone();
    EtcdOptions {
        hosts: etcd.hosts.clone(),
        prefix: etcd.prefix.clone(),
        timeout: etcd.timeout,
        watch_timeout: etcd.watch_timeout,
        resync_delay: etcd.resync_delay,
        health_check_timeout: etcd.health_check_timeout,
        user: user.map(|(name, password)| (name, password.0)),
        trusted: settings.trusted_certificate.clone(),
        client: etcd.tls.client.clone(),
        verify: etcd.tls.verify,
        sni: etcd.tls.sni.clone(),
        cache,
        may_start_empty: settings.role == Role::DataPlane,
        unready_when_stale: !etcd.ready_while_stale,
    }
}
