//! What Prometheus sees: names, labels and values of the exposition, and a real Prometheus that
//! scrapes it.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::fs;
use std::io::Write as _;
use std::net::{Shutdown, SocketAddr};
use std::process::{Command, Stdio};

use headgate_testkit::client::{self, Seen, connect, read_to_end};
use headgate_testkit::gateway::READY;
use headgate_testkit::process::need;
use headgate_testkit::{Gateway, Metrics, Port, Process, SOON, TcpPeer, UdpPeer, http, wait};
use serde_json::{Value, json};
use tempfile::TempDir;

const BIN: &str = env!("CARGO_BIN_EXE_headgate");

fn to(node: &str) -> Value {
    json!({"upstream": {"nodes": {node: 1}}})
}

fn exchange(to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(to);
    stream.write_all(bytes).expect("sent");
    stream.shutdown(Shutdown::Write).expect("shutdown");
    match read_to_end(&mut stream) {
        Seen::Bytes(back) => back,
        other => panic!("{other:?}"),
    }
}

/// Waits until a scrape holds `samples` with exactly these values.
#[track_caller]
fn wait_for(gateway: &Gateway, samples: &[(&str, f64)]) -> Metrics {
    let mut last = Metrics::parse("");
    let found = wait::try_until(SOON, || {
        last = gateway.scrape();
        samples.iter().all(|(sample, value)| last.get(sample) == Some(*value)).then_some(())
    });
    assert!(found.is_some(), "not {samples:?} but:\n{}", last.text());
    last
}

fn bandwidth(port: u16, kind: &str, side: &str) -> String {
    format!(
        "apisix_stream_bandwidth{{listen_addr=\"0.0.0.0:{port}\",type=\"{kind}\",side=\"{side}\"}}"
    )
}

fn active(port: u16) -> String {
    format!("apisix_stream_active_connections{{listen_addr=\"0.0.0.0:{port}\"}}")
}

/// PM-06, PM-07.
#[test]
fn pm_06_07_live_values_move_while_a_session_is_open() {
    let gateway = Gateway::builder(BIN).tcp(2).metrics().start();
    let node = TcpPeer::echo();
    gateway.put("stream_routes/1", &to(&node.node())).expect(201);
    let (port, other) = (gateway.tcp_port(0), gateway.tcp_port(1));
    let all = [
        ("ingress", "downstream"),
        ("egress", "downstream"),
        ("egress", "upstream"),
        ("ingress", "upstream"),
    ];
    let expect = |open: f64, bytes: f64| {
        let names: Vec<String> =
            all.iter().map(|(kind, side)| bandwidth(port, kind, side)).collect();
        let (here, there) = (active(port), active(other));
        let quiet = bandwidth(other, "ingress", "downstream");
        let mut samples: Vec<_> = names.iter().map(|name| (name.as_str(), bytes)).collect();
        samples.extend([(here.as_str(), open), (there.as_str(), 0.0), (quiet.as_str(), 0.0)]);
        wait_for(&gateway, &samples)
    };
    expect(0.0, 0.0);
    let mut stream = connect(gateway.tcp(0));
    assert_eq!(client::echo(&mut stream, &[7; 1000]).len(), 1000);
    expect(1.0, 1000.0);
    assert_eq!(client::echo(&mut stream, &[7; 500]).len(), 500);
    let metrics = expect(1.0, 1500.0);
    assert_eq!(metrics.get("headgate_sessions_open"), Some(1.0));
    assert_eq!(
        metrics.get("headgate_route_bytes_total{route=\"1\",type=\"ingress\"}"),
        Some(1500.0)
    );
    stream.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_to_end(&mut stream), Seen::Closed);
    let metrics = expect(0.0, 1500.0);
    assert_eq!(
        metrics.get("headgate_sessions_total{route=\"1\",reason=\"OK\"}"),
        Some(1.0),
        "{}",
        metrics.text()
    );
}

