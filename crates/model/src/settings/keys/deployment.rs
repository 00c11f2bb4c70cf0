//! Keys below `deployment`.

use super::Shape::{Bool, Free, Int, Scalar, Text, Words};
use super::{Key, idle, read, section};

const ETCD: &str = "the embedded store does not use etcd";
const ROLE: &str = "control plane and data plane are one process in headgate";

pub(super) const KEYS: &[Key] = &[
    section("deployment", "Role, store and Admin API."),
    read(
        "deployment.role",
        Words(&["traditional", "control_plane", "data_plane", "standalone"]),
        "\"traditional\"",
        "Role of this instance. Only `traditional` is built into this version.",
    ),
    section("deployment.role_traditional", "Settings of the role `traditional`."),
    read(
        "deployment.role_traditional.config_provider",
        Text,
        "",
        "Where resources are kept. `embedded` (headgate's own store) is the default unless the file names an etcd; `etcd` and `yaml` are not built into this version.",
    ),
    section(
        "deployment.role_control_plane",
        "Settings of the role `control_plane`, which is not built into this version.",
    ),
    read("deployment.role_control_plane.config_provider", Text, "", "As in the reference."),
    idle("deployment.role_control_plane.conf_server", ROLE),
    section(
        "deployment.role_data_plane",
        "Settings of the role `data_plane`, which is not built into this version.",
    ),
    read("deployment.role_data_plane.config_provider", Text, "", "As in the reference."),
    idle("deployment.role_data_plane.control_plane", ROLE),
    idle("deployment.certs", ROLE),
    section("deployment.admin", "Admin API."),
    read(
        "deployment.admin.admin_key_required",
        Bool,
        "true",
        "`false` switches authentication off.",
    ),
    read(
        "deployment.admin.admin_key",
        Free,
        "[{\"name\": \"admin\", \"key\": \"\", \"role\": \"admin\"}]",
        "Keys of the Admin API. An empty key is generated at start. `~` switches authentication off, which is only allowed with the default `allow_admin`.",
    ),
    read(
        "deployment.admin.admin_key[].name",
        Text,
        "",
        "Who uses the key; the author in the history.",
    ),
    read(
        "deployment.admin.admin_key[].key",
        Text,
        "",
        "The secret, sent in the header `X-API-KEY`.",
    ),
    read(
        "deployment.admin.admin_key[].role",
        Words(&["admin", "viewer"]),
        "",
        "`viewer` may only read. Default `admin`.",
    ),
    read(
        "deployment.admin.allow_admin",
        Free,
        "[\"127.0.0.0/24\"]",
        "IP addresses and networks that may connect. `~` lets everyone in.",
    ),
    section("deployment.admin.admin_listen", "Address of the Admin API."),
    read("deployment.admin.admin_listen.ip", Text, "\"0.0.0.0\"", "IP address."),
    read("deployment.admin.admin_listen.port", Int(1, 65535), "9180", "Port."),
    read(
        "deployment.admin.https_admin",
        Bool,
        "",
        "Serve HTTPS; needs `admin_api_mtls`. Default `false`.",
    ),
    section("deployment.admin.admin_api_mtls", "Certificate files of the Admin API."),
    read("deployment.admin.admin_api_mtls.admin_ssl_cert", Text, "", "Certificate chain, PEM."),
    read("deployment.admin.admin_api_mtls.admin_ssl_cert_key", Text, "", "Private key, PEM."),
    read(
        "deployment.admin.admin_api_mtls.admin_ssl_ca_cert",
        Text,
        "",
        "When not empty: client certificates must come from this CA.",
    ),
    read(
        "deployment.admin.enable_admin_cors",
        Bool,
        "true",
        "CORS headers in answers of the Admin API.",
    ),
    read(
        "deployment.admin.admin_api_version",
        Text,
        "\"v3\"",
        "`v3`; anything else gives the older envelopes.",
    ),
    read(
        "deployment.admin.warnings",
        Bool,
        "true",
        "Add `warnings` to answers of the Admin API (headgate extension).",
    ),
    idle("deployment.admin.enable_admin_ui", "the dashboard is not built into this version yet"),
    section("deployment.etcd", "Settings of etcd."),
    read(
        "deployment.etcd.prefix",
        Text,
        "\"/apisix\"",
        "Prefix of the keys in answers of the Admin API.",
    ),
    read(
        "deployment.etcd.host",
        Free,
        "[\"http://127.0.0.1:2379\"]",
        "Naming an etcd without `config_provider: embedded` selects the provider `etcd`, which is not built into this version.",
    ),
    idle("deployment.etcd.timeout", ETCD),
    idle("deployment.etcd.watch_timeout", ETCD),
    idle("deployment.etcd.resync_delay", ETCD),
    idle("deployment.etcd.health_check_timeout", ETCD),
    idle("deployment.etcd.health_check_retry", ETCD),
    idle("deployment.etcd.startup_retry", ETCD),
    idle("deployment.etcd.use_grpc", ETCD),
    idle("deployment.etcd.user", ETCD),
    idle("deployment.etcd.password", ETCD),
    idle("deployment.etcd.tls", ETCD),
    section("deployment.embedded", "headgate's own store (extension)."),
    read(
        "deployment.embedded.path",
        Text,
        "",
        "Directory of the store, relative to the home directory. Default `data`.",
    ),
    section("deployment.embedded.history", "History of changes."),
    read(
        "deployment.embedded.history.max_revisions",
        Int(1, i64::MAX),
        "10000",
        "Most revisions kept.",
    ),
    read(
        "deployment.embedded.history.max_age",
        Scalar,
        "\"30d\"",
        "Longest time a revision is kept (`ms s m h d w M y`).",
    ),
];
