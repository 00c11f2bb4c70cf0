//! Failover that clients never notice: dead nodes, full nodes, waiting, slow starts, and the probes
//! of real servers.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use headgate_testkit::client::{Seen, connect, reach, read_to_end};
use headgate_testkit::peer::BlackHole;
use headgate_testkit::server::{MariaDb, Nginx, Redis};
use headgate_testkit::{Gateway, Port, SOON, TcpPeer, wait};
use serde_json::{Value, json};

const BIN: &str = env!("CARGO_BIN_EXE_headgate");

fn before(upstream: &Value) -> Gateway {
    let gateway = Gateway::builder(BIN).tcp(1).control().start();
    gateway.put("stream_routes/1", &json!({"upstream": upstream})).expect(201);
    gateway
}

fn node(addr: SocketAddr) -> Value {
    json!({"host": addr.ip().to_string(), "port": addr.port(), "weight": 1})
}

fn checks(active: Value) -> Value {
    let mut active = active;
    active["healthy"] = json!({"interval": 1, "successes": 1});
    active["unhealthy"] =
        json!({"interval": 1, "tcp_failures": 1, "http_failures": 1, "timeouts": 1});
    json!({"active": active})
}

fn status_of(gateway: &Gateway, addr: SocketAddr) -> Option<String> {
    let all = gateway.control("/v1/healthcheck/stream_routes/1", &[]).expect(200).json();
    let mut nodes = all["nodes"].as_array().cloned().unwrap_or_default().into_iter();
    let node = nodes.find(|node| node["port"] == addr.port())?;
    node["status"].as_str().map(str::to_owned)
}

#[track_caller]
fn wait_status(gateway: &Gateway, addr: SocketAddr, status: &str) {
    let what = format!("{addr} is {status}");
    wait::until_true(&what, SOON * 3, || status_of(gateway, addr).as_deref() == Some(status));
}

fn name(stream: &mut TcpStream) -> String {
    match read_to_end(stream) {
        Seen::Bytes(name) => String::from_utf8_lossy(&name).trim_end().to_owned(),
        Seen::Closed => "nobody".to_owned(),
        Seen::BytesThenReset(_) => "reset".to_owned(),
    }
}

fn open(gateway: &Gateway) -> (String, TcpStream) {
    let mut stream = connect(gateway.tcp(0));
    (name(&mut stream), stream)
}

// ---- dead nodes

#[test]
fn one_of_three_refuses_and_none_of_ten_thousand_fails() {
    let (a, b, dead) = (TcpPeer::named("a"), TcpPeer::named("b"), Port::take());
    for kind in ["roundrobin", "least_conn"] {
        let nodes = [a.addr(), dead.local(), b.addr()].map(node);
        let gateway = before(&json!({"type": kind, "nodes": nodes}));
        let failed = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1250 {
                        if !matches!(reach(gateway.tcp(0)).as_deref(), Some("a" | "b")) {
                            failed.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        assert_eq!(failed.into_inner(), 0, "{kind}");
    }
}

#[test]
fn a_node_that_drops_every_syn_costs_only_the_connect_timeout() {
    let (alive, hole) = (TcpPeer::named("alive"), BlackHole::open());
    let gateway = before(&json!({
        "nodes": [node(hole.addr()), node(alive.addr())],
        "timeout": {"connect": 0.3, "send": 60, "read": 60}
    }));
    let began = Instant::now();
    for _ in 0..4 {
        assert_eq!(open(&gateway).0, "alive");
    }
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    gateway.wait_for_log("upstream timed out (110: Connection timed out)", SOON);
}

// ---- full nodes and waiting

#[test]
fn max_conns_fills_one_node_after_the_other() {
    let (a, b) = (TcpPeer::named("a"), TcpPeer::named("b"));
    let mut first = node(a.addr());
    first["max_conns"] = json!(1);
    let upstream = json!({"nodes": [first, node(b.addr())], "max_conns": 2});
    let gateway = before(&upstream);
    let mut held: Vec<_> = (0..3).map(|_| open(&gateway)).collect();
    let mut names: Vec<_> = held.iter().map(|(name, _)| name.clone()).collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "b", "b"]);
    assert_eq!(open(&gateway).0, "nobody");
    gateway.wait_access(&["reason=NU", "status=503"]);
    gateway.wait_for_log("all nodes are full", SOON);
    // A place that comes free is taken again.
    let before = gateway.access().len();
    held.retain(|(name, _)| name == "b");
    wait::until_true("ended", SOON, || gateway.access().len() > before);
    assert_eq!(open(&gateway).0, "a");
}

#[test]
fn who_waits_in_the_queue_gets_the_next_place() {
    let node = TcpPeer::named("a");
    let gateway = before(&json!({
        "nodes": {node.node(): 1}, "max_conns": 1, "queue": {"max": 2, "timeout": 30}
    }));
    let (served, holder) = open(&gateway);
    assert_eq!(served, "a");
    let addr = gateway.tcp(0);
    let others: Vec<_> = (0..3)
        .map(|_| {
            std::thread::spawn(move || {
                let mut stream = connect(addr);
                name(&mut stream)
            })
        })
        .collect();
    // Two wait, and the third, whichever comes last, is closed at once.
    gateway.wait_for_log("all nodes are full", SOON);
    drop(holder);
    let mut names: Vec<_> =
        others.into_iter().map(|other| other.join().expect("a client")).collect();
    names.sort();
    assert_eq!(names, ["a", "a", "nobody"]);
}

