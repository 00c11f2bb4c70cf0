//! File-driven standalone: `apisix.yaml` and `apisix.json` beside config.yaml (`spec/storage.md`, section 4).
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use headgate_testkit::client::{assert_alive, connect, reach};
use headgate_testkit::{Gateway, GatewayBuilder, Port, SOON, TcpPeer, http, process, wait};
use serde_json::json;

const BIN: &str = env!("CARGO_BIN_EXE_headgate");
const YAML: &str = "role: data_plane\nrole_data_plane:\n  config_provider: yaml";
const FILE: &str = "conf/apisix.yaml";

fn data_plane() -> GatewayBuilder {
    Gateway::builder(BIN).tcp(1).role(YAML).no_admin_api()
}

fn route(node: &TcpPeer) -> String {
    format!(
        "stream_routes:\n  - id: 1\n    upstream:\n      nodes:\n        \"{}\": 1\n#END\n",
        node.node()
    )
}

fn serves(gateway: &Gateway, name: &str) -> bool {
    reach(gateway.tcp(0)).as_deref() == Some(name)
}

#[test]
fn st_01_applied_at_start_and_after_a_change() {
    let nodes = [TcpPeer::named("a"), TcpPeer::named("b")];
    let gateway = data_plane().file(FILE, &route(&nodes[0])).start();
    assert!(serves(&gateway, "a"));
    assert!(http::request(gateway.admin(), "HEAD", "/apisix/admin", &[], None, SOON).is_err());
    gateway.write_file(FILE, &route(&nodes[1]));
    wait::until_true("the new node answers", SOON, || serves(&gateway, "b"));
    gateway.wait_for_log("apisix.yaml reloaded.", SOON);
}

#[test]
fn st_02_without_end_flag_the_old_configuration_stays() {
    let nodes = [TcpPeer::named("a"), TcpPeer::named("b")];
    let gateway = data_plane().file(FILE, &route(&nodes[0])).start();
    gateway.write_file(FILE, &route(&nodes[1]).replace("#END\n", ""));
    let line = gateway.wait_for_log("missing valid end flag in file", SOON);
    assert!(line.contains("failed to parse the content of file"), "{line}");
    assert!(serves(&gateway, "a"));
    gateway.write_file(FILE, &route(&nodes[1]));
    wait::until_true("the new node answers", SOON, || serves(&gateway, "b"));
}

#[test]
fn st_03_only_the_broken_route_is_left_out() {
    let node = TcpPeer::named("a");
    let nodes = format!("upstream: {{nodes: {{\"{}\": 1}}}}", node.node());
    let text = format!(
        "stream_routes:\n  - {{id: bad, server_port: 70000, {nodes}}}\n  - 7\n  - {{id: good, {nodes}}}\n#END\n"
    );
    let gateway = data_plane().file(FILE, &text).start();
    assert!(serves(&gateway, "a"));
    let line = gateway.wait_for_log("failed to check item data of [stream_routes] err:", SOON);
    assert!(line.contains("property \"server_port\" validation failed"), "{line}");
    assert!(line.contains("apisix.yaml:2:"), "no place in {line}");
    gateway.wait_for_log(
        "invalid item data of [stream_routes/2], val: 7, it should be an object",
        SOON,
    );
}

#[test]
fn st_04_a_route_names_an_upstream_of_the_same_file() {
    let nodes = [TcpPeer::named("a"), TcpPeer::named("b")];
    let text = |node: &TcpPeer| {
        format!(
            "stream_routes:\n  - {{id: 1, upstream_id: u}}\nupstreams:\n  - id: u\n    nodes: {{\"{}\": 1}}\n#END\n",
            node.node()
        )
    };
    let gateway = data_plane().file(FILE, &text(&nodes[0])).start();
    assert!(serves(&gateway, "a"));
    gateway.write_file(FILE, &text(&nodes[1]));
    wait::until_true("the new node answers", SOON, || serves(&gateway, "b"));
}

#[test]
fn pl_03_plugins_are_checked_when_the_file_is_read() {
    let text = "stream_routes:\n  - id: 1\n    plugins: {limit-conn: {conn: 1}}\n  - id: 2\n    plugins: {nope: {}}\n#END\n";
    let gateway = data_plane().file(FILE, text).start();
    let line = gateway
        .wait_for_log("failed to check the configuration of stream plugin [limit-conn]", SOON);
    assert!(line.contains("is required"), "{line}");
    gateway.wait_for_log("unknown plugin [nope]", SOON);
    assert_eq!(reach(gateway.tcp(0)), None);
}

