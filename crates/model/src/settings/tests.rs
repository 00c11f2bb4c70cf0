//! Tests of the whole way from text to settings.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::listen::{ListenAddr, Transport};
use crate::problem::Severity;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn load(text: &str) -> Loaded {
    load_with(text, &[])
}

fn load_with(text: &str, env: &[(&str, &str)]) -> Loaded {
    let lookup =
        |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    Settings::parse(text, Path::new("/srv/gate/conf/config.yaml"), &lookup)
}

fn settings(text: &str) -> Settings {
    let loaded = load(text);
    loaded.settings.unwrap_or_else(|| panic!("{:#?}", loaded.problems))
}

/// `line code` of every problem.
fn found(text: &str) -> Vec<String> {
    let line = |problem: &Problem| problem.place.as_ref().map_or(0, |place| place.line);
    load(text).problems.iter().map(|one| format!("{} {}", line(one), one.code)).collect()
}

fn message(text: &str) -> String {
    load(text).problems.first().map(|problem| problem.message.clone()).unwrap_or_default()
}

fn listens(settings: &Settings) -> Vec<String> {
    let stream = settings.stream.as_ref().unwrap();
    stream.listeners.iter().map(ToString::to_string).collect()
}

#[test]
fn an_empty_file_is_all_defaults() {
    let settings = settings("# nothing\n");
    assert_eq!(settings.stream, None);
    let admin = settings.admin.unwrap();
    assert_eq!(admin.listen, SocketAddr::from(([0, 0, 0, 0], 9180)));
    assert_eq!(admin.allow.unwrap(), ["127.0.0.0/24"]);
    assert_eq!(
        admin.keys.unwrap(),
        [AdminKey { name: "admin".into(), key: String::new(), viewer: false }]
    );
    assert!(admin.cors && admin.v3 && admin.server_tokens && admin.warnings);
    assert_eq!(settings.control, Some(SocketAddr::from(([127, 0, 0, 1], 9090))));
    assert_eq!(settings.status, None);
    assert_eq!(settings.stream_plugins.len(), 5);
    assert_eq!(settings.keyring.len(), 2);
    let StoreSettings::Embedded(store) = settings.store else { panic!() };
    assert_eq!(store.path, Path::new("/srv/gate/data"));
    assert_eq!((store.history_revisions, store.prefix.as_str()), (10_000, "/apisix"));
    assert_eq!(store.history_age, Duration::from_secs(30 * 86_400));
    let process = settings.process;
    assert_eq!(
        (process.workers, process.error_log, process.log_level),
        (None, None, LogLevel::Warn)
    );
    assert_eq!((process.rlimit_nofile, process.worker_connections), (20_480, 10_620));
    assert_eq!(process.shutdown_timeout, Duration::from_secs(240));
    assert_eq!(process.pid_file, Path::new("/srv/gate/logs/headgate.pid"));
    assert!(load("").problems.is_empty());
}

#[test]
fn every_form_of_listener_is_read() {
    let settings = settings(
        "apisix:\n  proxy_mode: http&stream\n  stream_proxy:\n    tcp:\n      - 9100\n      - \"9101\"\n      - \"127.0.0.1:9102\"\n      - \"[::1]:9103\"\n      - addr: \"2000-2002\"\n      - unix:/run/gate.sock\n      - {addr: 9104, tls: false, proxy_protocol: false}\n    udp: [9200, \"127.0.0.1:9201-9202\"]\n",
    );
    assert_eq!(
        listens(&settings),
        [
            "tcp://0.0.0.0:9100",
            "tcp://0.0.0.0:9101",
            "tcp://127.0.0.1:9102",
            "tcp://[::1]:9103",
            "tcp://0.0.0.0:2000",
            "tcp://0.0.0.0:2001",
            "tcp://0.0.0.0:2002",
            "tcp://unix:/run/gate.sock",
            "tcp://0.0.0.0:9104",
            "udp://0.0.0.0:9200",
            "udp://127.0.0.1:9201",
            "udp://127.0.0.1:9202",
        ]
    );
    assert!(settings.stream.unwrap().reuseport);
}