#[test]
fn who_waits_is_served_first_come_first_served() {
    // Whoever is served keeps the only place until it is told to leave.
    let node = TcpPeer::named("a");
    let gateway = before(&json!({
        "nodes": {node.node(): 1}, "max_conns": 1, "queue": {"max": 20, "timeout": 60}
    }));
    let (served, mut holder) = open(&gateway);
    assert_eq!(served, "a");
    let waiting = || {
        let counters = gateway.control("/v1/counters", &[]).expect(200).json();
        counters["sessions_waiting_now"].as_u64().unwrap_or_default()
    };
    let mut clients = Vec::new();
    for number in 1..=11 {
        clients.push(connect(gateway.tcp(0)));
        wait::until_true("it is in the line", SOON, || waiting() == number);
    }
    // One of them gives up; nobody else loses its place by that.
    headgate_testkit::client::reset(clients.remove(4));
    wait::until_true("it has left", SOON, || waiting() == 10);
    for (place, mut client) in clients.into_iter().enumerate() {
        drop(holder);
        // It has an answer while everybody behind it still waits.
        assert_eq!(name(&mut client), "a", "place {place}");
        assert_eq!(waiting(), 9 - place as u64);
        holder = client;
    }
}

#[test]
fn who_comes_while_all_are_down_waits_until_one_is_up() {
    let port = Port::take();
    let gateway = before(&json!({
        "nodes": {port.local().to_string(): 1}, "queue": {"max": 10, "timeout": 20}
    }));
    let addr = gateway.tcp(0);
    let client = std::thread::spawn(move || {
        let mut stream = connect(addr);
        name(&mut stream)
    });
    gateway.wait_for_log("connect() failed", SOON);
    let _back = TcpPeer::named_at(port.local(), "back");
    assert_eq!(client.join().expect("a client"), "back");
}

#[test]
fn nobody_waits_longer_than_the_queue_allows() {
    let port = Port::take();
    let gateway = before(&json!({
        "nodes": {port.local().to_string(): 1}, "queue": {"max": 10, "timeout": 1}
    }));
    let began = Instant::now();
    assert_eq!(open(&gateway).0, "nobody");
    let waited = began.elapsed();
    assert!(waited > Duration::from_millis(900) && waited < Duration::from_secs(4), "{waited:?}");
    gateway.wait_access(&["reason=UF"]);
    // A client that leaves is not waited for.
    let mut impatient = connect(gateway.tcp(0));
    let _ = impatient.write_all(b"x");
    headgate_testkit::client::reset(impatient);
    gateway.wait_access(&["reason=CR"]);
}

#[test]
fn a_new_node_starts_slowly() {
    let (a, new) = (TcpPeer::named("a"), TcpPeer::named("new"));
    let gateway = before(&json!({"nodes": [node(a.addr())], "slow_start": 3600}));
    assert_eq!(open(&gateway).0, "a");
    let more = json!({"nodes": [node(a.addr()), node(new.addr())], "slow_start": 3600});
    gateway.put("stream_routes/1", &json!({"upstream": more})).expect(200);
    let to_new = (0..44).filter(|_| open(&gateway).0 == "new").count();
    assert_eq!(to_new, 4, "a tenth of the weight");
}

#[test]
fn a_node_that_warms_up_reaches_its_full_weight() {
    let (a, new) = (TcpPeer::named("a"), TcpPeer::named("new"));
    let gateway = before(&json!({"nodes": [node(a.addr())], "slow_start": 2}));
    let more = json!({"nodes": [node(a.addr()), node(new.addr())], "slow_start": 2});
    gateway.put("stream_routes/1", &json!({"upstream": more})).expect(200);
    wait::until_true("half of the sessions", SOON, || {
        (0..10).filter(|_| open(&gateway).0 == "new").count() == 5
    });
}

// ---- real servers

/// One PING on a connection of its own.
fn ping(to: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&to, Duration::from_secs(5)) else {
        return false;
    };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
    let mut answer = [0; 7];
    stream.write_all(b"PING\r\n").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && &answer == b"+PONG\r\n"
}

