//! Plugin lists, `plugin_attr`, `xrpc`, `discovery`, and what is left at the top level.

use super::Shape::{Bool, Int, Text, Texts};
use super::{Key, idle, moved, read, section};

const FRESH: &str = "values are collected at every scrape, so there is no cache to refresh";
const HTTP_METRICS: &str = "it concerns metrics that headgate does not have";
const HTTP: &str = "it only concerns the HTTP plane, which headgate does not have";

pub(super) const KEYS: &[Key] = &[
    read(
        "stream_plugins",
        Texts(false),
        "[\"ip-restriction\", \"limit-conn\", \"mqtt-proxy\", \"syslog\", \"traffic-split\"]",
        "Stream plugins that routes may use.",
    ),
    read(
        "plugins",
        Texts(false),
        "",
        "HTTP plugins; only known so that configurations that use them can be stored.",
    ),
    section("plugin_attr", "Settings of plugins."),
    section("plugin_attr.prometheus", "Prometheus."),
    read(
        "plugin_attr.prometheus.enable_export_server",
        Bool,
        "true",
        "Serve metrics at the export address.",
    ),
    section("plugin_attr.prometheus.export_addr", "Address of the export server."),
    read("plugin_attr.prometheus.export_addr.ip", Text, "\"127.0.0.1\"", "IP address."),
    read("plugin_attr.prometheus.export_addr.port", Int(1, 65535), "9091", "Port."),
    read(
        "plugin_attr.prometheus.export_uri",
        Text,
        "\"/apisix/prometheus/metrics\"",
        "Path of the metrics.",
    ),
    read(
        "plugin_attr.prometheus.metric_prefix",
        Text,
        "\"apisix_\"",
        "What the names of the reference's metrics begin with; those of headgate begin with `headgate_`.",
    ),
    idle("plugin_attr.prometheus.refresh_interval", FRESH),
    idle("plugin_attr.prometheus.metrics", HTTP_METRICS),
    idle("plugin_attr.prometheus.default_buckets", HTTP_METRICS),
    idle("plugin_attr.*", "only `prometheus` has settings in headgate"),
    section("xrpc", "Application protocols handled request by request."),
    read(
        "xrpc.protocols",
        super::Shape::Free,
        "",
        "List of `{name: redis}`: protocols that stream routes may name. Such routes are stored; \
         this version does not run them.",
    ),
    idle("discovery", "service discovery is not built into this version yet"),
    idle("wasm", HTTP),
    idle("ext-plugin", HTTP),
    idle("graphql", HTTP),
    idle("vault", "secret managers are resources (`/apisix/admin/secrets`)"),
    moved("etcd", "deployment.etcd"),
    section("headgate", "Settings that the reference does not have."),
    read(
        "headgate.pid_file",
        Text,
        "",
        "File that holds the process id. Default `logs/headgate.pid` in the home directory.",
    ),
    section("headgate.sandbox", "What the process gives up for good when it starts."),
    read(
        "headgate.sandbox.enable",
        super::Shape::Bool,
        "false",
        "Write only below the folders of the store, the logs and the pid file (Landlock), and refuse system calls that a gateway never makes (seccomp).",
    ),
    read(
        "headgate.sandbox.write",
        Texts(false),
        "",
        "More files and folders that may be written, such as those of `file-logger` and Unix sockets. They must exist.",
    ),
];
