//! Upstreams that cannot work, or only in part: no nodes, no weights, machines that are off. None
//! of them stalls the gateway or loses a client that another node could serve.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use headgate_testkit::client::{self, Seen, ask, connect, reach, read_to_end, try_receive, udp};
use headgate_testkit::{Gateway, Namespace, Port, SOON, TcpPeer, UdpPeer, wait};
use serde_json::{Value, json};

const BIN: &str = env!("CARGO_BIN_EXE_headgate");
const BALANCERS: [&str; 6] = ["roundrobin", "chash", "least_conn", "ewma", "random", "maglev"];

fn node(addr: SocketAddr, weight: u32) -> Value {
    json!({"host": addr.ip().to_string(), "port": addr.port(), "weight": weight})
}

fn reached(gateway: &Gateway, times: usize) -> Vec<String> {
    (0..times).map(|_| reach(gateway.tcp(0)).unwrap_or_else(|| "nobody".to_owned())).collect()
}

// ---- nothing to choose from

#[test]
fn no_nodes_close_their_own_sessions_only() {
    let (node, echo) = (TcpPeer::named("a"), UdpPeer::named("a"));
    let gateway = Gateway::builder(BIN).tcp(2).udp(2).start();
    for empty in [json!({}), json!([])] {
        for port in [gateway.tcp_port(0), gateway.udp_port(0)] {
            let route = json!({"server_port": port, "upstream": {"nodes": empty}});
            let _ = gateway.put(&format!("stream_routes/{port}"), &route);
        }
        let good =
            json!({"server_port": gateway.tcp_port(1), "upstream": {"nodes": {node.node(): 1}}});
        let _ = gateway.put("stream_routes/tcp", &good);
        let good =
            json!({"server_port": gateway.udp_port(1), "upstream": {"nodes": {echo.node(): 1}}});
        let _ = gateway.put("stream_routes/udp", &good);
        let mark = gateway.mark();
        assert_eq!(reach(gateway.tcp(0)), None);
        let lost = udp(gateway.udp(0));
        lost.send(b"?").expect("sent");
        assert_eq!(try_receive(&lost, Duration::from_millis(200)), None);
        gateway.wait_for_log_after(mark, "no valid upstream node");
        assert_eq!(reach(gateway.tcp(1)).as_deref(), Some("a"));
        assert_eq!(ask(&udp(gateway.udp(1)), b"?"), b"a:?");
    }
    gateway.wait_access(&["TCP", "reason=NU", "status=503"]);
    gateway.wait_access(&["UDP", "reason=NU", "status=503"]);
}

#[test]
fn all_weights_zero_is_a_choice_among_equals() {
    let (a, b, dead) = (TcpPeer::named("a"), TcpPeer::named("b"), Port::take());
    let gateway = Gateway::builder(BIN).tcp(1).udp(1).start();
    for kind in BALANCERS {
        let nodes = [a.addr(), dead.local(), b.addr()].map(|addr| node(addr, 0));
        // A key that differs between sessions, so that those that hash reach every node.
        let upstream = json!({
            "type": kind, "hash_on": "vars_combinations", "key": "$remote_port", "nodes": nodes
        });
        let _ = gateway.put("stream_routes/1", &json!({"upstream": upstream}));
        let all: BTreeSet<_> = reached(&gateway, 40).into_iter().collect();
        assert_eq!(all, ["a".to_owned(), "b".to_owned()].into(), "{kind}");
    }
    // With one that has weight, the others are the last resort, or none at all.
    for kind in BALANCERS {
        let nodes = [node(a.addr(), 0), node(b.addr(), 1)];
        let upstream = json!({"type": kind, "key": "remote_addr", "nodes": nodes});
        let _ = gateway.put("stream_routes/1", &json!({"upstream": upstream}));
        assert_eq!(reached(&gateway, 10), vec!["b"; 10], "{kind}");
    }
    let [a, b] = ["a", "b"].map(UdpPeer::named);
    let upstream = json!({"nodes": [node(a.addr(), 0), node(b.addr(), 0)]});
    let _ = gateway.put("stream_routes/1", &json!({"upstream": upstream}));
    let answers: BTreeSet<_> = (0..10).map(|_| ask(&udp(gateway.udp(0)), b"?")).collect();
    assert_eq!(answers, [b"a:?".to_vec(), b"b:?".to_vec()].into());
}

#[test]
fn a_node_that_accepts_and_resets_harms_only_its_own_sessions() {
    let (a, resetting) = (TcpPeer::named("a"), TcpPeer::resetter(b"", 0));
    let gateway = Gateway::builder(BIN).tcp(1).start();
    let upstream = json!({"nodes": [node(a.addr(), 1), node(resetting.addr(), 1)]});
    gateway.put("stream_routes/1", &json!({"upstream": upstream})).expect(201);
    let served = std::thread::scope(|scope| {
        let client = || (0..50).filter(|_| reach(gateway.tcp(0)).as_deref() == Some("a")).count();
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(client)).collect();
        clients.into_iter().map(|client| client.join().expect("a client")).sum::<usize>()
    });
    // Every second one at least: a reset that comes at once is a failed attempt, and the other
    // node is tried.
    assert!(served >= 100, "{served} of 200");
    wait::until_true("all sessions have ended", SOON, || gateway.access().len() == 200);
    let is_reset = |line: &&String| line.contains("reason=UR");
    assert_eq!(gateway.access().iter().filter(is_reset).count(), 200 - served);
}

// ---- a machine that is off

