//! A new process takes over while clients of every kind are at work: none is refused, none is
//! reset, no byte is wrong. A new process that fails leaves everything as it was.
//!
//! `HEADGATE_UPGRADES=20` makes the run under load a long one.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Scope;
use std::time::Duration;

use headgate_testkit::certificate::Authority;
use headgate_testkit::pattern::Pattern;
use headgate_testkit::tls::{self, TlsClient};
use headgate_testkit::upgrade::is_alive;
use headgate_testkit::{Gateway, GatewayBuilder, SOON, TcpPeer, UdpPeer, client, process, wait};
use serde_json::json;

const BIN: &str = env!("CARGO_BIN_EXE_headgate");

fn gateway() -> GatewayBuilder {
    // What is left of an old process ends soon.
    Gateway::builder(BIN).nginx("worker_shutdown_timeout: 5s")
}

/// Counts what went wrong, with the first few causes.
#[derive(Default)]
struct Faults(Mutex<Vec<String>>);

impl Faults {
    fn note(&self, what: String) {
        self.0.lock().expect("no panic in here").push(what);
    }

    fn assert_none(&self) {
        let faults = self.0.lock().expect("no panic in here");
        let shown: Vec<_> = faults.iter().take(10).collect();
        assert!(faults.is_empty(), "{} faults, among them {shown:#?}", faults.len());
    }
}

/// One connection: bytes there and back.
fn exchange(stream: &mut (impl std::io::Read + std::io::Write), seed: u64) -> Result<(), String> {
    let bytes = Pattern::new(seed).take(3_000);
    stream.write_all(&bytes).map_err(|error| format!("writing: {error}"))?;
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).map_err(|error| format!("reading: {error}"))?;
    if back == bytes { Ok(()) } else { Err("a wrong byte".to_owned()) }
}

fn connect(to: SocketAddr) -> Result<TcpStream, String> {
    let stream =
        TcpStream::connect_timeout(&to, SOON).map_err(|error| format!("refused: {error}"))?;
    stream.set_read_timeout(Some(SOON)).expect("a timeout");
    Ok(stream)
}

/// Works on a thread of its own until `done`; every `Err` is a fault.
fn repeat<'scope>(
    scope: &'scope Scope<'scope, '_>,
    (done, faults, count): (&'scope AtomicBool, &'scope Faults, &'scope AtomicU64),
    mut work: impl FnMut(u64) -> Result<(), String> + Send + 'scope,
) {
    scope.spawn(move || {
        while !done.load(Ordering::Relaxed) {
            let number = count.fetch_add(1, Ordering::Relaxed);
            if let Err(fault) = work(number) {
                faults.note(fault);
            }
            std::thread::yield_now();
        }
    });
}

