//! TCP relay: every byte, every end, every kind of peer.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use headgate_testkit::client::{self, Seen, assert_alive, connect, read_to_end};
use headgate_testkit::pattern::Pattern;
use headgate_testkit::peer::BlackHole;
use headgate_testkit::process::report;
use headgate_testkit::{Gateway, SOON, TcpPeer, proc, wait};
use serde_json::{Value, json};

const BIN: &str = env!("CARGO_BIN_EXE_headgate");
const MIB: u64 = 1 << 20;

/// A gateway with one listener and a route to `node`.
fn before(node: &TcpPeer) -> Gateway {
    before_upstream(&json!({"nodes": {node.node(): 1}}))
}

fn before_upstream(upstream: &Value) -> Gateway {
    let gateway = Gateway::builder(BIN).tcp(1).start();
    gateway.put("stream_routes/1", &json!({"upstream": upstream})).expect(201);
    gateway
}

// ---- ends

#[test]
fn a_client_that_ends_its_direction_still_gets_the_answer() {
    let node = TcpPeer::answers_at_end(11);
    let gateway = before(&node);
    for count in [0, 1, 100_000, 5 * MIB] {
        let mut stream = connect(gateway.tcp(0));
        Pattern::new(11).send(&mut stream, count).expect("sent");
        stream.shutdown(Shutdown::Write).expect("shutdown");
        let answer = format!("{count} good").into_bytes();
        assert_eq!(read_to_end(&mut stream), Seen::Bytes(answer));
    }
    gateway.wait_access(&["reason=OK", "in=0 ", "out=6 "]);
    gateway.wait_access(&["reason=OK", &format!("in={} ", 5 * MIB)]);
}

#[test]
fn a_node_that_ends_its_direction_still_gets_everything() {
    let node = TcpPeer::half_closer(b"that is all");
    let gateway = before(&node);
    let mut stream = connect(gateway.tcp(0));
    assert_eq!(read_to_end(&mut stream), Seen::Bytes(b"that is all".to_vec()));
    // The gateway has passed the end on and goes on relaying in the other direction.
    Pattern::new(1).send(&mut stream, 3 * MIB).expect("sent");
    wait::until_true("the node has it all", SOON, || node.received() == 3 * MIB);
    assert_eq!(node.live(), 1);
    stream.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(node.wait_end(), "eof");
    gateway.wait_access(&["reason=OK", &format!("in={} out=11 ", 3 * MIB)]);
}

#[test]
fn an_end_is_passed_on_as_an_end() {
    let node = TcpPeer::sink();
    let gateway = before(&node);
    let mut stream = connect(gateway.tcp(0));
    stream.write_all(b"bye").expect("sent");
    drop(stream);
    assert_eq!(node.wait_end(), "eof");
    assert_eq!(node.received(), 3);
}

#[test]
fn a_reset_by_the_client_is_passed_on_as_a_reset() {
    let node = TcpPeer::sink();
    let gateway = before(&node);
    let mut stream = connect(gateway.tcp(0));
    stream.write_all(b"hello").expect("sent");
    wait::until_true("the node has it", SOON, || node.received() == 5);
    client::reset(stream);
    assert_eq!(node.wait_end(), "reset");
    gateway.wait_access(&["reason=CR", "in=5 "]);
}

#[test]
fn a_reset_by_the_node_is_passed_on_as_a_reset() {
    let node = TcpPeer::resetter(b"welcome", 3);
    let gateway = before(&node);
    let mut stream = connect(gateway.tcp(0));
    let mut greeting = [0; 7];
    stream.read_exact(&mut greeting).expect("the greeting");
    stream.write_all(b"abc").expect("sent");
    let error = stream.read(&mut greeting).expect_err("a reset");
    assert!(client::is_reset(&error), "{error}");
    gateway.wait_access(&["reason=UR", "out=7 "]);
}

#[test]
fn a_client_that_leaves_at_once() {
    let node = TcpPeer::echo();
    let gateway = before(&node);
    for _ in 0..20 {
        drop(connect(gateway.tcp(0)));
    }
    wait::until_true("20 sessions have ended", SOON, || gateway.access().len() == 20);
    wait::until_true("the node has no connection left", SOON, || node.live() == 0);
    assert_alive(&mut connect(gateway.tcp(0)));
}

