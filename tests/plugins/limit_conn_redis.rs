//! limit-conn with the policies redis and redis-cluster, against real servers.

use std::net::TcpStream;

use headgate_testkit::certificate::Authority;
use headgate_testkit::client;
use headgate_testkit::process::run;
use headgate_testkit::server::Redis;
use headgate_testkit::{Gateway, Port, SOON, TcpPeer, UdpPeer, wait};
use serde_json::{Value, json};

use crate::limit_conn::{held, hold};
use crate::{BIN, gateway, route};

/// At most `conn` sessions of all gateways together.
fn shared(redis: &Redis, conn: u32, more: Value) -> Value {
    let mut conf = json!({
        "conn": conn, "burst": 0, "default_conn_delay": 0.01, "key": "remote_addr",
        "policy": "redis", "redis_host": "127.0.0.1", "redis_port": redis.addr().port(),
    });
    conf.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    json!({"limit-conn": conf})
}

fn ask(redis: &Redis, words: &[&str]) -> String {
    run(redis.cli(redis.addr()).args(words), SOON).success().output()
}

/// Members of the only set there is.
fn members(redis: &Redis) -> usize {
    let keys = ask(redis, &["KEYS", "limit_conn:*"]);
    let Some(key) = keys.lines().find(|line| line.contains("limit_conn:")) else { return 0 };
    let count = ask(redis, &["ZCARD", key.trim()]);
    count.trim().trim_start_matches("(integer) ").parse().expect("a number")
}

#[test]
fn two_gateways_share_one_limit() {
    let Some(redis) = Redis::start() else { return };
    let (one, two, node) = (gateway(), gateway(), TcpPeer::echo());
    for gateway in [&one, &two] {
        route(gateway, &node, shared(&redis, 3, json!({})));
    }
    let mut sessions: Vec<TcpStream> = Vec::new();
    sessions.extend(hold(one.tcp(0)));
    sessions.extend(hold(two.tcp(0)));
    sessions.extend(hold(one.tcp(0)));
    assert_eq!(sessions.len(), 3);
    assert!(hold(one.tcp(0)).is_none() && hold(two.tcp(0)).is_none());
    two.wait_for_log("limit-conn exits with status code 503", SOON);
    assert_eq!(members(&redis), 3);
    let ttl = ask(&redis, &["TTL", ask(&redis, &["KEYS", "*"]).trim()]);
    assert!((3500..=3600).contains(&ttl.trim().parse().expect("seconds")), "{ttl}");
    // The script is loaded once; Redis may forget it.
    ask(&redis, &["SCRIPT", "FLUSH"]);
    drop(sessions);
    wait::until_true("all have left", SOON, || members(&redis) == 0);
    assert_eq!(held(two.tcp(0), 4).len(), 3);
}

#[test]
fn who_leaves_while_it_waits_leaves_nothing() {
    let Some(redis) = Redis::start() else { return };
    let (gateway, node) = (gateway(), TcpPeer::echo());
    route(&gateway, &node, shared(&redis, 100, json!({})));
    ask(&redis, &["CLIENT", "PAUSE", "300", "ALL"]);
    for _ in 0..20 {
        client::reset(client::connect(gateway.tcp(0)));
    }
    let _one = hold(gateway.tcp(0)).expect("served when Redis goes on");
    wait::until_true("only the one that stayed is counted", SOON, || members(&redis) == 1);
}

#[test]
fn a_gateway_that_stops_takes_its_sessions_back() {
    let Some(redis) = Redis::start() else { return };
    let (mut gateway, node) = (gateway(), TcpPeer::echo());
    route(&gateway, &node, shared(&redis, 100, json!({})));
    let sessions = held(gateway.tcp(0), 50);
    assert_eq!((sessions.len(), members(&redis)), (50, 50));
    gateway.stop();
    assert_eq!(members(&redis), 0);
}

#[test]
fn a_burst_waits_for_its_turn() {
    let Some(redis) = Redis::start() else { return };
    let (gateway, node) = (gateway(), TcpPeer::echo());
    let slow = json!({"burst": 1, "default_conn_delay": 0.3});
    route(&gateway, &node, shared(&redis, 1, slow));
    let _first = hold(gateway.tcp(0)).expect("served");
    let begun = std::time::Instant::now();
    let _second = hold(gateway.tcp(0)).expect("served later");
    assert!(begun.elapsed().as_millis() >= 300);
    assert!(hold(gateway.tcp(0)).is_none());
}

#[test]
fn a_redis_that_dies_denies_or_degrades() {
    let Some(mut redis) = Redis::start() else { return };
    let (gateway, node) = (gateway(), TcpPeer::echo());
    route(&gateway, &node, shared(&redis, 1, json!({"redis_timeout": 200})));
    let mut old = hold(gateway.tcp(0)).expect("served");
    redis.kill();
    client::assert_alive(&mut old);
    assert!(hold(gateway.tcp(0)).is_none());
    gateway.wait_for_log("failed to limit conn: redis 127.0.0.1:", SOON);
    gateway.wait_access(&["127.0.0.1 500 RJ"]);
    let lenient = json!({"redis_timeout": 200, "allow_degradation": true});
    route(&gateway, &node, shared(&redis, 1, lenient));
    assert_eq!(held(gateway.tcp(0), 3).len(), 3);
    client::assert_alive(&mut old);
}

