//! What an operator sees: the access log, the process log, and no secrets in either.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::io::Write;
use std::net::{Shutdown, UdpSocket};

use headgate_testkit::client::{self, Seen, assert_alive, connect, reach, read_to_end};
use headgate_testkit::gateway::{ADMIN_KEY, READY, VIEWER_KEY};
use headgate_testkit::peer::BlackHole;
use headgate_testkit::{Gateway, Port, SOON, TcpPeer, UdpPeer, wait};
use serde_json::{Value, json};

const BIN: &str = env!("CARGO_BIN_EXE_headgate");

fn to(node: &str) -> Value {
    json!({"upstream": {"nodes": {node: 1}}})
}

fn exchange(gateway: &Gateway, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(gateway.tcp(0));
    stream.write_all(bytes).expect("sent");
    stream.shutdown(Shutdown::Write).expect("shutdown");
    match read_to_end(&mut stream) {
        Seen::Bytes(back) => back,
        other => panic!("{other:?}"),
    }
}

// ---- access log

#[test]
fn the_default_format_is_the_references() {
    let gateway = Gateway::builder(BIN).tcp(1).udp(1).access_format("").start();
    let (tcp, udp) = (TcpPeer::echo(), UdpPeer::echo());
    let body = json!({"server_port": gateway.tcp_port(0), "upstream": to(&tcp.node())["upstream"]});
    gateway.put("stream_routes/tcp", &body).expect(201);
    let idle = json!({"connect": 1, "send": 0.3, "read": 0.3});
    let body = json!({"upstream": {"nodes": {udp.node(): 1}, "timeout": idle}});
    gateway.put("stream_routes/udp", &body).expect(201);
    assert_eq!(exchange(&gateway, b"hello").len(), 5);
    assert_eq!(client::ask(&client::udp(gateway.udp(0)), b"abc"), b"abc");
    wait::until_true("two sessions are logged", SOON, || gateway.access().len() == 2);
    for (line, protocol, bytes) in
        [(&gateway.access()[0], "TCP", "5 5"), (&gateway.access()[1], "UDP", "3 3")]
    {
        // 127.0.0.1 [21/Nov/2026:23:59:59 +0000] TCP 200 5 5 0.001
        let (address, rest) = line.split_once(" [").expect("an address and a time");
        let (time, rest) = rest.split_once("] ").expect("a time");
        assert_eq!(address, "127.0.0.1");
        assert_is_local_time(time);
        let seconds = rest
            .strip_prefix(&format!("{protocol} 200 {bytes} "))
            .unwrap_or_else(|| panic!("unexpected line: {line}"));
        let (whole, fraction) = seconds.split_once('.').expect("seconds with a fraction");
        assert!(whole.parse::<u32>().is_ok_and(|whole| whole < 20), "{line}");
        assert!(fraction.len() == 3 && fraction.parse::<u32>().is_ok(), "{line}");
    }
}

/// `21/Nov/2026:23:59:59 +0000`
#[track_caller]
fn assert_is_local_time(text: &str) {
    let shape: String = text
        .chars()
        .map(|c| match c {
            '0'..='9' => '9',
            'A'..='Z' => 'A',
            'a'..='z' => 'a',
            '-' => '+',
            other => other,
        })
        .collect();
    assert_eq!(shape, "99/Aaa/9999:99:99:99 +9999", "{text}");
}

#[test]
fn a_format_in_json_yields_json() {
    let gateway = Gateway::builder(BIN)
        .tcp(1)
        .stream("access_log_format_escape: json")
        .access_format(
            r#"{"client":"$remote_addr","port":$remote_port,"local":"$server_addr:$server_port","protocol":"$protocol","status":$status,"sent":$bytes_sent,"received":$bytes_received,"reason":"$close_reason","upstream":"$upstream_addr","to_upstream":$upstream_bytes_sent,"from_upstream":$upstream_bytes_received,"time":$session_time,"at":"$time_iso8601"}"#,
        )
        .start();
    let node = TcpPeer::answers_at_end(1);
    gateway.put("stream_routes/1", &to(&node.node())).expect(201);
    let mut stream = connect(gateway.tcp(0));
    let port = stream.local_addr().expect("an address").port();
    stream.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_to_end(&mut stream), Seen::Bytes(b"0 good".to_vec()));
    let line = gateway.wait_access(&["OK"]);
    let json: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    for (name, value) in [
        ("client", json!("127.0.0.1")),
        ("port", json!(port)),
        ("local", json!(gateway.tcp(0).to_string())),
        ("protocol", json!("TCP")),
        ("status", json!(200)),
        ("sent", json!(6)),
        ("received", json!(0)),
        ("reason", json!("OK")),
        ("upstream", json!(node.node())),
        ("to_upstream", json!(0)),
        ("from_upstream", json!(6)),
    ] {
        assert_eq!(json[name], value, "{name} in {line}");
    }
    assert!(json["time"].is_number(), "{line}");
}