#[test]
fn sessions_count_by_route_and_reason() {
    let gateway = Gateway::builder(BIN).tcp(3).udp(1).metrics().start();
    let node = TcpPeer::echo();
    let (dead, datagrams) = (Port::take(), UdpPeer::echo());
    let port = |index: usize| gateway.tcp_port(index);
    let route =
        |id: &str, body: Value| gateway.put(&format!("stream_routes/{id}"), &body).expect(201);
    route("good", json!({"server_port": port(0), "upstream": to(&node.node())["upstream"]}));
    let nodes = json!([
        {"host": "127.0.0.1", "port": dead.number(), "weight": 1, "priority": 1},
        {"host": node.addr().ip(), "port": node.addr().port(), "weight": 1, "priority": 0},
    ]);
    route("second", json!({"server_port": port(1), "upstream": {"nodes": nodes}}));
    let idle = json!({"connect": 1, "send": 0.2, "read": 0.2});
    let upstream = json!({"nodes": {datagrams.node(): 1}, "timeout": idle});
    route("udp", json!({"server_port": gateway.udp_port(0), "upstream": upstream}));
    assert_eq!(exchange(gateway.tcp(0), b"abc"), b"abc");
    assert_eq!(exchange(gateway.tcp(0), b"abc"), b"abc");
    assert_eq!(exchange(gateway.tcp(1), b"abcd"), b"abcd");
    assert_eq!(read_to_end(&mut connect(gateway.tcp(2))), Seen::Closed);
    assert_eq!(client::ask(&client::udp(gateway.udp(0)), b"abc"), b"abc");
    let metrics = wait_for(
        &gateway,
        &[
            ("headgate_sessions_total{route=\"good\",reason=\"OK\"}", 2.0),
            ("headgate_sessions_total{route=\"second\",reason=\"OK\"}", 1.0),
            ("headgate_sessions_total{route=\"udp\",reason=\"IT\"}", 1.0),
            ("headgate_sessions_total{route=\"\",reason=\"NR\"}", 1.0),
            ("headgate_upstream_retries_total{route=\"second\"}", 1.0),
            ("headgate_upstream_retries_total{route=\"good\"}", 0.0),
            ("headgate_route_bytes_total{route=\"second\",type=\"egress\"}", 4.0),
            ("headgate_udp_flows_total", 1.0),
            ("headgate_tcp_accepted_total", 4.0),
            ("headgate_session_seconds_count", 5.0),
            // No time is spent on connecting a UDP socket, so it would only blur the picture.
            ("headgate_upstream_connect_seconds_count", 3.0),
            ("headgate_upstream_first_byte_seconds_count", 4.0),
        ],
    );
    assert_eq!(metrics.sum("headgate_sessions_total{"), 5.0, "{}", metrics.text());

    // Counts go with the id, whatever is written under it.
    route_again(&gateway, &node);
    assert_eq!(exchange(gateway.tcp(0), b"abc"), b"abc");
    wait_for(&gateway, &[("headgate_sessions_total{route=\"good\",reason=\"OK\"}", 3.0)]);
    gateway.delete("stream_routes/good").expect(200);
    let metrics = gateway.scrape();
    let sample = "headgate_sessions_total{route=\"good\",reason=\"OK\"}";
    assert_eq!(metrics.get(sample), Some(3.0), "still shown for the next scrapes");
}

fn route_again(gateway: &Gateway, node: &TcpPeer) {
    let body = json!({"server_port": gateway.tcp_port(0), "name": "renamed",
                      "upstream": to(&node.node())["upstream"]});
    gateway.put("stream_routes/good", &body).expect(200);
}

/// PM-08.
#[test]
fn pm_08_what_a_dashboard_of_the_reference_asks_for() {
    let gateway = Gateway::builder(BIN).tcp(1).metrics().start();
    gateway.put("stream_routes/1", &to("127.0.0.1:1")).expect(201);
    let metrics = gateway.scrape();
    let text = metrics.text();
    let version = env!("CARGO_PKG_VERSION");
    let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    let node = format!("apisix_node_info{{hostname=\"{}\",version=\"{version}\"}}", host.trim());
    assert_eq!(metrics.get(&node), Some(1.0), "{text}");
    assert_eq!(metrics.get("apisix_nginx_http_current_connections{state=\"active\"}"), Some(0.0));
    assert!(metrics.get("apisix_etcd_modify_indexes{key=\"stream_routes\"}") > Some(0.0), "{text}");
    for line in [
        "# HELP apisix_stream_active_connections Number of stream sessions currently being proxied per listening address",
        "# TYPE apisix_stream_active_connections gauge",
        "# HELP apisix_stream_bandwidth Total bandwidth in bytes proxied by the stream subsystem in APISIX",
        "# TYPE apisix_stream_bandwidth counter",
    ] {
        assert!(text.lines().any(|one| one == line), "{line} in {text}");
    }
    assert_eq!(metrics.get("headgate_ready"), Some(1.0));
    assert_eq!(metrics.get("headgate_config_resources{kind=\"stream_routes\"}"), Some(1.0));
    assert!(metrics.get("process_open_fds") > Some(3.0), "{text}");
    assert!(metrics.get("headgate_core_cpu_seconds_total{core=\"1\"}").is_some(), "{text}");
}