#[test]
fn password_and_database() {
    let Some(redis) = Redis::start_with(&["--requirepass", "open sesame"]) else { return };
    let (gateway, node) = (gateway(), TcpPeer::echo());
    route(&gateway, &node, shared(&redis, 1, json!({})));
    assert!(hold(gateway.tcp(0)).is_none());
    gateway.wait_for_log("NOAUTH", SOON);
    let account = json!({"redis_password": "open sesame", "redis_database": 3});
    route(&gateway, &node, shared(&redis, 1, account));
    let _one = hold(gateway.tcp(0)).expect("served");
    let keys = ask(&redis, &["-a", "open sesame", "--no-auth-warning", "-n", "3", "KEYS", "*"]);
    assert!(keys.contains("limit_conn:/apisix/stream_routes/1:"), "{keys}");
    assert!(!gateway.everything_logged().contains("sesame"), "a secret is not logged");
}

#[test]
fn a_udp_flow_cannot_wait() {
    let Some(redis) = Redis::start() else { return };
    let gateway = Gateway::builder(BIN).udp(1).access_format("$status $close_reason").start();
    let node = UdpPeer::echo();
    let body = json!({
        "upstream": {"nodes": {node.node(): 1}},
        "plugins": shared(&redis, 1, json!({})),
    });
    gateway.put("stream_routes/1", &body).expect(201);
    client::udp(gateway.udp(0)).send(b"x").expect("sending");
    gateway.wait_access(&["500 RJ"]);
    gateway.wait_for_log("a UDP flow cannot wait for the answer of Redis", SOON);
}

#[test]
fn a_cluster_tells_where_a_key_is() {
    let (bus_one, bus_two) = (Port::take(), Port::take());
    let start = |bus: &Port| {
        let bus = bus.local().port().to_string();
        Redis::start_with(&["--cluster-enabled", "yes", "--cluster-port", &bus])
    };
    let (Some(one), Some(two)) = (start(&bus_one), start(&bus_two)) else { return };
    // All slots are on the second node; the first knows that.
    let (port, bus) = (two.addr().port().to_string(), bus_two.local().port().to_string());
    ask(&one, &["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
    let slots: Vec<String> = (0..16384).map(|slot| slot.to_string()).collect();
    let mut add = vec!["CLUSTER", "ADDSLOTS"];
    add.extend(slots.iter().map(String::as_str));
    ask(&two, &add);
    for redis in [&one, &two] {
        wait::until_true("the cluster is up", SOON * 2, || {
            ask(redis, &["CLUSTER", "INFO"]).contains("cluster_state:ok")
        });
    }
    let (gateway, node) = (gateway(), TcpPeer::echo());
    let conf = json!({
        "conn": 2, "burst": 0, "default_conn_delay": 0.01, "key": "remote_addr",
        "policy": "redis-cluster", "redis_cluster_name": "test",
        "redis_cluster_nodes": [one.addr().to_string()],
    });
    route(&gateway, &node, json!({"limit-conn": conf}));
    let sessions = held(gateway.tcp(0), 4);
    assert_eq!(sessions.len(), 2);
    assert_eq!(members(&two), 2);
    drop(sessions);
    wait::until_true("all have left", SOON, || members(&two) == 0);
}

/// One gateway that trusts the certificate's authority and one that does not.
#[test]
fn redis_over_tls() {
    let authority = Authority::new("root");
    let certificate = authority.server(&["localhost"]);
    let folder = tempfile::TempDir::with_prefix("headgate-redis-tls-").expect("a folder");
    let path = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let (cert, key) = (path("cert.pem", &certificate.cert), path("key.pem", &certificate.key));
    let trusted = path("ca.pem", &authority.cert);
    let port = Port::take();
    let number = port.number().to_string();
    let arguments = [
        "--tls-port",
        &number,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &trusted,
        "--tls-auth-clients",
        "no",
    ];
    let Some(redis) = Redis::start_with(&arguments) else { return };
    let trusting = Gateway::builder(BIN)
        .tcp(1)
        .access_format("$status $close_reason")
        .env("SSL_CERT_FILE", &trusted)
        .start();
    let (other, node) = (gateway(), TcpPeer::echo());
    let tls = |verify: bool| {
        let more = json!({"redis_ssl": true, "redis_ssl_verify": verify,
            "redis_host": "localhost", "redis_port": port.number()});
        shared(&redis, 1, more)
    };
    route(&trusting, &node, tls(true));
    route(&other, &node, tls(false));
    let sessions = (hold(trusting.tcp(0)), hold(other.tcp(0)));
    assert!(sessions.0.is_some() && sessions.1.is_some());
    assert!(hold(trusting.tcp(0)).is_none() && hold(other.tcp(0)).is_none());
    // Whoever verifies and does not trust it counts nothing, and says why.
    route(&other, &node, tls(true));
    assert!(hold(other.tcp(0)).is_none());
    other.wait_for_log("failed to limit conn: redis localhost:", SOON);
    other.wait_access(&["500 RJ"]);
}
