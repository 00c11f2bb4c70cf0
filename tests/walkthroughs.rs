//! The walk-throughs of the manual with real clients and real servers.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Command;

use headgate_testkit::process::{need, run};
use headgate_testkit::server::{Dnsmasq, MariaDb, Redis, Rsyslog};
use headgate_testkit::{Gateway, SOON, client};
use serde_json::json;

const BIN: &str = env!("CARGO_BIN_EXE_headgate");

/// The reference's manual: a route for one address and one port is reached there and nowhere else.
#[test]
fn mariadb_behind_a_server_address_and_port() {
    let Some(database) = MariaDb::start() else { return };
    let gateway = Gateway::builder(BIN).tcp(2).start();
    let (other, port) = (gateway.tcp_port(0), gateway.tcp_port(1));
    gateway
        .put(
            "stream_routes/1",
            &json!({
                "server_addr": "127.0.0.10",
                "server_port": port,
                "upstream": {"type": "roundrobin", "nodes": {database.addr().to_string(): 1}}
            }),
        )
        .expect(201);

    let there: SocketAddr = ([127, 0, 0, 10], port).into();
    let sum = "CREATE TABLE fruit (name VARCHAR(20), n INT); \
               INSERT INTO fruit VALUES ('apple', 40), ('pear', 2); SELECT SUM(n) FROM fruit";
    assert_eq!(database.query(there, sum).success().stdout, "42");
    gateway.wait_for_log(&format!("proxy request to {}", database.addr()), SOON);

    // A result that does not fit any buffer on the way.
    let large = database.query(there, "SELECT REPEAT('0123456789', 400000)").success();
    assert_eq!(large.stdout.len(), 4_000_000);
    assert!(large.stdout.starts_with("0123456789") && large.stdout.ends_with("0123456789"));

    for elsewhere in [
        SocketAddr::from(([127, 0, 0, 10], other)),
        SocketAddr::from(([127, 0, 0, 1], port)),
        SocketAddr::from(([127, 0, 0, 1], other)),
    ] {
        let lost = database.query(elsewhere, "SELECT 1");
        assert_eq!(lost.code(), Some(1), "{elsewhere}: {lost:?}");
        assert!(lost.stderr.contains("Lost connection"), "{elsewhere}: {}", lost.stderr);
    }
    gateway.wait_for_log("not hit any route", SOON);
}

#[test]
fn redis_cli_through_the_gateway() {
    let Some(redis) = Redis::start() else { return };
    let gateway = Gateway::builder(BIN).tcp(1).start();
    let nodes = json!({"upstream": {"nodes": {redis.addr().to_string(): 1}}});
    gateway.put("stream_routes/redis", &nodes).expect(201);
    let cli =
        |arguments: &[&str]| run(redis.cli(gateway.tcp(0)).args(arguments), SOON).success().stdout;
    assert_eq!(cli(&["SET", "fruit", "apple"]), "OK");
    assert_eq!(cli(&["GET", "fruit"]), "apple");
    assert_eq!(cli(&["INCRBY", "count", "5"]), "5");
    // An error of the server passes through as such.
    assert!(cli(&["LPUSH", "fruit", "x"]).contains("WRONGTYPE"));

    // A large value made in the server, read by the real client.
    let fill = "redis.call('SET', KEYS[1], string.rep('0123456789abcdef', 524288)) return 'made'";
    assert_eq!(cli(&["EVAL", fill, "1", "large"]), "made");
    assert_eq!(cli(&["STRLEN", "large"]), (8 << 20).to_string());
    let large = cli(&["GET", "large"]);
    assert_eq!(large.len(), 8 << 20);
    assert!(large.as_bytes().chunks(16).all(|part| part == b"0123456789abcdef"));

    // A pipeline: all requests at once, all answers in order.
    let mut stream = client::connect(gateway.tcp(0));
    let mut reader = stream.try_clone().expect("a second handle");
    let requests: String = (0..5_000).map(|n| format!("ECHO message-{n}\r\n")).collect();
    let writer = std::thread::spawn(move || stream.write_all(requests.as_bytes()));
    let expected: String = (0..5_000)
        .map(|n| format!("message-{n}"))
        .map(|text| format!("${}\r\n{text}\r\n", text.len()))
        .collect();
    let mut answers = vec![0; expected.len()];
    reader.read_exact(&mut answers).expect("all answers");
    assert_eq!(String::from_utf8_lossy(&answers), expected);
    writer.join().expect("no panic").expect("all requests sent");
}