/// Checks by TCP that decide by one event and wait for 0.3 seconds.
fn checks() -> Value {
    json!({"active": {
        "type": "tcp", "timeout": 0.3,
        "healthy": {"interval": 1, "successes": 1},
        "unhealthy": {"interval": 1, "tcp_failures": 1, "timeouts": 1}
    }})
}

#[test]
fn a_machine_that_is_off_holds_up_nobody_else() {
    let Some(machine) = Namespace::make() else { return };
    machine.fall_silent();
    let far = SocketAddr::new(machine.addr(), 80);
    let near = TcpPeer::named("near");
    // One worker: whatever waits there, waits beside everything else.
    let gateway = Gateway::builder(BIN).tcp(2).workers(1).start();
    let slow = json!({
        "nodes": [node(far, 1)], "retries": 0, "timeout": {"connect": 8, "send": 60, "read": 60}
    });
    let route = json!({"server_port": gateway.tcp_port(1), "upstream": slow});
    gateway.put("stream_routes/slow", &route).expect(201);
    let both = json!({
        "nodes": [node(far, 1), node(near.addr(), 1)],
        "timeout": {"connect": 0.3, "send": 60, "read": 60}
    });
    let route = json!({"server_port": gateway.tcp_port(0), "upstream": both});
    gateway.put("stream_routes/both", &route).expect(201);
    let waiting: Vec<_> = (0..20).map(|_| connect(gateway.tcp(1))).collect();
    // Nobody refuses: only the limit of an attempt ends it, and then the next node serves.
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| assert_eq!(reach(gateway.tcp(0)).as_deref(), Some("near")));
        }
    });
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert!(!gateway.access().iter().any(|line| line.contains("reason=UT")), "they still wait");
    gateway.wait_for_log("upstream timed out (110: Connection timed out)", SOON);
    for mut client in waiting {
        assert_eq!(read_to_end(&mut client), Seen::Closed);
    }
    wait::until_true("all have ended", SOON, || {
        gateway.access().iter().filter(|line| line.contains("reason=UT")).count() == 20
    });
}

#[test]
fn a_machine_that_falls_silent_is_left_and_found_again() {
    let Some(machine) = Namespace::make() else { return };
    let far = machine.host(|ip| TcpPeer::named_on(ip, "far"));
    let near = TcpPeer::named("near");
    let gateway = Gateway::builder(BIN).tcp(1).control().start();
    let upstream = json!({
        "nodes": [node(far.addr(), 1), node(near.addr(), 1)],
        "timeout": {"connect": 0.3, "send": 60, "read": 60},
        "checks": checks()
    });
    gateway.put("stream_routes/1", &json!({"upstream": upstream})).expect(201);
    let far_node = || {
        let one = gateway.control("/v1/healthcheck/stream_routes/1", &[]).expect(200).json();
        let nodes = one["nodes"].as_array().cloned().unwrap_or_default();
        nodes.into_iter().find(|node| node["ip"] == machine.addr().to_string())
    };
    let is = |status: &str| far_node().is_some_and(|node| node["status"] == status);
    wait::until_true("the checker runs", SOON, || is("healthy"));
    let all: BTreeSet<_> = reached(&gateway, 4).into_iter().collect();
    assert_eq!(all, ["far".to_owned(), "near".to_owned()].into());
    let mut open = connect(gateway.tcp(0));
    machine.fall_silent();
    // Until the probes know, an attempt costs its limit, and no client.
    assert_eq!(reached(&gateway, 4), vec!["near"; 4]);
    wait::until_true("the probes know", SOON, || is("unhealthy"));
    // Both kinds of witnesses count: probes that time out, and sessions that had to go elsewhere.
    let seen = far_node().expect("listed")["counter"].clone();
    assert!(seen["timeout_failure"] != 0 || seen["tcp_failure"] != 0, "{seen}");
    let mark = gateway.mark();
    assert_eq!(reached(&gateway, 20), vec!["near"; 20]);
    assert!(gateway.log().lines_with(mark, "upstream timed out").is_empty());
    machine.speak();
    wait::until_true("it is back", SOON, || is("healthy"));
    wait::until_true("it serves", SOON, || reached(&gateway, 2).contains(&"far".to_owned()));
    // A session that was open all the time has lost nothing.
    let _ = open.write_all(b"x");
    assert!(matches!(read_to_end(&mut open), Seen::Bytes(_)));
}

#[test]
fn datagrams_leave_a_machine_that_falls_silent() {
    let Some(machine) = Namespace::make() else { return };
    let answer = |name: &'static str| {
        move |payload: &[u8], _: SocketAddr| vec![[name.as_bytes(), b":", payload].concat()]
    };
    let far = machine.host(|ip| UdpPeer::at(SocketAddr::new(ip, 0), answer("far")));
    let near = UdpPeer::named("near");
    let gateway = Gateway::builder(BIN).udp(1).control().start();
    let mut best = node(far.addr(), 1);
    best["priority"] = json!(1);
    let mut checks = checks();
    checks["active"]["type"] = json!("udp");
    checks["active"]["send"] = json!("ping");
    checks["active"]["expect"] = json!("");
    let upstream = json!({"nodes": [best, node(near.addr(), 1)], "checks": checks});
    gateway.put("stream_routes/1", &json!({"upstream": upstream})).expect(201);
    let client = udp(gateway.udp(0));
    assert_eq!(ask(&client, b"?"), b"far:?");
    machine.fall_silent();
    // No refusal comes back from there: it takes a probe to know.
    let answer = wait::until("the flow goes on with the other node", SOON * 2, || {
        client.send(b"!").ok()?;
        client::try_receive(&client, Duration::from_millis(100))
    });
    assert_eq!(answer, b"near:!");
    gateway.wait_access(&["UDP", "reason=ND"]);
}