#[test]
fn long_sessions_are_seen_before_they_end() {
    let gateway = Gateway::builder(BIN)
        .tcp(1)
        .udp(1)
        .stream("access_log_start: true\naccess_log_interval: 1")
        .access_format("$protocol $log_event $bytes_received $status $close_reason")
        .start();
    let (node, datagrams) = (TcpPeer::echo(), UdpPeer::echo());
    let body =
        json!({"server_port": gateway.tcp_port(0), "upstream": to(&node.node())["upstream"]});
    gateway.put("stream_routes/tcp", &body).expect(201);
    let body =
        json!({"server_port": gateway.udp_port(0), "upstream": to(&datagrams.node())["upstream"]});
    gateway.put("stream_routes/udp", &body).expect(201);
    let mut stream = connect(gateway.tcp(0));
    gateway.wait_access(&["TCP start 0 - -"]);
    assert_eq!(client::echo(&mut stream, b"abc"), b"abc");
    gateway.wait_access(&["TCP progress 3 - -"]);
    let socket = client::udp(gateway.udp(0));
    assert_eq!(client::ask(&socket, b"four"), b"four");
    gateway.wait_access(&["UDP start 0 - -"]);
    gateway.wait_access(&["UDP progress 4 - -"]);
    wait::until_true("it goes on", SOON, || {
        gateway.access().iter().filter(|line| line.starts_with("TCP progress 3")).count() >= 2
    });
    stream.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_to_end(&mut stream), Seen::Closed);
    gateway.wait_access(&["TCP end 3 200 OK"]);
}

/// Names can hold anything; with JSON escaping every line is still a JSON document of its own.
#[test]
fn values_that_need_escaping_stay_parseable_json() {
    let format = r#"{"route":"$route_name","service":"$service_name","id":"$route_id","sni":"$ssl_server_name","upstream":"$upstream_addr","status":$status}"#;
    let gateway = Gateway::builder(BIN)
        .tcp(1)
        .workers(1)
        .stream("access_log_format_escape: json")
        .access_format(format)
        .start();
    let node = TcpPeer::named("a");
    let names = [
        "\"quoted\"",
        "back\\slash \\\"",
        "line\nbreak\r\n",
        "tab\t, bell\u{7}, backspace\u{8}, form feed\u{c}, escape\u{1b}",
        "unit\u{1f} delete\u{7f} nul\u{0}",
        "名前 ü \u{1F600} \u{2028}",
        "\"}\n{\"forged\":\"line",
        "$status ${protocol}",
    ];
    for (n, name) in names.iter().enumerate() {
        let service = json!({"name": name, "upstream": to(&node.node())["upstream"]});
        gateway.put("services/s", &service).ok();
        gateway.put("stream_routes/r", &json!({"name": name, "service_id": "s"})).ok();
        assert_eq!(reach(gateway.tcp(0)).as_deref(), Some("a"));
        wait::until_true("one more line", SOON, || gateway.access().len() > n);
        let lines = gateway.access();
        assert_eq!(lines.len(), n + 1, "{lines:#?}");
        let json: Value = serde_json::from_str(&lines[n])
            .unwrap_or_else(|error| panic!("{name:?}: {error}: {}", lines[n]));
        assert_eq!(
            json,
            json!({"route": name, "service": name, "id": "r", "sni": "",
                   "upstream": node.node(), "status": 200})
        );
    }
    // A session without a route has no values, and its line is JSON, too.
    gateway.delete("stream_routes/r").expect(200);
    assert_eq!(reach(gateway.tcp(0)), None);
    wait::until_true("one more line", SOON, || gateway.access().len() > names.len());
    let line = gateway.access().pop().expect("a line");
    let json: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert_eq!((&json["route"], &json["upstream"]), (&json!(""), &json!("")));
}