#[test]
fn upgrades_under_load_lose_nothing() {
    let upgrades = std::env::var("HEADGATE_UPGRADES").ok();
    let upgrades: usize = upgrades.and_then(|text| text.parse().ok()).unwrap_or(2);
    let folder = tempfile::tempdir().expect("a folder");
    let unix = folder.path().join("in.sock");
    let (node, datagrams) = (TcpPeer::echo(), UdpPeer::echo());
    // Connections that are idle stay as long as all that takes, in the process that has them.
    let gateway = Gateway::builder(BIN)
        .nginx("worker_shutdown_timeout: 240s")
        .tcp(1)
        .tcp_entry("addr: \"127.0.0.1:{port}\"\ntls: true")
        .tcp_entry(&format!("unix:{}", unix.display()))
        .udp(1)
        .metrics()
        .no_access_log()
        .log_level("warn")
        .start();
    let certificate = Authority::new("root").server(&["a.test"]);
    let ssl = json!({"cert": certificate.cert, "key": certificate.key, "snis": ["a.test"]});
    gateway.put("ssls/1", &ssl).expect(201);
    let udp_port = gateway.udp_port(0);
    let route = json!({"server_port": udp_port, "upstream": {"nodes": {datagrams.node(): 1}}});
    gateway.put("stream_routes/udp", &route).expect(201);
    for port in [gateway.tcp_port(0), gateway.tcp_port(1)] {
        let route = json!({"server_port": port, "upstream": {"nodes": {node.node(): 1}}});
        gateway.put(&format!("stream_routes/{port}"), &route).expect(201);
    }
    let rest = json!({"upstream": {"nodes": {node.node(): 1}}});
    gateway.put("stream_routes/z", &rest).expect(201);

    let (done, faults) = (AtomicBool::new(false), Faults::default());
    let counts: [AtomicU64; 5] = Default::default();
    let [busy, secure, local, flows, scrapes] = &counts;
    let mut idle: Vec<_> = (0..50).map(|_| client::connect(gateway.tcp(0))).collect();
    let sockets: Vec<_> = (0..10).map(|_| client::udp(gateway.udp(0))).collect();
    std::thread::scope(|scope| {
        let common = |count| (&done, &faults, count);
        for _ in 0..4 {
            let to = gateway.tcp(0);
            repeat(scope, common(busy), move |seed| exchange(&mut connect(to)?, seed));
        }
        for socket in &sockets {
            repeat(scope, common(flows), move |number| {
                socket.send(&number.to_be_bytes()).map_err(|error| format!("UDP: {error}"))?;
                let answer = client::try_receive(socket, SOON);
                (answer.as_deref() == Some(&number.to_be_bytes()))
                    .then_some(())
                    .ok_or_else(|| format!("UDP: no or a wrong answer: {answer:?}"))
            });
        }
        let (to, name) = (gateway.tcp(1), "a.test");
        repeat(scope, common(secure), move |seed| {
            let mut stream = TlsClient::default().over(connect(to)?, name)?;
            let bytes = Pattern::new(seed).take(2_000);
            let back = tls::echo(&mut stream, &bytes).map_err(|error| format!("TLS: {error}"))?;
            (back == bytes).then_some(()).ok_or_else(|| "TLS: a wrong byte".to_owned())
        });
        let path = unix.clone();
        repeat(scope, common(local), move |seed| {
            let stream = UnixStream::connect(&path);
            let mut stream = stream.map_err(|error| format!("Unix: refused: {error}"))?;
            stream.set_read_timeout(Some(SOON)).expect("a timeout");
            exchange(&mut stream, seed)
        });
        let (accepted, watched) = (AtomicU64::new(0), &gateway);
        repeat(scope, common(scrapes), move |_| {
            let now = watched.scrape().get("headgate_tcp_accepted_total");
            let now = now.ok_or("no such metric")? as u64;
            let before = accepted.swap(now, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(20));
            (now >= before)
                .then_some(())
                .ok_or_else(|| format!("the counter fell from {before} to {now}"))
        });

        let finish = || done.store(true, Ordering::Relaxed);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..upgrades {
                let before = gateway.serving_id().expect("a pid file");
                let said = gateway.upgrade(BIN, &[]).success();
                let after = gateway.serving_id().expect("a pid file");
                assert_ne!(before, after, "{}", said.output());
                assert!(is_alive(after));
            }
        }));
        finish();
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    faults.assert_none();
    for stream in &mut idle {
        exchange(stream, 1).expect("a connection that was idle all the time, or ended orderly");
    }
    for count in &counts {
        assert!(count.load(Ordering::Relaxed) > 10, "{counts:?}");
    }
    drop(idle);
    let accepted = busy.load(Ordering::Relaxed) + secure.load(Ordering::Relaxed);
    wait::until_true("the counters of all processes add up", SOON * 2, || {
        let counted = gateway.scrape().get("headgate_tcp_accepted_total");
        counted.is_some_and(|counted| counted as u64 >= accepted + 50)
    });
}

/// A program that ends or hangs in place of the new version.
fn script(folder: &Path, text: &str) -> String {
    let path = folder.join("broken");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("rights");
    path.to_string_lossy().into_owned()
}

/// Everything works, served by the process that was started first.
fn assert_as_before(gateway: &Gateway, node: &TcpPeer, datagrams: &UdpPeer, number: usize) {
    assert_eq!(gateway.serving_id(), Some(gateway.id()));
    let body = json!({"nodes": {node.node(): 1}});
    gateway.put(&format!("upstreams/{number}"), &body).expect(201);
    exchange(&mut connect(gateway.tcp(0)).expect("accepted"), 1).expect("served");
    let socket = client::udp(gateway.udp(0));
    assert_eq!(client::ask(&socket, b"x"), b"x");
    assert!(datagrams.received() > 0);
}

