//! All codes of problems in `config.yaml`: the source of `docs/reference/problems.md`.

/// One code.
#[derive(Debug, Clone, Copy)]
pub struct Code {
    /// The code, e.g. `stream-proxy/port`.
    pub code: &'static str,
    /// When it is reported.
    pub meaning: &'static str,
    /// How to mend it.
    pub fix: &'static str,
}

const fn code(code: &'static str, meaning: &'static str, fix: &'static str) -> Code {
    Code { code, meaning, fix }
}

/// All codes, grouped by subject.
pub const CODES: &[Code] = &[
    code(
        "yaml/syntax",
        "The file is not valid YAML; the place is where reading stopped.",
        "Check indentation, brackets and quotes at that line and the one before it.",
    ),
    code("yaml/tab", "A tab is used for indentation.", "Replace it with spaces."),
    code(
        "yaml/list-item",
        "A plain list item (`- 9333`) is followed by an indented member (`tls: true`).",
        "Write the item as a mapping: `- addr: 9333` and `tls: true` below `addr`.",
    ),
    code(
        "yaml/duplicate-key",
        "A key appears twice in the same mapping. Both places are shown.",
        "Keep one of them and move the members of the other one into it.",
    ),
    code(
        "yaml/too-large",
        "Aliases or nesting would make the document enormous.",
        "Use fewer aliases and less nesting.",
    ),
    code(
        "access-log/format",
        "`access_log_format` uses a variable that does not exist, or a `$` without a name.",
        "Use the variables of docs/reference/variables.md.",
    ),
    code(
        "admin/certificate",
        "The certificate, key or client CA of the Admin API cannot be read or used.",
        "Name readable PEM files that belong together.",
    ),
    code(
        "config/read",
        "The file cannot be read, or is not UTF-8.",
        "Check path and permissions; save it as UTF-8.",
    ),
    code(
        "config/invalid",
        "The file is YAML but not a mapping at the top.",
        "Begin with sections such as `apisix:`.",
    ),
    code(
        "config/environment",
        "A variable in `${{VAR}}` is not set and has no default.",
        "Set it, or write `${{VAR:=default}}`.",
    ),
    code(
        "config/merge",
        "The value has another type than the default it replaces.",
        "Write a value of the type the message names after `expect`.",
    ),
    code(
        "config/type",
        "The value has the wrong type.",
        "Write a value of the type the message names after `expected`.",
    ),
    code(
        "config/value",
        "The value is not one of the allowed words, or out of range.",
        "The help line lists what is possible.",
    ),
    code(
        "config/duration",
        "The value is not a time.",
        "Write a number with a unit: `500ms`, `30s`, `12h`, `30d`.",
    ),
    code(
        "config/size",
        "The value is not a size.",
        "Write bytes with a unit: `512m`, `2g` (`k`, `m` and `g` are 1024-fold).",
    ),
    code(
        "config/network",
        "The value is neither an IP address nor a network.",
        "Write `10.0.0.1` or `10.0.0.0/8`; `real_ip_from` also takes `unix:`.",
    ),
    code("config/file", "A file that the configuration names does not exist.", "Correct the path."),
    code(
        "config/unknown-key",
        "Nothing reads this key; most often a slip of the pen. A warning: the reference ignores unknown keys.",
        "Correct the spelling, or remove it.",
    ),
    code(
        "config/no-effect",
        "The key is known and accepted, but changes nothing in headgate, for the reason given.",
        "Nothing; or remove it.",
    ),
    code(
        "config/deprecated",
        "An older spelling. It is understood, and the new form is shown.",
        "Write the new form.",
    ),
    code(
        "stream-proxy/port",
        "A port is missing, not whole, or not within 1 to 65535.",
        "Write a port from 1 to 65535.",
    ),
    code(
        "stream-proxy/range",
        "A port range begins with the greater port.",
        "Write the smaller port first.",
    ),
    code(
        "stream-proxy/format",
        "The text is neither a port, a range nor an address.",
        "Write `9100`, `\"2000-2100\"` or `\"127.0.0.1:9100\"`.",
    ),
    code(
        "stream-proxy/address",
        "The address cannot be used: a host name, an IPv6 address without brackets, a Unix socket for UDP.",
        "Write an IP address: `\"127.0.0.1:9100\"`, `\"[::1]:9100\"`.",
    ),
    code(
        "stream-proxy/addr",
        "A listener written as a mapping has no `addr`.",
        "Add `addr: 9100`.",
    ),
    code(
        "stream-proxy/type",
        "A listener is neither a number, a string nor (TCP only) a mapping.",
        "Write a port or an address.",
    ),
    code(
        "stream-proxy/empty",
        "`tcp` or `udp` is an empty list.",
        "Add a listener, or remove the key.",
    ),
    code(
        "stream-proxy/duplicate",
        "Two entries listen on the same address. Both places are shown.",
        "Remove one, or change its address or port.",
    ),
    code(
        "stream-proxy/too-many",
        "The ranges add up to more listeners than all ports of TCP and UDP, twice over.",
        "Listen on fewer ports.",
    ),
    code(
        "stream-proxy/clash",
        "A TCP listener takes the port of the Admin API, control API, status server or metrics.",
        "Change one of the two ports.",
    ),
    code(
        "stream-proxy/off",
        "There is a `stream_proxy` section, but `proxy_mode: http` leaves the stream plane off.",
        "Set `proxy_mode` to `http&stream` or `stream`, or remove the section.",
    ),
    code(
        "stream-proxy/none",
        "The stream plane has no listeners.",
        "Add `tcp` or `udp` to `apisix.stream_proxy`.",
    ),
    code(
        "ssl/protocol",
        "`ssl_protocols` names a version that is not built in (warning), or no other (error).",
        "Write `TLSv1.2 TLSv1.3`, or one of the two.",
    ),
    code(
        "ssl/cipher",
        "`ssl_ciphers` names suites that are not built in; they are left out.",
        "Remove them. Suites with forward secrecy and authenticated encryption remain.",
    ),
    code(
        "management/address",
        "The address of a management server is not an IP address.",
        "Write an IP address.",
    ),
    code(
        "management/port-conflict",
        "Two management servers have the same port (as in the reference, whatever their IP address).",
        "Give one of them another port.",
    ),
    code(
        "deployment/provider",
        "The provider does not exist, or does not go with the role.",
        "`traditional`: embedded, etcd, yaml. `control_plane`: etcd. `data_plane`: etcd, yaml, json.",
    ),
    code(
        "deployment/role",
        "The section of the role is missing, or the role is not implemented.",
        "Add `role_control_plane` or `role_data_plane` with a `config_provider`.",
    ),
    code(
        "etcd/host",
        "A host of etcd is not `scheme://name[:port]`, or there is none.",
        "Write `http://10.0.0.1:2379`, without a path.",
    ),
    code(
        "etcd/mixed",
        "Some members of etcd are reached with http, others with https.",
        "Use https for all of them.",
    ),
    code(
        "etcd/tls",
        "The client certificate for etcd has no key, or cannot be used.",
        "Name readable PEM files for `cert` and `key`.",
    ),
    code(
        "deployment/stand-alone",
        "The environment variable `APISIX_STAND_ALONE` asks for a provider that is not configured.",
        "Unset the variable.",
    ),
    code(
        "deployment/etcd-variable",
        "`APISIX_DEPLOYMENT_ETCD_HOST` is not a JSON list and is ignored.",
        "Set it to `[\"http://host:2379\"]`, or unset it.",
    ),
    code(
        "admin/allow",
        "An entry of `allow_admin` is neither an IP address nor a network.",
        "Write `10.0.0.1` or `10.0.0.0/8`.",
    ),
    code(
        "admin/key",
        "The Admin API is open to more than the default network but has no valid key.",
        "Set a key in `deployment.admin.admin_key`.",
    ),
    code(
        "admin/empty-key",
        "A key of the Admin API is empty; one is generated at start.",
        "Set a secret of your own.",
    ),
    code(
        "admin/open",
        "`admin_key_required: false`: the Admin API does not ask for a key.",
        "Remove the switch and set a key.",
    ),
    code(
        "admin/tls",
        "`https_admin` is on without a certificate and key.",
        "Set both files in `deployment.admin.admin_api_mtls`.",
    ),
    code(
        "encryption/keyring",
        "A key of the keyring does not have 16 or 32 characters.",
        "Use 16 or 32 characters; `keyring: ~` switches encryption off.",
    ),
    code(
        "resolver/server",
        "A name server is not an IP address (error), or has a zone id (warning, ignored).",
        "Write `10.0.0.2` or `10.0.0.2:5353`.",
    ),
    code(
        "plugins/prometheus-export",
        "The `prometheus` stream plugin is on while its export server is off.",
        "Set `enable_export_server` to `true`, or remove the plugin.",
    ),
    code(
        "plugins/prometheus-setting",
        "A path or a prefix in `plugin_attr.prometheus` cannot be used.",
        "Begin `export_uri` with a slash; use letters, digits and `_` in `metric_prefix`.",
    ),
];

