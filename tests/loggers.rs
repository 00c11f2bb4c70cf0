//! The logging plugins with real receivers. Conformance ids SY.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::io::Read as _;
use std::net::TcpListener;

use headgate_testkit::client::{self, connect, reach};
use headgate_testkit::server::Rsyslog;
use headgate_testkit::{Gateway, Port, SOON, TcpPeer, UdpPeer, wait};
use serde_json::{Value, json};

const BIN: &str = env!("CARGO_BIN_EXE_headgate");

fn gateway() -> Gateway {
    Gateway::builder(BIN).tcp(1).metrics().start()
}

fn route(gateway: &Gateway, node: &TcpPeer, plugins: Value) {
    let body = json!({"upstream": {"nodes": {node.node(): 1}}, "plugins": plugins});
    assert_eq!(gateway.put("stream_routes/1", &body).ok().warnings(), Vec::<Value>::new());
}

/// A configuration of syslog that sends each record at once.
fn syslog(port: u16, more: Value) -> Value {
    let mut conf = json!({"host": "127.0.0.1", "port": port, "batch_max_size": 1});
    for (name, value) in more.as_object().expect("an object") {
        conf[name] = value.clone();
    }
    json!({"syslog": conf})
}

fn metadata(gateway: &Gateway, body: Value) {
    gateway.put("plugin_metadata/syslog", &body).ok();
}

/// Header and JSON of a line.
#[track_caller]
fn parse(line: &str) -> (String, Value) {
    let (header, record) = line.split_once(" - - {").expect("a header and an object");
    let record = serde_json::from_str(&format!("{{{record}")).expect("JSON");
    (header.to_owned(), record)
}

#[track_caller]
fn wait_count(gateway: &Gateway, sample: &str, value: f64) {
    let sample = format!("headgate_log_entries_total{{{sample}}}");
    let found =
        wait::try_until(SOON, || (gateway.scrape().get(&sample) == Some(value)).then_some(()));
    assert!(found.is_some(), "{sample} is {:?}, not {value}", gateway.scrape().get(&sample));
}

/// SY-01.
#[test]
fn sy_01_without_a_format_nothing_is_sent() {
    let (gateway, node) = (gateway(), TcpPeer::named("a"));
    let server = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = server.local_addr().expect("an address").port();
    route(&gateway, &node, syslog(port, json!({})));
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
    gateway.wait_for_log("syslog's log_format is not set", SOON);
    server.set_nonblocking(true).expect("a mode");
    assert!(server.accept().is_err(), "a connection for nothing");
}

#[test]
fn members_without_effect_are_said_to_be_so() {
    let (gateway, node) = (gateway(), TcpPeer::named("a"));
    let conf = syslog(514, json!({"flush_limit": 1, "pool_size": 9, "log_format": {}}));
    let body = json!({"upstream": {"nodes": {node.node(): 1}}, "plugins": conf});
    let warnings = gateway.put("stream_routes/1", &body).ok().warnings();
    let codes: Vec<_> = warnings.iter().map(|warning| warning["code"].clone()).collect();
    assert_eq!(codes, ["plugin/no-effect", "plugin/no-effect"], "{warnings:?}");
}

/// SY-02, SY-03, over TCP.
#[test]
fn sy_02_03_a_format_from_metadata_and_one_of_its_own() {
    let Some(server) = Rsyslog::start() else { return };
    let (gateway, node) = (gateway(), TcpPeer::named("a"));
    let format = json!({"host": "here", "client_ip": "$remote_addr", "bytes": "$bytes_sent",
                        "n": 7, "none": "$ssl_server_name",
                        "inner": {"proto": "$protocol", "status": "$status"}});
    metadata(&gateway, json!({"log_format": format}));
    route(&gateway, &node, syslog(server.addr().port(), json!({})));
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
    let line = server.wait_for("client_ip");
    let (header, record) = parse(&line);
    let expected = json!({"host": "here", "client_ip": "127.0.0.1", "bytes": "2", "n": 7,
                          "inner": {"proto": "TCP", "status": "200"}, "route_id": "1"});
    assert_eq!(record, expected);
    // <46>1 2026-11-21T10:00:00.123Z - apisix 4711
    let words: Vec<_> = header.split(' ').collect();
    let [priority, time, host, app, process] = words.as_slice() else { panic!("{header}") };
    assert_eq!((*priority, *host, *app), ("<46>1", "-", "apisix"));
    assert_eq!(*process, gateway.id().to_string());
    assert!(time.len() == 24 && time.ends_with('Z') && time.contains('T'), "{time}");
    gateway.wait_for_log(&format!("sending a batch logs to {}", server.addr()), SOON);

    let own = json!({"log_format": {"mine": "$route_id"}});
    route(&gateway, &node, syslog(server.addr().port(), own));
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
    assert_eq!(parse(&server.wait_for("mine")).1, json!({"mine": "1", "route_id": "1"}));
    wait_count(&gateway, "plugin=\"syslog\",result=\"delivered\"", 2.0);

    // Metadata changes reach routes without a format of their own.
    route(&gateway, &node, syslog(server.addr().port(), json!({})));
    metadata(&gateway, json!({"log_format": {"newer": "$remote_addr"}}));
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
    server.wait_for("newer");
}

