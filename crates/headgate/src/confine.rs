//! What the process gives up when it starts, before it has a second thread: privileges that it could
//! gain by starting programs, the user root, and, if asked to, most of the file system and of the
//! kernel. Nothing here can be taken back.
//!
//! What is not here the service manager does better (`packaging/systemd`): `docs/adr/0013`.

mod sandbox;
mod user;

use std::path::PathBuf;

use anyhow::Context as _;
use headgate_model::settings::{Settings, StoreSettings};

/// What there is to say once there is a log.
#[derive(Debug, Default)]
pub(crate) struct Said {
    notes: Vec<String>,
    warnings: Vec<String>,
}

impl Said {
    /// Writes it to the process log.
    pub(crate) fn log(self) {
        self.warnings.iter().for_each(|text| tracing::warn!("{text}"));
        self.notes.iter().for_each(|text| tracing::info!("{text}"));
    }
}

/// Gives up what the configuration says. Call it while there is one thread.
///
/// # Errors
/// The user does not exist, or the kernel refuses; a gateway that was to be confined and is not must
/// not start.
pub(crate) fn confine(settings: &Settings) -> anyhow::Result<Said> {
    let mut said = Said::default();
    user::keep_low_ports();
    if let Some((user, group)) = &settings.process.user {
        let wanted = user::Identity::find(user, group.as_deref()).context("nginx_config.user")?;
        user::change(&wanted, &mut said).context("nginx_config.user")?;
        if let Err(error) = std::fs::File::open(&settings.file) {
            said.warnings.push(format!(
                "a reload will fail: {} cannot be read as the user of nginx_config.user: {error}",
                settings.file.display()
            ));
        }
    }
    rustix::thread::set_no_new_privs(true).context("setting no_new_privs")?;
    if settings.process.sandbox.is_on {
        sandbox::enter(&writable(settings), &mut said).context("headgate.sandbox")?;
    }
    Ok(said)
}

/// Files and folders that are written while the gateway runs, as far as config.yaml tells.
fn writable(settings: &Settings) -> Vec<PathBuf> {
    let process = &settings.process;
    let parent = |path: &PathBuf| {
        let folder = path.parent()?;
        Some(if folder.as_os_str().is_empty() { ".".into() } else { folder.to_owned() })
    };
    let data = match &settings.store {
        StoreSettings::Embedded(embedded) => Some(embedded.path.clone()),
        StoreSettings::Etcd(etcd) => Some(etcd.directory.clone()),
        StoreSettings::File(_) | StoreSettings::Api => Some(settings.directory.clone()),
    };
    let access = settings.stream.as_ref().and_then(|stream| stream.access_log.as_ref());
    data.into_iter()
        .chain(parent(&process.pid_file))
        .chain(process.error_log.as_ref().and_then(parent))
        .chain(access.and_then(|log| parent(&log.path)))
        .chain(process.sandbox.write.iter().cloned())
        .collect()
}
