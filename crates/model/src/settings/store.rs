//! `deployment`: role and provider, which decide where resources come from.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::nearest::nearest;
use super::reading::Reading;
use super::{EmbeddedSettings, FileFormat, FileSettings, Role, StoreSettings, duration, etcd};

const ETCD_HOST: &str = "deployment.etcd.host";
const ETCD_VARIABLE: &str = "APISIX_DEPLOYMENT_ETCD_HOST";

/// The provider and the key that chose it.
pub(super) struct Provider {
    pub(super) name: String,
    path: String,
}

/// Which provider the file asks for. Without any word about it: `embedded` for the role
/// `traditional` when no etcd is named either, `etcd` for the other roles.
pub(super) fn provider(reading: &Reading<'_>) -> Provider {
    let role = &reading.role;
    let path = format!("deployment.role_{role}.config_provider");
    let written = reading.document.value.pointer(&super::reading::pointer(&path));
    if let Some(name) = written.and_then(Value::as_str) {
        return Provider { name: name.to_owned(), path };
    }
    let etcd = reading.wrote(ETCD_HOST) && !reading.deleted(ETCD_HOST);
    if etcd || matches!(etcd_variable(reading), Some(Ok(_))) {
        return Provider { name: "etcd".to_owned(), path: ETCD_HOST.to_owned() };
    }
    let name = if role == "traditional" { "embedded" } else { "etcd" };
    Provider { name: name.to_owned(), path }
}

/// The role, with what it decides about the servers of this process: a data plane has no Admin
/// API, a control plane always has one.
pub(super) fn role(reading: &mut Reading<'_>) -> Role {
    let (role, admin) = match reading.role.as_str() {
        "control_plane" => (Role::ControlPlane, Some(true)),
        "data_plane" => (Role::DataPlane, Some(false)),
        _ => (Role::Traditional, None),
    };
    let enable_admin = reading.merged.pointer_mut("/apisix/enable_admin");
    if let (Some(admin), Some(slot)) = (admin, enable_admin) {
        *slot = admin.into();
    }
    role
}

/// Reads the provider and the settings of the store that it means.
pub(super) fn read(reading: &mut Reading<'_>, file: &Path, home: &Path) -> StoreSettings {
    let hosts = match etcd_variable(reading) {
        Some(Ok(hosts)) => Some(hosts),
        Some(Err(error)) => {
            let message = format!("parse ${{{ETCD_VARIABLE}}} failed, error:{error}");
            let note = reading.warning("deployment/etcd-variable", ETCD_HOST, message);
            note.help(format!("set {ETCD_VARIABLE} to a JSON list: [\"http://host:2379\"]"));
            None
        }
        None => None,
    };
    check_stand_alone(reading);
    let directory = home.join(reading.text("deployment.embedded.path").unwrap_or("data"));
    let provider = if check_role(reading) { check_provider(reading) } else { None };
    match provider.as_deref() {
        Some("etcd") => StoreSettings::Etcd(etcd::read(reading, hosts, directory)),
        Some("yaml" | "json")
            if reading.role == "data_plane" || !reading.is_on("apisix.enable_admin") =>
        {
            let is_json = provider.as_deref() == Some("json");
            let format = if is_json { FileFormat::Json } else { FileFormat::Yaml };
            let name = if is_json { "apisix.json" } else { "apisix.yaml" };
            StoreSettings::File(FileSettings {
                path: file.with_file_name(name),
                format,
                strict: reading.is_on("deployment.standalone.strict"),
            })
        }
        Some("yaml") => StoreSettings::Api,
        _ => embedded(reading, directory),
    }
}

