//! Databases behind health checks: a primary and who takes over for it, with the real servers and
//! their real clients.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::io::Read as _;
use std::net::SocketAddr;

use headgate_testkit::client::{connect, send};
use headgate_testkit::server::MariaDb;
use headgate_testkit::{Gateway, Postgres, SOON, wait};
use serde_json::{Value, json};

const BIN: &str = env!("CARGO_BIN_EXE_headgate");

/// A gateway in front of a primary, and of a second server for when the first is down.
fn before(kind: &str, primary: SocketAddr, second: SocketAddr) -> Gateway {
    let node = |addr: SocketAddr, priority: i32| json!({"host": "127.0.0.1", "port": addr.port(), "weight": 1, "priority": priority});
    let upstream = json!({
        "nodes": [node(second, 0), node(primary, 1)],
        "checks": {"active": {
            "type": kind,
            "timeout": 5,
            "healthy": {"interval": 1, "successes": 1},
            "unhealthy": {"interval": 1, "tcp_failures": 1, "timeouts": 1}
        }}
    });
    let gateway = Gateway::builder(BIN).tcp(1).control().start();
    gateway.put("upstreams/db", &upstream).expect(201);
    gateway.put("stream_routes/db", &json!({"upstream_id": "db"})).expect(201);
    wait_status(&gateway, primary, "healthy");
    wait_status(&gateway, second, "healthy");
    gateway
}

#[track_caller]
fn wait_status(gateway: &Gateway, addr: SocketAddr, status: &str) {
    let what = format!("{addr} is {status}");
    wait::until_true(&what, SOON * 3, || is_status(gateway, addr, status));
}

fn is_status(gateway: &Gateway, addr: SocketAddr, status: &str) -> bool {
    let all = gateway.control("/v1/healthcheck/upstreams/db", &[]).expect(200).json();
    let is_it = |node: &Value| node["port"] == addr.port() && node["status"] == status;
    all["nodes"].as_array().is_some_and(|nodes| nodes.iter().any(is_it))
}

#[test]
fn a_second_postgres_takes_over() {
    let Some(mut primary) = Postgres::start() else { return };
    let Some(second) = Postgres::start() else { return };
    for (server, name) in [(&primary, "primary"), (&second, "second")] {
        let sql = format!("CREATE TABLE who AS SELECT '{name}' AS name");
        let _ = server.query(server.addr(), &sql).success();
    }
    let gateway = before("postgres", primary.addr(), second.addr());
    let who = || second.query(gateway.tcp(0), "SELECT name FROM who").success().stdout;
    assert_eq!(who(), "primary");
    // A probe is a session that never began: the server has nothing to say of it.
    wait::until_true("several probes", SOON * 2, || {
        primary.log().matches("connection received").count() > 6
    });
    for complaint in ["incomplete startup packet", "invalid length", "ERROR"] {
        assert!(!primary.log().contains(complaint), "{}", primary.log());
    }
    primary.kill();
    assert_eq!(who(), "second", "at once: a refused connection is tried elsewhere");
    wait_status(&gateway, primary.addr(), "unhealthy");
    let mark = gateway.mark();
    assert_eq!(who(), "second");
    assert!(gateway.log().lines_with(mark, "connect() failed").is_empty());
    primary.start_again();
    wait_status(&gateway, primary.addr(), "healthy");
    assert_eq!(who(), "primary");
}

#[test]
fn a_postgres_without_room_is_not_well() {
    let Some(full) = Postgres::start() else { return };
    let Some(second) = Postgres::start() else { return };
    let gateway = before("postgres", full.addr(), second.addr());
    // Every place that it has, as sessions that ask nothing.
    let mut startup = b"\0\0\0\x25\0\x03\0\0user\0gate\0database\0postgres\0\0".to_vec();
    startup[3] = startup.len() as u8;
    let hold = || {
        let mut stream = connect(full.addr());
        send(&mut stream, &startup);
        let mut first = [0];
        stream.read_exact(&mut first).expect("an answer");
        (stream, first[0])
    };
    let mut held = Vec::new();
    wait::until_true("full, and known to be", SOON * 3, || {
        let (stream, answer) = hold();
        if answer == b'R' {
            held.push(stream);
        }
        is_status(&gateway, full.addr(), "unhealthy")
    });
    let answer = second.query(gateway.tcp(0), "SELECT 6 * 7").success().stdout;
    assert_eq!(answer, "42", "served by the one that has room");
    drop(held);
    wait_status(&gateway, full.addr(), "healthy");
}

#[test]
fn a_replica_of_mariadb_takes_over() {
    let Some(mut primary) = MariaDb::start_with(&["--log-bin=log", "--server-id=1"]) else {
        return;
    };
    let replica = MariaDb::start_with(&["--server-id=2", "--read-only", "--skip-log-bin"]);
    let Some(replica) = replica else { return };
    replica.replicate(&primary);
    let gateway = before("mysql", primary.addr(), replica.addr());
    let ask = |sql: &str| replica.query(gateway.tcp(0), sql);
    let stock =
        "CREATE TABLE fruit (name VARCHAR(20), n INT); INSERT INTO fruit VALUES ('apple', 42)";
    let _ = ask(stock).success();
    replica.wait_copied(&primary);
    let count = "SELECT n, @@server_id FROM fruit";
    assert_eq!(ask(count).success().stdout, "42\t1");
    primary.kill();
    // The replica has what the primary had, and takes no writes.
    assert_eq!(ask(count).success().stdout, "42\t2");
    wait_status(&gateway, primary.addr(), "unhealthy");
    let mark = gateway.mark();
    let refused = ask("INSERT INTO fruit VALUES ('pear', 1)");
    assert!(refused.stderr.contains("read-only"), "{}", refused.output());
    assert!(gateway.log().lines_with(mark, "connect() failed").is_empty());
    // The primary comes back, is written to again, and is followed again.
    primary.start_again();
    wait_status(&gateway, primary.addr(), "healthy");
    let _ = ask("INSERT INTO fruit VALUES ('pear', 1)").success();
    assert_eq!(ask("SELECT COUNT(*), @@server_id FROM fruit").success().stdout, "2\t1");
    let copied = || replica.query(replica.addr(), "SELECT COUNT(*) FROM fruit").stdout == "2";
    wait::until_true("the replica follows again", SOON * 2, copied);
}