/// Listener, expects a PROXY header, sends one.
fn proxy_switches(text: &str) -> Vec<(String, bool, bool)> {
    let listeners = settings(text).stream.unwrap().listeners;
    let switches = |one: &crate::listen::ListenerSpec| {
        (one.to_string(), one.proxy_protocol, one.proxy_protocol_to_upstream.is_some())
    };
    listeners.iter().map(switches).collect()
}

#[test]
fn an_entry_beats_the_proxy_protocol_switches_for_all() {
    let entries = "  stream_proxy:\n    tcp:\n      - 9100\n      - {addr: 9101, proxy_protocol: false, proxy_protocol_to_upstream: true}\n      - {addr: \"9102-9103\", proxy_protocol: true, proxy_protocol_to_upstream: false}\n      - {addr: 9104, proxy_protocol: ~}\n    udp: [9200]\n";
    let with = |globals: &str| {
        let globals = format!("apisix:\n  proxy_protocol: {globals}\n{entries}");
        let switches = proxy_switches(&globals).into_iter().map(|(_, read, send)| (read, send));
        switches.collect::<Vec<_>>()
    };
    let (none, own_out, own_in) = ((false, false), (false, true), (true, false));
    assert_eq!(with("{}"), [none, own_out, own_in, own_in, none, none]);
    assert_eq!(with("{enable_tcp_pp: false}"), [none, own_out, own_in, own_in, none, none]);
    let both = with("{enable_tcp_pp: true, enable_tcp_pp_to_upstream: true}");
    assert_eq!(both, [(true, true), own_out, own_in, own_in, (true, true), none]);
    let read = with("{enable_tcp_pp: true}");
    assert_eq!(read, [(true, false), own_out, own_in, own_in, (true, false), none]);
    let sent = with("{enable_tcp_pp_to_upstream: true}");
    assert_eq!(sent, [(false, true), own_out, own_in, own_in, (false, true), none]);
}

#[test]
fn trusted_peers_are_addresses_networks_and_unix() {
    let with = |peers: &str| {
        load(&format!(
            "apisix: {{stream_proxy: {{tcp: [9100]}}}}\nnginx_config:\n  stream:\n    real_ip_from: {peers}\n"
        ))
    };
    let peers = with("[192.0.2.1, 10.0.0.0/8, \"::1\", \"fd00::/8\", \"unix:\"]");
    assert!(peers.problems.is_empty(), "{:#?}", peers.problems);
    let peers = peers.settings.unwrap().stream.unwrap().real_ip_from;
    assert_eq!(peers, ["192.0.2.1", "10.0.0.0/8", "::1", "fd00::/8", "unix:"]);
    for wrong in ["localhost", "10.0.0.0/33", "10.0.0.1:80", "[::1]", "unix:/run/x", ""] {
        let loaded = with(&format!("[10.0.0.1, \"{wrong}\"]"));
        let problem = &loaded.problems[0];
        assert_eq!(problem.code, "config/network", "{wrong}");
        assert_eq!(problem.message, format!("invalid real_ip_from entry: {wrong}"));
        assert!(loaded.settings.is_none());
    }
}

#[test]
fn proxy_mode_decides_and_stream_proxy_alone_is_enough() {
    let with = |mode: &str| load(&format!("apisix:\n{mode}  stream_proxy: {{tcp: [9100]}}\n"));
    assert!(with("").settings.unwrap().stream.is_some());
    assert!(with("").problems.is_empty());
    assert!(with("  proxy_mode: stream\n").settings.unwrap().admin.is_some());
    let off = with("  proxy_mode: http\n");
    assert!(off.settings.unwrap().stream.is_none());
    assert_eq!(off.problems[0].code, "stream-proxy/off");
    assert_eq!(found("apisix: {proxy_mode: stream}"), ["1 stream-proxy/none"]);
}