#[test]
fn with_default_escaping_a_name_cannot_forge_a_line() {
    let gateway = Gateway::builder(BIN).tcp(1).access_format("<$route_name>").start();
    let node = TcpPeer::named("a");
    let body = json!({"name": "a\"b\\c\nforged ü", "upstream": to(&node.node())["upstream"]});
    gateway.put("stream_routes/1", &body).expect(201);
    assert!(reach(gateway.tcp(0)).is_some());
    wait::until_true("a line", SOON, || !gateway.access().is_empty());
    assert_eq!(gateway.access(), ["<a\\x22b\\x5Cc\\x0Aforged \\xC3\\xBC>"]);
}

#[test]
fn every_session_has_exactly_one_line_with_its_reason() {
    let gateway = Gateway::builder(BIN).tcp(7).workers(1).start();
    let (echo, sink, resetter) = (TcpPeer::echo(), TcpPeer::sink(), TcpPeer::resetter(b"x", 1));
    let (dead, hole) = (Port::take(), BlackHole::open());
    let quick = json!({"connect": 0.3, "send": 0.3, "read": 0.3});
    let upstreams = [
        json!({"nodes": {echo.node(): 1}}),
        json!({"nodes": {}}),
        json!({"nodes": {dead.local().to_string(): 1}}),
        json!({"nodes": {hole.addr().to_string(): 1}, "timeout": quick}),
        json!({"nodes": {sink.node(): 1}, "timeout": quick}),
        json!({"nodes": {resetter.node(): 1}}),
    ];
    for (n, upstream) in upstreams.iter().enumerate() {
        let body = json!({"server_port": gateway.tcp_port(n), "upstream": upstream});
        gateway.put(&format!("stream_routes/{n}"), &body).expect(201);
    }
    assert_alive(&mut connect(gateway.tcp(0)));
    for n in [1, 2, 3, 4, 6] {
        assert_eq!(reach(gateway.tcp(n)), None, "listener {n}");
    }
    let mut stream = connect(gateway.tcp(5));
    stream.write_all(b"y").expect("sent");
    let _ = read_to_end(&mut stream);
    let mut leaving = connect(gateway.tcp(0));
    assert_alive(&mut leaving);
    client::reset(leaving);

    wait::until_true("8 lines", SOON, || gateway.access().len() >= 8);
    let expected = [
        (0, "OK", "200"),
        (1, "NU", ""),
        (2, "UF", "502"),
        (3, "UT", "502"),
        (4, "IT", "200"),
        (5, "UR", "200"),
        (6, "NR", ""),
        (0, "CR", "200"),
    ];
    let lines = gateway.access();
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (n, reason, status) in expected {
        let port = format!("local=127.0.0.1:{} ", gateway.tcp_port(n));
        let found = lines.iter().any(|line| {
            line.contains(&port)
                && line.contains(&format!("reason={reason} "))
                && line.contains(&format!("status={status}"))
        });
        assert!(found, "no {reason} {status} on listener {n}: {lines:#?}");
    }
}

#[test]
fn the_access_log_is_off_by_default() {
    let gateway = Gateway::builder(BIN).tcp(1).no_access_log().start();
    let node = TcpPeer::named("a");
    gateway.put("stream_routes/1", &to(&node.node())).expect(201);
    assert_eq!(reach(gateway.tcp(0)).as_deref(), Some("a"));
    let mut gateway = gateway;
    gateway.stop();
    assert!(!gateway.access_path().exists(), "{:?}", gateway.access());
}

#[test]
fn the_access_log_is_reopened_on_request() {
    let gateway = Gateway::builder(BIN).tcp(1).start();
    let node = TcpPeer::named("a");
    gateway.put("stream_routes/1", &to(&node.node())).expect(201);
    assert!(reach(gateway.tcp(0)).is_some());
    gateway.wait_access(&["reason=OK"]);
    let rotated = gateway.access_path().with_extension("1");
    std::fs::rename(gateway.access_path(), &rotated).expect("renamed");
    gateway.signal("USR1");
    wait::until_true("a new file", SOON, || {
        // Lines may still go to the old file until the signal is handled.
        assert!(reach(gateway.tcp(0)).is_some());
        gateway.access_path().exists()
    });
    gateway.wait_access(&["reason=OK"]);
    assert!(!std::fs::read_to_string(rotated).expect("the old file").is_empty());
}

#[test]
fn an_orderly_stop_loses_no_line() {
    let mut gateway = Gateway::builder(BIN).tcp(1).start();
    let node = TcpPeer::named("a");
    gateway.put("stream_routes/1", &to(&node.node())).expect(201);
    for _ in 0..100 {
        assert!(reach(gateway.tcp(0)).is_some());
    }
    gateway.stop();
    assert_eq!(gateway.access().len(), 100);
}

