//! Health checks and failover: active and passive checks, what they decide, the control API.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use headgate_testkit::client::{self, Seen, connect, reach, read_to_end, udp};
use headgate_testkit::peer::BlackHole;
use headgate_testkit::{Gateway, Port, SOON, TcpPeer, UdpPeer, wait};
use serde_json::{Value, json};

const BIN: &str = env!("CARGO_BIN_EXE_headgate");

/// Checks by TCP every second, decided by one event.
fn tcp_checks() -> Value {
    json!({"active": {
        "type": "tcp",
        "healthy": {"interval": 1, "successes": 1},
        "unhealthy": {"interval": 1, "tcp_failures": 1, "timeouts": 1}
    }})
}

fn node(addr: SocketAddr) -> Value {
    json!({"host": "127.0.0.1", "port": addr.port(), "weight": 1})
}

fn upstream(nodes: &[SocketAddr], checks: Value) -> Value {
    let nodes: Vec<Value> = nodes.iter().map(|addr| node(*addr)).collect();
    json!({"nodes": nodes, "checks": checks})
}

/// A gateway with one listener and a route to `upstream`.
fn before(upstream: &Value) -> Gateway {
    let gateway = Gateway::builder(BIN).tcp(1).control().start();
    gateway.put("stream_routes/1", &json!({"upstream": upstream})).expect(201);
    gateway
}

/// The nodes of route 1 as the control API shows them.
fn health(gateway: &Gateway) -> Vec<Value> {
    let one = gateway.control("/v1/healthcheck/stream_routes/1", &[]).expect(200).json();
    one["nodes"].as_array().cloned().unwrap_or_default()
}

/// Waits until the node at `addr` has this status.
#[track_caller]
fn wait_status(gateway: &Gateway, addr: SocketAddr, status: &str) {
    let is_it = |node: &Value| node["port"] == addr.port() && node["status"] == status;
    let what = format!("{addr} is {status}");
    wait::until_true(&what, SOON * 2, || health(gateway).iter().any(is_it));
}

fn reached(gateway: &Gateway, times: usize) -> Vec<String> {
    (0..times).map(|_| reach(gateway.tcp(0)).unwrap_or_else(|| "nobody".to_owned())).collect()
}

// ---- active checks

#[test]
fn hc_01_a_dead_node_gets_no_sessions() {
    let (alive, dead) = (TcpPeer::named("alive"), Port::take());
    let gateway = before(&upstream(&[alive.addr(), dead.local()], tcp_checks()));
    wait_status(&gateway, dead.local(), "unhealthy");
    gateway.wait_for_log("changed from healthy to unhealthy", SOON);
    let mark = gateway.mark();
    assert_eq!(reached(&gateway, 40), vec!["alive"; 40]);
    assert!(gateway.log().lines_with(mark, "connect() failed").is_empty());
    let log = gateway.log();
    assert_eq!(log.lines_with(log.start(), "create new checker: ").len(), 1);
    gateway.wait_for_log("unhealthy TCP increment (1/1) for '127.0.0.1(127.0.0.1:", SOON);
}

#[test]
fn hc_02_a_failed_session_marks_a_node() {
    let (alive, dead) = (TcpPeer::named("alive"), Port::take());
    // Healthy nodes are not probed: only sessions find out.
    let checks = json!({
        "active": {"type": "tcp", "unhealthy": {"interval": 600}},
        "passive": {"type": "tcp", "unhealthy": {"tcp_failures": 1}}
    });
    let gateway = before(&upstream(&[alive.addr(), dead.local()], checks));
    wait::until_true("the checker runs", SOON, || health(&gateway).len() == 2);
    assert_eq!(reached(&gateway, 6), vec!["alive"; 6], "retries hide it");
    wait_status(&gateway, dead.local(), "unhealthy");
    gateway.wait_for_log("enabled healthcheck passive", SOON);
    let mark = gateway.mark();
    assert_eq!(reached(&gateway, 20), vec!["alive"; 20]);
    assert!(gateway.log().lines_with(mark, "connect() failed").is_empty());
}