#[test]
fn specific_beside_wildcard_is_legal_and_so_are_tcp_and_udp() {
    let text =
        "apisix: {stream_proxy: {tcp: [9100, \"127.0.0.1:9100\", \"[::]:9100\"], udp: [9100]}}";
    assert!(found(text).is_empty());
    let both = "apisix:\n  stream_proxy:\n    tcp:\n      - 9100\n      - addr: \"0.0.0.0:9100\"\n";
    let loaded = load(both);
    assert_eq!(loaded.problems[0].message, "a duplicate listen 0.0.0.0:9100");
    assert_eq!(loaded.problems[0].related[0].place.line, 4);
}

#[test]
fn thousands_of_ports_are_fast_and_told_once() {
    let start = Instant::now();
    let loaded = load(
        "apisix: {stream_proxy: {tcp: [\"20000-24000\", \"21000-25000\"], udp: [\"20000-24000\"]}}",
    );
    assert_eq!(loaded.problems.len(), 1);
    assert!(start.elapsed() < Duration::from_secs(2));
    let items: Vec<String> = (20_000..24_000).map(|port| port.to_string()).collect();
    let all = settings(&format!("apisix: {{stream_proxy: {{tcp: [{}]}}}}", items.join(", ")));
    assert_eq!(all.stream.unwrap().listeners.len(), 4_000);
    assert!(start.elapsed() < Duration::from_secs(4));
}

#[test]
fn messages_are_those_of_the_reference() {
    let listener = |value: &str| message(&format!("apisix: {{stream_proxy: {{tcp: [{value}]}}}}"));
    assert_eq!(
        listener("65536"),
        "invalid stream_proxy.tcp entry: port out of range (1-65535): 65536"
    );
    assert_eq!(
        listener("\"9-1\""),
        "invalid stream_proxy.tcp entry: invalid port range (start > end): 9-1"
    );
    assert!(
        listener("80.5")
            .starts_with("failed to validate config: property \"apisix\" validation failed")
    );
    assert!(listener("9100, 9100").ends_with("expected unique items but items 1 and 2 are equal"));
    assert_eq!(
        message("deployment: {etcd: {host: \"http://x\"}}"),
        "failed to merge, path[deployment->etcd->host] expect: table, but got: string"
    );
    assert_eq!(
        message("apisix: {proxy_mode: x}"),
        "failed to validate config: property \"apisix\" validation failed: property \"proxy_mode\" validation failed: matches none of the enum values"
    );
    assert_eq!(
        message("deployment: {role: x}"),
        "failed to validate config: property \"deployment\" validation failed: property \"role\" validation failed: matches none of the enum values"
    );
    assert_eq!(
        message("deployment: {role_traditional: {config_provider: x}}"),
        "invalid deployment traditional configuration: property \"role_traditional\" validation failed: property \"config_provider\" validation failed: matches none of the enum values"
    );
    assert_eq!(
        message("apisix: {control: {port: 9180}}"),
        "control port 9180 conflicts with admin port"
    );
    assert_eq!(
        message("apisix: {status: {port: 9091}}"),
        "prometheus port 9091 conflicts with status port"
    );
    assert_eq!(
        message("apisix: {data_encryption: {keyring: short}}"),
        "failed to validate config: property \"apisix\" validation failed: property \"data_encryption\" validation failed: property \"keyring\" validation failed: object matches none of the required"
    );
    assert_eq!(message("~"), "invalid config.yaml file");
}

#[test]
fn the_environment_is_used() {
    let loaded = load_with(
        "apisix:\n  stream_proxy:\n    tcp: [\"${{PORT}}\"]\nnginx_config:\n  worker_processes: 4\n",
        &[("PORT", "9100"), ("APISIX_WORKER_PROCESSES", "2.7")],
    );
    let settings = loaded.settings.unwrap();
    assert_eq!(listens(&settings), ["tcp://0.0.0.0:9100"]);
    assert_eq!(settings.process.workers, Some(2));
    let etcd = load_with("", &[("APISIX_DEPLOYMENT_ETCD_HOST", "[\"http://a:2379\"]")]);
    let StoreSettings::Etcd(etcd) = etcd.settings.unwrap().store else { panic!() };
    assert_eq!(etcd.hosts, ["http://a:2379"]);
    let bad = load_with("", &[("APISIX_DEPLOYMENT_ETCD_HOST", "http://a:2379")]);
    assert_eq!(bad.problems[0].code, "deployment/etcd-variable");
    assert!(bad.settings.is_some());
}