#[test]
fn dig_over_udp_through_the_gateway() {
    let Some(dns) = Dnsmasq::start() else { return };
    let gateway = Gateway::builder(BIN).udp(1).tcp(1).start();
    let upstream = json!({"nodes": {dns.addr().to_string(): 1}, "scheme": "udp"});
    gateway.put("upstreams/dns", &upstream).expect(201);
    gateway.put("stream_routes/dns", &json!({"upstream_id": "dns"})).expect(201);
    for _ in 0..3 {
        let small = dns.dig(gateway.udp(0), &["+notcp", "+short", Dnsmasq::NAME, "A"]).success();
        assert_eq!(small.stdout, Dnsmasq::ADDRESS);
    }
    // One answer of more than 3,000 bytes in one datagram.
    let query = ["+notcp", "+ignore", "+bufsize=8192", Dnsmasq::LARGE, "TXT"];
    let large = dns.dig(gateway.udp(0), &query).success();
    let records = large.stdout.lines().filter(|line| line.contains("\tTXT\t")).count();
    assert_eq!(records, Dnsmasq::LARGE_RECORDS, "{}", large.stdout);
    // The same route serves DNS over TCP: the transport is the listener's.
    let tcp = dns.dig(gateway.tcp(0), &["+tcp", "+short", Dnsmasq::NAME, "A"]).success();
    assert_eq!(tcp.stdout, Dnsmasq::ADDRESS);
    let missing = dns.dig(gateway.udp(0), &["+notcp", "nobody.headgate.test", "A"]).success();
    assert!(missing.stdout.contains("NXDOMAIN"), "{}", missing.stdout);
}

#[test]
fn syslog_over_udp_and_tcp_through_the_gateway() {
    let Some(syslog) = Rsyslog::start() else { return };
    let Some(logger) = need("logger", "bsdutils") else { return };
    let gateway = Gateway::builder(BIN).udp(1).tcp(1).start();
    let nodes = json!({"upstream": {"nodes": {syslog.addr().to_string(): 1}}});
    gateway.put("stream_routes/syslog", &nodes).expect(201);
    for (transport, port) in [("--udp", gateway.udp_port(0)), ("--tcp", gateway.tcp_port(0))] {
        let text = format!("the quick brown fox by {transport}");
        let _ = run(
            Command::new(&logger)
                .args([transport, "--server", "127.0.0.1", "--port", &port.to_string()])
                .args(["--tag", "walkthrough", "--", &text]),
            SOON,
        )
        .success();
        syslog.wait_for(&text);
    }
    // Many datagrams of one client, one after the other, each a line of its own.
    let socket = client::udp(gateway.udp(0));
    for n in 0..200 {
        socket.send(format!("<13>Oct  1 00:00:00 here many: number {n} end").as_bytes()).unwrap();
        // UDP promises nothing: keep no more than a few on the way.
        if n % 20 == 19 {
            syslog.wait_for(&format!("number {n} end"));
        }
    }
    let lines = syslog.text().lines().filter(|line| line.contains("many: number ")).count();
    assert_eq!(lines, 200);
}

#[test]
fn curl_as_in_the_quick_start() {
    let Some(curl) = need("curl", "curl") else { return };
    let node = headgate_testkit::TcpPeer::echo();
    let gateway = Gateway::builder(BIN).tcp(1).start();
    let url = format!("http://{}/apisix/admin/stream_routes/quick", gateway.admin());
    let key = format!("X-API-KEY: {}", headgate_testkit::gateway::ADMIN_KEY);
    let body = json!({"upstream": {"type": "roundrobin", "nodes": {node.node(): 1}}}).to_string();
    let call = |arguments: &[&str]| {
        run(Command::new(&curl).args(["-sS", "-i", "-H", &key]).args(arguments), SOON)
            .success()
            .stdout
    };
    let made = call(&["-X", "PUT", &url, "-d", &body]);
    assert!(made.starts_with("HTTP/1.1 201"), "{made}");
    client::assert_alive(&mut client::connect(gateway.tcp(0)));
    let read = call(&[&url]);
    assert!(read.starts_with("HTTP/1.1 200") && read.contains("createdIndex"), "{read}");
    // Clients join base URL and path carelessly.
    let doubled =
        call(&[&format!("http://{}//apisix//admin/stream_routes/quick", gateway.admin())]);
    assert!(doubled.starts_with("HTTP/1.1 200"), "{doubled}");
    let gone = call(&["-X", "DELETE", &url]);
    assert!(gone.starts_with("HTTP/1.1 200") && gone.contains("\"deleted\":\"1\""), "{gone}");
    assert_eq!(client::reach(gateway.tcp(0)), None);
}