#[test]
fn without_passive_a_retried_failure_still_counts() {
    let (alive, dead) = (TcpPeer::named("alive"), Port::take());
    let checks = json!({"active": {"type": "tcp", "unhealthy": {"interval": 600}}});
    let gateway = before(&upstream(&[alive.addr(), dead.local()], checks));
    wait::until_true("the checker runs", SOON, || health(&gateway).len() == 2);
    assert_eq!(reached(&gateway, 8), vec!["alive"; 8]);
    wait_status(&gateway, dead.local(), "unhealthy");
    let dead = health(&gateway).into_iter().find(|node| node["port"] == dead.number());
    assert_eq!(dead.expect("listed")["counter"]["tcp_failure"], 2, "the limit of the library");
}

#[test]
fn hc_03_passive_alone_is_refused() {
    let gateway = Gateway::builder(BIN).tcp(1).start();
    let object = json!({"nodes": {"127.0.0.1:1": 1}, "checks": {"passive": {}}});
    gateway.put("upstreams/1", &object).expect(400);
}

#[test]
fn hc_04_when_all_are_dead_all_are_tried() {
    let dead: Vec<Port> = (0..2).map(|_| Port::take()).collect();
    let addresses: Vec<_> = dead.iter().map(Port::local).collect();
    let gateway = before(&upstream(&addresses, tcp_checks()));
    wait_status(&gateway, addresses[0], "unhealthy");
    wait_status(&gateway, addresses[1], "unhealthy");
    gateway.wait_for_log("all upstream nodes is unhealthy, use default", SOON);
    assert_eq!(reached(&gateway, 1), ["nobody"]);
    let line = gateway.wait_access(&["reason=UF"]);
    assert!(addresses.iter().all(|addr| line.contains(&addr.to_string())), "{line}");
    // One comes back: new sessions find it, whichever is asked first.
    let back = TcpPeer::named_at(addresses[1], "back");
    assert_eq!(reached(&gateway, 3), vec!["back"; 3]);
    drop(back);
}

#[test]
fn an_unhealthy_node_is_the_last_resort() {
    let (first, second) = (Port::take(), Port::take());
    let checks = json!({"active": {
        "type": "tcp",
        "healthy": {"interval": 600},
        "unhealthy": {"interval": 600}
    }, "passive": {"unhealthy": {"tcp_failures": 1}}});
    let gateway = before(&upstream(&[first.local(), second.local()], checks));
    wait::until_true("the checker runs", SOON, || health(&gateway).len() == 2);
    let alive = TcpPeer::named_at(first.local(), "first");
    assert_eq!(reached(&gateway, 4), vec!["first"; 4]);
    wait_status(&gateway, second.local(), "unhealthy");
    // Now the healthy one dies, and the one that counts as unhealthy would serve.
    drop(alive);
    let _alive = TcpPeer::named_at(second.local(), "second");
    assert_eq!(reached(&gateway, 1), ["second"]);
}

#[test]
fn hc_05_other_checks_make_another_checker() {
    let (alive, dead) = (TcpPeer::named("alive"), Port::take());
    let gateway = before(&upstream(&[alive.addr(), dead.local()], tcp_checks()));
    wait_status(&gateway, dead.local(), "unhealthy");
    let mark = gateway.mark();
    let mut checks = tcp_checks();
    checks["active"]["unhealthy"]["tcp_failures"] = json!(3);
    let changed = upstream(&[alive.addr(), dead.local()], checks);
    gateway.put("stream_routes/1", &json!({"upstream": changed})).expect(200);
    gateway.wait_for_log_after(mark, "try to release checker: tcp for resource: /stream_routes/1");
    gateway.wait_for_log_after(mark, "create new checker: tcp for resource: /stream_routes/1");
    wait_status(&gateway, dead.local(), "unhealthy");
    gateway.wait_for_log_after(mark, "increment (3/3)");
}

