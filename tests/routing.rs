//! Which route, which upstream, which node: the conformance list's RT, SV, LS and UP parts.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use headgate_testkit::client::{self, reach, reach_from};
use headgate_testkit::peer::BlackHole;
use headgate_testkit::{Gateway, Port, SOON, TcpPeer, proc, wait};
use serde_json::{Value, json};

const BIN: &str = env!("CARGO_BIN_EXE_headgate");

fn one_listener() -> Gateway {
    Gateway::builder(BIN).tcp(1).start()
}

/// An upstream with one node.
fn to(node: &TcpPeer) -> Value {
    json!({"type": "roundrobin", "nodes": {node.node(): 1}})
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The same listener, reached by another local address.
fn by(address: &str, listener: SocketAddr) -> SocketAddr {
    SocketAddr::new(ip(address), listener.port())
}

fn some(name: &str) -> Option<String> {
    Some(name.to_owned())
}

// ---- RT

#[test]
fn rt_01_02_remote_addr_is_the_clients_address() {
    let (gateway, node) = (one_listener(), TcpPeer::named("a"));
    let body = json!({"remote_addr": "127.0.0.1", "upstream": to(&node)});
    gateway.put("stream_routes/1", &body).expect(201);
    assert_eq!(reach(gateway.tcp(0)), some("a"));
    assert_eq!(reach_from(ip("127.0.0.9"), gateway.tcp(0)), None);
    gateway.wait_for_log("not hit any route", SOON);
    assert_eq!(node.accepted(), 1);
}

#[test]
fn rt_03_remote_addr_as_network() {
    let (gateway, node) = (one_listener(), TcpPeer::named("a"));
    let body = json!({"remote_addr": "127.7.0.0/16", "upstream": to(&node)});
    gateway.put("stream_routes/1", &body).expect(201);
    for inside in ["127.7.0.1", "127.7.255.254"] {
        assert_eq!(reach_from(ip(inside), gateway.tcp(0)), some("a"), "{inside}");
    }
    for outside in ["127.6.255.255", "127.8.0.1", "127.0.0.1"] {
        assert_eq!(reach_from(ip(outside), gateway.tcp(0)), None, "{outside}");
    }
}

#[test]
fn rt_04_malformed_addresses_are_refused() {
    let gateway = one_listener();
    for field in ["remote_addr", "server_addr"] {
        for bad in ["::/999", ":/24"] {
            gateway
                .put("stream_routes/1", &json!({field: bad}))
                .refused(400, &format!("invalid {field}: {bad}"));
        }
        for bad in ["localhost", "300.1.1.1", "127.0.0.1/33", "", "1.2.3"] {
            let answer = gateway.put("stream_routes/1", &json!({field: bad})).expect(400);
            assert!(answer.error_msg().contains(field), "{bad}: {}", answer.body);
        }
    }
    gateway.get("stream_routes/1").expect(404);
}

#[test]
fn rt_05_ipv6_in_both_fields() {
    let gateway = Gateway::builder(BIN).tcp_entry("\"[::]:{port}\"").tcp(1).start();
    let (address, network, any) = (TcpPeer::named("a"), TcpPeer::named("n"), TcpPeer::named("v4"));
    for (id, body) in [
        ("1", json!({"remote_addr": "2001:db8::/32", "upstream": to(&any)})),
        ("2", json!({"remote_addr": "::1", "server_addr": "::1", "upstream": to(&address)})),
        ("3", json!({"remote_addr": "::/0", "server_addr": "::/64", "upstream": to(&network)})),
        ("4", json!({"remote_addr": "0.0.0.0/0", "upstream": to(&any)})),
    ] {
        gateway.put(&format!("stream_routes/{id}"), &body).expect(201);
    }
    let listener = SocketAddr::from((Ipv6Addr::LOCALHOST, gateway.tcp_port(0)));
    assert_eq!(reach(listener), some("a"));
    gateway.delete("stream_routes/2").expect(200);
    assert_eq!(reach(listener), some("n"));
    assert_eq!(reach(gateway.tcp(1)), some("v4"));
}

#[test]
fn rt_06_server_port() {
    let gateway = Gateway::builder(BIN).tcp(2).start();
    let node = TcpPeer::named("a");
    let body = json!({"server_port": gateway.tcp_port(0), "upstream": to(&node)});
    gateway.put("stream_routes/1", &body).expect(201);
    assert_eq!(reach(gateway.tcp(0)), some("a"));
    assert_eq!(reach(gateway.tcp(1)), None);
}

#[test]
fn rt_07_server_addr_is_the_real_local_address_of_a_wildcard_listener() {
    let (gateway, node) = (one_listener(), TcpPeer::named("a"));
    let body = json!({"server_addr": "127.0.0.2", "upstream": to(&node)});
    gateway.put("stream_routes/1", &body).expect(201);
    assert_eq!(reach(by("127.0.0.2", gateway.tcp(0))), some("a"));
    assert_eq!(reach(gateway.tcp(0)), None);
}

#[test]
fn rt_08_all_predicates_must_hold() {
    let gateway = Gateway::builder(BIN).tcp(2).start();
    let node = TcpPeer::named("a");
    let body = json!({
        "server_addr": "127.0.0.2",
        "server_port": gateway.tcp_port(0),
        "remote_addr": "127.0.0.8/31",
        "upstream": to(&node)
    });
    gateway.put("stream_routes/1", &body).expect(201);
    for (from, local, listener, expected) in [
        ("127.0.0.9", "127.0.0.2", 0, some("a")),
        ("127.0.0.10", "127.0.0.2", 0, None),
        ("127.0.0.9", "127.0.0.1", 0, None),
        ("127.0.0.9", "127.0.0.2", 1, None),
    ] {
        let seen = reach_from(ip(from), by(local, gateway.tcp(listener)));
        assert_eq!(seen, expected, "from {from} to {local} on listener {listener}");
    }
}

#[test]
fn rt_09_10_the_first_created_route_wins_however_specific_a_later_one_is() {
    let gateway = one_listener();
    let (first, second) = (TcpPeer::named("first"), TcpPeer::named("second"));
    // Neither the order of ids nor how specific a route is matters.
    gateway.put("stream_routes/9", &json!({"upstream": to(&first)})).expect(201);
    let specific = json!({"server_port": gateway.tcp_port(0), "remote_addr": "127.0.0.1", "upstream": to(&second)});
    gateway.put("stream_routes/1", &specific).expect(201);
    assert_eq!(reach(gateway.tcp(0)), some("first"));
    // An update keeps the place.
    gateway.put("stream_routes/9", &json!({"desc": "x", "upstream": to(&first)})).expect(200);
    assert_eq!(reach(gateway.tcp(0)), some("first"));
    // What is created again goes to the end.
    gateway.delete("stream_routes/9").expect(200);
    assert_eq!(reach(gateway.tcp(0)), some("second"));
    gateway.put("stream_routes/9", &json!({"upstream": to(&first)})).expect(201);
    assert_eq!(reach(gateway.tcp(0)), some("second"));
}

#[test]
fn the_order_of_routes_survives_a_restart() {
    let mut gateway = one_listener();
    let (first, second) = (TcpPeer::named("first"), TcpPeer::named("second"));
    gateway.put("stream_routes/z", &json!({"upstream": to(&first)})).expect(201);
    gateway.put("stream_routes/a", &json!({"upstream": to(&second)})).expect(201);
    assert_eq!(reach(gateway.tcp(0)), some("first"));
    gateway.restart();
    assert_eq!(reach(gateway.tcp(0)), some("first"));
}

#[test]
fn rt_11_without_routes_connections_are_closed() {
    let gateway = one_listener();
    assert_eq!(reach(gateway.tcp(0)), None);
    gateway.wait_for_log("not hit any route", SOON);
    gateway.wait_access(&["TCP", "reason=NR", "out=0"]);
}

#[test]
fn rt_12_a_changed_upstream_serves_new_connections() {
    let gateway = one_listener();
    let (old, new) = (TcpPeer::named("old"), TcpPeer::named("new"));
    gateway.put("upstreams/1", &to(&old)).expect(201);
    gateway.put("stream_routes/1", &json!({"upstream_id": "1"})).expect(201);
    assert_eq!(reach(gateway.tcp(0)), some("old"));
    gateway.put("upstreams/1", &to(&new)).expect(200);
    assert_eq!(reach(gateway.tcp(0)), some("new"));
    gateway.patch("upstreams/1/nodes", &json!({old.node(): 1})).expect(200);
    assert_eq!(reach(gateway.tcp(0)), some("old"));
}

#[test]
fn rt_12_ids_may_be_numbers() {
    let (gateway, node) = (one_listener(), TcpPeer::named("a"));
    gateway.put("upstreams/7", &to(&node)).expect(201);
    gateway.put("stream_routes/1", &json!({"upstream_id": 7})).expect(201);
    assert_eq!(reach(gateway.tcp(0)), some("a"));
}

#[test]
fn rt_13_a_forcibly_deleted_upstream_closes_connections() {
    let (gateway, node) = (one_listener(), TcpPeer::named("a"));
    gateway.put("upstreams/u", &to(&node)).expect(201);
    gateway.put("stream_routes/1", &json!({"upstream_id": "u"})).expect(201);
    // headgate refuses what would break a stream route; the reference does not.
    let refused = gateway.delete("upstreams/u").expect(400);
    assert!(
        refused.error_msg().starts_with("can not delete this upstream, stream_route [1]"),
        "{}",
        refused.body
    );
    assert_eq!(reach(gateway.tcp(0)), some("a"));
    gateway.delete("upstreams/u?force=true").expect(200);
    assert_eq!(reach(gateway.tcp(0)), None);
    gateway.wait_for_log("failed to find upstream by id: u", SOON);
    gateway.put("upstreams/u", &to(&node)).expect(201);
    assert_eq!(reach(gateway.tcp(0)), some("a"));
}

#[test]
fn rt_14_a_hole_in_the_collection_does_no_harm() {
    let gateway = Gateway::builder(BIN).tcp(3).start();
    let nodes = [TcpPeer::named("1"), TcpPeer::named("2"), TcpPeer::named("3")];
    let put = |n: usize| {
        let body = json!({"server_port": gateway.tcp_port(n), "upstream": to(&nodes[n])});
        gateway.put(&format!("stream_routes/{}", n + 1), &body).ok();
    };
    (0..3).for_each(put);
    gateway.delete("stream_routes/2").expect(200);
    let seen = || (0..3).map(|n| reach(gateway.tcp(n))).collect::<Vec<_>>();
    assert_eq!(seen(), [some("1"), None, some("3")]);
    put(1);
    assert_eq!(seen(), [some("1"), some("2"), some("3")]);
}

#[test]
fn rt_15_a_deleted_route_leaves_its_connections_alone() {
    let (gateway, node) = (one_listener(), TcpPeer::echo());
    gateway.put("stream_routes/1", &json!({"upstream": to(&node)})).expect(201);
    let mut open = client::connect(gateway.tcp(0));
    client::assert_alive(&mut open);
    gateway.delete("stream_routes/1").expect(200);
    assert_eq!(reach(gateway.tcp(0)), None);
    client::assert_alive(&mut open);
}

#[test]
fn rt_16_17_http_settings_of_an_upstream_mean_nothing_here() {
    let (gateway, node) = (one_listener(), TcpPeer::named("a"));
    for extra in [
        json!({}),
        json!({"pass_host": "node"}),
        json!({"pass_host": "rewrite", "upstream_host": "x.test"}),
        json!({"scheme": "http", "keepalive_pool": {"size": 4}}),
        json!({"scheme": "tcp"}),
        json!({"scheme": "udp"}),
    ] {
        let mut upstream = to(&node);
        let members = upstream.as_object_mut().expect("an object");
        members.extend(extra.as_object().expect("an object").clone());
        gateway.put("stream_routes/1", &json!({"upstream": upstream})).ok();
        assert_eq!(reach(gateway.tcp(0)), some("a"), "{extra}");
    }
}

#[test]
fn rt_18_a_route_without_upstream_is_stored_and_closes_connections() {
    let gateway = one_listener();
    gateway.put("stream_routes/1", &json!({})).expect(201);
    assert_eq!(reach(gateway.tcp(0)), None);
    gateway.wait_for_log("missing upstream configuration in Route or Service", SOON);
}

#[test]
fn rt_19_an_upstream_without_nodes() {
    let gateway = one_listener();
    for nodes in [json!({}), json!([])] {
        gateway.put("stream_routes/1", &json!({"upstream": {"nodes": nodes}})).ok();
        assert_eq!(reach(gateway.tcp(0)), None);
        gateway.wait_for_log("no valid upstream node", SOON);
    }
    gateway.wait_access(&["TCP", "reason=NU"]);
}

#[test]
fn rt_20_unknown_members_are_refused() {
    let gateway = one_listener();
    for (name, value) in [
        ("priority", json!(1)),
        ("status", json!(1)),
        ("timeout", json!({"connect": 1})),
        ("uri", json!("/")),
    ] {
        gateway.put("stream_routes/1", &json!({name: value})).refused(
            400,
            &format!("invalid configuration: additional properties forbidden, found {name}"),
        );
    }
}

#[test]
fn rt_21_nothing_of_one_session_shows_in_the_next() {
    let gateway = Gateway::builder(BIN).tcp(4).workers(1).start();
    let dead = Port::take();
    let (a, b) = (TcpPeer::named("a"), TcpPeer::named("b"));
    let upstreams =
        [to(&a), json!({"nodes": {dead.local().to_string(): 1}}), to(&b), json!({"nodes": {}})];
    for (n, upstream) in upstreams.iter().enumerate() {
        let body = json!({"server_port": gateway.tcp_port(n), "upstream": upstream});
        gateway.put(&format!("stream_routes/{n}"), &body).expect(201);
    }
    let expected = [some("a"), None, some("b"), None];
    for round in 0..10 {
        for step in 0..4 {
            // Another order in every round.
            let n = (step * (1 + 2 * (round % 2)) + round) % 4;
            assert_eq!(reach(gateway.tcp(n)), expected[n], "round {round} listener {n}");
        }
    }
    assert_eq!((a.accepted(), b.accepted()), (10, 10));
    wait::until_true("40 sessions in the access log", SOON, || gateway.access().len() == 40);
    for (n, reason, upstream) in
        [(0, "OK", a.node()), (1, "UF", dead.local().to_string()), (2, "OK", b.node())]
    {
        let port = format!(":{} ", gateway.tcp_port(n));
        let lines = gateway.access();
        let mine: Vec<_> = lines.iter().filter(|line| line.contains(&port)).collect();
        assert_eq!(mine.len(), 10);
        for line in mine {
            assert!(line.contains(&format!("reason={reason} ")), "{line}");
            assert!(line.contains(&format!("upstream={upstream} ")), "{line}");
        }
    }
}

#[test]
fn rt_22_a_subordinate_route_is_never_matched() {
    let gateway =
        Gateway::builder(BIN).tcp(1).top("xrpc:\n  protocols:\n    - name: redis").start();
    let (hidden, plain) = (TcpPeer::named("hidden"), TcpPeer::named("plain"));
    let superior = json!({"server_port": 9, "protocol": {"name": "redis"}});
    gateway.put("stream_routes/superior", &superior).expect(201);
    let subordinate =
        json!({"protocol": {"name": "redis", "superior_id": "superior"}, "upstream": to(&hidden)});
    gateway.put("stream_routes/subordinate", &subordinate).expect(201);
    assert_eq!(reach(gateway.tcp(0)), None);
    gateway.put("stream_routes/plain", &json!({"upstream": to(&plain)})).expect(201);
    assert_eq!(reach(gateway.tcp(0)), some("plain"));
    assert_eq!(hidden.accepted(), 0);
}

#[test]
fn an_sni_route_never_matches_a_plain_connection() {
    let gateway = one_listener();
    let (named, plain) = (TcpPeer::named("sni"), TcpPeer::named("plain"));
    gateway.put("stream_routes/1", &json!({"sni": "*", "upstream": to(&named)})).expect(201);
    assert_eq!(reach(gateway.tcp(0)), None);
    gateway.put("stream_routes/2", &json!({"upstream": to(&plain)})).expect(201);
    assert_eq!(reach(gateway.tcp(0)), some("plain"));
}

#[test]
fn the_right_one_of_a_thousand_routes_is_found() {
    let gateway = Gateway::builder(BIN).tcp(2).no_access_log().start();
    let (a, b) = (TcpPeer::named("a"), TcpPeer::named("b"));
    gateway.put("upstreams/a", &to(&a)).expect(201);
    gateway.put("upstreams/b", &to(&b)).expect(201);
    for n in 0..1000 {
        let (x, y) = (n / 250, n % 250);
        let body = json!({
            "remote_addr": format!("127.{}.{y}.0/24", 100 + x),
            "server_port": gateway.tcp_port(n % 2),
            "upstream_id": if n % 3 == 0 { "a" } else { "b" }
        });
        gateway.put(&format!("stream_routes/{n}"), &body).expect(201);
    }
    for n in [0, 1, 249, 250, 500, 777, 998, 999] {
        let from = ip(&format!("127.{}.{}.77", 100 + n / 250, n % 250));
        let expected = some(if n % 3 == 0 { "a" } else { "b" });
        assert_eq!(reach_from(from, gateway.tcp(n % 2)), expected, "route {n}");
        assert_eq!(reach_from(from, gateway.tcp((n + 1) % 2)), None, "route {n}, other port");
    }
}

// ---- SV

#[test]
fn sv_01_02_a_service_with_an_inline_upstream() {
    let (gateway, node) = (one_listener(), TcpPeer::named("a"));
    gateway.put("services/1", &json!({"upstream": to(&node)})).expect(201);
    let body = json!({"service_id": "1", "remote_addr": "127.0.0.5"});
    gateway.put("stream_routes/1", &body).expect(201);
    assert_eq!(reach_from(ip("127.0.0.5"), gateway.tcp(0)), some("a"));
    assert_eq!(reach(gateway.tcp(0)), None);
    assert_eq!(node.accepted(), 1);
}

#[test]
fn sv_03_04_a_service_with_an_upstream_id_may_change_it() {
    let gateway = one_listener();
    let (a, b) = (TcpPeer::named("a"), TcpPeer::named("b"));
    gateway.put("upstreams/a", &to(&a)).expect(201);
    gateway.put("upstreams/b", &to(&b)).expect(201);
    gateway.put("services/1", &json!({"upstream_id": "a"})).expect(201);
    gateway.put("stream_routes/1", &json!({"service_id": "1"})).expect(201);
    assert_eq!(reach(gateway.tcp(0)), some("a"));
    gateway.put("services/1", &json!({"upstream_id": "b"})).expect(200);
    assert_eq!(reach(gateway.tcp(0)), some("b"));
    gateway.put("services/1", &json!({"upstream": to(&a)})).expect(200);
    assert_eq!(reach(gateway.tcp(0)), some("a"));
    gateway.put("upstreams/b", &to(&a)).expect(200);
    assert_eq!(reach(gateway.tcp(0)), some("a"));
}

#[test]
fn sv_05_06_a_missing_service() {
    let (gateway, node) = (one_listener(), TcpPeer::named("a"));
    gateway.put("services/s", &json!({"upstream": to(&node)})).expect(201);
    gateway.put("stream_routes/1", &json!({"service_id": "s"})).expect(201);
    assert_eq!(reach(gateway.tcp(0)), some("a"));
    gateway.delete("services/s").refused(
        400,
        "can not delete this service directly, stream_route [1] is still using it now",
    );
    gateway.delete("services/s?force=true").expect(200);
    assert_eq!(reach(gateway.tcp(0)), None);
    gateway.wait_for_log("failed to fetch service configuration by id: s", SOON);
    gateway.delete("stream_routes/1").expect(200);
    assert_eq!(reach(gateway.tcp(0)), None);
    gateway.put("services/s", &json!({"upstream": to(&node)})).expect(201);
    gateway.put("stream_routes/1", &json!({"service_id": "s"})).expect(201);
    assert_eq!(reach(gateway.tcp(0)), some("a"));
}

#[test]
fn sv_08_an_upstream_id_of_the_route_beats_its_service() {
    let gateway = one_listener();
    let (own, service) = (TcpPeer::named("own"), TcpPeer::named("service"));
    gateway.put("upstreams/own", &to(&own)).expect(201);
    gateway.put("services/1", &json!({"upstream": to(&service)})).expect(201);
    gateway.put("stream_routes/1", &json!({"upstream_id": "own", "service_id": "1"})).expect(201);
    assert_eq!(reach(gateway.tcp(0)), some("own"));
    // The service is not consulted at all.
    gateway.delete("services/1?force=true").expect(200);
    assert_eq!(reach(gateway.tcp(0)), some("own"));
}

#[test]
fn sv_09_an_inline_upstream_of_the_route_beats_its_service() {
    let gateway = one_listener();
    let (own, service) = (TcpPeer::named("own"), TcpPeer::named("service"));
    gateway.put("upstreams/service", &to(&service)).expect(201);
    gateway.put("services/1", &json!({"upstream_id": "service"})).expect(201);
    let body = json!({"service_id": "1", "upstream": to(&own)});
    gateway.put("stream_routes/1", &body).expect(201);
    assert_eq!(reach(gateway.tcp(0)), some("own"));
    // Inline beats an id inside the service, too.
    let both = json!({"upstream_id": "service", "upstream": to(&own)});
    gateway.put("services/2", &both).expect(201);
    gateway.put("stream_routes/1", &json!({"service_id": "2"})).expect(200);
    assert_eq!(reach(gateway.tcp(0)), some("own"));
}

// ---- LS

#[test]
fn ls_01_every_form_of_a_listener() {
    let gateway = Gateway::builder(BIN)
        .tcp_entry("{port}")
        .tcp_entry("\"{port}\"")
        .tcp_entry("\"127.0.0.1:{port}\"")
        .tcp_entry("addr: {port}")
        .tcp_entry("addr: \"127.0.0.1:{port}\"\ntls: false")
        .tcp_entry("addr: \"0.0.0.0:{port}\"")
        .udp_entry("{port}")
        .udp_entry("\"127.0.0.1:{port}\"")
        .udp_entry("\"[::1]:{port}\"")
        .start();
    let node = TcpPeer::named("a");
    gateway.put("stream_routes/1", &json!({"upstream": to(&node)})).expect(201);
    for n in 0..6 {
        assert_eq!(reach(gateway.tcp(n)), some("a"), "listener {n}");
    }
    // An address in the entry is the only one that listens; a bare port listens on all.
    assert_eq!(reach(by("127.0.0.3", gateway.tcp(0))), some("a"));
    let elsewhere = std::net::TcpStream::connect(by("127.0.0.3", gateway.tcp(2)));
    assert!(elsewhere.is_err(), "127.0.0.1:port also answers on 127.0.0.3");
    // A bare port is IPv4 only.
    let six = SocketAddr::from((Ipv6Addr::LOCALHOST, gateway.tcp_port(0)));
    assert!(std::net::TcpStream::connect(six).is_err(), "a bare port also answers on IPv6");
    for n in 0..3 {
        assert!(proc::udp_bound(gateway.udp_port(n)), "UDP listener {n}");
    }
}

#[test]
fn ls_02_ranges() {
    let gateway = Gateway::builder(BIN)
        .tcp_range("{port}-{last}", 3)
        .tcp_range("\"127.0.0.1:{port}-{last}\"", 2)
        .tcp_range("addr: \"0.0.0.0:{port}-{last}\"", 2)
        .udp_range("{port}-{last}", 2)
        .start();
    let (tcp, udp) = (TcpPeer::named("a"), headgate_testkit::UdpPeer::echo());
    gateway
        .put(
            "stream_routes/1",
            &json!({"server_port": gateway.udp_port(0), "upstream": {"nodes": {udp.node(): 1}}}),
        )
        .expect(201);
    gateway
        .put(
            "stream_routes/2",
            &json!({"server_port": gateway.udp_port(1), "upstream": {"nodes": {udp.node(): 1}}}),
        )
        .expect(201);
    gateway.put("stream_routes/3", &json!({"upstream": to(&tcp)})).expect(201);
    for n in 0..7 {
        assert_eq!(reach(gateway.tcp(n)), some("a"), "listener {n}");
    }
    for n in 0..2 {
        assert_eq!(client::ask(&client::udp(gateway.udp(n)), b"hi"), b"hi", "UDP listener {n}");
    }
}

#[test]
fn unix_sockets_as_listeners() {
    use std::io::Read as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gate.sock");
    let gateway =
        Gateway::builder(BIN).tcp(1).tcp_entry(&format!("\"unix:{}\"", path.display())).start();
    let node = TcpPeer::named("a");
    gateway.put("stream_routes/1", &json!({"upstream": to(&node)})).expect(201);
    let mut stream = std::os::unix::net::UnixStream::connect(&path).expect("the socket exists");
    stream.set_read_timeout(Some(SOON)).expect("a deadline");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("bytes");
    assert_eq!(text, "a\n");
}

#[test]
fn ls_04_proxy_mode_http_leaves_stream_listeners_closed() {
    let gateway = Gateway::builder(BIN).tcp(1).proxy_mode("http").start();
    assert!(!proc::tcp_listens(gateway.tcp_port(0)));
    for (method, path, body) in [
        ("PUT", "stream_routes/1", Some("{}")),
        ("GET", "stream_routes", None),
        ("GET", "stream_routes/1", None),
        ("DELETE", "stream_routes/1", None),
    ] {
        gateway
            .request(method, path, body)
            .refused(400, "stream mode is disabled, can not add stream routes");
    }
    // Everything else can be stored.
    gateway.put("upstreams/1", &json!({"nodes": {}})).expect(201);
    let log = gateway.log().text();
    assert!(log.contains("proxy_mode") && log.contains("stream_proxy"), "no warning in:\n{log}");
}

#[test]
fn ls_04_proxy_mode_stream_keeps_the_admin_api() {
    let gateway = Gateway::builder(BIN).tcp(1).proxy_mode("stream").start();
    let node = TcpPeer::named("a");
    gateway.put("stream_routes/1", &json!({"upstream": to(&node)})).expect(201);
    assert_eq!(reach(gateway.tcp(0)), some("a"));
}

#[test]
fn ls_04_without_proxy_mode_the_presence_of_stream_proxy_decides() {
    let gateway = Gateway::builder(BIN).tcp(1).proxy_mode("").start();
    let node = TcpPeer::named("a");
    gateway.put("stream_routes/1", &json!({"upstream": to(&node)})).expect(201);
    assert_eq!(reach(gateway.tcp(0)), some("a"));
    drop(gateway);
    let without = Gateway::builder(BIN).proxy_mode("").start();
    without
        .put("stream_routes/1", &json!({}))
        .refused(400, "stream mode is disabled, can not add stream routes");
}

// ---- UP

fn nodes(list: &[(SocketAddr, u32)]) -> Value {
    list.iter()
        .map(|(addr, weight)| {
            json!({"host": addr.ip().to_string(), "port": addr.port(), "weight": weight})
        })
        .collect()
}

/// Connects `count` times, one after the other, and counts who answered.
fn shares(gateway: &Gateway, count: usize, names: &[&str]) -> Vec<usize> {
    let seen: Vec<_> = (0..count).map(|_| reach(gateway.tcp(0))).collect();
    names
        .iter()
        .map(|name| seen.iter().filter(|got| got.as_deref() == Some(name)).count())
        .collect()
}

#[test]
fn up_03_roundrobin_shares_exactly() {
    let gateway = Gateway::builder(BIN).tcp(1).workers(1).start();
    let (a, b, c) = (TcpPeer::named("a"), TcpPeer::named("b"), TcpPeer::named("c"));
    let list = nodes(&[(a.addr(), 1), (b.addr(), 1), (c.addr(), 1)]);
    gateway.put("stream_routes/1", &json!({"upstream": {"nodes": list}})).expect(201);
    assert_eq!(shares(&gateway, 12, &["a", "b", "c"]), [4, 4, 4]);
    // A change elsewhere does not disturb the turn.
    assert_eq!(shares(&gateway, 2, &["a", "b", "c"]).iter().sum::<usize>(), 2);
    gateway.put("upstreams/other", &json!({"nodes": {}})).expect(201);
    let rest = shares(&gateway, 1, &["a", "b", "c"]);
    assert_eq!(rest.iter().sum::<usize>(), 1);
    assert_eq!((a.accepted(), b.accepted(), c.accepted()), (5, 5, 5));
}

#[test]
fn up_04_weights() {
    let gateway = Gateway::builder(BIN).tcp(1).workers(1).start();
    let (a, b, none) = (TcpPeer::named("a"), TcpPeer::named("b"), TcpPeer::named("none"));
    let list = nodes(&[(a.addr(), 3), (b.addr(), 1), (none.addr(), 0)]);
    gateway.put("stream_routes/1", &json!({"upstream": {"nodes": list}})).expect(201);
    assert_eq!(shares(&gateway, 8, &["a", "b", "none"]), [6, 2, 0]);
    // The map form is the same.
    let map = json!({a.node(): 2, b.node(): 2, none.node(): 0});
    gateway.put("stream_routes/1", &json!({"upstream": {"nodes": map}})).expect(200);
    assert_eq!(shares(&gateway, 6, &["a", "b", "none"]), [3, 3, 0]);
}

#[test]
fn up_05_a_single_node_whatever_its_weight() {
    let (gateway, node) = (one_listener(), TcpPeer::named("a"));
    for weight in [1, 100, 0] {
        let body = json!({"upstream": {"nodes": nodes(&[(node.addr(), weight)])}});
        gateway.put("stream_routes/1", &body).ok();
        assert_eq!(shares(&gateway, 4, &["a"]), [4], "weight {weight}");
    }
}

#[test]
fn up_11_a_dead_node_is_passed_over() {
    let gateway = Gateway::builder(BIN).tcp(1).workers(1).start();
    let (dead, alive) = (Port::take(), TcpPeer::named("alive"));
    let list = nodes(&[(dead.local(), 1), (alive.addr(), 1)]);
    gateway.put("stream_routes/1", &json!({"upstream": {"nodes": list}})).expect(201);
    assert_eq!(shares(&gateway, 6, &["alive"]), [6]);
    gateway.wait_for_log("connect() failed (111: Connection refused)", SOON);
    // Both tries stand in the access log.
    gateway.wait_access(&["reason=OK", &format!("upstream={}, {} ", dead.local(), alive.addr())]);
}

#[test]
fn up_12_all_nodes_dead() {
    let gateway = Gateway::builder(BIN).tcp(1).workers(1).start();
    let dead: Vec<Port> = (0..3).map(|_| Port::take()).collect();
    let list: Vec<_> = dead.iter().map(|port| (port.local(), 1)).collect();
    gateway.put("stream_routes/1", &json!({"upstream": {"nodes": nodes(&list)}})).expect(201);
    let mark = gateway.mark();
    assert_eq!(reach(gateway.tcp(0)), None);
    gateway.wait_access(&["reason=UF", "status=502"]);
    for port in &dead {
        let tries = gateway.log().lines_with(mark, &format!("proxy request to {}", port.local()));
        assert_eq!(tries.len(), 1, "{tries:?}");
    }
    gateway.wait_for_log_after(mark, "connect() failed");
}

#[test]
fn up_13_without_retries_a_dead_node_closes_the_connection() {
    let gateway = Gateway::builder(BIN).tcp(1).workers(1).start();
    let (dead, alive) = (Port::take(), TcpPeer::named("alive"));
    let list = nodes(&[(dead.local(), 1), (alive.addr(), 1)]);
    let body = json!({"upstream": {"retries": 0, "nodes": list}});
    gateway.put("stream_routes/1", &body).expect(201);
    assert_eq!(shares(&gateway, 8, &["alive"]), [4]);
}

#[test]
fn up_14_no_retry_after_the_retry_timeout() {
    let gateway = Gateway::builder(BIN).tcp(1).workers(1).start();
    let holes = [BlackHole::open(), BlackHole::open(), BlackHole::open()];
    let list: Vec<_> = holes.iter().map(|hole| (hole.addr(), 1)).collect();
    let body = json!({"upstream": {
        "nodes": nodes(&list),
        "retry_timeout": 0.5,
        "timeout": {"connect": 1, "send": 5, "read": 5}
    }});
    gateway.put("stream_routes/1", &body).expect(201);
    let began = Instant::now();
    assert_eq!(reach(gateway.tcp(0)), None);
    let took = began.elapsed();
    assert!(took > Duration::from_millis(900) && took < Duration::from_millis(1900), "{took:?}");
    gateway.wait_for_log("proxy retry timeout", SOON);
}

#[test]
fn up_15_connect_timeout() {
    let gateway = Gateway::builder(BIN).tcp(2).workers(1).start();
    let (hole, alive) = (BlackHole::open(), TcpPeer::named("alive"));
    let timeout = json!({"connect": 0.7, "send": 5, "read": 5});
    let alone = json!({
        "server_port": gateway.tcp_port(1),
        "upstream": {"timeout": timeout, "nodes": nodes(&[(hole.addr(), 1)])}
    });
    gateway.put("stream_routes/1", &alone).expect(201);
    let list = nodes(&[(hole.addr(), 1), (alive.addr(), 1)]);
    let both = json!({"upstream": {"timeout": timeout, "nodes": list}});
    gateway.put("stream_routes/2", &both).expect(201);

    let began = Instant::now();
    assert_eq!(reach(gateway.tcp(1)), None);
    let took = began.elapsed();
    assert!(took > Duration::from_millis(600) && took < Duration::from_secs(3), "{took:?}");
    gateway.wait_access(&["reason=UT", "status=502"]);

    // One of two turns begins at the black hole and goes on to the other node.
    let times: Vec<_> = (0..2)
        .map(|_| {
            let began = Instant::now();
            assert_eq!(reach(gateway.tcp(0)), some("alive"));
            began.elapsed()
        })
        .collect();
    assert!(times.iter().any(|took| *took > Duration::from_millis(600)), "{times:?}");
    assert!(times.iter().any(|took| *took < Duration::from_millis(600)), "{times:?}");
}

#[test]
fn up_16_ipv6_nodes() {
    let gateway = one_listener();
    let node = TcpPeer::named_on(Ipv6Addr::LOCALHOST.into(), "six");
    let map = json!({node.node(): 1});
    gateway.put("stream_routes/1", &json!({"upstream": {"nodes": map}})).expect(201);
    assert_eq!(reach(gateway.tcp(0)), some("six"));
    gateway.wait_access(&["reason=OK", &format!("upstream=[::1]:{} ", node.addr().port())]);
    for host in ["[::1]", "::1"] {
        let list = json!([{"host": host, "port": node.addr().port(), "weight": 1}]);
        gateway.put("stream_routes/1", &json!({"upstream": {"nodes": list}})).expect(200);
        assert_eq!(reach(gateway.tcp(0)), some("six"), "{host}");
    }
}

#[test]
fn several_routes_may_share_an_upstream_and_keep_one_turn() {
    let gateway = Gateway::builder(BIN).tcp(2).workers(1).start();
    let (a, b) = (TcpPeer::named("a"), TcpPeer::named("b"));
    let list = nodes(&[(a.addr(), 1), (b.addr(), 1)]);
    gateway.put("upstreams/1", &json!({"nodes": list})).expect(201);
    for n in 0..2 {
        let body = json!({"server_port": gateway.tcp_port(n), "upstream_id": "1"});
        gateway.put(&format!("stream_routes/{n}"), &body).expect(201);
    }
    for n in [0, 1, 0, 1, 0, 1, 0, 1] {
        assert!(reach(gateway.tcp(n)).is_some());
    }
    assert_eq!((a.accepted(), b.accepted()), (4, 4));
}
