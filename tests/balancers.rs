//! Choosing among nodes: consistent hashing, least connections, priorities, unknown types.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use headgate_testkit::client::{Seen, ask, connect, connect_from, read_to_end, udp};
use headgate_testkit::{Gateway, Port, SOON, TcpPeer, UdpPeer, wait};
use serde_json::{Value, json};

const BIN: &str = env!("CARGO_BIN_EXE_headgate");

/// A gateway with one listener and a route to `upstream`.
fn before(upstream: &Value) -> Gateway {
    let gateway = Gateway::builder(BIN).tcp(1).start();
    gateway.put("stream_routes/1", &json!({"upstream": upstream})).expect(201);
    gateway
}

fn nodes<const N: usize>(names: [&str; N]) -> [TcpPeer; N] {
    names.map(TcpPeer::named)
}

/// `nodes` of an upstream, in order.
fn list(nodes: &[(&TcpPeer, u32)]) -> Value {
    let nodes = nodes.iter().map(
        |(node, weight)| json!({"host": "127.0.0.1", "port": node.addr().port(), "weight": weight}),
    );
    nodes.collect()
}

fn ip(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

/// Who serves the connection, which stays open.
fn name_on(stream: &mut TcpStream) -> String {
    match read_to_end(stream) {
        Seen::Bytes(name) => String::from_utf8_lossy(&name).trim_end().to_owned(),
        Seen::Closed => "nobody".to_owned(),
        Seen::BytesThenReset(_) => panic!("reset"),
    }
}

fn open(to: SocketAddr) -> (String, TcpStream) {
    let mut stream = connect(to);
    (name_on(&mut stream), stream)
}

fn names(held: &[(String, TcpStream)]) -> Vec<&str> {
    let mut names: Vec<_> = held.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names
}

/// Opens a session, ends it, and waits until the gateway has logged its end.
fn once(gateway: &Gateway) -> String {
    let before = gateway.access().len();
    let (name, stream) = open(gateway.tcp(0));
    drop(stream);
    wait::until_true("the session has ended", SOON, || gateway.access().len() > before);
    name
}

fn reached_from(client: IpAddr, to: SocketAddr) -> String {
    name_on(&mut connect_from(client, to))
}

// ---- chash

#[test]
fn up_07_a_client_keeps_its_node() {
    let [a, c, new] = nodes(["a", "c", "new"]);
    // On a port that stays its own when it is gone.
    let port = Port::take();
    let b = TcpPeer::named_at(port.local(), "b");
    let chash = |nodes: Value| json!({"type": "chash", "key": "remote_addr", "nodes": nodes});
    let gateway = before(&chash(list(&[(&a, 1), (&b, 1), (&c, 1)])));
    let clients: Vec<IpAddr> = (10..50).map(ip).collect();
    let all = || -> Vec<String> {
        clients.iter().map(|client| reached_from(*client, gateway.tcp(0))).collect()
    };
    let first = all();
    assert_eq!(all(), first, "the same client, the same node");
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 3, "different clients spread");

    let more = chash(list(&[(&a, 1), (&b, 1), (&c, 1), (&new, 1)]));
    gateway.put("stream_routes/1", &json!({"upstream": more})).expect(200);
    let second = all();
    let moved: Vec<_> = first.iter().zip(&second).filter(|(old, now)| old != now).collect();
    assert!(moved.iter().all(|(_, now)| *now == "new"), "{moved:?}");
    assert!(moved.len() < 25, "{} of 40 moved", moved.len());

    // The node of some clients goes away: they find another one, nobody else moves.
    drop(b);
    for (client, old) in clients.iter().zip(&second) {
        let now = reached_from(*client, gateway.tcp(0));
        assert!(if old == "b" { now != "b" && now != "nobody" } else { now == *old });
    }
}