#[test]
fn a_change_of_nodes_keeps_the_checker_and_what_it_knows() {
    let (alive, dead, new) = (TcpPeer::named("alive"), Port::take(), TcpPeer::named("new"));
    let gateway = before(&upstream(&[alive.addr(), dead.local()], tcp_checks()));
    wait_status(&gateway, dead.local(), "unhealthy");
    let mark = gateway.mark();
    let changed = upstream(&[alive.addr(), dead.local(), new.addr()], tcp_checks());
    gateway.put("stream_routes/1", &json!({"upstream": changed})).expect(200);
    // Without a gap: the dead node is known to be dead at once.
    let reached = reached(&gateway, 20);
    assert!(reached.iter().any(|name| name == "new") && !reached.contains(&"nobody".to_owned()));
    assert!(gateway.log().lines_with(mark, "connect() failed").is_empty());
    assert!(gateway.log().lines_with(mark, "checker: ").is_empty());
    wait::until_true("the new node is probed", SOON, || new.accepted() > 10);
    // Nobody uses it any more: the checker ends.
    gateway.delete("stream_routes/1").expect(200);
    gateway.wait_for_log_after(mark, "try to release checker: ");
    let probes = new.accepted();
    wait::stays_true("no probe after that", Duration::from_millis(2500), || {
        new.accepted() <= probes + 1
    });
}

#[test]
fn hc_06_the_control_api_shows_the_nodes() {
    let node = TcpPeer::named("a");
    let gateway = before(&upstream(&[node.addr()], tcp_checks()));
    wait::until_true("the checker runs", SOON, || !health(&gateway).is_empty());
    let expected = json!({
        "name": "/apisix/stream_routes/1",
        "type": "tcp",
        "nodes": [{
            "ip": "127.0.0.1", "port": node.addr().port(), "hostname": "127.0.0.1",
            "status": "healthy",
            "counter": {"success": 0, "http_failure": 0, "tcp_failure": 0, "timeout_failure": 0}
        }]
    });
    assert_eq!(gateway.control("/v1/healthcheck", &[]).json(), json!([expected]));
    let page = gateway.control("/v1/healthcheck", &[("Accept", "text/html")]);
    assert_eq!(page.header("content-type"), Some("text/html"));
    assert!(page.body.contains(&format!("<td>{}</td>", node.addr())));
}

#[test]
fn hc_07_what_is_not_there() {
    let node = TcpPeer::named("a");
    let gateway = before(&json!({"nodes": {node.node(): 1}}));
    for (path, status, message) in [
        ("stream_routes/9", 404, "stream_routes[9] not found"),
        ("stream_routes/1", 404, "no checker for stream_routes[1]"),
        ("stream_routes", 404, "missing src id for src type stream_routes"),
        ("x/1", 400, "invalid src type x"),
    ] {
        let _ = gateway.control(&format!("/v1/healthcheck/{path}"), &[]).refused(status, message);
    }
}

#[test]
fn hc_08_switched_off() {
    let node = TcpPeer::named("a");
    let gateway =
        Gateway::builder(BIN).tcp(1).control().apisix("disable_upstream_healthcheck: true").start();
    let route = json!({"upstream": upstream(&[node.addr(), Port::take().local()], tcp_checks())});
    gateway.put("stream_routes/1", &route).expect(201);
    gateway.wait_for_log("healthchecker won't be created: disabled upstream healthcheck", SOON);
    wait::stays_true("no probes", Duration::from_secs(2), || node.accepted() == 0);
    assert!(health(&gateway).is_empty());
}