#[test]
fn a_redis_is_killed_and_comes_back_under_load() {
    let Some(mut first) = Redis::start() else { return };
    let (Some(second), Some(third)) = (Redis::start(), Redis::start()) else { return };
    let nodes = [first.addr(), second.addr(), third.addr()].map(node);
    let gateway = before(&json!({"nodes": nodes, "checks": checks(json!({"type": "redis"}))}));
    for redis in [&first, &second, &third] {
        wait_status(&gateway, redis.addr(), "healthy");
    }
    let (over, unsettled) = (AtomicBool::new(false), AtomicBool::new(false));
    let (good, bad) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    // Connections that were open when the server was killed end with it.
                    let excused = unsettled.load(Ordering::SeqCst);
                    let well = ping(gateway.tcp(0));
                    if well {
                        good.fetch_add(1, Ordering::SeqCst);
                    } else if !excused && !unsettled.load(Ordering::SeqCst) {
                        bad.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
        let more = |count: usize| {
            let until = good.load(Ordering::SeqCst) + count;
            wait::until_true("sessions go on", SOON * 2, || good.load(Ordering::SeqCst) >= until);
        };
        more(200);
        unsettled.store(true, Ordering::SeqCst);
        first.kill();
        std::thread::sleep(Duration::from_millis(100));
        unsettled.store(false, Ordering::SeqCst);
        more(200);
        wait_status(&gateway, first.addr(), "unhealthy");
        more(200);
        first.start_again();
        wait_status(&gateway, first.addr(), "healthy");
        more(200);
        over.store(true, Ordering::SeqCst);
    });
    assert_eq!(bad.into_inner(), 0, "of {} sessions", good.into_inner());
}

#[test]
fn probes_of_nginx_by_http_and_https() {
    let Some(nginx) = Nginx::start() else { return };
    let gateway = before(&json!({
        "nodes": [node(nginx.http())],
        "checks": checks(json!({"type": "http", "http_path": "/up", "host": "up.test"}))
    }));
    wait::until_true("probed", SOON, || nginx.log().contains("GET /up HTTP/1.1 up.test 200"));
    wait_status(&gateway, nginx.http(), "healthy");
    let put = |active: Value| {
        let upstream = json!({"nodes": [node(nginx.https())], "checks": checks(active)});
        gateway.put("stream_routes/1", &json!({"upstream": upstream})).expect(200);
    };
    // Nobody has signed its certificate.
    put(json!({"type": "https", "http_path": "/up", "host": "up.test"}));
    wait_status(&gateway, nginx.https(), "unhealthy");
    put(json!({
        "type": "https", "http_path": "/up", "host": "tls.test", "https_verify_certificate": false
    }));
    wait::until_true("probed", SOON, || nginx.log().contains("GET /up HTTP/1.1 tls.test 200"));
    wait_status(&gateway, nginx.https(), "healthy");
    put(json!({"type": "https", "http_path": "/down", "https_verify_certificate": false}));
    wait_status(&gateway, nginx.https(), "unhealthy");
}

#[test]
fn probes_of_mariadb_do_not_offend_it() {
    let Some(database) = MariaDb::start() else { return };
    let dead = Port::take();
    let gateway = before(&json!({
        "nodes": [node(database.addr()), node(dead.local())],
        "checks": checks(json!({"type": "mysql"}))
    }));
    wait_status(&gateway, dead.local(), "unhealthy");
    // It closes connections that break off their login, after a few of them for good.
    let errors = "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE \
                  VARIABLE_NAME = 'ABORTED_CONNECTS'";
    let count = || database.query(gateway.tcp(0), errors).success().stdout;
    let before: u64 = count().parse().expect("a number");
    wait::until_true("several probes", SOON * 2, || {
        count().parse::<u64>().is_ok_and(|now| now >= before + 3)
    });
    assert_eq!(status_of(&gateway, database.addr()).as_deref(), Some("healthy"));
    let blocked = database
        .query(gateway.tcp(0), "SELECT SUM_CONNECT_ERRORS FROM performance_schema.host_cache");
    assert!(!blocked.output().contains("blocked"), "{}", blocked.output());
}

#[test]
fn scripts_of_tcp_and_udp_probes() {
    let (good, bad) = (TcpPeer::named("220 ready"), TcpPeer::named("554 no"));
    let upstream = json!({
        "nodes": [node(good.addr()), node(bad.addr())],
        "checks": checks(json!({"type": "tcp", "send": "EHLO a\r\n", "expect": "220"}))
    });
    let gateway = before(&upstream);
    wait_status(&gateway, bad.addr(), "unhealthy");
    wait_status(&gateway, good.addr(), "healthy");
    let echo = headgate_testkit::UdpPeer::echo();
    let silent = headgate_testkit::UdpPeer::sink();
    let dead = Port::take();
    let udp = |active: Value| {
        let nodes = [echo.addr(), silent.addr(), dead.local()].map(node);
        let upstream = json!({"nodes": nodes, "checks": checks(active)});
        gateway.put("stream_routes/1", &json!({"upstream": upstream})).expect(200);
    };
    udp(json!({"type": "udp", "send": "ping", "expect": "ping", "timeout": 0.3}));
    wait_status(&gateway, silent.addr(), "unhealthy");
    wait_status(&gateway, dead.local(), "unhealthy");
    wait_status(&gateway, echo.addr(), "healthy");
    // Without `expect` silence is not held against anybody.
    udp(json!({"type": "udp", "send": "ping", "timeout": 0.3}));
    wait_status(&gateway, dead.local(), "unhealthy");
    wait_status(&gateway, silent.addr(), "healthy");
}
