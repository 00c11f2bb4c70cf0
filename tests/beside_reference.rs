//! An etcd as the reference leaves it: its placeholders, its encryption, its habits of writing JSON,
//! and defaults that older versions wrote down. It is served as it is, and it can be moved
//! (`spec/storage.md`, sections 1 and 3). With both versions of etcd that tests run with.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::process::Command;

use headgate_testkit::certificate::Authority;
use headgate_testkit::process::{self, need};
use headgate_testkit::tls::{self, TlsClient};
use headgate_testkit::{Etcd, Gateway, SOON, TcpPeer, wait};
use serde_json::{Value, json};

const BIN: &str = env!("CARGO_BIN_EXE_headgate");
/// The first key of the reference's default ring.
const RING_KEY: &str = "qeddd145sfvddff3";
const DIRECTORIES: [&str; 13] = [
    "routes",
    "services",
    "upstreams",
    "consumers",
    "ssls",
    "protos",
    "global_rules",
    "stream_routes",
    "plugin_metadata",
    "plugins",
    "plugin_configs",
    "consumer_groups",
    "secrets",
];

/// Encrypts as the reference does, with another implementation than headgate's.
fn encrypted(folder: &std::path::Path, text: &str) -> String {
    let (plain, secret) = (folder.join("plain"), folder.join("secret"));
    std::fs::write(&plain, text).expect("a file");
    let hex: String = RING_KEY.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut command = Command::new("openssl");
    command.args(["enc", "-aes-128-cbc", "-base64", "-A", "-K", &hex, "-iv", &hex, "-in"]);
    let done = process::run(command.arg(&plain).arg("-out").arg(&secret), SOON);
    assert_eq!(done.code(), Some(0), "{done:?}");
    std::fs::read_to_string(&secret).expect("what openssl wrote")
}

/// JSON as lua-cjson writes it.
fn lua(value: &Value) -> String {
    value.to_string().replace('/', "\\/")
}

fn config(gateway: &Gateway, arguments: &[&str]) -> process::Finished {
    let mut command = Command::new(BIN);
    let (action, rest) = arguments.split_first().expect("an action");
    command.args(["config", action, "-c"]).arg(gateway.config_path()).args(rest);
    process::run(&mut command, SOON * 3).success()
}

fn what_the_reference_left_is_served_and_moved(etcd: &Etcd) {
    if need("openssl", "openssl").is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let node = TcpPeer::named("a");
    let authority = Authority::new("root");
    let certificate = authority.server(&["a.test"]);
    let (host, port) = node
        .node()
        .rsplit_once(':')
        .map(|(h, p)| (h.to_owned(), p.to_owned()))
        .expect("an address");
    let port: u16 = port.parse().expect("a port");
    for directory in DIRECTORIES {
        etcd.put(&format!("/apisix/{directory}/"), "init_dir");
    }
    etcd.put("/apisix/gen_id", "1");
    etcd.put("/apisix/data_plane/server_info/x", "{\"id\":\"x\",\"version\":\"3.9.0\"}");
    let ssl = json!({
        "id": "1", "sni": "a.test", "cert": certificate.cert, "status": 1, "type": "server",
        "key": encrypted(folder.path(), &certificate.key),
        "create_time": 1_700_000_000, "update_time": 1_700_000_000
    });
    etcd.put("/apisix/ssls/1", &lua(&ssl));
    // 2.x wrote defaults down, and ids as numbers.
    let upstream = json!({
        "id": 7, "type": "roundrobin", "scheme": "http", "hash_on": "vars", "pass_host": "pass",
        "nodes": [{"host": host, "port": port, "weight": 1.0}],
        "create_time": 1_600_000_000, "update_time": 1_600_000_000
    });
    etcd.put("/apisix/upstreams/7", &lua(&upstream));
    etcd.put(
        "/apisix/stream_routes/r",
        &lua(&json!({"id": "r", "upstream_id": 7, "sni": "a.test"})),
    );
    etcd.put(
        "/apisix/routes/h",
        &lua(&json!({"id": "h", "uri": "/*", "upstream_id": 7, "plugins": {}})),
    );
    etcd.put("/apisix/consumers/jack", &lua(&json!({"username": "jack", "plugins": []})));

    let role = format!(
        "role: data_plane\nrole_data_plane:\n  config_provider: etcd\netcd:\n  host: {}",
        etcd.hosts()
    );
    let gateway = Gateway::builder(BIN)
        .tcp_entry("addr: \"127.0.0.1:{port}\"\ntls: true")
        .role(&role)
        .no_admin_api()
        .start();
    wait::until_true("the certificate of the reference is served", SOON, || {
        let Ok(mut stream) = TlsClient::default().connect(gateway.tcp(0), "a.test") else {
            return false;
        };
        String::from_utf8_lossy(&tls::read_to_end(&mut stream).0).trim() == "a"
    });
    assert!(
        !gateway.log().text().contains("failed to check item data"),
        "{}",
        gateway.log().text()
    );

    // The dump of that etcd into an embedded store, and out again: the same, still encrypted.
    let dump = folder.path().join("dump.json");
    let all = etcd.ctl(&["get", "--prefix", "/apisix", "-w", "json"]).stdout;
    std::fs::write(&dump, all).expect("a dump");
    let dump = dump.to_str().expect("a plain path");
    let mut embedded =
        Gateway::builder(BIN).tcp_entry("addr: \"127.0.0.1:{port}\"\ntls: true").prepare();
    config(&embedded, &["import", dump]);
    assert_eq!(config(&embedded, &["diff", dump]).stdout, "");
    let exported: Value =
        serde_json::from_str(&config(&embedded, &["export", "--json"]).stdout).expect("JSON");
    assert_eq!(exported["upstreams"], json!([upstream]), "the id stays a number");
    assert_eq!(exported["ssls"], json!([ssl]));
    embedded.launch();
    wait::until_true("the embedded store serves it", SOON, || {
        TlsClient::default().connect(embedded.tcp(0), "a.test").is_ok()
    });
}

#[test]
fn what_the_reference_left() {
    if let Some(etcd) = Etcd::start() {
        what_the_reference_left_is_served_and_moved(&etcd);
    }
}

#[test]
fn what_the_reference_left_in_the_second_version_of_etcd() {
    if let Some(etcd) = Etcd::second_version() {
        what_the_reference_left_is_served_and_moved(&etcd);
    }
}