#[test]
fn bytes_and_the_end_that_come_before_the_upstream_is_connected() {
    // The first try goes to a node that does not answer; the client has long said everything.
    let (hole, node) = (BlackHole::open(), TcpPeer::answers_at_end(4));
    let gateway = Gateway::builder(BIN).tcp(1).workers(1).start();
    let body = json!({"upstream": {
        "nodes": [
            {"host": "127.0.0.1", "port": hole.addr().port(), "weight": 1},
            {"host": "127.0.0.1", "port": node.addr().port(), "weight": 1}
        ],
        "timeout": {"connect": 0.5, "send": 20, "read": 20}
    }});
    gateway.put("stream_routes/1", &body).expect(201);
    let mut slow = 0;
    for _ in 0..4 {
        let began = Instant::now();
        let mut stream = connect(gateway.tcp(0));
        Pattern::new(4).send(&mut stream, 1000).expect("sent");
        stream.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(read_to_end(&mut stream), Seen::Bytes(b"1000 good".to_vec()));
        slow += usize::from(began.elapsed() > Duration::from_millis(450));
    }
    assert_eq!(slow, 2, "every other turn begins at the silent node");
}

#[test]
fn a_client_that_leaves_while_the_upstream_is_being_connected() {
    let hole = BlackHole::open();
    let gateway = before_upstream(&json!({
        "nodes": {hole.addr().to_string(): 1},
        "timeout": {"connect": 1, "send": 5, "read": 5}
    }));
    let idle = proc::descriptors(gateway.id());
    for _ in 0..10 {
        client::reset(connect(gateway.tcp(0)));
    }
    wait::until_true("10 sessions have ended", SOON, || gateway.access().len() == 10);
    wait::until_true("no descriptor is left behind", SOON, || {
        proc::descriptors(gateway.id()) <= idle
    });
}

#[test]
fn the_server_may_speak_first() {
    let node = TcpPeer::half_closer(b"220 ready\r\n");
    let gateway = before(&node);
    let mut stream = connect(gateway.tcp(0));
    let mut banner = [0; 11];
    stream.read_exact(&mut banner).expect("the banner, though the client has said nothing");
    assert_eq!(&banner, b"220 ready\r\n");
}

// ---- bytes

#[test]
fn bulk_in_both_directions_at_once_is_exact() {
    const BYTES: u64 = 64 * MIB;
    let node = TcpPeer::echo();
    let gateway = before(&node);
    let mut reader = connect(gateway.tcp(0));
    reader.set_read_timeout(Some(SOON * 2)).expect("a deadline");
    let mut writer = reader.try_clone().expect("a second handle");
    let began = Instant::now();
    let sending = std::thread::spawn(move || {
        Pattern::new(42).send(&mut writer, BYTES).expect("sent");
        writer.shutdown(Shutdown::Write).expect("shutdown");
    });
    assert_eq!(Pattern::new(42).receive(&mut reader, u64::MAX).expect("bytes"), BYTES);
    sending.join().expect("no panic");
    report(&format!("64 MiB there and back in {:?}", began.elapsed()));
    gateway.wait_access(&["reason=OK", &format!("in={BYTES} out={BYTES} ")]);
}

#[test]
fn bulk_in_one_direction_is_exact() {
    const BYTES: u64 = 64 * MIB;
    let (source, check) = (TcpPeer::source(7, BYTES), TcpPeer::answers_at_end(8));
    let gateway = Gateway::builder(BIN).tcp(2).start();
    for (n, node) in [&source, &check].into_iter().enumerate() {
        let body =
            json!({"server_port": gateway.tcp_port(n), "upstream": {"nodes": {node.node(): 1}}});
        gateway.put(&format!("stream_routes/{n}"), &body).expect(201);
    }
    let mut down = connect(gateway.tcp(0));
    assert_eq!(Pattern::new(7).receive(&mut down, u64::MAX).expect("bytes"), BYTES);
    let mut up = connect(gateway.tcp(1));
    Pattern::new(8).send(&mut up, BYTES).expect("sent");
    up.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_to_end(&mut up), Seen::Bytes(format!("{BYTES} good").into_bytes()));
}