#[test]
fn a_new_process_that_fails_leaves_the_old_one_serving() {
    let (node, datagrams) = (TcpPeer::echo(), UdpPeer::echo());
    let gateway = gateway().tcp(1).udp(1).start();
    let udp =
        json!({"server_port": gateway.udp_port(0), "upstream": {"nodes": {datagrams.node(): 1}}});
    gateway.put("stream_routes/a", &udp).expect(201);
    gateway.put("stream_routes/b", &json!({"upstream": {"nodes": {node.node(): 1}}})).expect(201);
    let mut open = connect(gateway.tcp(0)).expect("accepted");
    exchange(&mut open, 1).expect("served");
    let folder = gateway.folder().to_owned();

    let broken = script(&folder, "exit 3");
    let failed = gateway.upgrade(BIN, &["--binary", &broken]);
    assert_eq!(failed.code(), Some(1), "{}", failed.output());
    assert!(failed.stderr.contains("ended early with exit status: 3"), "{}", failed.stderr);
    assert_as_before(&gateway, &node, &datagrams, 1);

    let broken = script(&folder, "exec sleep 600");
    let failed = gateway.upgrade(BIN, &["--binary", &broken, "--timeout", "1"]);
    assert_eq!(failed.code(), Some(1), "{}", failed.output());
    assert!(failed.stderr.contains("has not read its configuration in time"), "{}", failed.stderr);
    assert_as_before(&gateway, &node, &datagrams, 2);

    let failed = gateway.upgrade(BIN, &["--binary", "/dev/null"]);
    assert!(failed.stderr.contains("cannot start /dev/null"), "{}", failed.stderr);
    assert_as_before(&gateway, &node, &datagrams, 3);

    // It serves, and dies.
    let mark = gateway.mark();
    gateway.signal("USR2");
    let line = gateway.wait_for_log_after(mark, "was started");
    let new = line.split("process ").nth(1).and_then(|rest| rest.split(' ').next());
    let new: u32 = new.and_then(|text| text.parse().ok()).expect("a process id");
    gateway.wait_for_log_after(mark, "it is watched for a moment");
    process::signal(new, "KILL");
    let said = |part| !gateway.log().lines_with(mark, part).is_empty();
    let is_back = wait::until("the end of the upgrade", SOON, || {
        let (is_back, is_over) = (said("goes on as before"), said("this one drains"));
        (is_back || is_over).then_some(is_back)
    });
    if !is_back {
        return process::report("skipped the rest: this machine was busy for two seconds");
    }
    assert_as_before(&gateway, &node, &datagrams, 4);
    exchange(&mut open, 2).expect("the session from before");

    // After all that, one that works.
    let _ = gateway.upgrade(BIN, &[]).success();
    assert_ne!(gateway.serving_id(), Some(gateway.id()));
    for number in 1..=4 {
        gateway.get(&format!("upstreams/{number}")).expect(200);
    }
}

#[test]
fn a_configuration_that_the_new_process_refuses_changes_nothing() {
    let (node, datagrams) = (TcpPeer::echo(), UdpPeer::echo());
    let gateway = gateway().tcp(1).udp(1).start();
    let udp =
        json!({"server_port": gateway.udp_port(0), "upstream": {"nodes": {datagrams.node(): 1}}});
    gateway.put("stream_routes/a", &udp).expect(201);
    gateway.put("stream_routes/b", &json!({"upstream": {"nodes": {node.node(): 1}}})).expect(201);
    let good = gateway.config();
    gateway
        .write_config(&good.replace("access_log_format: '", "access_log_format: '$request_uri "));
    let refused = gateway.upgrade(BIN, &[]);
    assert!(refused.stderr.contains("configuration test failed"), "{}", refused.output());
    let mark = gateway.mark();
    gateway.signal("USR2");
    gateway.wait_for_log_after(mark, "the new process gave up: its configuration has errors");
    assert_as_before(&gateway, &node, &datagrams, 1);

    // A port that somebody else has.
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = other.local_addr().expect("bound").port();
    let listed = format!("    tcp:\n      - \"127.0.0.1:{port}\"\n");
    gateway.write_config(&good.replace("    tcp:\n", &listed));
    let refused = gateway.upgrade(BIN, &[]);
    assert!(refused.stderr.contains("cannot listen on"), "{}", refused.output());
    assert_as_before(&gateway, &node, &datagrams, 2);
}

