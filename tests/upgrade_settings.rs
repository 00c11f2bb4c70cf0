//! Upgrades of gateways that are set up in one of the less simple ways: how the old process drains,
//! etcd as store, the sandbox, another user.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::time::{Duration, Instant};

use headgate_testkit::client::{assert_alive, connect, reach};
use headgate_testkit::process::{self, report};
use headgate_testkit::upgrade::is_alive;
use headgate_testkit::{Etcd, Gateway, GatewayBuilder, SOON, TcpPeer, UdpPeer, client, wait};
use serde_json::json;

const BIN: &str = env!("CARGO_BIN_EXE_headgate");
/// A user of nobody's, by number.
const OTHER: u32 = 54_321;

fn draining(stop: &str) -> GatewayBuilder {
    Gateway::builder(BIN).top(&format!("headgate:\n  drain:\n    stop: {stop}"))
}

fn to(node: &str) -> serde_json::Value {
    json!({"upstream": {"nodes": {node: 1}}})
}

/// Upgrades, and answers with the process that was replaced.
#[track_caller]
fn upgrade(gateway: &Gateway) -> u32 {
    let old = gateway.serving_id().expect("a pid file");
    let said = gateway.upgrade(BIN, &[]).success();
    assert_ne!(gateway.serving_id(), Some(old), "{}", said.output());
    old
}