#[test]
fn one_byte_at_a_time() {
    let node = TcpPeer::echo();
    let gateway = before(&node);
    let mut stream = connect(gateway.tcp(0));
    let bytes = Pattern::new(3).take(2_000);
    for byte in &bytes {
        assert_eq!(client::echo(&mut stream, &[*byte]), [*byte]);
    }
    // And without waiting for each to come back.
    for byte in &bytes {
        stream.write_all(&[*byte]).expect("sent");
    }
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).expect("all of it");
    assert_eq!(back, bytes);
}

#[test]
fn sizes_around_every_buffer_boundary() {
    let node = TcpPeer::echo();
    let gateway = before(&node);
    let mut stream = connect(gateway.tcp(0));
    let mut pattern = Pattern::new(6);
    for size in [1, 2, 4095, 4096, 4097, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 131_073] {
        let bytes = pattern.take(size);
        let mut writer = stream.try_clone().expect("a second handle");
        let sent = bytes.clone();
        let sending = std::thread::spawn(move || writer.write_all(&sent));
        let mut back = vec![0; size];
        stream.read_exact(&mut back).expect("all of it");
        assert_eq!(back, bytes, "size {size}");
        sending.join().expect("no panic").expect("sent");
    }
}

// ---- back-pressure

#[test]
fn a_node_that_does_not_read_stops_the_client_and_not_the_memory() {
    const CONNECTIONS: usize = 8;
    const SEED: u64 = 13;
    let node = TcpPeer::stalled_reader(SEED);
    let gateway = before(&node);
    let before = proc::resident(gateway.id());
    let mut streams: Vec<(TcpStream, Pattern)> = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = client::connect_with_buffers(gateway.tcp(0), 64 * 1024);
        let mut pattern = Pattern::new(SEED);
        stream.set_write_timeout(Some(Duration::from_millis(150))).expect("a deadline");
        let mut bytes = 0;
        // Until the gateway takes no more.
        loop {
            let ahead = pattern.clone();
            let chunk = pattern.take(64 * 1024);
            match stream.write(&chunk) {
                Ok(count) => {
                    pattern = ahead;
                    let _ = pattern.take(count);
                    bytes += count;
                }
                Err(_) => {
                    pattern = ahead;
                    break;
                }
            }
            assert!(bytes < 64 << 20, "64 MiB went to a node that reads nothing");
        }
        report(&format!("{} KiB until the gateway takes no more", bytes / 1024));
        streams.push((stream, pattern));
    }
    let grown = proc::resident(gateway.id()).saturating_sub(before);
    report(&format!(
        "resident memory grew by {} KiB for {CONNECTIONS} stalled connections",
        grown / 1024
    ));
    assert!(grown < 16 * MIB, "{grown} bytes");
    assert_eq!(node.received(), 0);
    // Everything that was taken arrives once the node reads.
    node.release();
    for (mut stream, pattern) in streams {
        stream.shutdown(Shutdown::Write).expect("shutdown");
        let answer = format!("{} good", pattern.offset()).into_bytes();
        assert_eq!(read_to_end(&mut stream), Seen::Bytes(answer));
    }
}

#[test]
fn a_client_that_does_not_read_stops_the_node_and_loses_nothing() {
    const BYTES: u64 = 48 * MIB;
    let node = TcpPeer::source(17, BYTES);
    let gateway = before(&node);
    let resident = proc::resident(gateway.id());
    let mut stream = client::connect_with_buffers(gateway.tcp(0), 64 * 1024);
    // The node fills what the kernel holds and then waits; other clients are not disturbed.
    let mut other = connect(gateway.tcp(0));
    assert_eq!(Pattern::new(17).receive(&mut other, u64::MAX).expect("bytes"), BYTES);
    assert!(proc::resident(gateway.id()).saturating_sub(resident) < 16 * MIB);
    assert_eq!(Pattern::new(17).receive(&mut stream, u64::MAX).expect("bytes"), BYTES);
}

// ---- time