#[test]
fn older_forms_are_understood() {
    let loaded = load(
        "apisix:\n  enable_admin: true\n  stream_proxy:\n    only: true\n    tcp: [9100]\n  admin_key:\n    - {name: root, key: k, role: admin}\n    - {name: look, key: v, role: viewer}\n  allow_admin: [10.0.0.0/8]\n  port_admin: 9280\n  enable_admin_cors: false\n  ssl:\n    key_encrypt_salt: edd1c9f0985e76a1\n",
    );
    assert!(
        loaded.problems.iter().all(|one| one.code == "config/deprecated"),
        "{:#?}",
        loaded.problems
    );
    assert_eq!(loaded.problems.len(), 6);
    assert!(loaded.problems[0].help.as_ref().unwrap().contains("proxy_mode: http&stream"));
    let settings = loaded.settings.unwrap();
    let admin = settings.admin.unwrap();
    assert_eq!(admin.listen.port(), 9280);
    assert_eq!(admin.allow.unwrap(), ["10.0.0.0/8"]);
    assert!(!admin.cors);
    let keys = admin.keys.unwrap();
    assert!(keys[1].viewer && keys[0].name == "root");
    assert_eq!(settings.keyring.last().unwrap().0, "edd1c9f0985e76a1");
    let codes = |text: &str| load(text).problems.iter().map(|one| one.code).collect::<Vec<_>>();
    assert_eq!(codes("apisix: {config_center: yaml}"), ["config/deprecated"]);
    let moved = load("etcd: {host: [\"http://a\"]}").settings.unwrap();
    assert!(matches!(moved.store, StoreSettings::Etcd(_)));
}

#[test]
fn an_error_in_a_moved_value_points_at_the_old_place() {
    let text =
        "apisix:\n  allow_admin:\n    - nonsense\n  admin_key: [{name: a, key: b, role: admin}]\n";
    assert_eq!(found(text)[0], "3 admin/allow");
}

#[test]
fn authentication_follows_the_rules() {
    let admin = |text: &str| settings(&format!("deployment: {{admin: {text}}}")).admin.unwrap();
    assert_eq!(admin("{admin_key: ~}").keys, None);
    assert_eq!(admin("{admin_key_required: false, allow_admin: ~}").keys, None);
    let open = admin("{allow_admin: ~, admin_key: [{name: a, key: s3, role: admin}]}");
    assert_eq!((open.allow, open.keys.unwrap().len()), (None, 1));
    assert_eq!(admin("{allow_admin: [0.0.0.0/0]}").keys.unwrap()[0].key, "");
    assert!(load("deployment: {admin: {admin_key: ~, allow_admin: ~}}").settings.is_none());
    assert_eq!(admin("{admin_key: []}").keys, Some(Vec::new()));
    assert!(settings("deployment: {admin: }").admin.unwrap().allow.is_some());
}

#[test]
fn secrets_are_not_in_the_excerpts() {
    let loaded = load(
        "apisix:\n  admin_key: [{name: a, key: hush1, role: admin}]\n  ssl: {key_encrypt_salt: hush2}\netcd: {password: hush3}\n",
    );
    assert!(!loaded.source.contains("hush"), "{}", loaded.source);
    assert!(loaded.problems.iter().all(|problem| !problem.to_string().contains("hush")));
    let numeric = load("deployment: {admin: {admin_key: [{name: a, key: 0123, role: admin}]}}");
    assert_eq!(numeric.problems[0].code, "config/type");
}

