//! `headgate config export|import|diff|validate`: between stores and files, without loss.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::path::Path;
use std::process::Command;

use headgate_testkit::client::reach;
use headgate_testkit::process::Finished;
use headgate_testkit::{Etcd, Gateway, SOON, TcpPeer, process};
use serde_json::json;

const BIN: &str = env!("CARGO_BIN_EXE_headgate");

#[track_caller]
fn config(gateway: &Gateway, arguments: &[&str]) -> Finished {
    let mut command = Command::new(BIN);
    let (action, rest) = arguments.split_first().expect("an action");
    command.args(["config", action, "-c"]).arg(gateway.config_path()).args(rest);
    process::run(&mut command, SOON * 3)
}

#[track_caller]
fn succeeds(gateway: &Gateway, arguments: &[&str]) -> Finished {
    let done = config(gateway, arguments);
    assert_eq!(done.code(), Some(0), "{arguments:?}: {done:?}");
    done
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

#[test]
fn embedded_to_file_to_etcd_and_back_is_the_identity() {
    let Some(etcd) = Etcd::start() else { return };
    let node = TcpPeer::named("a");
    let mut gateway = Gateway::builder(BIN).tcp(1).start();
    // Created in an order that is not that of their ids.
    for id in ["9", "10", "1"] {
        let route = json!({"server_port": 1, "name": "on", "desc": "x: #1\n\u{1F600}",
            "upstream": {"nodes": {node.node(): 1}}});
        gateway.put(&format!("stream_routes/{id}"), &route).expect(201);
    }
    gateway.put("upstreams/u", &json!({"nodes": {node.node(): 1}})).expect(201);
    gateway.put("stream_routes/all", &json!({"upstream_id": "u"})).expect(201);
    gateway
        .put("plugin_metadata/syslog", &json!({"log_format": {"a": "$remote_addr"}}))
        .expect(201);
    gateway
        .put("secrets/vault/1", &json!({"uri": "http://x", "prefix": "p", "token": "t"}))
        .expect(201);

    gateway.put("ip_sets/banned", &json!({"entries": ["10.0.0.0/8"]})).expect(201);
    gateway.put("ip_sets/banned/entries/192.0.2.0/24", &json!({"desc": "scans"})).expect(201);

    // While the gateway runs, and when it does not.
    let first = gateway.folder().join("first.yaml");
    succeeds(&gateway, &["export", "-o", text(&first)]);
    gateway.stop();
    let exported = succeeds(&gateway, &["export"]).stdout;
    let written = std::fs::read_to_string(&first).expect("the export");
    assert_eq!(written.trim_end(), exported.trim_end());
    let order: Vec<_> =
        ["\"9\"", "\"10\"", "\"1\""].map(|id| exported.find(&format!("id: {id}"))).into();
    assert!(order.is_sorted(), "{exported}");

    let hosts = etcd.hosts();
    let role = format!(
        "role: traditional\nrole_traditional:\n  config_provider: etcd\netcd:\n  host: {hosts}"
    );
    let mut cluster = Gateway::builder(BIN).tcp(1).role(&role).prepare();
    let done = succeeds(&cluster, &["import", text(&first), "--dry-run"]);
    assert!(done.stdout.contains("+ stream_routes/all"), "{done:?}");
    assert_eq!(etcd.get("/apisix/stream_routes/all"), "");
    succeeds(&cluster, &["import", text(&first)]);
    assert_eq!(succeeds(&cluster, &["diff", text(&first)]).stdout, "");
    assert_eq!(succeeds(&cluster, &["export"]).stdout.trim_end(), exported.trim_end());
    cluster.launch();
    assert_eq!(reach(cluster.tcp(0)).as_deref(), Some("a"));

    // A dump of the cluster, as somebody takes it who leaves the reference.
    let dump = etcd.ctl(&["get", "--prefix", "/apisix", "-w", "json"]).stdout;
    let path = gateway.folder().join("dump.json");
    std::fs::write(&path, dump).expect("a dump");
    assert_eq!(succeeds(&gateway, &["diff", text(&path)]).stdout, "");

    // Into a fresh embedded store, from JSON.
    let json = gateway.folder().join("second.json");
    succeeds(&cluster, &["export", "--json", "-o", text(&json)]);
    let other = Gateway::builder(BIN).tcp(1).prepare();
    succeeds(&other, &["import", text(&json)]);
    assert_eq!(succeeds(&other, &["export"]).stdout.trim_end(), exported.trim_end());
    succeeds(&other, &["validate"]);
}

#[test]
fn differences_and_broken_files() {
    let mut gateway = Gateway::builder(BIN).start();
    gateway.put("upstreams/1", &json!({"nodes": {"a:1": 1}})).expect(201);
    gateway.put("upstreams/2", &json!({"nodes": {"a:1": 1}})).expect(201);
    let path = gateway.folder().join("new.yaml");
    let write = |text: &str| std::fs::write(&path, text).expect("a file");
    write("upstreams:\n  - {id: 1, nodes: {\"b:1\": 1}}\n  - {id: 3, nodes: {\"c:1\": 1}}\n#END\n");
    let done = config(&gateway, &["diff", "store", text(&path)]);
    assert_eq!(done.code(), Some(1), "{done:?}");
    for line in ["+ upstreams/3", "- upstreams/2", "~ upstreams/1: create_time, nodes, update_time"]
    {
        assert!(done.stdout.contains(line), "no `{line}` in {}", done.stdout);
    }
    let refused = config(&gateway, &["import", text(&path)]);
    assert_eq!(refused.code(), Some(1));
    assert!(refused.stderr.contains("in use by another process"), "{}", refused.stderr);
    gateway.stop();
    succeeds(&gateway, &["import", text(&path)]);
    let kept = config(&gateway, &["diff", "store", text(&path)]).stdout;
    assert_eq!(kept.trim(), "- upstreams/2", "without --replace nothing is deleted");
    succeeds(&gateway, &["import", "--replace", text(&path)]);
    succeeds(&gateway, &["diff", "store", text(&path)]);
    write("upstreams:\n  - {id: 1, nodes: {\"b:1\": 1}}\n  - {id: 4, type: 7}\n#END\n");
    let refused = config(&gateway, &["validate", text(&path)]);
    assert_eq!(refused.code(), Some(1));
    assert!(refused.stderr.contains("upstreams/4: "), "{}", refused.stderr);
    let refused = config(&gateway, &["import", text(&path)]);
    assert!(refused.stderr.contains("nothing was written"), "{}", refused.stderr);
    write("upstreams: []\n");
    let refused = config(&gateway, &["validate", text(&path)]);
    assert!(refused.stderr.contains("missing valid end flag"), "{}", refused.stderr);
}