#[test]
fn the_order_of_nodes_does_not_matter_to_chash() {
    let [a, b, c] = nodes(["a", "b", "c"]);
    let gateway = Gateway::builder(BIN).tcp(2).start();
    let orders = [[(&a, 1), (&b, 1), (&c, 2)], [(&c, 6), (&b, 3), (&a, 3)]];
    for (index, order) in orders.iter().enumerate() {
        let upstream = json!({"type": "chash", "key": "remote_addr", "nodes": list(order)});
        let route = json!({"server_port": gateway.tcp_port(index), "upstream": upstream});
        gateway.put(&format!("stream_routes/{index}"), &route).expect(201);
    }
    for client in (20..50).map(ip) {
        let [one, other] = [0, 1].map(|index| reached_from(client, gateway.tcp(index)));
        assert_eq!(one, other, "{client}");
    }
}

#[test]
fn chash_by_the_address_that_was_connected_to() {
    let [a, b, c] = nodes(["a", "b", "c"]);
    let nodes = list(&[(&a, 1), (&b, 1), (&c, 1)]);
    // The listener is on the wildcard, so the address has to be asked for.
    let gateway = before(&json!({"type": "chash", "key": "server_addr", "nodes": nodes}));
    let mut reached = BTreeSet::new();
    for to in (10..40).map(|last| SocketAddr::new(ip(last), gateway.tcp_port(0))) {
        let name = reached_from(ip(2), to);
        assert_eq!(reached_from(ip(3), to), name, "whoever the client is");
        reached.insert(name);
    }
    assert_eq!(reached.len(), 3);
}

#[test]
fn chash_by_combinations_of_variables() {
    let [a, b, c] = nodes(["a", "b", "c"]);
    let nodes = list(&[(&a, 1), (&b, 1), (&c, 1)]);
    let upstream = |key: &str| json!({"type": "chash", "hash_on": "vars_combinations", "key": key, "nodes": nodes});
    let gateway = before(&upstream("${protocol}-$server_port"));
    let reached: BTreeSet<_> =
        (10..30).map(|last| reached_from(ip(last), gateway.tcp(0))).collect();
    assert_eq!(reached.len(), 1, "one port, one node: {reached:?}");
    gateway
        .put("stream_routes/1", &json!({"upstream": upstream("$remote_addr:${ remote_port }")}))
        .expect(200);
    let reached: BTreeSet<_> = (0..40).map(|_| reached_from(ip(9), gateway.tcp(0))).collect();
    assert_eq!(reached.len(), 3, "every port its own node: {reached:?}");
}

#[test]
fn chash_without_a_value_falls_back_to_the_client_address() {
    let [a, b, c] = nodes(["a", "b", "c"]);
    let nodes = list(&[(&a, 1), (&b, 1), (&c, 1)]);
    let gateway = before(&json!({"type": "chash", "key": "mqtt_client_id", "nodes": nodes}));
    let reached: Vec<_> = (10..40).map(|last| reached_from(ip(last), gateway.tcp(0))).collect();
    gateway.wait_for_log(
        "chash_key fetch is nil, use default chash_key remote_addr: 127.0.0.10",
        SOON,
    );
    let upstream = json!({"type": "chash", "key": "remote_addr", "nodes": nodes});
    gateway.put("stream_routes/1", &json!({"upstream": upstream})).expect(200);
    let by_address: Vec<_> = (10..40).map(|last| reached_from(ip(last), gateway.tcp(0))).collect();
    assert_eq!(reached, by_address);
}

#[test]
fn chash_of_datagrams() {
    let [a, b, c] = ["a", "b", "c"].map(UdpPeer::named);
    let gateway = Gateway::builder(BIN).udp(1).start();
    let nodes = json!({a.node(): 1, b.node(): 1, c.node(): 1});
    let route = |key: &str| {
        json!({"upstream": {
            "type": "chash", "hash_on": "vars_combinations", "key": key, "nodes": nodes
        }})
    };
    let reached =
        || -> BTreeSet<Vec<u8>> { (0..30).map(|_| ask(&udp(gateway.udp(0)), b"?")).collect() };
    gateway.put("stream_routes/1", &route("$remote_addr")).expect(201);
    assert_eq!(reached().len(), 1);
    gateway.put("stream_routes/1", &route("$remote_port")).expect(200);
    assert_eq!(reached().len(), 3);
}

