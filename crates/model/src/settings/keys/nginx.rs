//! Keys below `nginx_config`.

use super::Shape::{Bool, Int, Scalar, Text, Texts, Words};
use super::{Key, idle, read, section};

const LUA: &str = "it configures the Lua runtime, which headgate does not have";
const SNIPPET: &str = "snippets are nginx configuration, and headgate is not nginx";
const HTTP: &str = "it only concerns the HTTP plane, which headgate does not have";

pub(super) const KEYS: &[Key] = &[
    section("nginx_config", "Process settings; numbers may be written as strings here."),
    read(
        "nginx_config.error_log",
        Text,
        "",
        "File of the process log, relative to the home directory. Default: standard error.",
    ),
    read(
        "nginx_config.error_log_level",
        Words(&["debug", "info", "notice", "warn", "error", "crit", "alert", "emerg"]),
        "\"warn\"",
        "Least severe level that is logged.",
    ),
    read(
        "nginx_config.worker_processes",
        Scalar,
        "\"auto\"",
        "Number of worker threads; anything but a number means one per available CPU. The environment variable `APISIX_WORKER_PROCESSES` beats it.",
    ),
    read("nginx_config.enable_cpu_affinity", Bool, "false", "Pin each worker to a CPU."),
    read(
        "nginx_config.worker_rlimit_nofile",
        Int(1, i64::MAX),
        "20480",
        "Open files to ask for; at least `worker_connections` + 128.",
    ),
    section("nginx_config.event", "Connections."),
    read(
        "nginx_config.event.worker_connections",
        Int(1, i64::MAX),
        "10620",
        "Most sockets per worker; client and upstream sides both count.",
    ),
    read(
        "nginx_config.worker_shutdown_timeout",
        Scalar,
        "\"240s\"",
        "How long a graceful stop waits (`ms s m h d w M y`; a bare number is seconds).",
    ),
    section("nginx_config.stream", "Stream plane."),
    read("nginx_config.stream.enable_access_log", Bool, "false", "Write the access log."),
    read(
        "nginx_config.stream.access_log",
        Text,
        "\"logs/access_stream.log\"",
        "File of the access log, relative to the home directory; or `syslog:server=10.0.0.1:514,facility=local7,severity=info,tag=nginx,nohostname`, also `server=unix:/dev/log`.",
    ),
    read(
        "nginx_config.stream.access_log_format",
        Text,
        "\"$remote_addr [$time_local] $protocol $status $bytes_sent $bytes_received $session_time\"",
        "Format of a line, with `$variables`.",
    ),
    read(
        "nginx_config.stream.access_log_format_escape",
        Words(&["default", "json", "none"]),
        "\"default\"",
        "How values are escaped.",
    ),
    read(
        "nginx_config.stream.access_log_start",
        Bool,
        "false",
        "Write a line when a session is connected to its upstream, too; `$log_event` tells them apart. Extension.",
    ),
    read(
        "nginx_config.stream.access_log_interval",
        Int(0, 86_400 * 365),
        "0",
        "Seconds after which a session that lasts writes a line, again and again; 0: never. Extension.",
    ),
    read(
        "nginx_config.stream.real_ip_from",
        Texts(false),
        "",
        "Trusted peers (IP address, CIDR, `unix:`) whose PROXY protocol header replaces the client address.",
    ),
    read(
        "nginx_config.stream.udp_max_flows",
        Int(1, i64::MAX),
        "20000",
        "Most UDP flows at once, all workers together (headgate extension).",
    ),
    idle("nginx_config.stream.lua_shared_dict", LUA),
    idle("nginx_config.stream.metrics_zone_size", "headgate's counters need no shared memory zone"),
    read(
        "nginx_config.user",
        Scalar,
        "",
        "Whom to become when started as root: a user of `/etc/passwd` or a number, then perhaps a group.",
    ),
    idle(
        "nginx_config.envs",
        "headgate reads the whole environment; set variables in the service manager",
    ),
    idle("nginx_config.max_pending_timers", LUA),
    idle("nginx_config.max_running_timers", LUA),
    idle("nginx_config.meta", LUA),
    idle("nginx_config.http", HTTP),
    idle("nginx_config.worker_rlimit_core", "core dump limits belong to the service manager"),
    idle("nginx_config.main_configuration_snippet", SNIPPET),
    idle("nginx_config.http_configuration_snippet", SNIPPET),
    idle("nginx_config.http_server_configuration_snippet", SNIPPET),
    idle("nginx_config.http_server_location_configuration_snippet", SNIPPET),
    idle("nginx_config.http_admin_configuration_snippet", SNIPPET),
    idle("nginx_config.http_end_configuration_snippet", SNIPPET),
    idle("nginx_config.stream_configuration_snippet", SNIPPET),
];
