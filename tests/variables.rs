//! Every variable of `docs/reference/variables.md` has a value that is right, seen in the access log
//! of sessions with real peers.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::Shutdown;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use headgate_testkit::certificate::{Authority, Certificate};
use headgate_testkit::client::{self, Seen, connect, read_to_end};
use headgate_testkit::process::{need, run};
use headgate_testkit::tls::{self, TLS13, TlsClient};
use headgate_testkit::{Gateway, SOON, TcpPeer, wait};
use serde_json::{Value, json};

const BIN: &str = env!("CARGO_BIN_EXE_headgate");
const HELD: Duration = Duration::from_millis(50);

/// The names in the table of the reference page.
fn documented() -> Vec<String> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/variables.md");
    let page = std::fs::read_to_string(page).expect("the reference page");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `$")?.split_once('`'));
    let names: Vec<_> = rows.map(|(name, _)| name.to_owned()).collect();
    assert!(names.len() > 60, "{names:?}");
    names
}

/// A gateway whose access log has all of them, as JSON.
fn gateway() -> Gateway {
    let fields: Vec<_> = documented().iter().map(|it| format!("\"{it}\":\"${it}\"")).collect();
    Gateway::builder(BIN)
        .tcp_entry("addr: \"127.0.0.1:{port}\"\ntls: true\nproxy_protocol: true\nalpn: [mqtt]")
        .tcp(1)
        .workers(1)
        .control()
        .stream("access_log_format_escape: json\nreal_ip_from:\n  - 127.0.0.0/8")
        .access_format(&format!("{{{}}}", fields.join(",")))
        .top("stream_plugins: [mqtt-proxy, limit-rate]")
        .start()
}

/// The line of one session, and which of its variables were looked at.
struct Line<'a> {
    values: Value,
    seen: &'a mut BTreeSet<String>,
}

impl<'a> Line<'a> {
    /// The last of `count` lines.
    #[track_caller]
    fn last(gateway: &Gateway, count: usize, seen: &'a mut BTreeSet<String>) -> Self {
        wait::until_true("the session is logged", SOON, || gateway.access().len() >= count);
        let lines = gateway.access();
        assert_eq!(lines.len(), count, "{lines:#?}");
        let values = serde_json::from_str(&lines[count - 1]).expect("a line of JSON");
        Self { values, seen }
    }

    #[track_caller]
    fn text(&mut self, name: &str) -> String {
        assert!(self.values[name].is_string(), "no {name} in {:#}", self.values);
        self.seen.insert(name.to_owned());
        self.values[name].as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    fn is(&mut self, name: &str, expected: impl ToString) {
        assert_eq!(self.text(name), expected.to_string(), "{name}");
    }

    #[track_caller]
    fn begins(&mut self, name: &str, with: &str) {
        let text = self.text(name);
        assert!(text.starts_with(with), "{name}: {text}");
    }

    /// Seconds with three digits behind the point.
    #[track_caller]
    fn seconds(&mut self, name: &str) -> f64 {
        let text = self.text(name);
        let digits = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
        assert_eq!(digits, 3, "{name}: {text}");
        text.parse().expect("a number")
    }
}

/// What openssl says about a certificate.
fn openssl(certificate: &Certificate, arguments: &[&str]) -> String {
    let program = need("openssl", "openssl").expect("openssl");
    let folder = tempfile::TempDir::with_prefix("headgate-variables-").expect("a folder");
    let (file, _) = certificate.write(folder.path(), "own");
    let mut command = Command::new(program);
    let done = run(command.args(["x509", "-noout", "-in"]).arg(file).args(arguments), SOON);
    let text = done.success().stdout;
    text.trim().split_once('=').map(|(_, value)| value.trim().to_owned()).expect("name=value")
}

/// Hex escapes of a URL undone.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('%');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = u8::from_str_radix(&part[..2], 16).expect("two digits");
        plain.push(char::from(code));
        plain.push_str(&part[2..]);
    }
    plain
}