#[test]
fn a_missing_variable_is_one_problem() {
    assert_eq!(found("apisix: {stream_proxy: {tcp: [\"${{NO}}\"]}}"), ["1 config/environment"]);
}

#[test]
fn absurd_ranges_end_early() {
    let items = vec!["\"1-65535\""; 100].join(", ");
    let loaded = load(&format!("apisix: {{stream_proxy: {{tcp: [{items}]}}}}"));
    assert_eq!(loaded.problems.last().unwrap().code, "stream-proxy/too-many");
}

#[test]
fn embedded_store_and_extensions_are_read() {
    let settings = settings(
        "deployment:\n  role_traditional: {config_provider: embedded}\n  etcd: {host: [\"http://127.0.0.1:2379\"], prefix: /gate}\n  admin: {warnings: false}\n  embedded:\n    path: /var/lib/gate\n    history: {max_revisions: 5, max_age: 12h}\nnginx_config: {stream: {udp_max_flows: 7}}\nheadgate: {pid_file: /run/gate.pid}\n",
    );
    let StoreSettings::Embedded(store) = &settings.store else { panic!() };
    assert_eq!(store.path, Path::new("/var/lib/gate"));
    assert_eq!((store.history_revisions, store.history_age.as_secs()), (5, 43_200));
    assert_eq!(store.prefix, "/gate");
    assert!(!settings.admin.unwrap().warnings);
    assert_eq!(settings.process.pid_file, Path::new("/run/gate.pid"));
}

#[test]
fn nobody_is_refused_without_a_bound() {
    let refuses = |more: &str| format!("headgate: {{limits: {{when_full: refuse{more}}}}}");
    assert_eq!(found(&refuses("")), ["1 config/no-effect"]);
    assert!(message(&refuses("")).contains("headgate.limits.connections"));
    assert_eq!(found(&refuses(", connections: 9")), [""; 0]);
    assert_eq!(found("headgate: {limits: {when_full: wait}}"), [""; 0]);
}

#[test]
fn process_settings_are_read() {
    let settings = settings(
        "nginx_config:\n  error_log: logs/error.log\n  error_log_level: notice\n  worker_processes: \"3\"\n  enable_cpu_affinity: true\n  worker_rlimit_nofile: 100\n  worker_shutdown_timeout: 1h\n  event: {worker_connections: \"200\"}\n  stream:\n    enable_access_log: true\n    access_log: /dev/stdout\n    access_log_format_escape: json\n    real_ip_from: [10.0.0.0/8, \"unix:\"]\napisix:\n  stream_proxy: {tcp: [9100]}\n  dns_resolver: [1.1.1.1, \"10.0.0.2:5353\", \"fd00::1\"]\n  dns_resolver_valid: 30\n  status: {}\n",
    );
    let process = settings.process;
    assert_eq!(process.error_log.unwrap(), Path::new("/srv/gate/logs/error.log"));
    assert_eq!(
        (process.log_level, process.workers, process.rlimit_nofile),
        (LogLevel::Info, Some(3), 328)
    );
    let stream = settings.stream.unwrap();
    let log = stream.access_log.unwrap();
    assert_eq!((log.path.as_path(), log.escape), (Path::new("/dev/stdout"), Escape::Json));
    assert!(log.format.starts_with("$remote_addr ["));
    assert_eq!(stream.real_ip_from.len(), 2);
    assert_eq!(settings.resolver.servers[2], "[fd00::1]:53".parse().unwrap());
    assert_eq!(settings.resolver.valid, Some(Duration::from_secs(30)));
    assert_eq!(settings.status, Some(SocketAddr::from(([127, 0, 0, 1], 7085))));
}