#[test]
fn an_idle_connection_is_ended() {
    let node = TcpPeer::sink();
    let gateway = before_upstream(&json!({
        "nodes": {node.node(): 1},
        "timeout": {"connect": 5, "send": 0.3, "read": 0.8}
    }));
    let mut stream = connect(gateway.tcp(0));
    stream.write_all(b"hello").expect("sent");
    let began = Instant::now();
    assert_eq!(read_to_end(&mut stream), Seen::Closed);
    // The longer of `send` and `read` counts.
    let took = began.elapsed();
    assert!(took > Duration::from_millis(700) && took < Duration::from_secs(4), "{took:?}");
    wait::until_true("the node is closed, too", SOON, || node.live() == 0);
    let line = gateway.wait_access(&["reason=IT", "in=5 out=0 "]);
    assert!(line.contains("status=200"), "{line}");
}

#[test]
fn traffic_in_one_direction_keeps_a_connection() {
    let node = TcpPeer::sink();
    let gateway = before_upstream(&json!({
        "nodes": {node.node(): 1},
        "timeout": {"connect": 5, "send": 0.6, "read": 0.6}
    }));
    let mut stream = connect(gateway.tcp(0));
    let began = Instant::now();
    let mut sent = 0;
    // More than three times the timeout, with pauses of a quarter of it.
    while began.elapsed() < Duration::from_millis(2_000) {
        stream.write_all(b"x").expect("still open");
        sent += 1;
        std::thread::sleep(Duration::from_millis(150));
    }
    wait::until_true("all bytes arrived", SOON, || node.received() == sent);
    assert_eq!(node.live(), 1);
}

#[test]
fn a_half_closed_connection_is_idle_when_nothing_moves() {
    // The node has ended its direction; the client neither sends nor leaves.
    let node = TcpPeer::half_closer(b"bye");
    let gateway = before_upstream(&json!({
        "nodes": {node.node(): 1},
        "timeout": {"connect": 5, "send": 0.5, "read": 0.5}
    }));
    let mut stream = connect(gateway.tcp(0));
    assert_eq!(read_to_end(&mut stream), Seen::Bytes(b"bye".to_vec()));
    gateway.wait_access(&["reason=IT", "out=3 "]);
    wait::until_true("the node is closed", SOON, || node.live() == 0);
}

// ---- change and number

#[test]
fn open_connections_survive_edits_and_deletion_of_all_they_came_from() {
    let node = TcpPeer::echo();
    let gateway = Gateway::builder(BIN).tcp(1).start();
    gateway.put("upstreams/u", &json!({"nodes": {node.node(): 1}})).expect(201);
    gateway.put("services/s", &json!({"upstream_id": "u"})).expect(201);
    gateway.put("stream_routes/r", &json!({"service_id": "s"})).expect(201);
    let mut streams: Vec<_> = (0..50).map(|_| connect(gateway.tcp(0))).collect();
    streams.iter_mut().for_each(assert_alive);
    gateway.put("upstreams/u", &json!({"nodes": {}})).expect(200);
    streams.iter_mut().for_each(assert_alive);
    gateway.put("stream_routes/r", &json!({"remote_addr": "10.0.0.1"})).expect(200);
    gateway.delete("stream_routes/r").expect(200);
    gateway.delete("services/s").expect(200);
    gateway.delete("upstreams/u").expect(200);
    streams.iter_mut().for_each(assert_alive);
    assert_eq!(client::reach(gateway.tcp(0)), None);
    streams.iter_mut().for_each(assert_alive);
    assert_eq!(node.accepted(), 50);
}

#[test]
fn five_hundred_connections_at_once() {
    let node = TcpPeer::echo();
    let gateway = before(&node);
    let idle = proc::descriptors(gateway.id());
    let mut streams: Vec<_> = (0..500).map(|_| connect(gateway.tcp(0))).collect();
    for (n, stream) in streams.iter_mut().enumerate() {
        let bytes = Pattern::new(n as u64).take(1 + n * 7);
        assert_eq!(client::echo(stream, &bytes), bytes, "connection {n}");
    }
    assert_eq!(node.live(), 500);
    drop(streams);
    wait::until_true("all sessions have ended", SOON, || gateway.access().len() == 500);
    wait::until_true("no descriptor is left behind", SOON, || {
        // Pipes of a pool may stay.
        proc::descriptors(gateway.id()) <= idle + 64
    });
}