/// TLS on both sides behind a balancer that sends a PROXY header; most variables have a value.
fn through_tls(gateway: &Gateway, count: usize, seen: &mut BTreeSet<String>) {
    let authority = Authority::new("root");
    let own = authority.client_of("alice", &["alice.test"]);
    let node = tls::naming_node(&authority.server(&["node.test"]), None);
    let pair = authority.server(&["front.test"]);
    let ssl = json!({
        "cert": pair.cert, "key": pair.key, "snis": ["front.test"],
        "client": {"ca": authority.cert, "depth": 1}
    });
    gateway.put("ssls/1", &ssl).expect(201);
    gateway.put("services/7", &json!({"name": "shop"})).expect(201);
    let route = json!({
        "name": "tills", "service_id": "7", "server_port": gateway.tcp_port(0),
        "upstream": {"nodes": {node.node(): 1}, "scheme": "tls"}
    });
    gateway.put("stream_routes/front", &route).expect(201);
    let begun = SystemTime::now();
    let mut socket = connect(gateway.tcp(0));
    let peer = socket.local_addr().expect("an address");
    socket.write_all(b"PROXY TCP4 10.9.8.7 198.51.100.1 51000 443\r\n").expect("a header");
    let client = TlsClient::showing(&own, &[&TLS13]);
    let mut stream = client.over(socket, "front.test").expect("a handshake");
    let held = Instant::now();
    assert_eq!(tls::echo(&mut stream, b"").expect("nothing"), b"");
    let mut greeting = [0; 11]; // the server name that the node is asked for

    std::io::Read::read_exact(&mut stream, &mut greeting).expect("the node's greeting");
    assert_eq!(&greeting, b"front.test\n");
    assert_eq!(tls::echo(&mut stream, b"abc").expect("an echo"), b"abc");
    wait::until_true("it lasts", SOON, || held.elapsed() >= HELD);
    stream.conn.send_close_notify();
    stream.flush().expect("close_notify");
    let _ = tls::read_to_end(&mut stream);
    drop(stream);

    let mut line = Line::last(gateway, count, seen);
    let node_port = node.addr().port();
    for (name, expected) in [
        ("balancer_ip", "127.0.0.1"),
        ("binary_remote_addr", "\n\t\u{8}\u{7}"),
        ("bytes_received", "3"),
        ("bytes_sent", "14"),
        ("close_reason", "OK"),
        ("log_event", "end"),
        ("nginx_version", env!("CARGO_PKG_VERSION")),
        ("protocol", "TCP"),
        ("proxy_protocol_addr", "10.9.8.7"),
        ("proxy_protocol_port", "51000"),
        ("proxy_protocol_server_addr", "198.51.100.1"),
        ("proxy_protocol_server_port", "443"),
        ("realip_remote_addr", "127.0.0.1"),
        ("remote_addr", "10.9.8.7"),
        ("remote_port", "51000"),
        ("route_id", "front"),
        ("route_name", "tills"),
        ("server_addr", "127.0.0.1"),
        ("server_name", "front.test"),
        ("service_id", "7"),
        ("service_name", "shop"),
        ("ssl_client_san", "DNS:alice.test"),
        ("ssl_client_verify", "SUCCESS"),
        ("ssl_protocol", "TLSv1.3"),
        ("ssl_server_name", "front.test"),
        ("ssl_session_reused", "."),
        ("status", "200"),
        ("upstream_attempts", "1"),
        ("upstream_bytes_received", "14"),
        ("upstream_bytes_sent", "3"),
        ("upstream_sni", "front.test"),
    ] {
        line.is(name, expected);
    }
    line.is("balancer_port", node_port);
    line.is("upstream_addr", node.addr());
    line.is("connection", count);
    line.is("pid", gateway.id());
    line.is("realip_remote_port", peer.port());
    line.is("server_port", gateway.tcp_port(0));
    line.is("stream_listen_addr", gateway.tcp(0));
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    line.is("hostname", hostname.trim());
    line.begins("ja4", "t13d");
    assert!(!line.text("session_id").is_empty());
    line.begins("ssl_cipher", "TLS_AES_");
    line.begins("ssl_curve", "X25519");
    assert!(
        ["client_closed", "closed", "shutdown"].contains(&&*line.text("stream_session_reason"))
    );
    of_the_certificate(&mut line, &own);
    of_time(&mut line, begun);
}

fn of_the_certificate(line: &mut Line<'_>, own: &Certificate) {
    let pem = own.cert.trim().replace("\r\n", "\n");
    assert_eq!(line.text("ssl_client_raw_cert").trim(), pem);
    assert_eq!(line.text("ssl_client_cert").trim(), pem.replace('\n', "\n\t"));
    assert_eq!(unescaped(&line.text("ssl_client_escaped_cert")).trim(), pem);
    let fingerprint = openssl(own, &["-fingerprint", "-sha1"]);
    line.is("ssl_client_fingerprint", fingerprint.replace(':', "").to_lowercase());
    line.is("ssl_client_serial", openssl(own, &["-serial"]));
    line.is("ssl_client_s_dn", openssl(own, &["-subject", "-nameopt", "RFC2253"]));
    line.is("ssl_client_i_dn", openssl(own, &["-issuer", "-nameopt", "RFC2253"]));
    line.is("ssl_client_v_start", openssl(own, &["-startdate"]));
    line.is("ssl_client_v_end", openssl(own, &["-enddate"]));
    assert!(line.text("ssl_client_v_remain").parse::<u32>().expect("days") > 0);
}