#[test]
fn hc_09_a_node_that_recovers_is_used_again() {
    let (alive, other) = (TcpPeer::named("alive"), Port::take());
    let mut checks = tcp_checks();
    checks["active"]["healthy"]["successes"] = json!(2);
    let gateway = before(&upstream(&[alive.addr(), other.local()], checks));
    wait_status(&gateway, other.local(), "unhealthy");
    let back = TcpPeer::named_at(other.local(), "back");
    wait_status(&gateway, other.local(), "mostly_unhealthy");
    assert_eq!(reached(&gateway, 4), vec!["alive"; 4], "one success is not enough");
    wait_status(&gateway, other.local(), "healthy");
    wait::until_true("it is used", SOON, || reached(&gateway, 4).contains(&"back".to_owned()));
    drop(back);
}

// ---- sessions of a node that turns unhealthy

/// An echo node that probes find or do not find, as `open` says.
fn two_ports() -> (TcpPeer, Port) {
    (TcpPeer::echo(), Port::take())
}

#[test]
fn hc_10_and_on_unhealthy() {
    for policy in ["keep", "drain", "close"] {
        let (node, probed) = two_ports();
        let mut listening = Some(TcpPeer::named_at(probed.local(), "probed"));
        let other = TcpPeer::echo();
        let mut checks = tcp_checks();
        // Probes look at another port, so that the sessions' own node stays alive; the other
        // node's probes find the same port, hence it gets a check of its own below.
        checks["active"]["port"] = json!(probed.number());
        let mut object = upstream(&[node.addr()], checks);
        object["nodes"] = json!([
            {"host": "127.0.0.1", "port": node.addr().port(), "weight": 1, "priority": 1},
            {"host": "127.0.0.2", "port": other.addr().port(), "weight": 1}
        ]);
        object["on_unhealthy"] = json!(policy);
        let _second = TcpPeer::named_at(([127, 0, 0, 2], probed.number()).into(), "probed");
        let gateway = before(&object);
        wait::until_true("probed", SOON, || listening.as_ref().is_some_and(|it| it.accepted() > 0));
        let mut session = connect(gateway.tcp(0));
        client::assert_alive(&mut session);
        drop(listening.take());
        let is_down = |node: &Value| node["ip"] == "127.0.0.1" && node["status"] == "unhealthy";
        wait::until_true("unhealthy", SOON * 2, || {
            if policy == "drain" {
                client::assert_alive(&mut session); // a session at rest would end at once
            }
            health(&gateway).iter().any(is_down)
        });
        if policy == "keep" {
            for _ in 0..5 {
                client::assert_alive(&mut session);
                std::thread::sleep(Duration::from_millis(300));
            }
            continue;
        }
        if policy == "drain" {
            // As long as bytes flow it goes on.
            for _ in 0..10 {
                client::assert_alive(&mut session);
                std::thread::sleep(Duration::from_millis(150));
            }
        }
        assert_eq!(read_to_end(&mut session), Seen::Closed, "{policy}");
        gateway.wait_access(&["reason=ND"]);
    }
}

// ---- what a probe finds

/// An HTTP node whose status can be changed.
fn http_node(status: &Arc<AtomicU16>) -> TcpPeer {
    let status = Arc::clone(status);
    TcpPeer::new(move |mut conversation| {
        let mut request = vec![0; 4096];
        let _ = conversation.read(&mut request);
        let status = status.load(Ordering::SeqCst);
        let answer = format!("HTTP/1.1 {status} Whatever\r\nContent-Length: 0\r\n\r\n");
        let _ = conversation.stream.write_all(answer.as_bytes());
    })
}

#[test]
fn statuses_of_http_probes() {
    let (good, changing) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicU16::new(503)));
    let nodes = [http_node(&good), http_node(&changing)];
    let checks = json!({"active": {
        "http_path": "/up",
        "healthy": {"interval": 1, "successes": 1},
        "unhealthy": {"interval": 1, "http_failures": 2}
    }});
    let gateway = before(&upstream(&[nodes[0].addr(), nodes[1].addr()], checks));
    wait_status(&gateway, nodes[1].addr(), "unhealthy");
    let now = health(&gateway);
    assert_eq!(now[1]["counter"]["http_failure"], 2);
    assert_eq!(now[0]["status"], "healthy");
    // In neither list: nothing changes.
    changing.store(204, Ordering::SeqCst);
    let probes = nodes[1].accepted();
    wait::until_true("probed again", SOON, || nodes[1].accepted() > probes + 1);
    assert_eq!(health(&gateway)[1]["status"], "unhealthy");
    changing.store(302, Ordering::SeqCst);
    wait_status(&gateway, nodes[1].addr(), "healthy");
}

