//! Limits of the process: descriptors run out, connections pile up, and the gateway neither spins nor
//! dies.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

#[path = "exhaustion/cap.rs"]
mod cap;
#[path = "exhaustion/ports.rs"]
mod ports;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use headgate_testkit::client::{self, assert_alive, connect};
use headgate_testkit::peer::BlackHole;
use headgate_testkit::process::{need, report, run};
use headgate_testkit::proof::Scenario;
use headgate_testkit::{Gateway, SOON, TcpPeer, UdpPeer, proc, wait};
use serde_json::json;

const BIN: &str = env!("CARGO_BIN_EXE_headgate");

/// Share of one CPU that the process used within `time`.
fn cpu_share(id: u32, time: Duration) -> f64 {
    let (ticks, began) = (proc::cpu_ticks(id), Instant::now());
    std::thread::sleep(time);
    let used = u32::try_from(proc::cpu_ticks(id) - ticks).unwrap_or(u32::MAX);
    f64::from(used) / 100.0 / began.elapsed().as_secs_f64()
}

/// Whether the connection passes a byte there and back within `limit`.
fn answers(stream: &mut TcpStream, limit: Duration) -> bool {
    stream.set_read_timeout(Some(limit)).expect("a deadline");
    let mut byte = [0];
    stream.write_all(b"?").is_ok() && matches!(stream.read(&mut byte), Ok(1)) && byte == *b"?"
}

fn descriptors_run_out(gateway: &Gateway, node: &TcpPeer) -> String {
    gateway.put("stream_routes/1", &json!({"upstream": {"nodes": {node.node(): 1}}})).expect(201);
    // Many more than fit: each session costs at least two descriptors.
    let mut streams: Vec<TcpStream> = (0..200).map(|_| connect(gateway.tcp(0))).collect();
    let served = wait::until("some connections are served", SOON, || {
        let served = node.live();
        (served >= 20).then_some(served)
    });
    // Until nothing moves any more.
    let mut last = served;
    let served = wait::until("the number of sessions settles", SOON, || {
        std::thread::sleep(Duration::from_millis(200));
        let now = node.live();
        (std::mem::replace(&mut last, now) == now).then_some(now)
    });
    assert!(served < 200, "the limit was never reached");
    report(&format!("{served} of 200 connections are served"));

    let share = cpu_share(gateway.id(), Duration::from_secs(2));
    report(&format!("CPU while descriptors are out: {:.1} %", share * 100.0));
    assert!(share < 0.25, "spinning: {share:.2} of a CPU");

    // Those that were served go on being served.
    let alive = streams
        .iter_mut()
        .filter_map(|stream| answers(stream, Duration::from_millis(100)).then_some(()))
        .take(5)
        .count();
    assert_eq!(alive, 5);

    // The Admin API can still be reached, to see and to change.
    gateway.get("stream_routes/1").expect(200);
    gateway.put("upstreams/spare", &json!({"nodes": {}})).expect(201);

    drop(streams);
    let recovered = wait::try_until(SOON, || {
        let mut stream = TcpStream::connect_timeout(&gateway.tcp(0), SOON).ok()?;
        answers(&mut stream, Duration::from_secs(1)).then_some(())
    });
    assert!(recovered.is_some(), "no recovery; log:\n{}", gateway.log().text());
    assert_alive(&mut connect(gateway.tcp(0)));
    format!("{served} of 200 served, {:.1} % of a CPU while they run out", share * 100.0)
}

#[test]
fn a_limit_that_is_known_at_start() {
    Scenario {
        name: "a_limit_that_is_known_at_start",
        fault: "256 descriptors, 200 clients",
        promise: "no spinning; who is served stays served; Admin API reachable; recovers",
    }
    .prove(|| {
        let node = TcpPeer::echo();
        let gateway = Gateway::builder(BIN)
            .tcp(1)
            .workers(1)
            .descriptor_limit(256)
            .nginx("worker_rlimit_nofile: 256\nevent:\n  worker_connections: 10620")
            .start();
        descriptors_run_out(&gateway, &node)
    });
}

#[test]
fn a_limit_that_comes_as_a_surprise() {
    let Some(prlimit) = need("prlimit", "util-linux") else { return };
    let node = TcpPeer::echo();
    let gateway = Gateway::builder(BIN).tcp(1).workers(1).start();
    // Lowered behind its back: accept meets EMFILE.
    let limit = proc::descriptors(gateway.id()) + 100;
    let _ = run(
        Command::new(prlimit).args([
            "--pid",
            &gateway.id().to_string(),
            &format!("--nofile={limit}:{limit}"),
        ]),
        SOON,
    )
    .success();
    let _ = descriptors_run_out(&gateway, &node);
}

