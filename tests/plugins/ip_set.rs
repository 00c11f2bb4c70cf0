//! ip-set by the id of a set that the Admin API keeps.

use headgate_testkit::client::{reach, reach_from};
use headgate_testkit::{Etcd, Gateway, GatewayBuilder, SOON, TcpPeer, wait};
use serde_json::{Value, json};

use crate::{BIN, ip, route, to};

fn builder() -> GatewayBuilder {
    Gateway::builder(BIN)
        .tcp(1)
        .log_level("info")
        .access_format("$remote_addr $status $close_reason")
        .top("stream_plugins: [ip-set]")
}

/// Whether the client on that address is served.
fn passes(gateway: &Gateway, from: &str) -> bool {
    reach_from(ip(from), gateway.tcp(0)).is_some()
}

#[test]
fn a_set_and_its_entries_count_at_once() {
    let (gateway, node) = (builder().start(), TcpPeer::named("a"));
    let mut networks: Vec<Value> = (0..100_000_u32)
        .map(|it| format!("10.{}.{}.{}", it >> 16, it >> 8 & 255, it & 255).into())
        .collect();
    networks.push(json!({"network": "127.0.0.7", "desc": "tried passwords"}));
    // More than any other resource may be long.
    gateway.put("ip_sets/banned", &json!({"desc": "x", "entries": networks})).expect(201);
    route(&gateway, &node, json!({"ip-set": {"set": "banned"}}));
    assert!(passes(&gateway, "127.0.0.1") && !passes(&gateway, "127.0.0.7"));
    gateway.wait_access(&["127.0.0.7 403 RJ"]);

    // One entry is one small request, and counts when it is answered.
    let written = gateway.request("PUT", "ip_sets/banned/entries/127.0.0.9", None).expect(201);
    assert_eq!(written.json()["key"], "/apisix/ip_sets/banned/entries/127.0.0.9");
    assert!(!passes(&gateway, "127.0.0.9") && passes(&gateway, "127.0.0.1"));
    let entry = json!({"desc": "the neighbours"});
    let written = gateway.put("ip_sets/banned/entries/127.0.1.77%2F24", &entry).expect(201);
    assert_eq!(written.json()["value"]["id"], "127.0.1.0/24", "one spelling");
    assert!(!passes(&gateway, "127.0.1.5"));

    let listed = gateway.get("ip_sets/banned/entries").ok().json();
    assert_eq!(listed["total"], 2);
    assert_eq!(gateway.get("ip_sets").ok().json()["total"], 1, "entries are no sets");
    gateway.delete("ip_sets/banned/entries/127.0.0.9").ok();
    assert!(passes(&gateway, "127.0.0.9") && !passes(&gateway, "127.0.1.5"));
    gateway.delete("ip_sets/banned/entries/127.0.0.9").expect(404);
    // The list is replaced, the entries stay.
    gateway.put("ip_sets/banned", &json!({"entries": []})).expect(200);
    assert!(passes(&gateway, "127.0.0.7") && !passes(&gateway, "127.0.1.5"));
}