#[test]
fn unknown_and_idle_keys_are_warnings() {
    let loaded = load(
        "apisix:\n  node_listen: 9080\n  enable_http2: true\n  ssl: {enable: true, listen: [{port: 9443}]}\n  stream_proxi: 1\nnginx_config:\n  http: {access_log: x}\n  main_configuration_snippet: \"\"\netc: {}\nplugin_attr: {skywalking: {}, prometheus: {refresh_interval: 15}}\n",
    );
    assert!(loaded.settings.is_some());
    let lines: Vec<String> = loaded.problems.iter().map(ToString::to_string).collect();
    assert!(loaded.problems.iter().all(|one| one.severity == Severity::Warning), "{lines:#?}");
    assert_eq!(loaded.problems.len(), 7, "{lines:#?}");
    assert!(
        lines[0].contains(
            "apisix.node_listen, apisix.enable_http2, apisix.ssl.enable, apisix.ssl.listen"
        )
    );
    assert!(lines.iter().any(|line| line.contains("did you mean stream_proxy?")));
    assert!(lines.iter().any(|line| line.contains("did you mean etcd?")));
}

#[test]
fn all_problems_come_at_once_and_errors_first() {
    let lines = found(
        "what: 1\napisix:\n  enable_admin: 1\n  stream_proxy:\n    tcp: [0, 70000, 9100, 9100]\n    udp: []\n",
    );
    assert_eq!(
        lines,
        [
            "3 config/merge",
            "5 stream-proxy/port",
            "5 stream-proxy/port",
            "5 stream-proxy/duplicate",
            "6 stream-proxy/empty",
            "1 config/unknown-key",
        ]
    );
}

#[test]
fn json_files_work() {
    let settings = settings("{\"apisix\": {\"stream_proxy\": {\"tcp\": [9100]}}}");
    let first = &settings.stream.unwrap().listeners[0];
    assert_eq!(first.transport, Transport::Tcp);
    assert!(matches!(first.addr, ListenAddr::Ip(_)));
}

#[test]
fn a_missing_file_is_one_problem() {
    let loaded = Settings::load(Path::new("/nowhere/config.yaml"), &|_| None);
    assert_eq!(loaded.problems[0].code, "config/read");
    assert!(
        loaded.problems[0]
            .message
            .starts_with("failed to open file: /nowhere/config.yaml, error info:")
    );
}

#[test]
fn the_shipped_files_load_without_a_problem() {
    for name in ["conf/config.yaml", "conf/config.example.yaml"] {
        let loaded = Settings::load(&root().join(name), &|_| None);
        assert!(loaded.problems.is_empty(), "{name}: {:#?}", loaded.problems);
        assert!(loaded.settings.is_some());
    }
}

#[test]
fn the_example_shows_every_key() {
    let text = std::fs::read_to_string(root().join("conf/config.example.yaml")).unwrap();
    let document = crate::yaml::Document::parse(&text, Path::new("x")).unwrap();
    for key in keys::all().filter(|key| key.used == keys::Use::Read) {
        let name = key.path.rsplit('.').next().unwrap();
        let shown = document.spans.contains_key(&reading::pointer(key.path))
            || text.lines().any(|line| {
                let line = line.trim_start_matches([' ', '#', '-']);
                line.strip_prefix(name).is_some_and(|rest| rest.starts_with(':'))
            });
        assert!(shown, "{} is missing in conf/config.example.yaml", key.path);
    }
}

#[test]
fn broken_files_are_explained() {
    let mut count = 0;
    for entry in std::fs::read_dir(root().join("tests/fixtures/broken-config")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let wanted = text.lines().next().unwrap().strip_prefix("# expect: ").unwrap();
        let loaded = Settings::load(&path, &|_| None);
        let found = loaded.problems.iter().find(|problem| {
            let line = problem.place.as_ref().map_or(0, |place| place.line);
            format!("{line} {}", problem.code) == wanted
        });
        let found = found.unwrap_or_else(|| {
            let all: Vec<String> = loaded.problems.iter().map(ToString::to_string).collect();
            panic!("{}: no {wanted} in {all:#?}", path.display())
        });
        assert!(found.help.as_ref().is_some_and(|help| !help.is_empty()), "{}", path.display());
        for problem in &loaded.problems {
            assert!(codes::explain(problem.code).is_some(), "{}", problem.code);
        }
        count += 1;
    }
    assert!(count >= 14);
}