// ---- least_conn

#[test]
fn up_08_least_conn_follows_the_open_sessions() {
    let [light, heavy] = nodes(["light", "heavy"]);
    let nodes = list(&[(&light, 1), (&heavy, 3)]);
    let gateway = before(&json!({"type": "least_conn", "nodes": nodes}));
    for _ in 0..3 {
        assert_eq!(once(&gateway), "heavy", "nothing is open");
    }
    // Two workers share the counts, so the split is exact.
    for _ in 0..2 {
        let held: Vec<_> = (0..8).map(|_| open(gateway.tcp(0))).collect();
        let (to_heavy, all) = (names(&held).iter().filter(|name| **name == "heavy").count(), 8);
        assert_eq!((to_heavy, held.len()), (6, all));
        let before = gateway.access().len();
        drop(held);
        wait::until_true("all have ended", SOON, || gateway.access().len() == before + all);
        assert_eq!(once(&gateway), "heavy", "the counts have returned to 0");
    }
}

#[test]
fn least_conn_prefers_the_idle_node_and_knows_it_after_a_change() {
    let [a, b, new] = nodes(["a", "b", "new"]);
    let least = |nodes: Value| json!({"type": "least_conn", "nodes": nodes});
    let gateway = Gateway::builder(BIN).tcp(1).start();
    gateway.put("upstreams/1", &least(list(&[(&a, 1), (&b, 1)]))).expect(201);
    gateway.put("stream_routes/1", &json!({"upstream_id": "1"})).expect(201);
    let mut held: Vec<_> = (0..6).map(|_| open(gateway.tcp(0))).collect();
    assert_eq!(names(&held), ["a", "a", "a", "b", "b", "b"]);
    // All sessions of `a` end: it gets the next ones.
    let before = gateway.access().len();
    held.retain(|(name, _)| name == "b");
    wait::until_true("they have ended", SOON, || gateway.access().len() == before + 3);
    held.extend((0..3).map(|_| open(gateway.tcp(0))));
    assert_eq!(names(&held), ["a", "a", "a", "b", "b", "b"]);
    // Who is connected still counts after the upstream has changed.
    gateway.put("upstreams/1", &least(list(&[(&new, 1), (&a, 1), (&b, 1)]))).expect(200);
    held.extend((0..3).map(|_| open(gateway.tcp(0))));
    assert_eq!(names(&held), ["a", "a", "a", "b", "b", "b", "new", "new", "new"]);
}

#[test]
fn least_conn_goes_on_after_a_dead_node_and_does_not_count_it() {
    let dead = Port::take();
    let alive = TcpPeer::named("alive");
    let gateway = before(&json!({"type": "least_conn", "nodes": [
        {"host": "127.0.0.1", "port": dead.number(), "weight": 9},
        {"host": "127.0.0.1", "port": alive.addr().port(), "weight": 1}
    ]}));
    let held: Vec<_> = (0..6).map(|_| open(gateway.tcp(0))).collect();
    assert_eq!(names(&held), ["alive"; 6]);
    drop(held);
    let tried = format!("upstream={}, {} ", dead.local(), alive.addr());
    wait::until_true("all six have tried the dead node first", SOON, || {
        gateway.access().iter().filter(|line| line.contains(&tried)).count() == 6
    });
}

#[test]
fn a_sole_node_is_dialled_again_except_by_least_conn() {
    let dead = Port::take();
    for (kind, attempts) in [("roundrobin", 3), ("chash", 3), ("ewma", 3), ("least_conn", 1)] {
        let gateway = before(&json!({
            "type": kind, "key": "remote_addr", "retries": 2, "nodes": {dead.local().to_string(): 1}
        }));
        assert_eq!(open(gateway.tcp(0)).0, "nobody");
        let line = gateway.wait_access(&["reason=UF"]);
        assert_eq!(line.matches(&dead.local().to_string()).count(), attempts, "{kind}: {line}");
    }
}

