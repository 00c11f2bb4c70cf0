//! What the process gives up when it starts.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

use headgate_testkit::client::{assert_alive, connect, reach};
use headgate_testkit::process::report;
use headgate_testkit::{Gateway, SOON, TcpPeer, wait};
use serde_json::json;

const BIN: &str = env!("CARGO_BIN_EXE_headgate");
/// A user of nobody's, by number.
const OTHER: u32 = 54_321;

/// A line of `/proc/<id>/status` of every thread, without its name.
fn status(id: u32, field: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{id}/task")).expect("/proc").flatten();
    let line = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("status")).ok()?;
        let found = text.lines().find_map(|line| line.strip_prefix(field).map(str::to_owned));
        found.map(|found| found.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let mut found: Vec<_> = tasks.filter_map(line).collect();
    found.sort();
    found.dedup();
    found
}

fn is_root() -> bool {
    let is_root = status(std::process::id(), "Uid:").iter().all(|ids| ids.starts_with("0 "));
    if !is_root {
        report("SKIPPED: only root can become another user");
    }
    is_root
}

fn give(folder: &Path) {
    chown(folder, Some(OTHER), Some(OTHER)).expect("root may");
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        match entry.path().is_dir() {
            true => give(&entry.path()),
            false => chown(entry.path(), Some(OTHER), Some(OTHER)).expect("root may"),
        }
    }
}

#[test]
fn no_thread_can_gain_privileges() {
    let gateway = Gateway::builder(BIN).tcp(1).start();
    assert_eq!(status(gateway.id(), "NoNewPrivs:"), ["1"]);
    assert_eq!(status(gateway.id(), "Seccomp:"), ["0"], "the sandbox is off by default");
}

#[test]
fn root_becomes_the_configured_user_and_keeps_low_ports() {
    if !is_root() {
        return;
    }
    let node = TcpPeer::named("a");
    let mut gateway =
        Gateway::builder(BIN).tcp(1).nginx(&format!("user: {OTHER} {OTHER}")).prepare();
    give(gateway.folder());
    gateway.launch();
    let all = format!("{OTHER} {OTHER} {OTHER} {OTHER}");
    assert_eq!(status(gateway.id(), "Uid:"), [all.as_str()]);
    assert_eq!(status(gateway.id(), "Gid:"), [all.as_str()]);
    assert_eq!(status(gateway.id(), "Groups:"), [""]);
    // CAP_NET_BIND_SERVICE and nothing else, also for programs that it starts.
    for set in ["CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(status(gateway.id(), set), ["0000000000000400"], "{set}");
    }
    gateway.put("stream_routes/1", &json!({"upstream": {"nodes": {node.node(): 1}}})).expect(201);
    assert_eq!(reach(gateway.tcp(0)).as_deref(), Some("a"));
    // A low port can be opened later; some of them may be taken on this machine.
    let own = format!("- {}\n", gateway.tcp_port(0));
    let mut ports = [81, 82, 83, 84, 85, 86].into_iter();
    let free = ports.find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok());
    let Some(low) = free else { return report("SKIPPED: no low port is free") };
    let config = gateway.config();
    gateway.write_config(&config.replace(&own, &format!("{own}      - \"127.0.0.1:{low}\"\n")));
    let mark = gateway.mark();
    gateway.signal("HUP");
    let said = gateway.wait_for_log_after(mark, "reload");
    assert!(said.contains("opened=1"), "{said}");
    assert_eq!(reach(([127, 0, 0, 1], low).into()).as_deref(), Some("a"));
}

#[test]
fn a_user_that_does_not_exist_is_named() {
    let mut gateway = Gateway::builder(BIN).tcp(1).nginx("user: nobody-by-that-name").prepare();
    gateway.spawn();
    let done = gateway.finished(SOON);
    assert!(!done.status.success());
    for part in ["nginx_config.user", "nobody-by-that-name", "/etc/passwd"] {
        assert!(done.stderr.contains(part), "no `{part}` in:\n{}", done.stderr);
    }
}

#[test]
fn a_sandboxed_gateway_does_all_of_its_work() {
    let node = TcpPeer::echo();
    let elsewhere = tempfile::tempdir().expect("a folder");
    let (inside, outside) = (elsewhere.path().join("in"), elsewhere.path().join("out"));
    fs::create_dir(&inside).expect("a folder");
    fs::create_dir(&outside).expect("a folder");
    let sandbox =
        format!("headgate:\n  sandbox:\n    enable: true\n    write: [{}]", inside.display());
    let mut gateway = Gateway::builder(BIN)
        .tcp(1)
        .tcp_entry(
            "\"unix:{socket}\"".replace("{socket}", &inside.join("s").to_string_lossy()).as_str(),
        )
        .top(&sandbox)
        .top("stream_plugins: [file-logger]")
        .start();
    assert_eq!(status(gateway.id(), "Seccomp:"), ["2"]);
    for (n, folder) in [&inside, &outside].into_iter().enumerate() {
        let plugin = json!({"file-logger": {"path": folder.join("log")}});
        let route = json!({"server_port": gateway.tcp_port(0), "plugins": plugin,
                           "upstream": {"nodes": {node.node(): 1}}});
        gateway.put(&format!("stream_routes/{n}"), &route).ok();
        assert_alive(&mut connect(gateway.tcp(0)));
        if n == 0 {
            wait::until_true("the log inside", SOON, || inside.join("log").exists());
            gateway.delete("stream_routes/0").expect(200);
        }
    }
    let has_landlock = !gateway.log().text().contains("no Landlock");
    if has_landlock {
        gateway.wait_for_log("ermission denied", SOON);
        assert!(!outside.join("log").exists());
    }
    // The store, the logs, a reload, and the next start work as ever.
    wait::until_true("the access log", SOON, || gateway.access().len() == 2);
    let mark = gateway.mark();
    gateway.signal("HUP");
    gateway.wait_for_log_after(mark, "reloaded config.yaml");
    fs::rename(gateway.access_path(), gateway.access_path().with_extension("1")).expect("moved");
    gateway.signal("USR1");
    assert_alive(&mut connect(gateway.tcp(0)));
    wait::until_true("a new access log", SOON, || gateway.access().len() == 1);
    gateway.restart();
    gateway.get("stream_routes/1").expect(200);
}