#[test]
fn records_by_datagram() {
    let Some(server) = Rsyslog::start() else { return };
    let (gateway, node) = (gateway(), TcpPeer::named("a"));
    let more = json!({"sock_type": "udp", "log_format": {"n": "$connection"}, "batch_max_size": 2});
    route(&gateway, &node, syslog(server.addr().port(), more));
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
    for number in ["1", "2"] {
        let line = server.wait_for(&format!("{{\"n\":\"{number}\""));
        assert_eq!(parse(&line).1["n"], number, "one record in a datagram: {line}");
    }
}

const CERT: &str = include_str!("fixtures/tls/cert.pem");
const KEY: &str = include_str!("fixtures/tls/key.pem");

#[test]
fn records_over_tls() {
    let Some(server) = Rsyslog::start_tls(CERT, KEY) else { return };
    let (gateway, node) = (gateway(), TcpPeer::named("a"));
    let more = json!({"tls": true, "log_format": {"n": "$connection"}});
    route(&gateway, &node, syslog(server.addr().port(), more));
    for number in ["1", "2"] {
        assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
        let line = server.wait_for(&format!("{{\"n\":\"{number}\""));
        assert!(line.starts_with("<46>1 "), "{line}");
    }
}

/// The server is restarted between two sessions: the second record is not lost in a connection
/// that nobody holds any more.
#[test]
fn a_closed_connection_is_noticed() {
    let (gateway, node) = (gateway(), TcpPeer::named("a"));
    let server = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = server.local_addr().expect("an address").port();
    route(&gateway, &node, syslog(port, json!({"log_format": {"n": "$connection"}})));
    for number in 1..=3 {
        assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
        let (mut stream, _) = server.accept().expect("a connection of its own");
        stream.set_read_timeout(Some(SOON)).expect("a limit");
        let mut bytes = [0; 512];
        let count = stream.read(&mut bytes).expect("a record");
        let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
        assert!(text.contains(&format!("{{\"n\":\"{number}\"")), "{text}");
    }
}

/// A gateway whose routes may use the extensions.
fn extended() -> Gateway {
    Gateway::builder(BIN)
        .tcp(1)
        .metrics()
        .top("stream_plugins: [http-logger, file-logger, opentelemetry]")
        .start()
}

#[test]
fn file_logger_appends_and_follows_a_renamed_file() {
    let (gateway, node) = (extended(), TcpPeer::named("a"));
    let (path, old) = (gateway.folder().join("sessions.log"), gateway.folder().join("old.log"));
    let text = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default();
    let conf = json!({"path": path, "batch_max_size": 1});
    route(&gateway, &node, json!({"file-logger": conf}));
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
    wait::until_true("a record", SOON, || text(&path).ends_with('\n'));
    let record: Value = serde_json::from_str(text(&path).trim_end()).expect("JSON");
    for (name, value) in [
        ("remote_addr", json!("127.0.0.1")),
        ("protocol", json!("TCP")),
        ("status", json!("200")),
        ("close_reason", json!("OK")),
        ("bytes_sent", json!("2")),
        ("upstream_addr", json!(node.node())),
        ("route_id", json!("1")),
    ] {
        assert_eq!(record[name], value, "{name} in {record}");
    }
    std::fs::rename(&path, &old).expect("renamed");
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
    wait::until_true("a record in a new file", SOON, || text(&path).ends_with('\n'));
    assert_eq!(text(&old).lines().count(), 1);
    // A disk that is full costs records and is counted.
    route(&gateway, &node, json!({"file-logger": {"path": "/dev/full", "batch_max_size": 1}}));
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
    gateway.wait_for_log("failed to write /dev/full", SOON);
    wait_count(&gateway, "plugin=\"file-logger\",result=\"failed\"", 1.0);
}