#[test]
fn operators_get_in_while_sessions_hold_every_descriptor() {
    let Some(prlimit) = need("prlimit", "util-linux") else { return };
    let node = TcpPeer::echo();
    let gateway = Gateway::builder(BIN).tcp(1).workers(1).start();
    gateway.put("stream_routes/1", &json!({"upstream": {"nodes": {node.node(): 1}}})).expect(201);
    // One after the other, so that every descriptor ends up in a session that is served.
    let limit = proc::descriptors(gateway.id()) + 20;
    let _ = run(
        Command::new(prlimit).args([
            "--pid",
            &gateway.id().to_string(),
            &format!("--nofile={limit}:{limit}"),
        ]),
        SOON,
    )
    .success();
    let mut served = Vec::new();
    let waiting = loop {
        let mut stream = connect(gateway.tcp(0));
        if !answers(&mut stream, Duration::from_secs(1)) {
            break stream;
        }
        served.push(stream);
        assert!(served.len() < 20, "the limit was never reached");
    };
    gateway.get("stream_routes/1").expect(200);
    gateway.put("upstreams/spare", &json!({"nodes": {}})).expect(201);
    // Whoever could not be served is not sent away: another session ends, and it is its turn.
    let mut waiting = waiting;
    drop(served.split_off(served.len() - 2));
    assert!(matches!(waiting.set_read_timeout(Some(SOON)), Ok(())));
    let mut byte = [0];
    assert_eq!(waiting.read(&mut byte).ok(), Some(1), "log:\n{}", gateway.log().text());
    served.iter_mut().for_each(assert_alive);
}

#[test]
fn more_connections_than_worker_connections_wait_in_the_queue() {
    let node = TcpPeer::echo();
    // Client and upstream sockets both count: about ten sessions.
    let gateway =
        Gateway::builder(BIN).tcp(1).workers(1).nginx("event:\n  worker_connections: 20").start();
    gateway.put("stream_routes/1", &json!({"upstream": {"nodes": {node.node(): 1}}})).expect(201);
    let streams: Vec<TcpStream> = (0..40).map(|_| connect(gateway.tcp(0))).collect();
    wait::until_true("the bound is reached", SOON, || node.live() >= 5);
    let share = cpu_share(gateway.id(), Duration::from_secs(1));
    assert!(node.live() <= 20, "{} sessions", node.live());
    assert!(share < 0.25, "spinning: {share:.2} of a CPU");
    // They are accepted in the order in which they came; as sessions end, the waiting ones get their
    // turn, and none is lost.
    for mut stream in streams {
        assert_alive(&mut stream);
    }
    assert_eq!(node.accepted(), 40);
}

#[test]
fn a_flood_of_connections_without_a_route_leaves_nothing_behind() {
    let gateway = Gateway::builder(BIN).tcp(1).start();
    let idle = proc::descriptors(gateway.id());
    for _ in 0..1_000 {
        drop(connect(gateway.tcp(0)));
    }
    wait::until_true("1000 sessions were logged", SOON, || gateway.access().len() == 1_000);
    wait::until_true("no descriptor is left behind", SOON, || {
        proc::descriptors(gateway.id()) <= idle
    });
    // The process log is rate limited.
    let lines = gateway.log().lines_with(gateway.log().start(), "not hit any route").len();
    assert!((1..500).contains(&lines), "{lines} lines for 1000 connections");
}

#[test]
fn silent_admin_connections_do_not_lock_others_out() {
    let gateway = Gateway::builder(BIN).tcp(1).start();
    let _silent: Vec<TcpStream> = (0..300).map(|_| connect(gateway.admin())).collect();
    let began = Instant::now();
    gateway.get("stream_routes").expect(200);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

/// A gateway with `sessions` places and two listeners: the first leads to `first`, the other to an
/// echo node.
fn with_places(sessions: usize, first: &str, echo: &TcpPeer) -> Gateway {
    let gateway = Gateway::builder(BIN)
        .tcp(2)
        .workers(1)
        .nginx(&format!("event:\n  worker_connections: {}", sessions * 2))
        .start();
    for (n, node) in [first.to_owned(), echo.node()].iter().enumerate() {
        let body = json!({"server_port": gateway.tcp_port(n),
                          "upstream": {"nodes": {node: 1},
                                       "timeout": {"connect": 8, "send": 60, "read": 60}}});
        gateway.put(&format!("stream_routes/{n}"), &body).expect(201);
    }
    gateway
}

#[test]
fn a_client_that_resets_before_its_upstream_answers_frees_its_place() {
    let (hole, echo) = (BlackHole::open(), TcpPeer::echo());
    let gateway = with_places(3, &hole.addr().to_string(), &echo);
    let pending: Vec<TcpStream> = (0..3)
        .map(|n| {
            let mut stream = connect(gateway.tcp(0));
            // With and without bytes that nobody has read.
            if n > 0 {
                stream.write_all(b"hello").expect("sent");
            }
            stream
        })
        .collect();
    wait::until_true("all places are taken", SOON, || {
        gateway.log().lines_with(gateway.log().start(), "proxy request to").len() == 3
    });
    let mut waiting = connect(gateway.tcp(1));
    gateway.wait_for_log("session places are taken", SOON);
    assert_eq!(echo.accepted(), 0);
    let began = Instant::now();
    pending.into_iter().for_each(client::reset);
    assert_alive(&mut waiting);
    wait::until_true("three lines", SOON, || gateway.access().len() == 3);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(6), "{took:?}: the places stayed taken");
    for line in gateway.access() {
        assert!(line.contains("reason=CR"), "{line}");
    }
}