/// Whether role and section are there; what is not is reported.
fn check_role(reading: &mut Reading<'_>) -> bool {
    let role = reading.role.clone();
    if role == "standalone" {
        let message = "role standalone passes the check of the reference but is not implemented";
        let note = reading.error("deployment/role", "deployment.role", message);
        note.label("no such deployment").help(
            "write role: data_plane with role_data_plane: {config_provider: yaml}, or traditional",
        );
        return false;
    }
    let section = format!("role_{role}");
    let needs_section = role == "control_plane" || role == "data_plane";
    let path = format!("deployment.{section}");
    if needs_section && (!reading.wrote(&path) || reading.deleted(&path)) {
        let message =
            format!("invalid deployment {role} configuration: property \"{section}\" is required");
        let note = reading.error("deployment/role", "deployment.role", message);
        note.label(format!("needs {section}"))
            .help(format!("add\ndeployment:\n  {section}:\n    config_provider: etcd"));
        return false;
    }
    // An unknown role is an error of its shape already.
    needs_section || role == "traditional"
}

/// The provider, if the role may have it.
fn check_provider(reading: &mut Reading<'_>) -> Option<String> {
    let Provider { name, path } = provider(reading);
    let allowed: &[&str] = match reading.role.as_str() {
        "control_plane" => &["etcd"],
        "data_plane" => &["etcd", "yaml", "json"],
        _ => &["embedded", "etcd", "yaml"],
    };
    if allowed.contains(&name.as_str()) {
        return Some(name);
    }
    if name == "xds" && reading.role == "data_plane" {
        let message = "config_provider xds needs a shared library that headgate does not load";
        let note = reading.error("deployment/provider", &path, message);
        note.label("not supported").help("use etcd, yaml or json");
        return None;
    }
    let help = nearest(&name, allowed).map_or_else(
        || format!("this role reads from: {}", allowed.join(", ")),
        |near| format!("did you mean {near}?"),
    );
    let label = match name.as_str() {
        "embedded" => "the embedded store belongs to one process with all roles".to_owned(),
        "yaml" | "json" | "etcd" | "xds" => format!("not with role {}", reading.role),
        _ => format!("no provider is called {name}"),
    };
    let note = reading.refuse("deployment/provider", &path, "matches none of the enum values");
    note.label(label).help(help);
    None
}

fn check_stand_alone(reading: &mut Reading<'_>) {
    if (reading.env)("APISIX_STAND_ALONE").as_deref() != Some("true") {
        return;
    }
    let Provider { name, path } = provider(reading);
    if name == "yaml" || name == "json" {
        return;
    }
    let role = reading.role.clone();
    let message = format!(
        "APISIX_STAND_ALONE is set to 'true' but config_provider is '{name}'; \
         For standalone mode, config_provider must be 'yaml' or 'json'; Current role: {role}"
    );
    let note = reading.error("deployment/stand-alone", &path, message);
    note.help("unset APISIX_STAND_ALONE, or write\ndeployment:\n  role: data_plane\n  role_data_plane:\n    config_provider: yaml");
}

/// Hosts from the environment: absent, a JSON list, or the reason why it is none.
fn etcd_variable(reading: &Reading<'_>) -> Option<Result<Vec<String>, String>> {
    let text = (reading.env)(ETCD_VARIABLE)?;
    Some(serde_json::from_str(&text).map_err(|error| error.to_string()))
}

fn embedded(reading: &mut Reading<'_>, path: PathBuf) -> StoreSettings {
    let history = "deployment.embedded.history";
    let revisions = reading.int(&format!("{history}.max_revisions"));
    let age = duration_of(reading, &format!("{history}.max_age"), Duration::from_secs(30 * 86_400));
    StoreSettings::Embedded(EmbeddedSettings {
        path,
        history_revisions: revisions.and_then(|most| u64::try_from(most).ok()).unwrap_or(10_000),
        history_age: age,
        prefix: etcd::prefix(reading),
    })
}

/// A time; an unreadable one is a problem and gives the default.
pub(super) fn duration_of(reading: &mut Reading<'_>, path: &str, default: Duration) -> Duration {
    let Some(text) = reading.scalar(path) else { return default };
    duration::parse(&text).unwrap_or_else(|| {
        let message = format!("{path} is not a time: {text}");
        let note = reading.error("config/duration", path, message).label("not a time");
        note.help(
            "write a number with a unit: 500ms, 30s, 5m, 12h, 30d (a bare number is seconds)",
        );
        default
    })
}