/// Takes one POST, answers with `status`, and returns headers and body.
fn take_post(server: &TcpListener, status: u16) -> (String, String) {
    use std::io::Write as _;
    let (mut stream, _) = server.accept().expect("a connection");
    stream.set_read_timeout(Some(SOON)).expect("a limit");
    let mut text = String::new();
    loop {
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            if body.len() == length.expect("a length").parse::<usize>().expect("a number") {
                let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).expect("an answer");
                return (head.to_owned(), body.to_owned());
            }
        }
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).expect("bytes");
        assert!(count > 0, "the request ends early: {text}");
        text.push_str(std::str::from_utf8(&bytes[..count]).expect("text"));
    }
}

#[test]
fn http_logger_posts_batches_and_tries_again() {
    let (gateway, node) = (extended(), TcpPeer::named("a"));
    let server = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let uri = format!("http://{}/log?x=1", server.local_addr().expect("an address"));
    let conf = json!({"uri": uri, "auth_header": "Basic eDp5", "batch_max_size": 2,
                      "max_retry_count": 1, "retry_delay": 0, "log_format": {"n": "$connection"}});
    route(&gateway, &node, json!({"http-logger": conf}));
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
    let (head, body) = take_post(&server, 503);
    assert!(head.starts_with("POST /log?x=1 HTTP/1.1\r\n"), "{head}");
    for line in ["Content-Type: application/json", "Authorization: Basic eDp5"] {
        assert!(head.lines().any(|one| one == line), "{line} in {head}");
    }
    let records: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(records, json!([{"n": "1", "route_id": "1"}, {"n": "2", "route_id": "1"}]));
    gateway.wait_for_log("server returned status code[503]", SOON);
    assert_eq!(take_post(&server, 200).1, body, "the same once more");
    wait_count(&gateway, "plugin=\"http-logger\",result=\"delivered\"", 2.0);
    wait_count(&gateway, "plugin=\"http-logger\",result=\"failed\"", 0.0);
}

#[test]
fn udp_flows_are_recorded_and_batches_wait() {
    let Some(server) = Rsyslog::start() else { return };
    let gateway = Gateway::builder(BIN).udp(1).metrics().start();
    let node = UdpPeer::echo();
    let format = json!({"got": "$bytes_received", "reason": "$close_reason"});
    let conf = json!({"log_format": format, "batch_max_size": 1000, "inactive_timeout": 1});
    let upstream = json!({"nodes": {node.node(): 1},
                          "timeout": {"connect": 1, "send": 0.2, "read": 0.2}});
    let body = json!({"upstream": upstream, "plugins": syslog(server.addr().port(), conf)});
    gateway.put("stream_routes/1", &body).expect(201);
    assert_eq!(client::ask(&client::udp(gateway.udp(0)), b"four"), b"four");
    assert_eq!(
        parse(&server.wait_for("\"reason\"")).1,
        json!({"got": "4", "reason": "IT", "route_id": "1"})
    );
}

/// SY-05: a new target takes over with the next session.
#[test]
fn sy_05_the_target_changes() {
    let (Some(one), Some(other)) = (Rsyslog::start(), Rsyslog::start()) else { return };
    let (gateway, node) = (gateway(), TcpPeer::named("a"));
    let conf = |server: &Rsyslog| {
        syslog(server.addr().port(), json!({"log_format": {"n": "$connection"}}))
    };
    route(&gateway, &node, conf(&one));
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
    one.wait_for("{\"n\":\"1\"");
    route(&gateway, &node, conf(&other));
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
    other.wait_for("{\"n\":\"2\"");
    // The same by way of a service.
    let service = json!({"upstream": {"nodes": {node.node(): 1}}, "plugins": conf(&one)});
    gateway.put("services/1", &service).expect(201);
    gateway.put("stream_routes/1", &json!({"service_id": "1"})).ok();
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
    let line = one.wait_for("{\"n\":\"3\"");
    assert_eq!(parse(&line).1["service_id"], "1");
    assert!(!one.text().contains("\"n\":\"2\"") && !other.text().contains("\"n\":\"3\""));
}

