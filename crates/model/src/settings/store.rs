//! `deployment`: role and provider, which decide where resources come from.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::nearest::nearest;
use super::reading::Reading;
use super::{EmbeddedSettings, StoreSettings, duration};

const ETCD_HOST: &str = "deployment.etcd.host";
const ETCD_VARIABLE: &str = "APISIX_DEPLOYMENT_ETCD_HOST";

/// The provider and the key that chose it.
pub(super) struct Provider {
    pub(super) name: String,
    path: String,
}

/// Which provider the file asks for; `embedded` when it names neither a provider nor an etcd.
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
    Provider { name: "embedded".to_owned(), path }
}

/// Reads role, provider and the embedded store's settings.
pub(super) fn read(reading: &mut Reading<'_>, home: &Path) -> StoreSettings {
    if let Some(Err(error)) = etcd_variable(reading) {
        let message = format!("parse ${{{ETCD_VARIABLE}}} failed, error:{error}");
        let note = reading.warning("deployment/etcd-variable", ETCD_HOST, message);
        note.help(format!("set {ETCD_VARIABLE} to a JSON list: [\"http://host:2379\"]"));
    }
    if check_role(reading) {
        check_provider(reading);
    }
    check_stand_alone(reading);
    embedded(reading, home)
}

fn check_role(reading: &mut Reading<'_>) -> bool {
    let role = reading.role.clone();
    if role == "traditional"
        || !["control_plane", "data_plane", "standalone"].contains(&role.as_str())
    {
        return role == "traditional";
    }
    let section = format!("role_{role}");
    let missing = role != "standalone" && !reading.wrote(&format!("deployment.{section}"));
    let ours = format!("role {role} is not built into this version");
    let message = if missing {
        format!(
            "invalid deployment {role} configuration: property \"{section}\" is required, and {ours}"
        )
    } else {
        ours
    };
    let note = reading.error("deployment/role-not-built", "deployment.role", message);

    note.label("not possible yet")
        .help("use role: traditional; it holds data and control plane in one");
    false
}

fn check_provider(reading: &mut Reading<'_>) {
    let Provider { name, path } = provider(reading);
    let known = ["embedded", "etcd", "yaml", "json", "xds"];
    if name == "embedded" {
        return;
    }
    if !known.contains(&name.as_str()) {
        let help = nearest(&name, &known).map_or_else(
            || "use config_provider: embedded".to_owned(),
            |near| format!("did you mean {near}?"),
        );
        let note = reading.refuse("deployment/provider", &path, "matches none of the enum values");
        note.label(format!("no provider is called {name}")).help(help);
        return;
    }
    let message = format!("config_provider {name} is not built into this version; use embedded");
    let label = if path == ETCD_HOST { "naming an etcd selects it" } else { "not possible yet" };
    let note = reading.error("deployment/provider-not-built", &path, message).label(label);
    note.help(
        "keep resources in headgate's own store:\ndeployment:\n  role_traditional:\n    config_provider: embedded",
    );
}

fn check_stand_alone(reading: &mut Reading<'_>) {
    if (reading.env)("APISIX_STAND_ALONE").as_deref() != Some("true") {
        return;
    }
    let Provider { name, path } = provider(reading);
    if name == "yaml" || name == "json" {
        return;
    }
    let message = format!("APISIX_STAND_ALONE is set to 'true' but config_provider is '{name}'");
    let role = reading.role.clone();
    let note = reading.error("deployment/stand-alone", &path, message);
    note.help(format!(
        "unset APISIX_STAND_ALONE (the providers yaml and json are not built into this version; current role: {role})"
    ));
}

/// Hosts from the environment: absent, a JSON list, or the reason why it is none.
fn etcd_variable(reading: &Reading<'_>) -> Option<Result<Vec<String>, String>> {
    let text = (reading.env)(ETCD_VARIABLE)?;
    Some(serde_json::from_str(&text).map_err(|error| error.to_string()))
}

fn embedded(reading: &mut Reading<'_>, home: &Path) -> StoreSettings {
    let path = reading.text("deployment.embedded.path").unwrap_or("data");
    let path = home.join(path);
    let history = "deployment.embedded.history";
    let revisions = reading.int(&format!("{history}.max_revisions"));
    let age = duration_of(reading, &format!("{history}.max_age"), Duration::from_secs(30 * 86_400));
    let prefix = reading.text("deployment.etcd.prefix").unwrap_or("/apisix");
    StoreSettings::Embedded(EmbeddedSettings {
        path,
        history_revisions: revisions.and_then(|most| u64::try_from(most).ok()).unwrap_or(10_000),
        history_age: age,
        prefix: prefix.trim_end_matches('/').to_owned(),
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