#[test]
fn a_quick_stop_closes_connections_and_logs_them() {
    let node = TcpPeer::echo();
    let mut gateway = before(&node);
    let mut stream = connect(gateway.tcp(0));
    assert_alive(&mut stream);
    assert!(gateway.stop().success());
    assert_eq!(read_to_end(&mut stream), Seen::Closed);
    gateway.wait_access(&["reason=DR"]);
}

#[test]
fn a_graceful_stop_lets_connections_finish() {
    let node = TcpPeer::echo();
    let mut gateway = before(&node);
    let mut stream = connect(gateway.tcp(0));
    assert_alive(&mut stream);
    gateway.signal("QUIT");
    wait::until_true("no new connections are taken", SOON, || {
        !proc::tcp_listens(gateway.tcp_port(0))
    });
    for _ in 0..20 {
        assert_alive(&mut stream);
    }
    drop(stream);
    assert!(gateway.wait_exit(SOON).success());
    gateway.wait_access(&["reason=OK"]);
}

#[test]
fn a_graceful_stop_has_a_limit() {
    let node = TcpPeer::echo();
    let mut gateway = Gateway::builder(BIN).tcp(1).nginx("worker_shutdown_timeout: 1s").start();
    gateway.put("stream_routes/1", &json!({"upstream": {"nodes": {node.node(): 1}}})).expect(201);
    let mut stream = connect(gateway.tcp(0));
    assert_alive(&mut stream);
    gateway.signal("QUIT");
    assert_eq!(read_to_end(&mut stream), Seen::Closed);
    assert!(gateway.wait_exit(SOON).success());
    gateway.wait_access(&["reason=DR"]);
}

// ---- set-up, stop and time limits that only a review found

/// Stops every thread of a process, so that the kernel collects what is sent to it meanwhile.
fn freeze(gateway: &Gateway) {
    gateway.signal("STOP");
    let tasks = format!("/proc/{}/task", gateway.id());
    wait::until_true("every thread has stopped", SOON, || {
        std::fs::read_dir(&tasks).expect("its threads").flatten().all(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
        })
    });
}

#[test]
fn urgent_data_does_not_hold_up_what_follows_it() {
    let (seen, node) = {
        let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let own = std::sync::Arc::clone(&seen);
        let node = TcpPeer::new(move |mut conversation| {
            let mut buffer = [0; 64];
            loop {
                match conversation.read(&mut buffer) {
                    0 => break,
                    count => own.lock().expect("no panic").extend_from_slice(&buffer[..count]),
                }
            }
        });
        (seen, node)
    };
    let gateway = before(&node);
    let bytes = || seen.lock().expect("no panic").clone();
    for round in 0..3 {
        seen.lock().expect("no panic").clear();
        let mut stream = connect(gateway.tcp(0));
        client::send(&mut stream, b"hello ");
        wait::until_true("the relay runs", SOON, || bytes() == b"hello ");
        // All of it is there before the gateway reads again: a read stops at the urgent byte.
        freeze(&gateway);
        client::send(&mut stream, b"abc");
        let urgent = rustix::net::send(&stream, b"!", rustix::net::SendFlags::OOB);
        assert_eq!(urgent.expect("sent"), 1);
        client::send(&mut stream, b"defgh");
        gateway.signal("CONT");
        let arrived = wait::try_until(Duration::from_secs(5), || {
            let plain: Vec<u8> = bytes().into_iter().filter(|byte| *byte != b'!').collect();
            (plain == b"hello abcdefgh").then_some(())
        });
        assert!(
            arrived.is_some(),
            "round {round}: only {:?} arrived",
            String::from_utf8_lossy(&bytes())
        );
    }
}