#[test]
fn many_entries_come_in_one_request() {
    let gateway = builder().metrics().start();
    let node = TcpPeer::named("a");
    gateway.put("ip_sets/banned", &json!({"entries": ["10.0.0.0/8"]})).expect(201);
    route(&gateway, &node, json!({"ip-set": {"set": "banned"}}));
    let mut entries: Vec<Value> =
        (0..2_000_u32).map(|it| format!("192.0.{}.{}", it >> 8, it & 255).into()).collect();
    entries.push(json!({"network": "127.0.0.8/32", "desc": "tried passwords"}));
    entries.push(json!({"network": "127.0.0.9", "ttl": 3600}));
    entries.push(json!("192.0.0.1")); // twice
    let added = gateway.post("ip_sets/banned/entries", &json!({"entries": entries})).expect(201);
    let key = "/apisix/ip_sets/banned/entries";
    assert_eq!(added.json(), json!({"key": key, "total": 2_002, "created": 2_002}));
    let answers = ["127.0.0.1", "127.0.0.8", "127.0.0.9"].map(|from| passes(&gateway, from));
    assert_eq!(answers, [true, false, false]);
    assert_eq!(gateway.scrape().get("headgate_ip_set_entries{set=\"banned\"}"), Some(2_003.0));
    let stored = gateway.get("ip_sets/banned/entries/127.0.0.8").ok().json();
    assert_eq!(stored["value"]["desc"], "tried passwords");
    let until = &gateway.get("ip_sets/banned/entries/127.0.0.9").ok().json()["value"]["until"];
    assert!(until.is_u64(), "{until}");

    // Those that are there are replaced; the others stay.
    let again = json!({"entries": ["127.0.0.8", "127.0.0.7"]});
    let added = gateway.post("ip_sets/banned/entries?ttl=3600", &again).expect(201).json();
    assert_eq!((&added["total"], &added["created"]), (&json!(2), &json!(1)));
    assert!(!passes(&gateway, "127.0.0.7") && !passes(&gateway, "127.0.0.9"));

    // One that is wrong: nothing is written.
    let wrong = json!({"entries": ["127.0.0.1", {"network": "10.0.0"}]});
    gateway
        .post("ip_sets/banned/entries", &wrong)
        .refused(400, "entries[2]: invalid ip address: 10.0.0");
    gateway
        .post("ip_sets/banned/entries", &json!({"entries": [{"network": "::1", "x": 1}]}))
        .expect(400);
    gateway.post("ip_sets/banned/entries", &json!({"entries": "127.0.0.1"})).expect(400);
    gateway.post("ip_sets/banned/entries", &json!({"networks": []})).expect(400);
    let many = vec!["::1"; 10_001];
    gateway.post("ip_sets/banned/entries", &json!({"entries": many})).expect(400);
    assert!(passes(&gateway, "127.0.0.1"));
    let missing = "entries[1]: ip set [partners] not found, create it first";
    gateway.post("ip_sets/partners/entries", &json!({"entries": ["::1"]})).refused(404, missing);
    gateway.delete("ip_sets/banned?force=true").ok();
    assert_eq!(gateway.scrape().get("headgate_ip_set_entries{set=\"banned\"}"), None);
}

#[test]
fn an_entry_ends_in_time() {
    let (gateway, node) = (builder().start(), TcpPeer::named("a"));
    let list = json!([{"network": "127.0.0.8", "ttl": 6}]);
    gateway.put("ip_sets/banned", &json!({ "entries": list })).expect(201);
    route(&gateway, &node, json!({"ip-set": {"set": "banned"}}));
    assert!(!passes(&gateway, "127.0.0.8"));
    gateway.request("PUT", "ip_sets/banned/entries/127.0.0.9?ttl=6", None).expect(201);
    assert!(!passes(&gateway, "127.0.0.9") && passes(&gateway, "127.0.0.1"));
    for from in ["127.0.0.8", "127.0.0.9"] {
        wait::until_true("the end of the ban", SOON * 2, || passes(&gateway, from));
    }
    // One of its own leaves the store too.
    let is_gone = || gateway.get("ip_sets/banned/entries/127.0.0.9").status == 404;
    wait::until_true("the entry is gone", SOON * 2, is_gone);
    assert_eq!(
        gateway.get("ip_sets/banned").ok().json()["value"]["entries"][0]["network"],
        "127.0.0.8"
    );
}

#[test]
fn a_set_that_is_missing_closes_sessions_and_says_so() {
    let (gateway, node) = (builder().start(), TcpPeer::named("a"));
    let body = json!({"upstream": to(&node), "plugins": {"ip-set": {"set": "banned"}}});
    let warned = gateway.put("stream_routes/1", &body).expect(201).warnings();
    assert_eq!(warned[0]["code"], "plugin/no-ip-set", "{warned:?}");
    assert_eq!(reach(gateway.tcp(0)), None);
    gateway.wait_access(&["127.0.0.1 503 PN"]);
    gateway.put("ip_sets/banned", &json!({})).expect(201);
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()), "it serves as soon as the set is there");
    let used = "can not delete this ip set, plugin in stream_route [1] is still using it now";
    gateway.delete("ip_sets/banned").refused(400, used);
    gateway.request("PUT", "ip_sets/banned/entries/127.0.0.9", None).expect(201);
    gateway.delete("ip_sets/banned?force=true").ok();
    assert_eq!(reach(gateway.tcp(0)), None);
    gateway.get("ip_sets/banned/entries/127.0.0.9").expect(404);
    gateway
        .put("ip_sets/banned/entries/127.0.0.9", &json!({}))
        .refused(404, "ip set [banned] not found, create it first");
}