#[test]
fn who_does_not_answer_runs_into_the_timeout() {
    let alive = TcpPeer::named("alive");
    let hole = BlackHole::open();
    let silent = TcpPeer::sink();
    let checks = json!({"active": {
        "type": "tcp", "timeout": 0.2,
        "healthy": {"interval": 1}, "unhealthy": {"interval": 1, "timeouts": 2}
    }});
    let gateway = before(&upstream(&[alive.addr(), hole.addr()], checks));
    wait_status(&gateway, hole.addr(), "unhealthy");
    assert_eq!(health(&gateway)[1]["counter"]["timeout_failure"], 2);
    // A server that takes the connection and says nothing, asked by HTTP.
    let checks = json!({"active": {
        "timeout": 0.2, "healthy": {"interval": 1}, "unhealthy": {"interval": 1, "timeouts": 1}
    }});
    let changed = upstream(&[alive.addr(), silent.addr()], checks);
    gateway.put("stream_routes/1", &json!({"upstream": changed})).expect(200);
    wait_status(&gateway, silent.addr(), "unhealthy");
    assert_eq!(health(&gateway)[1]["counter"]["timeout_failure"], 1);
    // `alive` greets, but not with HTTP: status 0. Its probe need not have been the first.
    wait::until_true("an HTTP failure", SOON, || {
        health(&gateway)[0]["counter"]["http_failure"].as_u64() > Some(0)
    });
}

#[test]
fn a_flapping_node_never_loses_a_client() {
    let (alive, flapping) = (TcpPeer::named("a"), Port::take());
    let gateway = before(&upstream(&[alive.addr(), flapping.local()], tcp_checks()));
    let end = std::time::Instant::now() + Duration::from_secs(5);
    let mut up = None;
    let mut turn = std::time::Instant::now();
    let mut clients = 0;
    while std::time::Instant::now() < end {
        if turn.elapsed() > Duration::from_millis(200) {
            up = match up.take() {
                None => Some(TcpPeer::named_at(flapping.local(), "f")),
                Some(_) => None,
            };
            turn = std::time::Instant::now();
        }
        let Some(mut stream) = client::try_connect(gateway.tcp(0)) else { continue };
        match read_to_end(&mut stream) {
            Seen::Bytes(name) => assert!(name == b"a\n" || name == b"f\n", "{name:?}"),
            // The node was killed while it served: not a connection that was never made.
            Seen::Closed | Seen::BytesThenReset(_) => {
                drop(stream);
                let ends = |line: &String| line.contains("reason=UF") || line.contains("reason=NU");
                assert!(!gateway.access().iter().any(ends));
            }
        }
        clients += 1;
    }
    assert!(clients > 100, "{clients}");
    assert!(!gateway.access().iter().any(|line| line.contains("reason=UF")));
}

#[test]
fn a_node_that_accepts_and_resets_is_found_by_passive_checks() {
    let alive = TcpPeer::named("alive");
    let resetting = TcpPeer::resetter(b"", 0);
    let checks = json!({
        "active": {"type": "tcp", "unhealthy": {"interval": 600}},
        "passive": {"type": "tcp", "unhealthy": {"tcp_failures": 2}}
    });
    let gateway = before(&upstream(&[alive.addr(), resetting.addr()], checks));
    wait::until_true("the checker runs", SOON, || health(&gateway).len() == 2);
    for _ in 0..4 {
        let Some(mut stream) = client::try_connect(gateway.tcp(0)) else { continue };
        let _ = stream.write_all(b"x");
        let _ = read_to_end(&mut stream);
    }
    wait_status(&gateway, resetting.addr(), "unhealthy");
    assert_eq!(reached(&gateway, 10), vec!["alive"; 10]);
}