// ---- process log

#[test]
fn a_connection_without_a_route_says_what_arrived_and_what_was_nearest() {
    let gateway = Gateway::builder(BIN).tcp(2).start();
    let node = TcpPeer::named("a");
    // Only the client's address keeps this route from matching.
    let body = json!({
        "server_port": gateway.tcp_port(0),
        "server_addr": "127.0.0.1",
        "remote_addr": "10.11.12.0/24",
        "upstream": to(&node.node())["upstream"]
    });
    gateway.put("stream_routes/almost", &body).expect(201);
    let body = json!({"server_port": 1, "remote_addr": "10.0.0.1"});
    gateway.put("stream_routes/far", &body).expect(201);
    let stream = connect(gateway.tcp(0));
    let client = stream.local_addr().expect("an address");
    let line = gateway.wait_for_log("not hit any route", SOON);
    drop(stream);
    for part in [
        "INFO",
        &gateway.tcp_port(0).to_string(),
        &client.ip().to_string(),
        "almost",
        "remote_addr",
        "10.11.12.0/24",
    ] {
        assert!(line.contains(part), "`{part}` is missing in: {line}");
    }
    assert!(!line.contains("far"), "the nearest route only: {line}");
}

#[test]
fn lines_about_missing_routes_are_rate_limited_and_counted() {
    let gateway = Gateway::builder(BIN).tcp(1).start();
    for _ in 0..300 {
        assert_eq!(reach(gateway.tcp(0)), None);
    }
    wait::until_true("300 sessions in the access log", SOON, || gateway.access().len() == 300);
    let log = gateway.log();
    let lines = log.lines_with(log.start(), "not hit any route");
    assert!((1..150).contains(&lines.len()), "{} lines for 300 connections", lines.len());
    // How many were left out is said in a later line.
    let told = wait::try_until(SOON, || {
        assert_eq!(reach(gateway.tcp(0)), None);
        log.lines_with(log.start(), "not hit any route").into_iter().find(|line| {
            line.contains("suppressed") || line.contains("more") || line.contains("repeated")
        })
    });
    assert!(told.is_some(), "no count of lines left out:\n{}", log.text());
}

#[test]
fn the_chosen_node_is_logged_as_users_grep_for_it() {
    let gateway = Gateway::builder(BIN).tcp(1).start();
    let node = TcpPeer::named("a");
    gateway.put("stream_routes/1", &to(&node.node())).expect(201);
    assert!(reach(gateway.tcp(0)).is_some());
    let line = gateway.wait_for_log(&format!("proxy request to {}", node.addr()), SOON);
    assert!(line.contains("INFO"), "{line}");
}

#[test]
fn the_level_decides_what_is_logged() {
    let gateway = Gateway::builder(BIN).tcp(1).log_level("warn").start();
    let node = TcpPeer::named("a");
    gateway.put("stream_routes/1", &to(&node.node())).expect(201);
    assert!(reach(gateway.tcp(0)).is_some());
    gateway.delete("stream_routes/1").expect(200);
    assert_eq!(reach(gateway.tcp(0)), None);
    gateway.wait_access(&["reason=NR"]);
    let log = gateway.log().text();
    // Only that it has started is said at every level.
    let others = log.lines().filter(|line| line.contains("INFO") && !line.contains("lifecycle"));
    assert_eq!(others.count(), 0, "{log}");
    assert!(log.contains(READY) && !log.contains("proxy request to"), "{log}");
}

