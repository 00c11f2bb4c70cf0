//! A list of plugins beside the resources takes the place of `plugins` and `stream_plugins` of
//! config.yaml: `plugins` of a standalone file, `<prefix>/plugins` in etcd (`spec/storage.md`,
//! sections 1, 2 and 4).
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use headgate_testkit::client::reach;
use headgate_testkit::gateway::ADMIN_KEY;
use headgate_testkit::{Etcd, Gateway, GatewayBuilder, SOON, TcpPeer, wait};
use serde_json::{Value, json};

const BIN: &str = env!("CARGO_BIN_EXE_headgate");
const FILE: &str = "conf/apisix.yaml";

/// A route that lets nobody through, if its plugin is enabled.
fn closed(node: &TcpPeer) -> Value {
    json!({
        "id": "1",
        "upstream": {"nodes": {node.node(): 1}},
        "plugins": {"ip-restriction": {"blacklist": ["127.0.0.0/8"]}}
    })
}

#[track_caller]
fn wait_reaches(gateway: &Gateway, expected: Option<&str>) {
    wait::until_true(&format!("{expected:?} answers"), SOON, || {
        reach(gateway.tcp(0)).as_deref() == expected
    });
}

fn on_etcd(role: &str, etcd: &Etcd) -> GatewayBuilder {
    let lines = format!(
        "role: {role}\nrole_{role}:\n  config_provider: etcd\netcd:\n  host: {}\n  resync_delay: 1",
        etcd.hosts()
    );
    Gateway::builder(BIN).tcp(1).role(&lines)
}

#[test]
fn the_list_of_a_file_replaces_those_of_the_configuration() {
    let nodes = [TcpPeer::named("a"), TcpPeer::named("b")];
    let open = json!({"id": "2", "upstream": {"nodes": {nodes[1].node(): 1}}});
    let file = |list: &str| {
        let routes = json!([closed(&nodes[0]), open]);
        format!("{list}stream_routes: {routes}\n#END\n")
    };
    let yaml = "role: data_plane\nrole_data_plane:\n  config_provider: yaml";
    let with_list =
        file("plugins:\n  - name: limit-count\n  - {name: ip-restriction, stream: true}\n");
    let gateway = Gateway::builder(BIN)
        .tcp(1)
        .role(yaml)
        .no_admin_api()
        .top("stream_plugins: [limit-conn]")
        .file(FILE, &with_list)
        .start();
    assert_eq!(reach(gateway.tcp(0)), None, "the plugin of the list refuses");

    // Without it in the list it is unknown, so its route is left out and the next one serves.
    gateway.write_file(FILE, &file("plugins:\n  - {name: mqtt-proxy, stream: true}\n"));
    wait_reaches(&gateway, Some("b"));
    gateway.wait_for_log("unknown plugin [ip-restriction]", SOON);
    gateway.write_file(FILE, &with_list);
    wait_reaches(&gateway, None);

    // Without a list, and with one that is none, config.yaml decides.
    gateway.write_file(FILE, &file(""));
    wait_reaches(&gateway, Some("b"));
    gateway.write_file(FILE, &file("plugins: [ip-restriction]\n"));
    gateway.wait_for_log("the list plugins is not valid", SOON);
    wait_reaches(&gateway, Some("b"));
}

#[test]
fn the_list_of_a_whole_document_counts_too() {
    let node = TcpPeer::named("a");
    let role = "role: traditional\nrole_traditional:\n  config_provider: yaml";
    let gateway = Gateway::builder(BIN).tcp(1).role(role).start();
    let put = |digest: &str, plugins: Value| {
        let headers = [("X-API-KEY", ADMIN_KEY), ("X-Digest", digest)];
        let body = json!({"stream_routes": [closed(&node)], "plugins": plugins}).to_string();
        gateway.request_with("PUT", "/apisix/admin/configs", &headers, Some(&body))
    };
    let _ = put("1", json!([{"name": "ip-restriction", "stream": true}])).expect(202);
    wait_reaches(&gateway, None);
    let _ = put("2", json!([{"name": "limit-conn", "stream": true}])).expect(202);
    wait_reaches(&gateway, Some("a"));
    let refused = put("3", json!(["limit-conn"])).expect(400);
    assert!(refused.error_msg().contains("item 1 should be an object"), "{refused:?}");
}

#[test]
fn data_planes_follow_the_list_in_etcd() {
    let Some(etcd) = Etcd::start() else { return };
    let node = TcpPeer::named("a");
    let data =
        on_etcd("data_plane", &etcd).no_admin_api().top("stream_plugins: [limit-conn]").start();
    etcd.put("/apisix/stream_routes/1", &closed(&node).to_string());
    // Its own list applies until there is one; in etcd an unknown plugin is no error.
    wait_reaches(&data, Some("a"));
    etcd.put("/apisix/plugins", r#"[{"name":"ip-restriction","stream":true},{"name":"jwt-auth"}]"#);
    wait_reaches(&data, None);
    etcd.put("/apisix/plugins", "[{\"names\": 1}]");
    data.wait_for_log("failed to check item data of [plugins] err:", SOON);
    assert_eq!(reach(data.tcp(0)), None, "the list before stays");

    // A control plane brings an existing list up to its own, at its start and when it is told to.
    let listed = |etcd: &Etcd| -> Vec<String> {
        let list: Value = serde_json::from_str(&etcd.get("/apisix/plugins")).expect("JSON");
        let names = list.as_array().into_iter().flatten();
        let streams = names.filter(|plugin| plugin["stream"] == json!(true));
        streams.filter_map(|plugin| plugin["name"].as_str().map(str::to_owned)).collect()
    };
    let control = on_etcd("control_plane", &etcd).top("stream_plugins: [mqtt-proxy]").start();
    wait::until_true("the list is that of the control plane", SOON, || {
        etcd.get("/apisix/plugins").contains("mqtt-proxy")
    });
    assert_eq!(listed(&etcd), ["mqtt-proxy"]);
    wait_reaches(&data, Some("a"));
    etcd.delete("/apisix/plugins");
    let _ = control.request("PUT", "/apisix/admin/plugins/reload", None).expect(200);
    assert_eq!(listed(&etcd), ["mqtt-proxy"]);
}
