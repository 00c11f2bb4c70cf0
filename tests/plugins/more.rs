//! Plugins that the reference's stream proxy does not have: fault-injection, limit-rate, ip-set.

use std::time::{Duration, Instant};

use headgate_testkit::client::{reach, reach_from};
use headgate_testkit::{Gateway, SOON, TcpPeer, wait};
use serde_json::json;

use crate::{BIN, ip, route, to};

fn gateway() -> Gateway {
    Gateway::builder(BIN)
        .tcp(1)
        .log_level("info")
        .access_format("$remote_addr $status $close_reason")
        .top("stream_plugins: [fault-injection, ip-set, limit-rate, ip-restriction]")
        .start()
}

#[test]
fn they_are_not_enabled_by_themselves() {
    let gateway = Gateway::builder(BIN).tcp(1).start();
    for name in ["fault-injection", "limit-rate", "ip-set"] {
        let body = json!({"plugins": {name: {}}});
        gateway.put("stream_routes/1", &body).refused(400, &format!("unknown plugin [{name}]"));
    }
}

#[test]
fn a_fault_delays_and_aborts() {
    let (gateway, node) = (gateway(), TcpPeer::named("a"));
    route(&gateway, &node, json!({"fault-injection": {"delay": {"duration": 0.2}}}));
    let begun = Instant::now();
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
    assert!(begun.elapsed() >= Duration::from_millis(200));
    let meant = json!([["remote_addr", "==", "127.0.0.9"]]);
    let fault = json!({"delay": {"duration": 0.05}, "abort": {"code": 500, "vars": meant}});
    route(&gateway, &node, json!({"fault-injection": fault}));
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
    assert_eq!(reach_from(ip("127.0.0.9"), gateway.tcp(0)), None);
    gateway.wait_access(&["127.0.0.9 500 RJ"]);
    gateway.wait_for_log("a fault is injected", SOON);
}

#[test]
fn new_sessions_are_bounded_by_time() {
    let (gateway, node) = (gateway(), TcpPeer::named("a"));
    let limit = |more: bool| json!({"limit-rate": {"rate": 0.01, "burst": 2, "dry_run": more}});
    route(&gateway, &node, limit(false));
    let served = (0..5).filter(|_| reach(gateway.tcp(0)).is_some()).count();
    assert_eq!(served, 3);
    gateway.wait_access(&["127.0.0.1 503 RJ"]);
    assert_eq!(reach_from(ip("127.0.0.9"), gateway.tcp(0)), Some("a".into()));
    route(&gateway, &node, limit(true));
    assert_eq!((0..5).filter(|_| reach(gateway.tcp(0)).is_some()).count(), 5);
    gateway.wait_for_log("dry_run=true", SOON);
}

#[test]
fn a_ban_list_is_followed() {
    let (gateway, node) = (gateway(), TcpPeer::named("a"));
    let file = gateway.folder().join("banned.txt");
    let write = |text: &str| {
        // As an editor does: the new file replaces the old one whole.
        let new = gateway.folder().join("banned.new");
        std::fs::write(&new, text).expect("a file");
        std::fs::rename(&new, &file).expect("renaming");
    };
    let plugins = json!({"ip-set": {"file": file}});
    let body = json!({"upstream": to(&node), "plugins": plugins});
    gateway.put("stream_routes/1", &body).ok();
    assert_eq!(reach(gateway.tcp(0)), None, "without its list the route does not serve");
    gateway.wait_for_log("banned.txt: No such file", SOON);

    let mut list = String::from("# everybody but us\n");
    for number in 0..100_000_u32 {
        list.push_str(&format!("10.{}.{}.{}\n", number >> 16, number >> 8 & 255, number & 255));
    }
    write(&list);
    gateway.put("stream_routes/1", &body).ok();
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
    write(&(list.clone() + "127.0.0.1\n"));
    wait::until_true("the new entry", SOON, || reach(gateway.tcp(0)).is_none());
    gateway.wait_access(&["127.0.0.1 403 RJ"]);
    // Half written: the set stays as it was.
    write("127.0.0.9");
    gateway.wait_for_log("the last line has no line break", SOON);
    assert_eq!(reach(gateway.tcp(0)), None);
    assert_eq!(reach_from(ip("127.0.0.9"), gateway.tcp(0)), Some("a".into()));
    // An entry that ends by itself.
    let soon = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let until = soon.expect("a clock after 1970").as_secs() + 4;
    write(&format!("127.0.0.9 {until}\n"));
    wait::until_true("the ban", SOON, || reach_from(ip("127.0.0.9"), gateway.tcp(0)).is_none());
    wait::until_true("its end", SOON, || reach_from(ip("127.0.0.9"), gateway.tcp(0)).is_some());
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
}

#[test]
fn an_allow_list_lets_in() {
    let (gateway, node) = (gateway(), TcpPeer::named("a"));
    let file = gateway.folder().join("partners.txt");
    std::fs::write(&file, "127.0.0.9\n").expect("a file");
    let plugins = json!({"ip-set": {"file": file, "action": "allow", "response_code": 404}});
    route(&gateway, &node, plugins);
    assert_eq!(reach(gateway.tcp(0)), None);
    gateway.wait_access(&["127.0.0.1 404 RJ"]);
    assert_eq!(reach_from(ip("127.0.0.9"), gateway.tcp(0)), Some("a".into()));
}