// ---- UDP

/// A UDP node on a port whose TCP side is free for probes.
fn udp_node(name: &str) -> (Port, UdpPeer) {
    let (port, prefix) = (Port::take(), format!("{name}:").into_bytes());
    let answer = move |payload: &[u8], _| vec![[prefix.as_slice(), payload].concat()];
    let peer = UdpPeer::at(port.local(), answer);
    (port, peer)
}

#[test]
fn datagrams_leave_a_node_that_is_down_or_gone() {
    let (_port_a, a) = udp_node("a");
    let (_port_b, b) = udp_node("b");
    let nodes = [a, b];
    let probed: Vec<TcpPeer> =
        nodes.iter().map(|node| TcpPeer::named_at(node.addr(), "tcp")).collect();
    let gateway = Gateway::builder(BIN).udp(1).tcp(1).control().start();
    let route = |policy: &str, nodes: &[&UdpPeer]| {
        let nodes: Vec<_> = nodes.iter().map(|node| node.addr()).collect();
        let mut upstream = upstream(&nodes, tcp_checks());
        upstream["on_node_down"] = json!(policy);
        json!({"upstream": upstream})
    };
    let both: Vec<_> = nodes.iter().collect();
    gateway.put("stream_routes/1", &route("repick", &both)).expect(201);
    let clients = [udp(gateway.udp(0)), udp(gateway.udp(0))];
    let mut names = clients.each_ref().map(|client| client::ask(client, b"?"));
    names.sort_unstable();
    assert_eq!(names.concat(), b"a:?b:?");
    // `a` goes down: its client finds `b` with its next datagram.
    let mut probed = probed.into_iter();
    drop(probed.next());
    wait_status(&gateway, nodes[0].addr(), "unhealthy");
    let now = clients.each_ref().map(|client| client::ask(client, b"?"));
    assert_eq!(now.concat(), b"b:?b:?");
    gateway.wait_access(&["UDP", "reason=ND"]);
    // `b` is removed: everybody goes to `a`, down as it is.
    gateway.put("stream_routes/1", &route("repick", &[&nodes[0]])).expect(200);
    let now = clients.each_ref().map(|client| client::ask(client, b"?"));
    assert_eq!(now.concat(), b"a:?a:?");
}

#[test]
fn datagrams_stay_or_are_dropped_where_that_is_wanted() {
    for policy in ["keep", "drop"] {
        let (_port, node) = udp_node("a");
        let (_spare_port, spare) = udp_node("b");
        let probed = TcpPeer::named_at(node.addr(), "tcp");
        let _spare = TcpPeer::named_at(spare.addr(), "tcp");
        let gateway = Gateway::builder(BIN).udp(1).tcp(1).control().start();
        let mut upstream = upstream(&[], tcp_checks());
        upstream["nodes"] = json!([
            {"host": "127.0.0.1", "port": node.addr().port(), "weight": 1, "priority": 1},
            {"host": "127.0.0.1", "port": spare.addr().port(), "weight": 1}
        ]);
        upstream["on_node_down"] = json!(policy);
        gateway.put("stream_routes/1", &json!({"upstream": upstream})).expect(201);
        let client = udp(gateway.udp(0));
        assert_eq!(client::ask(&client, b"?"), b"a:?");
        drop(probed);
        wait_status(&gateway, node.addr(), "unhealthy");
        if policy == "keep" {
            assert_eq!(client::ask(&client, b"?"), b"a:?");
        } else {
            let before = node.received();
            let _ = client.send(b"?");
            let answer = client::try_receive(&client, Duration::from_millis(300));
            assert_eq!((answer, node.received()), (None, before));
            // A new client begins with a node that is well.
            assert_eq!(client::ask(&udp(gateway.udp(0)), b"?"), b"b:?");
        }
    }
}