#[test]
fn a_stop_logs_a_session_whose_upstream_is_being_connected() {
    let hole = BlackHole::open();
    let mut gateway = before_upstream(&json!({"nodes": {hole.addr().to_string(): 1}}));
    let mut streams: Vec<_> = (0..3).map(|_| connect(gateway.tcp(0))).collect();
    wait::until_true("three connects are pending", SOON, || {
        gateway.log().lines_with(gateway.log().start(), "proxy request to").len() == 3
    });
    assert_eq!(gateway.access().len(), 0);
    assert!(gateway.stop().success());
    for stream in &mut streams {
        assert_eq!(read_to_end(stream), Seen::Closed);
    }
    let lines = gateway.access();
    assert_eq!(lines.len(), 3, "{lines:#?}");
    for line in &lines {
        assert!(line.contains("reason=DR") && line.contains(&hole.addr().to_string()), "{line}");
    }
}

#[test]
fn time_limits_beyond_all_measure_are_just_long() {
    let (node, dead) = (TcpPeer::echo(), headgate_testkit::Port::take());
    let forever = json!({"connect": 1e20, "send": 1e20, "read": 1e20});
    let gateway = before_upstream(&json!({"nodes": {node.node(): 1}, "timeout": forever}));
    for _ in 0..3 {
        let mut stream = connect(gateway.tcp(0));
        assert_alive(&mut stream);
        stream.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(read_to_end(&mut stream), Seen::Closed);
    }
    gateway.wait_access(&["reason=OK", "status=200"]);
    let upstream = json!({"nodes": {dead.local().to_string(): 1}, "timeout": forever,
                          "retry_timeout": 1e20});
    gateway.put("stream_routes/1", &json!({"upstream": upstream})).expect(200);
    assert_eq!(read_to_end(&mut connect(gateway.tcp(0))), Seen::Closed);
    gateway.wait_access(&["reason=UF"]);
    // Neither is a connect given up that only takes a while.
    let hole = BlackHole::open();
    let upstream = json!({"nodes": {hole.addr().to_string(): 1}, "timeout": forever});
    gateway.put("stream_routes/1", &json!({"upstream": upstream})).expect(200);
    let _pending = connect(gateway.tcp(0));
    let text = hole.addr().to_string();
    gateway.wait_for_log(&format!("proxy request to {text}"), SOON);
    wait::stays_true("the attempt was given up", Duration::from_millis(300), || {
        !gateway.access().iter().any(|line| line.contains(&text))
    });
    assert!(!gateway.log().text().contains("panicked"), "{}", gateway.log().text());
}

/// Runs `work` while the data threads of a gateway hardly get to run: they are nice and share their
/// CPU with a thread that never rests.
fn with_slow_cores<T>(gateway: &Gateway, work: impl FnOnce() -> T) -> T {
    use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};
    use std::sync::atomic::{AtomicBool, Ordering};
    let all = sched_getaffinity(None).expect("the CPUs of this thread");
    let mut one = CpuSet::new();
    one.set((0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).expect("a CPU"));
    let tasks = std::fs::read_dir(format!("/proc/{}/task", gateway.id())).expect("its threads");
    let cores: Vec<Pid> = tasks
        .flatten()
        .filter(|task| {
            std::fs::read_to_string(task.path().join("comm"))
                .is_ok_and(|it| it.starts_with("core-"))
        })
        .filter_map(|task| task.file_name().to_str()?.parse().ok().and_then(Pid::from_raw))
        .collect();
    assert_eq!(cores.len(), 2);
    let usual = rustix::process::getpriority_process(cores.first().copied()).expect("a priority");
    for core in &cores {
        sched_setaffinity(Some(*core), &one).expect("pinned");
        rustix::process::setpriority_process(Some(*core), 19).expect("nice");
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = sched_setaffinity(None, &one);
            while !done.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        for core in &cores {
            let _ = sched_setaffinity(Some(*core), &all);
            // Only root may; without it they merely stay slower.
            let _ = rustix::process::setpriority_process(Some(*core), usual);
        }
        result
    })
}