/// Connections outlive any change of the file, also one that takes their route away.
#[test]
fn open_connections_are_left_alone() {
    let (echo, named) = (TcpPeer::echo(), TcpPeer::named("a"));
    let mut gateway = data_plane().tcp(1).prepare();
    let route = |listener: usize, node: &TcpPeer| {
        format!(
            "  - {{server_port: {}, upstream: {{nodes: {{\"{}\": 1}}}}}}\n",
            gateway.tcp_port(listener),
            node.node()
        )
    };
    let text = format!("stream_routes:\n{}{}#END\n", route(0, &echo), route(1, &named));
    gateway.write_file(FILE, &text);
    gateway.launch();
    let mut open = connect(gateway.tcp(0));
    assert_alive(&mut open);
    assert_eq!(reach(gateway.tcp(1)).as_deref(), Some("a"));
    gateway.write_file(FILE, "stream_routes: []\n#END\n");
    gateway.wait_for_log("reloaded.", SOON);
    wait::until_true("the routes are gone", SOON, || reach(gateway.tcp(1)).is_none());
    assert_alive(&mut open);
}

/// A ConfigMap: the file is a link into a folder that is replaced by switching another link.
#[test]
fn a_switched_link_and_a_quick_second_write_are_seen() {
    let nodes = [TcpPeer::named("a"), TcpPeer::named("b"), TcpPeer::named("c")];
    let gateway = data_plane().prepare();
    let conf = gateway.folder().join("conf");
    for (folder, node) in ["..v1", "..v2"].into_iter().zip(&nodes) {
        fs::create_dir(conf.join(folder)).expect("a folder");
        fs::write(conf.join(folder).join("apisix.yaml"), route(node)).expect("a file");
    }
    symlink("..v1", conf.join("..data")).expect("a link");
    symlink("..data/apisix.yaml", conf.join("apisix.yaml")).expect("a link");
    let mut gateway = gateway;
    gateway.launch();
    assert!(serves(&gateway, "a"));
    symlink("..v2", conf.join("..next")).expect("a link");
    fs::rename(conf.join("..next"), conf.join("..data")).expect("the switch");
    wait::until_true("the new node answers", SOON, || serves(&gateway, "b"));
    // In place, within the second in which it was read, with the same length.
    let file = conf.join("..v2/apisix.yaml");
    fs::write(&file, route(&nodes[0])).expect("a file");
    fs::write(&file, route(&nodes[2])).expect("a file");
    wait::until_true("the last node answers", SOON, || serves(&gateway, "c"));
}

#[test]
fn nothing_is_served_until_the_file_is_there() {
    let node = TcpPeer::named("a");
    let status = Port::take();
    let gateway = data_plane().apisix(&format!("status:\n  port: {}", status.number())).start();
    let ready = || {
        let answer = http::request(status.local(), "GET", "/status/ready", &[], None, SOON);
        answer.expect("an answer").json()
    };
    assert_eq!(
        ready(),
        json!({"status": "error", "error": "worker id: 0 has not received configuration"})
    );
    gateway.wait_for_log("apisix.yaml attributes: No such file", SOON);
    gateway.write_file(FILE, &route(&node));
    wait::until_true("the node answers", SOON, || serves(&gateway, "a"));
    assert_eq!(ready(), json!({"status": "ok"}));
}

#[test]
fn strict_refuses_the_whole_file() {
    let nodes = [TcpPeer::named("a"), TcpPeer::named("b")];
    let role = format!("{YAML}\nstandalone:\n  strict: true");
    let gateway = data_plane().role(&role).file(FILE, &route(&nodes[0])).start();
    let text = route(&nodes[1]).replace("#END", "  - {id: bad, server_port: x}\n#END");
    gateway.write_file(FILE, &text);
    gateway.wait_for_log("refused as a whole (strict)", SOON);
    assert!(serves(&gateway, "a"));
}

#[test]
fn json_and_variables() {
    let nodes = [TcpPeer::named("a"), TcpPeer::named("b")];
    let text = r#"{"stream_routes": [{"id": "${{ID}}", "upstream": {"nodes": {"${{NODE}}": 1}}}]}"#;
    let gateway = data_plane()
        .role("role: data_plane\nrole_data_plane:\n  config_provider: json")
        .env("NODE", &nodes[0].node())
        .env("ID", "x")
        .file("conf/apisix.json", text)
        .start();
    assert!(serves(&gateway, "a"));
    gateway.write_file("conf/apisix.json", "{\"stream_routes\": [");
    gateway.wait_for_log("failed to decode json", SOON);
    assert!(serves(&gateway, "a"));
    gateway.write_file("conf/apisix.json", &text.replace("${{NODE}}", &nodes[1].node()));
    wait::until_true("the new node answers", SOON, || serves(&gateway, "b"));
}

#[test]
fn headgate_test_checks_the_file_too() {
    let gateway = data_plane()
        .file(FILE, "stream_routes:\n  - id: bad\n    server_port: 70000\n#END\n")
        .prepare();
    let test = || {
        let mut command = Command::new(BIN);
        command.arg("test").arg("-c").arg(gateway.config_path());
        process::run(&mut command, Duration::from_secs(20))
    };
    let done = test();
    assert_eq!(done.code(), Some(1), "{done:?}");
    assert!(done.stderr.contains("apisix.yaml:3:18"), "{}", done.stderr);
    assert!(done.stderr.contains("stream_routes/bad is not valid"), "{}", done.stderr);
    gateway.write_file(FILE, "stream_routes:\n  - id: good\n#END\n");
    let done = test();
    assert_eq!(done.code(), Some(0), "{done:?}");
}