/// A gateway whose routes may use the plugin `prometheus`.
fn with_plugin() -> Gateway {
    Gateway::builder(BIN)
        .tcp(1)
        .metrics()
        .top("stream_plugins: [ip-restriction, prometheus]")
        .start()
}

fn counted(gateway: &Gateway, id: &str, upstream: Value, more: Value) {
    let mut body = json!({"upstream": upstream, "plugins": {"prometheus": {}}});
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    gateway.put(&format!("stream_routes/{id}"), &body).ok();
}

fn status(gateway: &Gateway, code: u16, node: &str) -> String {
    let listener = format!("0.0.0.0:{}", gateway.tcp_port(0));
    format!("apisix_stream_status{{code=\"{code}\",listen_addr=\"{listener}\",node=\"{node}\"}}")
}

/// PM-01, PM-03.
#[test]
fn pm_01_03_sessions_count_under_id_or_name() {
    let (gateway, node) = (with_plugin(), TcpPeer::echo());
    counted(&gateway, "1", to(&node.node())["upstream"].clone(), json!({"name": "shop"}));
    assert_eq!(exchange(gateway.tcp(0), b"abc"), b"abc");
    let good = status(&gateway, 200, &node.node());
    let by_id = "apisix_stream_connection_total{route=\"1\"}";
    wait_for(&gateway, &[(by_id, 1.0), (&good, 1.0)]);
    let prefer = json!({"name": "shop", "plugins": {"prometheus": {"prefer_name": true}}});
    counted(&gateway, "1", to(&node.node())["upstream"].clone(), prefer);
    assert_eq!(exchange(gateway.tcp(0), b"abc"), b"abc");
    let by_name = "apisix_stream_connection_total{route=\"shop\"}";
    wait_for(&gateway, &[(by_id, 1.0), (by_name, 1.0), (&good, 2.0)]);
    // A route without the plugin is not counted by it.
    gateway.put("stream_routes/1", &to(&node.node())).expect(200);
    assert_eq!(exchange(gateway.tcp(0), b"abc"), b"abc");
    wait_for(
        &gateway,
        &[("headgate_sessions_total{route=\"1\",reason=\"OK\"}", 3.0), (&good, 2.0)],
    );
}

/// PM-02.
#[test]
fn pm_02_refused_sessions_count_too() {
    let (gateway, node) = (with_plugin(), TcpPeer::echo());
    for (code, shown) in [(403, 403), (404, 400)] {
        let refuse = json!({"blacklist": ["127.0.0.0/8"], "response_code": code});
        let plugins = json!({"plugins": {"prometheus": {}, "ip-restriction": refuse}});
        counted(&gateway, "1", to(&node.node())["upstream"].clone(), plugins);
        assert_eq!(read_to_end(&mut connect(gateway.tcp(0))), Seen::Closed);
        wait_for(&gateway, &[(&status(&gateway, shown, ""), 1.0)]);
    }
    wait_for(&gateway, &[("apisix_stream_connection_total{route=\"1\"}", 2.0)]);
}

/// PM-04.
#[test]
fn pm_04_a_dead_node_is_named() {
    let (gateway, dead) = (with_plugin(), Port::take());
    let node = format!("127.0.0.1:{}", dead.number());
    counted(&gateway, "1", json!({"nodes": {node.clone(): 1}}), json!({}));
    assert_eq!(read_to_end(&mut connect(gateway.tcp(0))), Seen::Closed);
    wait_for(&gateway, &[(&status(&gateway, 502, &node), 1.0)]);
    counted(&gateway, "1", json!({"nodes": []}), json!({}));
    assert_eq!(read_to_end(&mut connect(gateway.tcp(0))), Seen::Closed);
    wait_for(&gateway, &[(&status(&gateway, 503, ""), 1.0)]);
}

/// PM-05.
#[test]
fn pm_05_an_idle_timeout_is_a_502() {
    let (gateway, node) = (with_plugin(), TcpPeer::echo());
    let upstream =
        json!({"nodes": {node.node(): 1}, "timeout": {"connect": 5, "send": 0.3, "read": 0.3}});
    counted(&gateway, "1", upstream, json!({}));
    let mut stream = connect(gateway.tcp(0));
    assert_eq!(read_to_end(&mut stream), Seen::Closed);
    wait_for(&gateway, &[(&status(&gateway, 502, &node.node()), 1.0)]);
}

/// PM-08: without a server the plugin would count for nobody.
#[test]
fn pm_08_the_plugin_needs_the_server() {
    let gateway = Gateway::builder(BIN).tcp(1).top("stream_plugins: [prometheus]").prepare();
    let mut command = Command::new(BIN);
    command.arg("test").arg("-c").arg(gateway.config_path());
    let done = headgate_testkit::process::run(&mut command, SOON);
    assert_eq!(done.code(), Some(1));
    let expected = "L4 prometheus metric should be exposed via export server";
    assert!(done.output().contains(expected), "{}", done.output());
}

