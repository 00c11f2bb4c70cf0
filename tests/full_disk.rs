//! A disk that is full, or read-only: nothing stops traffic, nothing acknowledged is lost, and
//! everything is said. The disk is a small tmpfs, which only root may mount.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use headgate_testkit::client::reach;
use headgate_testkit::{Etcd, Gateway, Port, SOON, TcpPeer, http, process, wait};
use serde_json::{Value, json};

const BIN: &str = env!("CARGO_BIN_EXE_headgate");
const LATER: Duration = Duration::from_secs(30);

/// A file system of its own, unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    /// `None`, after saying so, where nothing may be mounted.
    fn mount(path: &Path, megabytes: usize) -> Option<Self> {
        fs::create_dir_all(path).expect("a folder");
        let size = format!("size={megabytes}m,mode=700");
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &size, "headgate-test"]).arg(path);
        let done = process::run(&mut command, SOON);
        if done.code() == Some(0) {
            return Some(Self(path.to_owned()));
        }
        process::report(&format!("SKIPPED: no tmpfs may be mounted here: {}", done.stderr));
        None
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        use std::io::Write as _;
        let mut file = fs::File::create(self.0.join("filler")).expect("a file");
        for size in [1 << 16, 1 << 12, 1] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("filler")).expect("the filler");
    }

    fn remount(&self, how: &str) {
        let mut command = Command::new("mount");
        command.args(["-o", &format!("remount,{how}")]).arg(&self.0);
        let done = process::run(&mut command, SOON);
        assert_eq!(done.code(), Some(0), "{done:?}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn route(node: &TcpPeer) -> Value {
    json!({"upstream": {"nodes": {node.node(): 1}}})
}

/// About 20 kB.
fn many_nodes(n: usize) -> Value {
    let nodes = (0..900).map(|k| (format!("10.1.{}.{}:{}", k / 250, k % 250, n + 1), json!(1)));
    nodes.collect::<serde_json::Map<_, _>>().into()
}

fn status(port: &Port) -> Value {
    let answer = http::request(port.local(), "GET", "/status", &[], None, SOON);
    answer.expect("an answer of the status server").json()
}

#[track_caller]
fn wait_reaches(gateway: &Gateway, expected: &str) {
    wait::until_true(&format!("{expected} answers"), SOON, || {
        reach(gateway.tcp(0)).as_deref() == Some(expected)
    });
}

#[test]
fn the_embedded_store_refuses_writes_on_a_full_disk_and_heals() {
    let nodes = [TcpPeer::named("a"), TcpPeer::named("b")];
    let port = Port::take();
    let mut gateway = Gateway::builder(BIN)
        .tcp(1)
        .apisix(&format!("status:\n  port: {}", port.number()))
        .prepare();
    let Some(disk) = Disk::mount(&gateway.data(), 6) else { return };
    gateway.launch();
    gateway.put("stream_routes/1", &route(&nodes[0])).expect(201);
    disk.fill();
    // Free pages of the file are used up first; then a write is refused, and nothing of it is there.
    let mut acknowledged = Vec::new();
    let refused = (0..300).find_map(|n| {
        let body = json!({"nodes": many_nodes(n)});
        let answer = gateway.put(&format!("upstreams/u{n}"), &body);
        if answer.status == 201 {
            acknowledged.push(n);
            return None;
        }
        Some((n, answer))
    });
    let (number, refused) = refused.expect("a write that does not fit");
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.error_msg().contains("store cannot be written"), "{refused:?}");
    gateway.wait_for_log("store cannot be written", SOON);
    gateway.get(&format!("upstreams/u{number}")).expect(404);
    assert_eq!(reach(gateway.tcp(0)).as_deref(), Some("a"), "traffic goes on");
    let said = status(&port);
    assert!(said["disk"]["reason"].is_string(), "{said}");
    assert_eq!(gateway.get("stream_routes/1").expect(200).json()["value"]["id"], "1");

    disk.make_room();
    wait::until_true("it can be written again", LATER, || {
        gateway.put("stream_routes/1", &route(&nodes[1])).status == 200
    });
    wait_reaches(&gateway, "b");
    wait::until_true("the status is well", LATER, || status(&port) == json!({"status": "ok"}));
    for n in &acknowledged {
        gateway.get(&format!("upstreams/u{n}")).expect(200);
    }
    gateway.restart();
    wait_reaches(&gateway, "b");
    for n in &acknowledged {
        gateway.get(&format!("upstreams/u{n}")).expect(200);
    }
    gateway.stop();
}

/// What is served comes from etcd, whatever becomes of the local copy.
#[test]
fn a_local_copy_on_a_full_disk_only_gets_old() {
    let Some(etcd) = Etcd::start() else { return };
    let nodes = [TcpPeer::named("a"), TcpPeer::named("b")];
    let port = Port::take();
    let role = format!(
        "role: data_plane\nrole_data_plane:\n  config_provider: etcd\netcd:\n  host: {}",
        etcd.hosts()
    );
    let mut gateway = Gateway::builder(BIN)
        .tcp(1)
        .role(&role)
        .no_admin_api()
        .apisix(&format!("status:\n  port: {}", port.number()))
        .prepare();
    let Some(disk) = Disk::mount(&gateway.data(), 6) else { return };
    etcd.put("/apisix/stream_routes/1", &route(&nodes[0]).to_string());
    gateway.launch();
    assert_eq!(reach(gateway.tcp(0)).as_deref(), Some("a"));
    disk.fill();
    for n in 0..60 {
        let value = json!({"nodes": many_nodes(n)}).to_string();
        etcd.put(&format!("/apisix/upstreams/u{n}"), &value);
    }
    gateway.wait_for_log("the local copy of the configuration cannot be written", LATER);
    etcd.put("/apisix/stream_routes/1", &route(&nodes[1]).to_string());
    wait_reaches(&gateway, "b");
    let said = status(&port);
    assert!(said["disk"]["reason"].is_string() && said.get("stale").is_none(), "{said}");
    disk.make_room();
    gateway.wait_for_log("the local copy of the configuration can be written again", LATER);
    wait::until_true("the status is well", LATER, || status(&port) == json!({"status": "ok"}));
    gateway.stop();

    // Read-only from the start: it serves, and says that it keeps no copy.
    disk.remount("ro");
    gateway.launch();
    gateway.wait_for_log("no local copy of the configuration can be kept", SOON);
    assert_eq!(reach(gateway.tcp(0)).as_deref(), Some("b"));
    assert!(status(&port)["disk"]["reason"].is_string());
    gateway.stop();
    disk.remount("rw");
}