fn example() -> String {
    std::fs::read_to_string(root().join("conf/config.example.yaml")).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_text_is_survived(text in "(?s).{0,200}") {
        load(&text);
    }

    #[test]
    fn yaml_like_text_is_survived(text in "([a-z_\\[\\]{}:,&*!|>~'\"#$ \t\n0-9-]|apisix|deployment|stream_proxy|tcp|\\$\\{\\{){0,80}") {
        load(&text);
    }

    #[test]
    fn mutations_of_the_example_are_survived(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..8, "[\\[\\]{}:,&*!|>~'\"# \t\n0-9a-z-]{0,4}"), 1..6)
    ) {
        let mut text: Vec<char> = example().chars().collect();
        for (at, remove, insert) in cuts {
            let at = at.index(text.len());
            let end = (at + remove).min(text.len());
            text.splice(at..end, insert.chars());
        }
        load(&text.into_iter().collect::<String>());
    }

    #[test]
    fn any_listener_value_is_survived(value in "[0-9:\\[\\]a-z.*-]{0,24}") {
        let loaded = load(&format!("apisix:\n  stream_proxy:\n    tcp:\n      - \"{value}\"\n"));
        prop_assert!(loaded.settings.is_some() || !loaded.problems.is_empty());
    }
}

#[test]
fn roles_and_providers() {
    let role = |text: &str| format!("deployment: {{{text}}}");
    for (text, message) in [
        (
            "role: data_plane",
            "invalid deployment data_plane configuration: property \"role_data_plane\" is required",
        ),
        (
            "role: control_plane",
            "invalid deployment control_plane configuration: property \"role_control_plane\" is required",
        ),
        (
            "role: control_plane, role_control_plane: {config_provider: yaml}",
            "invalid deployment control_plane configuration: property \"role_control_plane\" validation failed: property \"config_provider\" validation failed: matches none of the enum values",
        ),
        (
            "role_traditional: {config_provider: json}",
            "invalid deployment traditional configuration: property \"role_traditional\" validation failed: property \"config_provider\" validation failed: matches none of the enum values",
        ),
        (
            "role: data_plane, role_data_plane: {config_provider: embedded}",
            "invalid deployment data_plane configuration: property \"role_data_plane\" validation failed: property \"config_provider\" validation failed: matches none of the enum values",
        ),
        (
            "role: data_plane, role_data_plane: {config_provider: xds}",
            "config_provider xds needs a shared library that headgate does not load",
        ),
        (
            "role_traditional: {config_provider: etcd}, etcd: {host: [\"http://a/b\"]}",
            "invalid http host: http://a/b, err: not matched",
        ),
    ] {
        let loaded = load(&role(text));
        assert!(loaded.settings.is_none(), "{text}");
        assert_eq!(loaded.problems[0].message, message);
    }
    let data = settings(&role("role: data_plane, role_data_plane: {config_provider: yaml}"));
    assert_eq!((data.role, data.admin), (Role::DataPlane, None));
    let StoreSettings::File(file) = data.store else { panic!() };
    assert!(file.path.ends_with("conf/apisix.yaml"), "{:?}", file.path);
    let json = settings(&role("role: data_plane, role_data_plane: {config_provider: json}"));
    assert!(matches!(json.store, StoreSettings::File(file) if file.format == FileFormat::Json));
    let control = settings(
        "apisix: {enable_admin: false}\ndeployment: {role: control_plane, role_control_plane: {config_provider: etcd}}",
    );
    assert!(control.admin.is_some());
    let api = settings(&role("role_traditional: {config_provider: yaml}"));
    assert_eq!(api.store, StoreSettings::Api);
    let file = settings(
        "apisix: {enable_admin: false}\ndeployment: {role_traditional: {config_provider: yaml}}",
    );
    assert!(matches!(file.store, StoreSettings::File(_)));
}