#[test]
fn writes_during_upgrades_are_kept() {
    let gateway = gateway().tcp(1).log_level("warn").start();
    let (done, kept) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let later = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let body = json!({"nodes": {"127.0.0.1:1": 1}}).to_string();
            let headers = [("X-API-KEY", headgate_testkit::gateway::ADMIN_KEY)];
            let mut number = 0;
            while !done.load(Ordering::Relaxed) {
                let path = format!("upstreams/{number}");
                // Only a connection that was open before may end without an answer.
                let Ok(answer) = gateway.try_request("PUT", &path, &headers, Some(&body)) else {
                    continue;
                };
                match answer.status {
                    200 | 201 => {
                        kept.lock().expect("no panic in here").push(number);
                        number += 1;
                    }
                    503 => {
                        assert!(answer.header("retry-after").is_some(), "{answer:?}");
                        later.fetch_add(1, Ordering::Relaxed);
                    }
                    other => panic!("{other}: {answer:?}"),
                }
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..2 {
                let _ = gateway.upgrade(BIN, &[]).success();
            }
        }));
        done.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    let kept = kept.into_inner().expect("no panic in there");
    assert!(kept.len() > 10, "{} writes", kept.len());
    for number in &kept {
        gateway.get(&format!("upstreams/{number}")).expect(200);
    }
    process::report(&format!("{} writes kept, {later:?} to be tried again", kept.len()));
}

#[test]
fn udp_flows_stay_until_they_end_and_new_ones_begin_in_the_new_process() {
    let node = UdpPeer::source_teller();
    let gateway = gateway().udp(1).start();
    gateway.put("stream_routes/1", &json!({"upstream": {"nodes": {node.node(): 1}}})).expect(201);
    let old = client::udp(gateway.udp(0));
    let flow = client::ask(&old, b"a");
    let _ = gateway.upgrade(BIN, &[]).success();
    assert_eq!(client::ask(&old, b"b"), flow, "the flow went to another process too early");
    let new = client::udp(gateway.udp(0));
    let new_flow = client::ask(&new, b"c");
    // The old process ends its flows after worker_shutdown_timeout.
    wait::until_true("the old process has ended", SOON * 2, || !is_alive(gateway.id()));
    assert_ne!(client::ask(&old, b"d"), flow);
    assert_eq!(client::ask(&new, b"e"), new_flow, "a flow of the new process moved");
}

#[test]
fn a_service_manager_hears_who_serves() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(SOON)).expect("a timeout");
    let gateway = gateway().tcp(1).env("NOTIFY_SOCKET", &path.to_string_lossy()).start();
    let hear = |wanted: &str| {
        let mut buffer = [0; 4096];
        loop {
            let count = socket.recv(&mut buffer).unwrap_or_else(|_| panic!("no {wanted}"));
            let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
            if text.lines().any(|line| line.starts_with(wanted)) {
                return text;
            }
        }
    };
    hear("READY=1");
    gateway.signal("HUP");
    assert!(hear("RELOADING=1").contains("MONOTONIC_USEC="));
    hear("READY=1");
    let _ = gateway.upgrade(BIN, &[]).success();
    assert!(hear("RELOADING=1").contains("MONOTONIC_USEC="));
    let new = gateway.serving_id().expect("a pid file");
    assert!(hear("MAINPID=").contains(&format!("MAINPID={new}\n")));
    gateway.signal_serving("TERM");
    hear("STOPPING=1");
    wait::until_true("it has ended", SOON, || !is_alive(new));
    assert_eq!(gateway.serving_id(), None, "the pid file was left behind");
}

#[test]
fn sockets_of_the_service_manager_are_found_by_address() {
    let node = TcpPeer::echo();
    let gateway = gateway().tcp(1).prepare();
    let port = gateway.tcp_port(0);
    let listener = std::net::TcpListener::bind(("0.0.0.0", port)).expect("a free port");
    let mut early = connect(gateway.tcp(0)).expect("a client that comes before the gateway");
    // What systemd does: the socket as descriptor 3, and variables that say for whom.
    let start = "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=web; \
                 exec \"$0\" run -c \"$1\"";
    let mut child = std::process::Command::new("sh")
        .args(["-c", start, BIN])
        .arg(gateway.config_path())
        .current_dir(gateway.folder())
        .stdin(std::os::fd::OwnedFd::from(listener))
        .spawn()
        .expect("a shell");
    let body = json!({"upstream": {"nodes": {node.node(): 1}}}).to_string();
    let headers = [("X-API-KEY", headgate_testkit::gateway::ADMIN_KEY)];
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let put = || gateway.try_request("PUT", "stream_routes/1", &headers, Some(&body)).ok();
        wait::until("the route is stored", SOON * 2, put).expect(201);
        exchange(&mut connect(gateway.tcp(0)).expect("accepted"), 1).expect("served");
    }));
    process::signal(child.id(), "TERM");
    child.wait().expect("own child");
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
    // It was accepted before there was a route, if the gateway was quick, or later.
    let _ = exchange(&mut early, 2);
    assert!(TcpStream::connect(gateway.tcp(0)).is_err(), "somebody holds the socket still");
}