#[test]
fn secrets_stay_out_of_the_logs() {
    const KEYRING: &str = "testkit-keyring1";
    let mut gateway = Gateway::builder(BIN)
        .tcp(1)
        .log_level("debug")
        .apisix(&format!("data_encryption:\n  keyring:\n    - {KEYRING}"))
        .start();
    gateway.get(&format!("stream_routes?api_key={ADMIN_KEY}")).expect(200);
    let headers = [("Cookie", &*format!("x_api_key={VIEWER_KEY}"))];
    gateway.request_with("GET", "stream_routes", &headers, None).expect(200);
    gateway
        .request_with("GET", "stream_routes", &[("X-API-KEY", "wrong-key-secret")], None)
        .expect(401);
    let secret =
        json!({"uri": "http://127.0.0.1:8200", "prefix": "kv", "token": "vault-token-secret"});
    gateway.put("secrets/vault/1", &secret).ok();
    gateway.patch("secrets/vault/1/token", &json!("patched-token-secret")).expect(200);
    let (certificate, key) =
        (include_str!("fixtures/tls/cert.pem"), include_str!("fixtures/tls/key.pem"));
    let (client_certificate, client_key) =
        (include_str!("fixtures/tls/ec-cert.pem"), include_str!("fixtures/tls/ec-key.pem"));
    let ssl = json!({"sni": "a.test", "cert": certificate, "key": key});
    let made = gateway.put("ssls/1", &ssl).expect(201).json();
    let encrypted = made["value"]["key"].as_str().expect("the encrypted key").to_owned();
    assert!(!encrypted.contains("PRIVATE KEY"), "not encrypted: {encrypted}");
    gateway.patch("ssls/1", &json!({"key": key, "desc": "patched"})).expect(200);
    gateway.patch("ssls/1/key", &json!(key)).expect(200);
    // Refused bodies are not quoted either, whatever is wrong with them.
    let mut refused = ssl;
    refused["oops"] = json!(1);
    gateway.put("ssls/2", &refused).expect(400);
    drop(gateway.put("ssls/2", &json!({"sni": "a.test", "cert": client_certificate, "key": key})));
    gateway.request("PUT", "ssls/2", Some(&format!("{{\"key\": {key:?}, "))).expect(400);
    gateway.put("ssls/2", &json!({"sni": "a.test", "cert": certificate, "key": [key]})).expect(400);

    // A session whose upstream has a client key.
    let node = TcpPeer::named("a");
    let tls = json!({"client_cert": client_certificate, "client_key": client_key});
    let upstream = json!({"nodes": {node.node(): 1}, "tls": tls});
    gateway.put("upstreams/u", &upstream).expect(201);
    gateway.put("stream_routes/1", &json!({"upstream": upstream})).expect(201);
    let _ = reach(gateway.tcp(0));
    gateway.put("stream_routes/1", &json!({"upstream_id": "u"})).expect(200);
    let _ = reach(gateway.tcp(0));
    let mut broken = upstream;
    broken["tls"]["client_key"] = json!(format!("{client_key}x"));
    drop(gateway.put("upstreams/v", &broken));
    broken["typo"] = json!(true);
    gateway.put("stream_routes/2", &json!({"upstream": broken})).expect(400);

    let mark = gateway.mark();
    gateway.signal("HUP");
    gateway.wait_for_log_after(mark, "reload");
    gateway.restart();
    let _ = reach(gateway.tcp(0));
    gateway.stop();
    // Nor do they show when the file itself is shown as wrong.
    let broken = gateway
        .config()
        .replace(&format!("key: {ADMIN_KEY}"), &format!("key: [{ADMIN_KEY}]"))
        .replace(&format!("- {KEYRING}"), &format!("- {KEYRING}more"))
        .replace(&format!("- {}\n", gateway.tcp_port(0)), "- 91000\n");
    gateway.write_config(&broken);
    gateway.spawn();
    let done = gateway.finished(SOON);
    assert!(!done.status.success() && done.stderr.contains("keyring"), "{}", done.output());
    assert!(!done.stdout.contains(KEYRING) && !done.stdout.contains(ADMIN_KEY), "{}", done.stdout);

    let body = |key: &str, at: usize| key.lines().nth(at).expect("a line of the key").to_owned();
    let all = format!("{}\n{}", gateway.everything_logged(), gateway.access().join("\n"));
    assert!(all.contains("DEBUG"), "not at level debug:\n{all}");
    for (name, text) in [
        ("the admin key", ADMIN_KEY),
        ("the viewer key", VIEWER_KEY),
        ("a wrong key", "wrong-key-secret"),
        ("the keyring", KEYRING),
        ("a vault token", "vault-token-secret"),
        ("a patched vault token", "patched-token-secret"),
        ("a private key", &body(key, 2)),
        ("an encrypted key", &encrypted[..40]),
        ("a client key", &body(client_key, 1)),
        ("some private key", "PRIVATE KEY"),
    ] {
        assert!(!all.contains(text), "{name} is in the log:\n{all}");
    }
}

