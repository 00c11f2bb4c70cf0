//! `deployment.admin`: keys, allowed networks, certificates of the Admin API.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use ipnet::IpNet;
use serde_json::Value;

use super::reading::Reading;
use super::{AdminKey, AdminSettings, AdminTls};

const KEY: &str = "deployment.admin.admin_key";
const ALLOW: &str = "deployment.admin.allow_admin";

/// Reads the section for an Admin API at `listen`.
pub(super) fn read(reading: &mut Reading<'_>, listen: SocketAddr, home: &Path) -> AdminSettings {
    let allow = allow(reading);
    AdminSettings {
        listen,
        tls: tls(reading, home),
        keys: keys(reading, allow.as_deref()),
        allow,
        cors: reading.is_on("deployment.admin.enable_admin_cors"),
        v3: reading.text("deployment.admin.admin_api_version").is_none_or(|text| text == "v3"),
        server_tokens: reading.is_on("apisix.enable_server_tokens"),
        warnings: reading.is_on("deployment.admin.warnings"),
    }
}

/// Networks that may connect; `None` lets everyone in.
fn allow(reading: &mut Reading<'_>) -> Option<Vec<String>> {
    let items = match reading.get(ALLOW)? {
        Value::Array(items) => items.clone(),
        _ => return Some(Vec::new()),
    };
    let mut allowed = Vec::new();
    for (index, item) in items.iter().enumerate() {
        match item.as_str() {
            Some(text) if is_network(text) => allowed.push(text.to_owned()),
            _ => {
                let at = format!("{ALLOW}[{index}]");
                let note =
                    reading.refuse("admin/allow", &at, "object matches none of the required");
                note.label("not an IP address or network").help(
                    "write an IP address (10.0.0.1) or a network (10.0.0.0/8, ::1/128); allow_admin: ~ lets everyone in",
                );
            }
        }
    }
    Some(allowed)
}

pub(super) fn is_network(text: &str) -> bool {
    text.parse::<IpNet>().is_ok() || text.parse::<IpAddr>().is_ok()
}

/// The keys; `None` switches authentication off.
fn keys(reading: &mut Reading<'_>, allow: Option<&[String]>) -> Option<Vec<AdminKey>> {
    let local = allow.is_some_and(|all| all == ["127.0.0.0/24"]);
    if !reading.is_on("deployment.admin.admin_key_required") {
        let message = "Warning! Admin key is bypassed! If you are deploying APISIX in a production environment, please enable `admin_key_required` and set a secure admin key!";
        let at = "deployment.admin.admin_key_required";
        let note = reading.warning("admin/open", at, message).label("switches authentication off");

        note.help("remove admin_key_required: false and set a key in deployment.admin.admin_key");
        return None;
    }
    let items = reading.get(KEY).and_then(Value::as_array).cloned().unwrap_or_default();
    if items.is_empty() {
        if !local {
            let note = reading.error("admin/key", KEY, "ERROR: missing valid Admin API token.");
            note.label("no key, although allow_admin is not the default").help(
                "set a key:\ndeployment:\n  admin:\n    admin_key:\n      - name: admin\n        key: <secret>\n        role: admin",
            );
        }
        return (!reading.deleted(KEY)).then(Vec::new);
    }
    let mut keys = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let at = format!("{KEY}[{index}]");
        let Some(map) = item.as_object() else {
            let reason = super::wording::wrong_type("object", item);
            let note = reading.refuse("admin/key", &at, &reason).label("not a mapping");
            note.help("write - name: admin, with key and role on the lines below");
            continue;
        };
        let text = |name: &str| match map.get(name) {
            Some(Value::String(text)) => text.clone(),
            _ => String::new(),
        };
        let key = AdminKey {
            name: Some(text("name"))
                .filter(|name| !name.is_empty())
                .unwrap_or_else(|| "admin".to_owned()),
            key: text("key"),
            viewer: text("role") == "viewer",
        };
        if key.key.is_empty() && !local {
            let message = "WARNING: using empty Admin API. This will trigger APISIX to automatically generate a random Admin API token.";
            let note = reading.warning("admin/empty-key", &format!("{at}.key"), message);

            note.label("empty").help("set a secret of your own, e.g. with key: ${{ADMIN_KEY}}");
        }
        keys.push(key);
    }
    Some(keys)
}

/// Certificates, when HTTPS is asked for.
fn tls(reading: &mut Reading<'_>, home: &Path) -> Option<AdminTls> {
    if !reading.is_on("deployment.admin.https_admin") {
        return None;
    }
    let file = |name: &str| {
        let path = format!("deployment.admin.admin_api_mtls.{name}");
        reading.text(&path).filter(|text| !text.is_empty()).map(|text| home.join(text))
    };
    let (cert, key) = (file("admin_ssl_cert"), file("admin_ssl_cert_key"));
    let client_ca = file("admin_ssl_ca_cert");
    let (Some(cert), Some(key)) = (cert, key) else {
        let at = "deployment.admin.https_admin";
        let note = reading.error("admin/tls", at, "missing ssl cert for https admin");
        note.label("needs a certificate and its key").help(
            "set admin_ssl_cert and admin_ssl_cert_key in deployment.admin.admin_api_mtls, or remove https_admin",
        );
        return None;
    };
    Some(AdminTls { cert, key, client_ca })
}