#[test]
fn what_is_not_right_is_refused() {
    let gateway = builder().start();
    gateway
        .put("ip_sets/a", &json!({"entries": ["::1", {"network": "10.0.0"}]}))
        .refused(400, "entries[2]: invalid ip address: 10.0.0");
    gateway.put("ip_sets/a", &json!({"entries": [{"network": "::1", "ttl": "soon"}]})).expect(400);
    gateway.put("ip_sets/a", &json!({"entires": []})).expect(400);
    gateway.put("ip_sets/a", &json!({})).expect(201);
    gateway.put("ip_sets/a/entries/10.0.0", &json!({})).refused(400, "invalid ip address: 10.0.0");
    gateway.put("ip_sets/a/entries/::1?ttl=0", &json!({})).expect(400);
    gateway.patch("ip_sets/a", &json!({"desc": "x"})).expect(405);
    let both = json!({"plugins": {"ip-set": {"set": "a", "file": "b"}}});
    gateway.put("stream_routes/1", &both).expect(400);
}

#[test]
fn sets_survive_a_restart_and_stand_in_files() {
    let (mut gateway, node) = (builder().start(), TcpPeer::named("a"));
    gateway.put("ip_sets/partners", &json!({"entries": ["127.0.0.8"]})).expect(201);
    gateway.put("ip_sets/partners/entries/127.0.0.9", &json!({})).expect(201);
    route(&gateway, &node, json!({"ip-set": {"set": "partners", "action": "allow"}}));
    gateway.restart();
    let answers = ["127.0.0.1", "127.0.0.8", "127.0.0.9"].map(|from| passes(&gateway, from));
    assert_eq!(answers, [false, true, true]);

    let file = |networks: &str| {
        format!(
            "ip_sets:\n  - {{id: partners, entries: [{networks}]}}\n  - id: partners/entries/127.0.0.9\nstream_routes:\n  - id: 1\n    upstream: {{nodes: {{\"{}\": 1}}}}\n    plugins: {{ip-set: {{set: partners, action: allow}}}}\n#END\n",
            node.node()
        )
    };
    let role = "role: data_plane\nrole_data_plane:\n  config_provider: yaml";
    let plane = builder().role(role).no_admin_api().file("conf/apisix.yaml", &file("127.0.0.8"));
    let plane = plane.start();
    let answers = ["127.0.0.1", "127.0.0.8", "127.0.0.9"].map(|from| passes(&plane, from));
    assert_eq!(answers, [false, true, true]);
    plane.write_file("conf/apisix.yaml", &file("127.0.0.1"));
    wait::until_true("the new list", SOON, || passes(&plane, "127.0.0.1"));
    assert!(!passes(&plane, "127.0.0.8"));
}

#[test]
fn sets_in_etcd_reach_every_node() {
    let Some(etcd) = Etcd::start() else { return };
    let node = TcpPeer::named("a");
    let hosts = etcd.hosts();
    let role = |role: &str| {
        let lines =
            format!("role: {role}\nrole_{role}:\n  config_provider: etcd\netcd:\n  host: {hosts}");
        builder().role(&lines)
    };
    let first = role("traditional").start();
    let second = role("data_plane").no_admin_api().start();
    first.put("ip_sets/banned", &json!({"entries": ["127.0.0.8"]})).expect(201);
    route(&first, &node, json!({"ip-set": {"set": "banned"}}));
    wait::until_true("the route", SOON, || passes(&second, "127.0.0.1"));
    assert!(!passes(&second, "127.0.0.8"));
    first.request("PUT", "ip_sets/banned/entries/127.0.0.9", None).expect(201);
    wait::until_true("the entry", SOON, || !passes(&second, "127.0.0.9"));
    first.delete("ip_sets/banned/entries/127.0.0.9").ok();
    wait::until_true("its end", SOON, || passes(&second, "127.0.0.9"));
}