fn of_time(line: &mut Line<'_>, begun: SystemTime) {
    let length = line.seconds("session_time");
    let upstream = line.seconds("upstream_session_time");
    assert!(length >= HELD.as_secs_f64() - 0.001, "{length}");
    assert!(upstream > 0.0 && upstream <= length + 0.001, "{upstream} of {length}");
    assert!(line.seconds("upstream_connect_time") <= length);
    assert!(line.seconds("upstream_first_byte_time") <= length);
    let unix = |time: SystemTime| time.duration_since(UNIX_EPOCH).expect("a time").as_secs_f64();
    let at = line.seconds("msec");
    assert!(at >= unix(begun) - 0.001 && at <= unix(SystemTime::now()) + 0.001, "{at}");
    // 2026-11-25T21:00:00+00:00 and 25/Nov/2026:21:00:00 +0000
    let (iso, local) = (line.text("time_iso8601"), line.text("time_local"));
    assert_eq!((iso.len(), local.len()), (25, 26), "{iso} {local}");
    assert_eq!(
        (&iso[..4], &iso[8..10], &iso[11..19]),
        (&local[7..11], &local[..2], &local[12..20])
    );
}

/// What stands in the queue of a full upstream.
fn through_a_queue(gateway: &Gateway, count: usize, seen: &mut BTreeSet<String>) {
    let node = TcpPeer::echo();
    let upstream =
        json!({"nodes": {node.node(): 1}, "max_conns": 1, "queue": {"max": 2, "timeout": 30}});
    let route = json!({"server_port": gateway.tcp_port(1), "upstream": upstream});
    gateway.put("stream_routes/plain", &route).expect(201);
    let mut holder = connect(gateway.tcp(1));
    client::assert_alive(&mut holder);
    let mut second = connect(gateway.tcp(1));
    let waiting = || {
        let counters = gateway.control("/v1/counters", &[]).expect(200).json();
        counters["sessions_waiting_now"].as_u64()
    };
    wait::until_true("it is in the queue", SOON, || waiting() == Some(1));
    let begun = Instant::now();
    wait::until_true("it stays there", SOON, || begun.elapsed() >= HELD);
    drop(holder);
    client::assert_alive(&mut second);
    let longest = begun.elapsed() + SOON;
    second.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_to_end(&mut second), Seen::Closed);
    let mut line = Line::last(gateway, count, seen);
    let queued = line.seconds("upstream_queue_time");
    assert!(queued >= HELD.as_secs_f64() - 0.002 && queued < longest.as_secs_f64(), "{queued}");
    assert!(line.seconds("session_time") >= queued);
    // The one before did not wait, and says so by saying nothing.
    let first: Value = serde_json::from_str(&gateway.access()[count - 2]).expect("JSON");
    assert_eq!(first["upstream_queue_time"], "", "{first:#}");
}

fn through_plugins(gateway: &Gateway, count: usize, seen: &mut BTreeSet<String>) {
    let node = TcpPeer::echo();
    let route = json!({
        "server_port": gateway.tcp_port(1), "upstream": {"nodes": {node.node(): 1}},
        "plugins": {
            "mqtt-proxy": {"protocol_level": 4},
            "limit-rate": {"bandwidth": {"up": 100, "up_burst": 20}}
        }
    });
    gateway.put("stream_routes/plain", &route).expect(200);
    let mut stream = connect(gateway.tcp(1));
    let packet = b"\x10\x11\x00\x04MQTT\x04\x02\x00\x3c\x00\x05dev-1 and more than the burst";
    assert_eq!(client::echo(&mut stream, packet), packet);
    stream.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_to_end(&mut stream), Seen::Closed);
    let mut line = Line::last(gateway, count, seen);
    line.is("mqtt_client_id", "dev-1");
    let throttled = line.seconds("throttled_time");
    assert!(throttled > 0.0 && throttled <= line.seconds("session_time"), "{throttled}");
}

fn through_tls_with_a_protocol(gateway: &Gateway, count: usize, seen: &mut BTreeSet<String>) {
    let authority = Authority::new("other");
    let (pair, node) = (authority.server(&["alpn.test"]), TcpPeer::named("a"));
    let ssl = json!({"cert": pair.cert, "key": pair.key, "snis": ["alpn.test"]});
    gateway.put("ssls/2", &ssl).expect(201);
    let route = json!({"sni": "alpn.test", "upstream": {"nodes": {node.node(): 1}}});
    gateway.put("stream_routes/alpn", &route).expect(201);
    let mut socket = connect(gateway.tcp(0));
    socket.write_all(b"PROXY UNKNOWN\r\n").expect("a header");
    let client = TlsClient::default().offering(&["mqtt"]);
    let mut stream = client.over(socket, "alpn.test").expect("a handshake");
    let _ = tls::read_to_end(&mut stream);
    drop(stream);
    let mut line = Line::last(gateway, count, seen);
    line.is("ssl_alpn_protocol", "mqtt");
    line.is("route_id", "alpn");
}

#[test]
fn every_documented_variable_has_a_value() {
    let (gateway, mut seen) = (gateway(), BTreeSet::new());
    through_tls(&gateway, 1, &mut seen);
    through_a_queue(&gateway, 3, &mut seen);
    through_plugins(&gateway, 4, &mut seen);
    through_tls_with_a_protocol(&gateway, 5, &mut seen);
    let left: Vec<_> = documented().into_iter().filter(|name| !seen.contains(name)).collect();
    assert!(left.is_empty(), "nobody looked at {left:?}");
}