#[test]
fn a_generated_key_is_shown_once_and_kept_in_a_private_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut gateway = Gateway::builder(BIN)
        .tcp(1)
        .admin("admin_key:\n  - name: admin\n    key: ''\n    role: admin")
        .start();
    let private: Vec<_> = std::fs::read_dir(gateway.data())
        .expect("the data folder")
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().contains("key"))
        .collect();
    assert_eq!(private.len(), 1, "one file with the key");
    assert_eq!(private[0].metadata().expect("metadata").permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(private[0].path()).expect("the key file");
    let log = gateway.log().text();
    let key = text
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_')
        .filter(|word| word.len() >= 20)
        .find(|word| log.contains(word))
        .unwrap_or_else(|| panic!("the key is not shown:\n{log}"))
        .to_owned();
    assert_eq!(log.matches(&key).count(), 1, "shown once");
    gateway.request("GET", "stream_routes", None).expect(401);
    gateway.use_key(&key);
    gateway.get("stream_routes").expect(200);
    gateway.restart();
    assert!(!gateway.log().text().contains(&key), "shown again");
    gateway.get("stream_routes").expect(200);
}

#[test]
fn writes_are_logged_with_their_author() {
    let gateway = Gateway::builder(BIN).tcp(1).start();
    gateway.put("upstreams/u", &json!({"nodes": {}})).expect(201);
    let line = gateway.wait_for_log("tester", SOON);
    assert!(line.contains("upstream"), "{line}");
}

/// A program that is killed when this value is dropped.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whoever reads the process log may stop reading; that is no reason to stop serving.
#[test]
fn a_log_that_nobody_reads_does_not_stop_traffic() {
    const CLIENTS: usize = 4;
    const EACH: usize = 500;
    let (node, gateway) = (TcpPeer::echo(), Gateway::builder(BIN).tcp(1).prepare());
    let mut process = std::process::Command::new(BIN);
    process.arg("run").arg("-c").arg(gateway.config_path()).current_dir(gateway.folder());
    process.stdin(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    let mut process = Killed(process.spawn().expect("the gateway starts"));
    // Kept open and never read; it takes 64 KiB.
    let _unread = process.0.stderr.take().expect("a pipe");
    wait::until("the Admin API answers", SOON, || {
        gateway.try_request("HEAD", "/apisix/admin", &[], None).ok()
    });
    gateway.put("stream_routes/1", &to(&node.node())).expect(201);
    let listener = gateway.tcp(0);
    // Each connection is worth a line of more than 64 bytes at this level.
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            std::thread::spawn(move || (0..EACH).for_each(|_| assert_alive(&mut connect(listener))))
        })
        .collect();
    for client in clients {
        client.join().expect("every connection was served");
    }
    assert_eq!(node.accepted(), CLIENTS * EACH);
    gateway.get("stream_routes/1").expect(200);
    wait::until_true("a line for each", SOON, || gateway.access().len() == CLIENTS * EACH);
    headgate_testkit::process::signal(process.0.id(), "TERM");
    let status = wait::until("an orderly end", SOON, || process.0.try_wait().expect("own child"));
    assert!(status.success(), "{status}");
}

#[test]
fn the_access_log_goes_to_a_syslog_server() {
    let server = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    server.set_read_timeout(Some(SOON)).expect("a limit");
    let to = server.local_addr().expect("an address");
    let node = TcpPeer::named("a");
    let gateway = Gateway::builder(BIN)
        .tcp(1)
        .access_to(&format!(
            "syslog:server={to},facility=local0,severity=notice,tag=gate,nohostname"
        ))
        .access_format("$remote_addr $close_reason")
        .start();
    gateway.put("stream_routes/1", &to_node(&node)).expect(201);
    assert!(reach(gateway.tcp(0)).is_some());
    let mut buffer = [0; 500];
    let count = server.recv(&mut buffer).expect("a datagram");
    let line = String::from_utf8_lossy(&buffer[..count]).into_owned();
    assert!(line.starts_with("<133>"), "{line}");
    assert!(line.ends_with(" gate: 127.0.0.1 OK"), "{line}");
}

#[test]
fn a_full_disk_stops_nobody_and_is_counted() {
    let node = TcpPeer::named("a");
    let gateway = Gateway::builder(BIN).tcp(1).metrics().access_to("/dev/full").start();
    gateway.put("stream_routes/1", &to_node(&node)).expect(201);
    for _ in 0..50 {
        assert!(reach(gateway.tcp(0)).is_some());
    }
    wait::until_true("the failures are counted", SOON, || {
        gateway.scrape().get("headgate_access_log_errors_total").is_some_and(|count| count > 0.0)
    });
    gateway.wait_for_log("access log cannot be written", SOON);
    assert!(reach(gateway.tcp(0)).is_some());
}

fn to_node(node: &TcpPeer) -> serde_json::Value {
    to(&node.node())
}