/// What is known about a code.
#[must_use]
pub fn explain(code: &str) -> Option<&'static Code> {
    CODES.iter().find(|one| one.code == code)
}

/// The text of `docs/reference/problems.md`.
#[must_use]
pub fn page() -> String {
    let mut page = String::from(
        "# Problems in config.yaml\n\n\
         Every problem that `headgate test` and the start report has a code. This page lists them all; it is\n\
         generated from `crates/model/src/settings/codes.rs` (`HEADGATE_BLESS=1 cargo nextest run -p headgate-model`).\n\n\
         Errors stop the start. Warnings do not: the configuration can be used, but probably does not do what\n\
         was meant.\n",
    );
    for Code { code, meaning, fix } in CODES {
        page.push_str(&format!("\n## {code}\n\n{meaning}\n\n**Fix:** {fix}\n"));
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use regex::Regex;

    use super::*;

    fn sources(folder: &Path, into: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, into);
            } else if path.file_name().unwrap() != "codes.rs" {
                into.push(std::fs::read_to_string(&path).unwrap());
            }
        }
    }

    #[test]
    fn every_code_in_use_is_in_the_table() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut texts = vec![std::fs::read_to_string(root.join("yaml.rs")).unwrap()];
        sources(&root.join("settings"), &mut texts);
        sources(&root.join("yaml"), &mut texts);
        let preflight = "../../headgate/src/preflight.rs";
        texts.push(std::fs::read_to_string(root.join(preflight)).unwrap());
        let subjects: BTreeSet<&str> =
            CODES.iter().filter_map(|one| one.code.split('/').next()).collect();
        let subjects: Vec<&str> = subjects.into_iter().collect();
        let pattern = Regex::new(&format!("\"(({})/[a-z-]+)\"", subjects.join("|"))).unwrap();
        let used: BTreeSet<String> = texts
            .iter()
            .flat_map(|text| pattern.captures_iter(text).map(|found| found[1].to_owned()))
            .collect();
        let table: BTreeSet<String> = CODES.iter().map(|one| one.code.to_owned()).collect();
        assert_eq!(used, table);
        assert_eq!(CODES.len(), table.len(), "a code is there twice");
    }

    #[test]
    fn the_page_is_fresh() {
        crate::settings::keys::reference::check_page("problems.md", &page());
    }
}