/// Whether the gateway has ended a connection.
fn has_ended(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("a socket");
    match { stream }.read(&mut [0; 1]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

#[test]
fn an_old_process_that_drains_gradually_spreads_the_ends() {
    const SESSIONS: usize = 60;
    let period = Duration::from_secs(3);
    let node = TcpPeer::echo();
    let gateway = draining("{mode: gradual, period: 3s}").tcp(1).log_level("info").start();
    gateway.put("stream_routes/1", &to(&node.node())).expect(201);
    let mut open: Vec<_> = (0..SESSIONS).map(|_| connect(gateway.tcp(0))).collect();
    open.iter_mut().for_each(assert_alive);
    let mark = gateway.mark();
    gateway.signal("USR2");
    gateway.wait_for_log_after(mark, "this one drains");
    let (began, mut ends) = (Instant::now(), Vec::new());
    wait::until_true("all sessions have ended", period * 4 + SOON, || {
        open.retain(|stream| {
            let ended = has_ended(stream);
            if ended {
                ends.push(began.elapsed());
            }
            !ended
        });
        open.is_empty()
    });
    let (first, last) = (ends[0], ends[SESSIONS - 1]);
    assert!(last - first > period / 3, "all between {first:?} and {last:?}");
    assert!(ends[SESSIONS / 2] < last, "{ends:?}");
    wait::until_true("the old process has ended", SOON, || !is_alive(gateway.id()));
    assert_alive(&mut connect(gateway.tcp(0)));
}

#[test]
fn an_old_process_that_drains_at_once_ends_at_once() {
    let (node, datagrams) = (TcpPeer::echo(), UdpPeer::source_teller());
    let gateway = draining("{mode: immediate}").tcp(1).udp(1).start();
    let udp = json!({"server_port": gateway.udp_port(0),
                     "upstream": {"nodes": {datagrams.node(): 1}}});
    gateway.put("stream_routes/udp", &udp).expect(201);
    gateway.put("stream_routes/z", &to(&node.node())).expect(201);
    let mut open = connect(gateway.tcp(0));
    assert_alive(&mut open);
    let socket = client::udp(gateway.udp(0));
    let flow = client::ask(&socket, b"a");
    let old = upgrade(&gateway);
    wait::until_true("the session has ended", SOON, || has_ended(&open));
    wait::until_true("the old process has ended", SOON, || !is_alive(old));
    assert_ne!(client::ask(&socket, b"b"), flow, "the flow was to begin anew");
    assert_alive(&mut connect(gateway.tcp(0)));
}

/// Datagrams of everybody come through the oldest process as long as it has flows, and through the
/// ones in the middle.
#[test]
fn a_process_in_the_middle_outlives_its_own_drain() {
    let node = UdpPeer::source_teller();
    let gateway = draining("{mode: graceful, timeout: 0}").udp(1).start();
    gateway.put("stream_routes/1", &to(&node.node())).expect(201);
    let oldest = client::udp(gateway.udp(0));
    let flow = client::ask(&oldest, b"a");
    let config = gateway.config();
    gateway.write_config(&config.replace("{mode: graceful, timeout: 0}", "{mode: immediate}"));
    upgrade(&gateway);
    let middle = upgrade(&gateway);
    let newest = client::udp(gateway.udp(0));
    let new_flow = client::ask(&newest, b"b");
    wait::stays_true("the one in the middle waits", Duration::from_secs(2), || {
        assert_eq!(client::ask(&oldest, b"c"), flow, "a flow of the oldest process moved");
        assert_eq!(client::ask(&newest, b"d"), new_flow, "a flow of the newest process moved");
        is_alive(middle)
    });
    // The oldest one waits as long as anybody wants; told to stop, it lets all go.
    gateway.signal("TERM");
    wait::until_true("the old ones have ended", SOON, || {
        !is_alive(gateway.id()) && !is_alive(middle)
    });
    assert_eq!(client::ask(&newest, b"e"), new_flow);
    assert_ne!(client::ask(&oldest, b"f"), flow);
}

/// A disk that does not answer, or a debugger, holds the new process: it cannot even be killed.
#[test]
fn a_new_process_that_cannot_be_ended_is_left_behind() {
    let Some(strace) = process::need("strace", "strace") else { return };
    let node = TcpPeer::echo();
    let gateway = Gateway::builder(BIN).tcp(1).start();
    gateway.put("stream_routes/1", &to(&node.node())).expect(201);
    // The tracer keeps it inside of the first system call with which it would lock the store.
    let script = format!(
        "#!/bin/sh\nexec {} -D -f -q -o /dev/null -e trace=flock \
         -e inject=flock:delay_enter=13000000:when=1 {BIN} \"$@\"\n",
        strace.display()
    );
    let path = gateway.folder().join("held");
    fs::write(&path, script).expect("a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("rights");
    let path = path.to_string_lossy().into_owned();
    let failed = gateway.upgrade(BIN, &["--binary", &path, "--timeout", "3"]);
    assert_eq!(failed.code(), Some(1), "{}", failed.output());
    assert!(failed.stderr.contains("was not ready to serve in time"), "{}", failed.output());
    gateway.wait_for_log("was killed and does not end", SOON);
    assert_eq!(gateway.serving_id(), Some(gateway.id()));
    gateway.put("stream_routes/2", &to(&node.node())).expect(201);
    assert_alive(&mut connect(gateway.tcp(0)));
}

#[test]
fn etcd_is_followed_by_every_process_in_turn() {
    let Some(etcd) = Etcd::start() else { return };
    let role = format!(
        "role: traditional\nrole_traditional:\n  config_provider: etcd\netcd:\n  host: {}\n  timeout: 5",
        etcd.hosts()
    );
    let nodes = [TcpPeer::named("a"), TcpPeer::named("b"), TcpPeer::named("c")];
    let gateway = Gateway::builder(BIN).tcp(1).role(&role).start();
    gateway.put("stream_routes/1", &to(&nodes[0].node())).expect(201);
    wait::until_true("a answers", SOON, || reach(gateway.tcp(0)).as_deref() == Some("a"));
    for (n, node) in nodes.iter().enumerate() {
        upgrade(&gateway);
        // It serves what was there, and follows what is written by itself and by others.
        let name = ["a", "b", "c"][n];
        if n % 2 == 0 {
            gateway.put("stream_routes/1", &to(&node.node())).expect(200);
        } else {
            let value = json!({"id": "1", "upstream": {"nodes": {node.node(): 1}}});
            etcd.put("/apisix/stream_routes/1", &value.to_string());
        }
        wait::until_true(name, SOON, || reach(gateway.tcp(0)).as_deref() == Some(name));
    }
    // Without an etcd the next one serves what is on disk.
    let mut etcd = etcd;
    etcd.kill(0);
    upgrade(&gateway);
    assert_eq!(reach(gateway.tcp(0)).as_deref(), Some("c"));
    etcd.revive(0);
    etcd.wait_healthy();
    let back = json!({"id": "1", "upstream": {"nodes": {nodes[0].node(): 1}}}).to_string();
    etcd.put("/apisix/stream_routes/1", &back);
    wait::until_true("a answers", SOON * 4, || reach(gateway.tcp(0)).as_deref() == Some("a"));
}

#[test]
fn a_sandbox_is_handed_down() {
    let node = TcpPeer::echo();
    let gateway =
        Gateway::builder(BIN).tcp(1).top("headgate:\n  sandbox:\n    enable: true").start();
    gateway.put("stream_routes/1", &to(&node.node())).expect(201);
    let mut open = connect(gateway.tcp(0));
    assert_alive(&mut open);
    for n in 2..4 {
        upgrade(&gateway);
        let new = gateway.serving_id().expect("a pid file");
        assert_eq!(status(new, "Seccomp:"), "2");
        // Store, logs and pid file are written as before.
        gateway.put(&format!("stream_routes/{n}"), &to(&node.node())).expect(201);
        let mark = gateway.mark();
        gateway.signal_serving("HUP");
        gateway.wait_for_log_after(mark, "reloaded config.yaml");
        assert_alive(&mut connect(gateway.tcp(0)));
    }
    assert_alive(&mut open);
    // Nobody gets out of it: switched off it holds all the same, and what was not writable stays so.
    let outside = tempfile::tempdir().expect("a folder");
    let config = gateway.config();
    gateway.write_config(&config.replace("    enable: true", "    enable: false"));
    upgrade(&gateway);
    let new = gateway.serving_id().expect("a pid file");
    assert_eq!(status(new, "Seccomp:"), "2");
    let log = outside.path().join("access.log");
    let moved = gateway
        .config()
        .replace(&gateway.access_path().display().to_string(), &log.display().to_string());
    gateway.write_config(&moved);
    let said = gateway.upgrade(BIN, &[]);
    if gateway.log().text().contains("no Landlock") {
        report("SKIPPED: this kernel has no Landlock");
    } else {
        assert_eq!(said.code(), Some(1), "{}", said.output());
        assert!(said.stderr.contains("opening the access log"), "{}", said.output());
        assert_eq!(gateway.serving_id(), Some(new));
    }
    assert_alive(&mut connect(gateway.tcp(0)));
}

fn status(id: u32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{id}/status")).expect("/proc");
    let found = text.lines().find_map(|line| line.strip_prefix(field));
    found.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn give(path: &Path) {
    chown(path, Some(OTHER), Some(OTHER)).expect("root may");
    if path.is_dir() {
        fs::read_dir(path).expect("a folder").flatten().for_each(|entry| give(&entry.path()));
    }
}

#[test]
fn another_user_stays_that_user_and_keeps_low_ports() {
    if !status(std::process::id(), "Uid:").starts_with("0 ") {
        return report("SKIPPED: only root can become another user");
    }
    let node = TcpPeer::named("a");
    let mut gateway =
        Gateway::builder(BIN).tcp(1).nginx(&format!("user: {OTHER} {OTHER}")).prepare();
    give(gateway.folder());
    gateway.launch();
    gateway.put("stream_routes/1", &to(&node.node())).expect(201);
    let all = [OTHER.to_string().as_str(); 4].join(" ");
    let own = format!("- {}\n", gateway.tcp_port(0));
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let mut low_ports = (87..98).filter(free);
    for n in 2..4 {
        // The command runs as root, as an administrator would.
        if let Some(low) = low_ports.next() {
            let config = gateway.config();
            let more = format!("{own}      - \"127.0.0.1:{low}\"\n");
            gateway.write_config(&config.replace(&own, &more));
            upgrade(&gateway);
            let to = SocketAddr::from(([127, 0, 0, 1], low));
            assert_eq!(reach(to).as_deref(), Some("a"));
        } else {
            report("SKIPPED: no low port is free");
            upgrade(&gateway);
        }
        let new = gateway.serving_id().expect("a pid file");
        assert_eq!((status(new, "Uid:"), status(new, "Gid:")), (all.clone(), all.clone()));
        assert_eq!(status(new, "CapEff:"), "0000000000000400");
        gateway.put(&format!("stream_routes/{n}"), &to(&node.node())).expect(201);
    }
    // No process of this chain is root: none can become somebody else.
    let config = gateway.config();
    let user = format!("user: {OTHER} {OTHER}");
    for (other, warning) in [
        (format!("user: {0} {0}", OTHER + 1), "only root can become another user"),
        (format!("user: {OTHER} {}", OTHER + 1), "is not used: the process is 54321 already"),
    ] {
        gateway.write_config(&config.replace(&user, &other));
        let mark = gateway.mark();
        upgrade(&gateway);
        gateway.wait_for_log_after(mark, warning);
    }
    // What only root may read the new process cannot read, and the old one goes on.
    chown(gateway.config_path(), Some(0), Some(0)).expect("root may");
    fs::set_permissions(gateway.config_path(), fs::Permissions::from_mode(0o600))
        .expect("root may");
    let before = gateway.serving_id();
    let mark = gateway.mark();
    gateway.signal_serving("USR2");
    let said = gateway.wait_for_log_after(mark, "goes on as before");
    assert!(said.contains("ermission denied"), "{said}");
    assert_eq!(gateway.serving_id(), before);
    assert_eq!(reach(gateway.tcp(0)).as_deref(), Some("a"));
}