#[test]
fn path_prefix_and_address_are_configurable() {
    let port = Port::take();
    let gateway = Gateway::builder(BIN)
        .tcp(1)
        .top(&format!(
            "plugin_attr:\n  prometheus:\n    export_uri: /m\n    metric_prefix: my_\n    \
             export_addr: {{ip: 127.0.0.1, port: {}}}",
            port.number()
        ))
        .start();
    let get = |path: &str| http::request(port.local(), "GET", path, &[], None, SOON).expect("HTTP");
    let answer = get("/m").expect(200);
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(answer.body.contains("\nmy_node_info{"), "{}", answer.body);
    assert!(!answer.body.contains("apisix_"), "{}", answer.body);
    get("/apisix/prometheus/metrics").expect(404);
    drop(gateway);
}

/// The port is checked before anything is opened, and a taken one is named with its key.
#[test]
fn ports_that_cannot_be_used_are_named() {
    let port = Port::take();
    let config = |top: &str| Gateway::builder(BIN).tcp(1).top(top).prepare();
    let clash = config(&format!(
        "plugin_attr: {{prometheus: {{export_addr: {{port: {}}}}}}}",
        port.number()
    ));
    let admin = clash.admin().port();
    let text = clash.config().replace(&port.number().to_string(), &admin.to_string());
    clash.write_config(&text);
    let done = headgate_testkit::process::run(
        Command::new(BIN).arg("test").arg("-c").arg(clash.config_path()),
        SOON,
    );
    let expected = format!("prometheus port {admin} conflicts with admin port");
    assert!(done.output().contains(&expected), "{}", done.output());

    let holder = std::net::TcpListener::bind(port.local()).expect("a listener");
    let mut taken = config(&format!(
        "plugin_attr: {{prometheus: {{export_addr: {{port: {}}}}}}}",
        port.number()
    ));
    taken.spawn();
    let log = taken.log();
    log.wait_after(log.start(), "plugin_attr.prometheus.export_addr", SOON);
    assert!(!log.text().contains(READY), "{}", log.text());
    drop(holder);
}

/// Names of the reference that promtool has something against; they must stay as they are.
const REFERENCE_NAMES: [&str; 2] = ["apisix_stream_bandwidth", "apisix_stream_status"];

#[test]
fn promtool_finds_nothing_wrong() {
    let Some(promtool) = need("promtool", "prometheus") else { return };
    let gateway = Gateway::builder(BIN).tcp(1).metrics().start();
    let node = TcpPeer::echo();
    gateway.put("stream_routes/1", &to(&node.node())).expect(201);
    assert_eq!(exchange(gateway.tcp(0), b"abc"), b"abc");
    let text = wait_for(&gateway, &[("headgate_sessions_total{route=\"1\",reason=\"OK\"}", 1.0)]);
    let mut check = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool");
    let mut input = check.stdin.take().expect("a pipe");
    input.write_all(text.text().as_bytes()).expect("read");
    drop(input);
    let done = check.wait_with_output().expect("an end");
    let said =
        String::from_utf8_lossy(&done.stderr).into_owned() + &String::from_utf8_lossy(&done.stdout);
    let others: Vec<_> = said
        .lines()
        .filter(|line| {
            !line.is_empty() && !REFERENCE_NAMES.iter().any(|name| line.starts_with(name))
        })
        .collect();
    assert!(others.is_empty(), "{others:#?}");
}

const RULES: &str = include_str!("../packaging/prometheus/headgate.rules.yml");
const DASHBOARD: &str = include_str!("../packaging/grafana/headgate.json");

/// The alert rules are valid, and rules and dashboard only ask for metrics that are there.
#[test]
fn dashboard_and_alerts_ask_for_what_there_is() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    assert!(dashboard["panels"].as_array().expect("panels").len() > 10);
    let known: std::collections::HashSet<_> = headgate::metrics::all()
        .map(|metric| format!("{}{}", if metric.prefixed { "apisix_" } else { "" }, metric.name))
        .collect();
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let words = RULES.split(|c: char| !c.is_ascii() || !is_name(c as u8));
    let words = words.chain(DASHBOARD.split(|c: char| !c.is_ascii() || !is_name(c as u8)));
    let asked: Vec<_> = words
        .filter(|word| ["headgate_", "apisix_", "process_"].iter().any(|p| word.starts_with(p)))
        .collect();
    assert!(asked.len() > 30);
    for name in asked {
        assert!(known.contains(name.trim_end_matches("_bucket")), "{name} does not exist");
    }
    let Some(promtool) = need("promtool", "prometheus") else { return };
    let folder = TempDir::with_prefix("headgate-rules-").expect("a folder");
    let file = folder.path().join("rules.yml");
    fs::write(&file, RULES).expect("a file");
    let mut command = Command::new(promtool);
    let done = headgate_testkit::process::run(command.args(["check", "rules"]).arg(&file), SOON);
    assert_eq!(done.code(), Some(0), "{}", done.output());
}