#[test]
fn a_graceful_stop_serves_who_waits_in_the_accept_queue() {
    const CLIENTS: usize = 20;
    let node = TcpPeer::echo();
    let mut gateway = before(&node);
    for round in 0..5 {
        // While the gateway stands still, the kernel completes connections on its behalf; it finds
        // them and the signal at the same moment, and the signal first.
        freeze(&gateway);
        let mut streams = with_slow_cores(&gateway, || {
            let streams: Vec<_> = (0..CLIENTS).map(|_| connect(gateway.tcp(0))).collect();
            gateway.signal("QUIT");
            gateway.signal("CONT");
            gateway.wait_for_log("draining", SOON);
            streams
        });
        for (n, stream) in streams.iter_mut().enumerate() {
            let sent = format!("round {round}, client {n}");
            assert_eq!(client::echo(stream, sent.as_bytes()), sent.as_bytes());
        }
        drop(streams);
        assert!(gateway.wait_exit(SOON).success());
        wait::until_true("a line for each", SOON, || {
            gateway.access().len() == (round + 1) * CLIENTS
        });
        gateway.launch();
    }
    assert!(gateway.access().iter().all(|line| line.contains("reason=OK")));
}

/// As above, with clients that come all the time: whoever was connected before the signal is served.
#[test]
fn a_graceful_stop_serves_who_came_before_it() {
    let node = TcpPeer::echo();
    let mut gateway = before(&node);
    for round in 0..5 {
        let listener = gateway.tcp(0);
        let early = std::thread::spawn(move || -> Vec<_> {
            (0..60).map(|_| (connect(listener), Instant::now())).collect()
        });
        let connecting = std::thread::spawn(move || {
            let mut streams = Vec::new();
            while let Ok(stream) = TcpStream::connect_timeout(&listener, SOON) {
                streams.push((stream, Instant::now()));
                if streams.len() == 150 {
                    break;
                }
            }
            streams
        });
        let mut streams = early.join().expect("no panic");
        let signalled = Instant::now();
        gateway.signal("QUIT");
        streams.extend(connecting.join().expect("no panic"));
        let before: Vec<_> = streams.into_iter().filter(|(_, at)| *at < signalled).collect();
        assert!(before.len() >= 60);
        for (mut stream, _) in before {
            stream.set_read_timeout(Some(SOON)).expect("a deadline");
            let sent = format!("round {round}");
            assert_eq!(client::echo(&mut stream, sent.as_bytes()), sent.as_bytes());
        }
        assert!(gateway.wait_exit(SOON).success());
        gateway.launch();
    }
}

// ---- sharing one core

#[test]
fn a_bulk_stream_leaves_room_for_others() {
    let (source, echo) = (TcpPeer::source(5, 1 << 40), TcpPeer::echo());
    let gateway = Gateway::builder(BIN).tcp(2).workers(1).start();
    for (n, node) in [&source, &echo].into_iter().enumerate() {
        let body = json!({"server_port": gateway.tcp_port(n),
                          "upstream": {"nodes": {node.node(): 1}}});
        gateway.put(&format!("stream_routes/{n}"), &body).expect(201);
    }
    let moved = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let mut bulk = connect(gateway.tcp(0));
    let stop = bulk.try_clone().expect("a second handle");
    let counter = std::sync::Arc::clone(&moved);
    let reading = std::thread::spawn(move || {
        let mut buffer = vec![0; 256 * 1024];
        while let Ok(count @ 1..) = bulk.read(&mut buffer) {
            counter.fetch_add(count as u64, std::sync::atomic::Ordering::SeqCst);
        }
    });
    let moved = || moved.load(std::sync::atomic::Ordering::SeqCst);
    wait::until_true("the bulk runs", SOON, || moved() > 4 * MIB);
    let mut stream = connect(gateway.tcp(1));
    let (began, first) = (Instant::now(), moved());
    let mut worst = Duration::ZERO;
    for n in 0..200_u32 {
        let asked = Instant::now();
        assert_eq!(client::echo(&mut stream, &n.to_be_bytes()), n.to_be_bytes());
        worst = worst.max(asked.elapsed());
        assert!(began.elapsed() < SOON, "only {n} round trips");
    }
    let (took, bulk) = (began.elapsed(), moved() - first);
    report(&format!("200 round trips in {took:?}, worst {worst:?}, beside {} KiB", bulk / 1024));
    // The bulk went on all the time: otherwise this shows nothing.
    wait::until_true("the bulk still runs", SOON, || moved() > first + bulk);
    let _ = stop.shutdown(Shutdown::Both);
    reading.join().expect("no panic");
}