/// TCP sessions have all places, and there is no older flow to make room.
#[test]
fn a_datagram_without_a_place_is_told_and_counted() {
    let (echo, datagrams) = (TcpPeer::echo(), UdpPeer::echo());
    let gateway = Gateway::builder(BIN)
        .tcp(1)
        .udp(1)
        .workers(1)
        .metrics()
        .nginx("event:\n  worker_connections: 6")
        .start();
    for (port, node) in
        [(gateway.tcp_port(0), echo.node()), (gateway.udp_port(0), datagrams.node())]
    {
        let body = json!({"server_port": port, "upstream": {"nodes": {node: 1}}});
        gateway.put(&format!("stream_routes/{port}"), &body).expect(201);
    }
    let mut holders: Vec<TcpStream> = (0..3).map(|_| connect(gateway.tcp(0))).collect();
    holders.iter_mut().for_each(assert_alive);
    let socket = client::udp(gateway.udp(0));
    socket.send(b"is there room?").expect("sending");
    let line = gateway.wait_for_log("a UDP flow is refused: all session places are taken", SOON);
    let from = socket.local_addr().expect("an address").to_string();
    for part in ["WARN", &from, &format!(":{}", gateway.udp_port(0)), "most=6"] {
        assert!(line.contains(part), "no {part} in {line}");
    }
    let dropped = "headgate_udp_datagrams_dropped_total{cause=\"no_place\"}";
    wait::until_true("it is counted", SOON, || gateway.scrape().get(dropped) == Some(1.0));
    // When a session ends, the next datagram of the same client is served.
    drop(holders.pop());
    let served = || {
        let _ = socket.send(b"and now?");
        client::try_receive(&socket, Duration::from_millis(200)).is_some()
    };
    wait::until_true("there is room", SOON, served);
}

#[test]
fn a_reload_that_removes_a_listener_keeps_its_queue() {
    const SESSIONS: usize = 4;
    let echo = TcpPeer::echo();
    let gateway = with_places(SESSIONS, &echo.node(), &echo);
    let mut holders: Vec<TcpStream> = (0..SESSIONS).map(|_| connect(gateway.tcp(0))).collect();
    holders.iter_mut().for_each(assert_alive);
    let queued: Vec<TcpStream> = (0..12).map(|_| connect(gateway.tcp(1))).collect();
    gateway.wait_for_log("session places are taken", SOON);
    let gone = format!("      - {}\n", gateway.tcp_port(1));
    let config = gateway.config();
    assert!(config.contains(&gone));
    gateway.write_config(&config.replace(&gone, ""));
    let mark = gateway.mark();
    gateway.signal("HUP");
    let said = gateway.wait_for_log_after(mark, "reloaded config.yaml");
    assert!(said.contains("opened=0 closed=1"), "{said}");
    // Nobody is served yet, and nobody is sent away; as sessions end the others get their turn.
    holders.iter_mut().for_each(assert_alive);
    assert_eq!(echo.accepted(), SESSIONS);
    drop(holders);
    for mut stream in queued {
        assert_alive(&mut stream);
    }
    assert_eq!(echo.accepted(), SESSIONS + 12);
    wait::until_true("the listener is gone", SOON, || !proc::tcp_listens(gateway.tcp_port(1)));
    assert_alive(&mut connect(gateway.tcp(0)));
}
#[test]
fn a_graceful_stop_serves_the_queue_of_a_full_house() {
    const SESSIONS: usize = 4;
    let echo = TcpPeer::echo();
    let mut gateway = with_places(SESSIONS, &echo.node(), &echo);
    let mut holders: Vec<TcpStream> = (0..SESSIONS).map(|_| connect(gateway.tcp(0))).collect();
    holders.iter_mut().for_each(assert_alive);
    let queued: Vec<TcpStream> = (0..12).map(|_| connect(gateway.tcp(1))).collect();
    gateway.wait_for_log("session places are taken", SOON);
    let mark = gateway.mark();
    gateway.signal("QUIT");
    gateway.wait_for_log_after(mark, "draining");
    drop(holders);
    for mut stream in queued {
        assert_alive(&mut stream);
    }
    assert!(gateway.wait_exit(SOON).success());
    assert_eq!(echo.accepted(), SESSIONS + 12);
}