/// Nodes with health checks, and the certificate of an ssl object.
#[test]
fn node_health_and_certificates() {
    let gateway = Gateway::builder(BIN).tcp(1).metrics().start();
    let (node, dead) = (TcpPeer::echo(), Port::take());
    let checks = json!({"active": {"type": "tcp", "healthy": {"interval": 1, "successes": 1},
                                   "unhealthy": {"interval": 1, "tcp_failures": 1}}});
    let dead_node = format!("127.0.0.1:{}", dead.number());
    let upstream = json!({"nodes": {node.node(): 1, dead_node: 1}, "checks": checks});
    gateway.put("upstreams/1", &upstream).expect(201);
    gateway.put("stream_routes/1", &json!({"upstream_id": "1"})).expect(201);
    let name = |port: u16| {
        format!(
            "apisix_upstream_status{{name=\"/apisix/upstreams/1\",ip=\"127.0.0.1\",port=\"{port}\"}}"
        )
    };
    wait_for(&gateway, &[(&name(node.addr().port()), 1.0), (&name(dead.number()), 0.0)]);

    let (cert, key) = (include_str!("fixtures/tls/cert.pem"), include_str!("fixtures/tls/key.pem"));
    let ssl = json!({"sni": "a.example.com", "cert": cert, "key": key});
    gateway.put("ssls/one", &ssl).expect(201);
    let sample = "headgate_certificate_expiry_timestamp_seconds{ssl=\"one\"}";
    let mut expiry = Command::new("openssl");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tls/cert.pem");
    expiry.args(["x509", "-enddate", "-noout", "-dateopt", "iso_8601", "-in", path]);
    let text = headgate_testkit::process::run(&mut expiry, SOON).success().stdout;
    let expected = unix_seconds(text.trim_start_matches("notAfter=").trim_end_matches('Z'));
    wait_for(&gateway, &[(sample, expected)]);
}

/// `2036-10-01 12:00:00` by means of date(1).
fn unix_seconds(text: &str) -> f64 {
    let mut date = Command::new("date");
    date.args(["-u", "+%s", "-d"]).arg(text);
    headgate_testkit::process::run(&mut date, SOON).success().stdout.parse().expect("a number")
}

#[test]
fn a_real_prometheus_scrapes_it() {
    let Some(prometheus) = need("prometheus", "prometheus") else { return };
    let gateway = Gateway::builder(BIN).tcp(1).metrics().start();
    let node = TcpPeer::echo();
    gateway.put("stream_routes/1", &to(&node.node())).expect(201);
    assert_eq!(exchange(gateway.tcp(0), b"abc"), b"abc");
    let folder = TempDir::with_prefix("headgate-prometheus-").expect("a folder");
    let config = folder.path().join("prometheus.yml");
    let text = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n  - job_name: headgate\n    \
         metrics_path: /apisix/prometheus/metrics\n    static_configs:\n      - targets: ['{}']\n",
        gateway.metrics_addr()
    );
    fs::write(&config, text).expect("a file");
    let port = Port::take();
    let server = Process::spawn(
        Command::new(prometheus)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={}", port.local())),
    );
    let query = |expression: &str| -> Option<Value> {
        let path = format!("/api/v1/query?query={expression}");
        let answer = http::request(port.local(), "GET", &path, &[], None, SOON).ok()?;
        let answer: Value = serde_json::from_str(&answer.body).ok()?;
        answer["data"]["result"][0]["value"][1].as_str().map(|value| json!(value))
    };
    for (expression, value) in [
        ("up", "1"),
        ("headgate_sessions_total%7Broute%3D%221%22%7D", "1"),
        ("sum(apisix_stream_bandwidth)", "12"),
        ("histogram_quantile(1,headgate_session_seconds_bucket)", ""),
    ] {
        let found = wait::try_until(SOON * 3, || {
            query(expression).filter(|found| value.is_empty() || found == value)
        });
        assert!(found.is_some(), "{expression}: {:?}\n{}", query(expression), server.stderr.text());
    }
}