/// SY-06.
#[test]
fn sy_06_a_server_that_is_down_harms_nobody() {
    let (gateway, node, nobody) = (gateway(), TcpPeer::named("a"), Port::take());
    route(&gateway, &node, syslog(nobody.number(), json!({"log_format": {"a": "b"}})));
    for _ in 0..3 {
        assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
    }
    let start =
        "Batch Processor[stream sys logger] failed to process entries: failed to log message";
    gateway.wait_for_log(start, SOON);
    gateway.wait_for_log(
        "Batch Processor[stream sys logger] exceeded the max_retry_count[1] dropping the entries",
        SOON,
    );
    wait_count(&gateway, "plugin=\"syslog\",result=\"failed\"", 3.0);
}

/// A server that accepts and never reads: what does not fit is dropped and counted.
#[test]
fn a_server_that_stalls_costs_records_and_no_traffic() {
    let (gateway, node) = (gateway(), TcpPeer::named("a"));
    let server = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = server.local_addr().expect("an address").port();
    metadata(&gateway, json!({"max_pending_entries": 2}));
    let big = "x".repeat(1 << 20);
    let more = json!({"log_format": {"big": big}, "timeout": 60_000, "drop_limit": 100 << 20});
    route(&gateway, &node, syslog(port, more));
    // The kernel takes some megabytes that the server does not read.
    for _ in 0..20 {
        assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
    }
    gateway.wait_for_log("max pending entries limit exceeded. discarding entry", SOON);
    let (mut stream, _) = server.accept().expect("a connection");
    let dropped = "headgate_log_entries_total{plugin=\"syslog\",result=\"overflowed\"}";
    wait::until_true("records are dropped", SOON, || gateway.scrape().get(dropped) > Some(0.0));
    // It goes on as soon as the server reads.
    let mut chunk = vec![0; 1 << 20];
    let mut read = 0;
    while read < 4 << 20 {
        read += stream.read(&mut chunk).expect("bytes");
    }
}

/// What waits is delivered when the gateway stops.
#[test]
fn a_stop_delivers_what_waits() {
    let Some(server) = Rsyslog::start() else { return };
    let (mut gateway, node) = (gateway(), TcpPeer::named("a"));
    let more = json!({"log_format": {"last": "$connection"}, "batch_max_size": 1000});
    route(&gateway, &node, syslog(server.addr().port(), more));
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
    let mut open = connect(gateway.tcp(0));
    client::send(&mut open, b"x");
    wait::until_true("both sessions run", SOON, || node.accepted() == 2);
    gateway.stop();
    server.wait_for("{\"last\":\"1\"");
    server.wait_for("{\"last\":\"2\"");
}

#[test]
fn spans_of_sampled_sessions_reach_a_collector() {
    let (gateway, node) = (extended(), TcpPeer::named("a"));
    let server = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let endpoint = format!("http://{}/v1/traces", server.local_addr().expect("an address"));
    let conf = |sampler: &str| {
        json!({"opentelemetry": {"endpoint": endpoint, "batch_max_size": 2, "max_retry_count": 1,
            "retry_delay": 0, "headers": {"X-Team": "db"}, "sampler": {"name": sampler},
            "attributes": {"reason": "$close_reason"}}})
    };
    route(&gateway, &node, conf("always_off"));
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
    route(&gateway, &node, conf("always_on"));
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
    let (head, body) = take_post(&server, 503);
    assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
    for line in ["Content-Type: application/json", "X-Team: db"] {
        assert!(head.lines().any(|one| one == line), "{line} in {head}");
    }
    let sent: Value = serde_json::from_str(&body).expect("JSON");
    let spans = sent["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().expect("spans");
    assert_eq!(spans.len(), 2, "{body}");
    assert_ne!(spans[0]["traceId"], spans[1]["traceId"]);
    for span in spans {
        assert_eq!(span["name"], "stream 1");
        assert_eq!(span["status"], json!({}));
        let attributes = span["attributes"].as_array().expect("attributes");
        for (key, value) in [
            ("client.address", json!({"stringValue": "127.0.0.1"})),
            ("headgate.route.id", json!({"stringValue": "1"})),
            ("headgate.upstream.addr", json!({"stringValue": node.node()})),
            ("headgate.bytes_sent", json!({"intValue": "2"})),
            ("reason", json!({"stringValue": "OK"})),
        ] {
            assert!(attributes.contains(&json!({"key": key, "value": value})), "{key} in {span}");
        }
    }
    assert_eq!(take_post(&server, 200).1, body, "the same once more");
    wait_count(&gateway, "plugin=\"opentelemetry\",result=\"delivered\"", 2.0);
}