#[test]
fn least_conn_of_datagrams() {
    let [a, b] = ["a", "b"].map(UdpPeer::named);
    let gateway = Gateway::builder(BIN).udp(1).start();
    let nodes = json!({a.node(): 1, b.node(): 1});
    gateway
        .put("stream_routes/1", &json!({"upstream": {"type": "least_conn", "nodes": nodes}}))
        .expect(201);
    let clients: Vec<_> = (0..8).map(|_| udp(gateway.udp(0))).collect();
    let mut answers: Vec<_> = clients.iter().map(|client| ask(client, b"?")).collect();
    answers.sort_unstable();
    assert_eq!(answers.concat(), b"a:?a:?a:?a:?b:?b:?b:?b:?");
}

// ---- ewma

#[test]
fn ewma_reaches_all_nodes_and_avoids_a_dead_one() {
    let dead = Port::take();
    let [a, b] = nodes(["a", "b"]);
    let gateway = before(&json!({"type": "ewma", "nodes": {
        dead.local().to_string(): 1, a.node(): 1, b.node(): 1
    }}));
    let held: Vec<_> = (0..30).map(|_| open(gateway.tcp(0))).collect();
    let reached: BTreeSet<_> = names(&held).into_iter().collect();
    assert_eq!(reached, ["a", "b"].into());
    drop(held);
    wait::until_true("all have ended", SOON, || gateway.access().len() == 30);
    let dead = dead.local().to_string();
    let tries = gateway.access().iter().filter(|line| line.contains(&dead)).count();
    assert!((1..10).contains(&tries), "{tries} of 30 sessions tried the dead node");
}

// ---- priorities and types

#[test]
fn up_09_lower_priorities_are_for_retries() {
    for kind in ["roundrobin", "least_conn"] {
        let dead: Vec<Port> = (0..4).map(|_| Port::take()).collect();
        let alive = TcpPeer::named("alive");
        let node = |index: usize, weight: u32, priority: i32| {
            json!({
                "host": "127.0.0.1", "port": dead[index].number(),
                "weight": weight, "priority": priority
            })
        };
        let gateway = before(&json!({"type": kind, "nodes": [
            {"host": "127.0.0.1", "port": alive.addr().port(), "weight": 1, "priority": -1},
            node(2, 2, 0), node(3, 1, 0), node(0, 2, 1), node(1, 1, 1)
        ]}));
        assert_eq!(open(gateway.tcp(0)).0, "alive");
        let tried: Vec<_> = dead.iter().map(|port| port.local().to_string()).collect();
        gateway.wait_access(&[&format!("upstream={}, {} ", tried.join(", "), alive.addr())]);
        for priority in [1, 0] {
            let line = format!(
                "failed to get server from current priority {priority}, try next one, \
                 err: all upstream servers tried"
            );
            gateway.wait_for_log(&line, SOON);
        }
    }
}

#[test]
fn up_17_an_unknown_type_only_closes_its_own_sessions() {
    let node = TcpPeer::named("a");
    let gateway = Gateway::builder(BIN).tcp(2).start();
    let upstream = json!({"type": "fastest", "nodes": {node.node(): 1}});
    let warnings = gateway.put("upstreams/1", &upstream).expect(201).warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(warnings[0]["code"], "upstream/balancer");
    let route =
        |index: usize, id: &str| json!({"server_port": gateway.tcp_port(index), "upstream_id": id});
    gateway.put("stream_routes/1", &route(0, "1")).expect(201);
    gateway.put("upstreams/2", &json!({"nodes": {node.node(): 1}})).expect(201);
    gateway.put("stream_routes/2", &route(1, "2")).expect(201);
    assert_eq!(open(gateway.tcp(0)).0, "nobody");
    assert_eq!(open(gateway.tcp(1)).0, "a");
    gateway.wait_for_log("invalid balancer type: fastest", SOON);
    gateway.wait_access(&["reason=NU", "status=503"]);
    // Mended, it serves.
    gateway.put("upstreams/1", &json!({"type": "ewma", "nodes": {node.node(): 1}})).expect(200);
    assert_eq!(open(gateway.tcp(0)).0, "a");
}
