//! UDP: flows, sizes, idle end, eviction, and which address answers.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use headgate_testkit::client::{ask, assert_alive, connect, receive, try_receive, udp};
use headgate_testkit::pattern::Pattern;
use headgate_testkit::{Gateway, Port, SOON, TcpPeer, UdpPeer, wait};
use serde_json::{Value, json};

const BIN: &str = env!("CARGO_BIN_EXE_headgate");

/// Long enough for an answer on loopback that does come, short enough to wait for one that must not.
const SILENCE: Duration = Duration::from_millis(300);

fn one_listener() -> Gateway {
    Gateway::builder(BIN).udp(1).start()
}

fn to(node: &UdpPeer) -> Value {
    json!({"upstream": {"nodes": {node.node(): 1}}})
}

#[test]
fn rt_23_a_datagram_and_its_reply() {
    let (gateway, node) = (one_listener(), UdpPeer::named("a"));
    gateway.put("stream_routes/1", &to(&node)).expect(201);
    let socket = udp(gateway.udp(0));
    assert_eq!(ask(&socket, b"hello"), b"a:hello");
    assert_eq!(ask(&socket, b"again"), b"a:again");
    assert_eq!(node.sources().len(), 1, "one flow for one client");
    gateway.wait_for_log(&format!("proxy request to {}", node.addr()), SOON);
}

#[test]
fn rt_24_silence_without_a_route_and_service_as_soon_as_there_is_one() {
    let (gateway, node) = (one_listener(), UdpPeer::named("a"));
    let socket = udp(gateway.udp(0));
    socket.send(b"lost").expect("sent");
    // No answer, and no ICMP error either: receiving just times out.
    let mut buffer = [0; 16];
    socket.set_read_timeout(Some(SILENCE)).expect("a deadline");
    let error = socket.recv(&mut buffer).expect_err("nothing answers");
    assert!(
        matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
        "{error}"
    );
    socket.set_read_timeout(Some(SOON)).expect("a deadline");
    gateway.wait_for_log("not hit any route", SOON);
    gateway.put("stream_routes/1", &to(&node)).expect(201);
    assert_eq!(ask(&socket, b"found"), b"a:found");
    assert_eq!(node.received(), 1);
}

#[test]
fn rt_25_a_flow_keeps_its_node_when_the_route_changes() {
    let gateway = one_listener();
    let (old, new) = (UdpPeer::named("old"), UdpPeer::named("new"));
    gateway.put("stream_routes/1", &to(&old)).expect(201);
    let early = udp(gateway.udp(0));
    assert_eq!(ask(&early, b"1"), b"old:1");
    gateway.put("stream_routes/1", &to(&new)).expect(200);
    assert_eq!(ask(&udp(gateway.udp(0)), b"2"), b"new:2");
    assert_eq!(ask(&early, b"3"), b"old:3");
    gateway.delete("stream_routes/1").expect(200);
    assert_eq!(ask(&early, b"4"), b"old:4");
    let late = udp(gateway.udp(0));
    late.send(b"5").expect("sent");
    assert_eq!(try_receive(&late, SILENCE), None);
}

#[test]
fn rt_26_an_idle_flow_ends_and_the_next_datagram_begins_another() {
    let (gateway, node) = (one_listener(), UdpPeer::echo());
    let body = json!({"upstream": {
        "nodes": {node.node(): 1},
        "timeout": {"connect": 1, "send": 1, "read": 0.5}
    }});
    gateway.put("stream_routes/1", &body).expect(201);
    let socket = udp(gateway.udp(0));
    assert_eq!(ask(&socket, b"one"), b"one");
    let line = gateway.wait_access(&["UDP", "reason=IT"]);
    assert!(line.contains("in=3 out=3 "), "{line}");
    assert!(line.contains("status=200"), "{line}");
    assert_eq!(ask(&socket, b"two"), b"two");
    assert_eq!(node.sources().len(), 2, "a new flow");
}

#[test]
fn traffic_in_either_direction_keeps_a_flow() {
    let gateway = one_listener();
    // Answers once, 8 times in all, with pauses: the client stays silent.
    let node = UdpPeer::new(|payload, _| {
        std::thread::sleep(Duration::from_millis(400));
        vec![payload.to_vec()]
    });
    let body = json!({"upstream": {
        "nodes": {node.node(): 1},
        "timeout": {"connect": 1, "send": 1, "read": 1}
    }});
    gateway.put("stream_routes/1", &body).expect(201);
    let socket = udp(gateway.udp(0));
    for n in 0..5_u8 {
        socket.send(&[n]).expect("sent");
    }
    // The node takes 2 s for its answers, twice the timeout; each of them renews it.
    for n in 0..5_u8 {
        assert_eq!(receive(&socket), [n]);
    }
    assert_eq!(node.sources().len(), 1);
}

#[test]
fn rt_27_every_reply_is_delivered() {
    let (gateway, node) = (one_listener(), UdpPeer::multi(50));
    gateway.put("stream_routes/1", &to(&node)).expect(201);
    let socket = udp(gateway.udp(0));
    for round in 0..5 {
        let question = format!("round {round}");
        socket.send(question.as_bytes()).expect("sent");
        for n in 0..50 {
            assert_eq!(receive(&socket), format!("{n}:{question}").into_bytes());
        }
    }
}

#[test]
fn every_size_passes_in_both_directions() {
    let (gateway, node) = (one_listener(), UdpPeer::echo());
    gateway.put("stream_routes/1", &to(&node)).expect(201);
    let socket = udp(gateway.udp(0));
    // The first datagram of a flow may be the largest.
    for size in [65_507, 0, 1, 512, 1_472, 1_473, 9_000, 16_383, 16_384, 16_385, 65_506, 65_507] {
        let payload = Pattern::new(size as u64).take(size);
        assert_eq!(ask(&socket, &payload), payload, "size {size}");
    }
    assert_eq!(node.sources().len(), 1);
}

#[test]
fn an_empty_datagram_is_a_datagram() {
    let (gateway, node) = (one_listener(), UdpPeer::echo());
    gateway.put("stream_routes/1", &to(&node)).expect(201);
    let socket = udp(gateway.udp(0));
    assert_eq!(ask(&socket, b""), b"");
    assert_eq!(ask(&socket, b"x"), b"x");
    assert_eq!(ask(&socket, b""), b"");
    assert_eq!(node.received(), 3);
}

#[test]
fn answers_leave_from_the_address_that_was_asked() {
    let (gateway, node) = (one_listener(), UdpPeer::echo());
    gateway.put("stream_routes/1", &to(&node)).expect(201);
    // One client socket that asks several addresses of the wildcard listener in turn.
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a UDP socket");
    socket.set_read_timeout(Some(SOON)).expect("a deadline");
    let mut buffer = [0; 64];
    for _ in 0..2 {
        for last in [1, 2, 53, 254] {
            let asked = SocketAddr::from(([127, 0, 0, last], gateway.udp_port(0)));
            socket.send_to(&[last], asked).expect("sent");
            let (count, from) = socket.recv_from(&mut buffer).expect("an answer");
            assert_eq!((from, &buffer[..count]), (asked, &[last][..]));
        }
    }
    assert_eq!(node.sources().len(), 4, "one flow for each address that was asked");
}

#[test]
fn the_routing_facts_of_a_flow() {
    let gateway = Gateway::builder(BIN).udp(2).start();
    let (addr, port, client) =
        (UdpPeer::named("addr"), UdpPeer::named("port"), UdpPeer::named("client"));
    for (id, predicate, node) in [
        ("1", json!({"server_addr": "127.0.0.2"}), &addr),
        ("2", json!({"server_port": gateway.udp_port(1)}), &port),
        ("3", json!({"remote_addr": "127.0.0.1"}), &client),
    ] {
        let mut body = to(node);
        body.as_object_mut()
            .expect("object")
            .extend(predicate.as_object().expect("object").clone());
        gateway.put(&format!("stream_routes/{id}"), &body).expect(201);
    }
    let second = SocketAddr::from(([127, 0, 0, 2], gateway.udp_port(1)));
    assert_eq!(ask(&udp(second), b"x"), b"addr:x");
    assert_eq!(ask(&udp(gateway.udp(1)), b"x"), b"port:x");
    assert_eq!(ask(&udp(gateway.udp(0)), b"x"), b"client:x");
}

#[test]
fn flows_over_ipv6() {
    let gateway = Gateway::builder(BIN).udp_entry("\"[::]:{port}\"").start();
    let four = UdpPeer::named("four");
    let six =
        UdpPeer::at("[::1]:0".parse().expect("an address"), |payload, _| vec![payload.to_vec()]);
    gateway.put("stream_routes/1", &to(&four)).expect(201);
    let listener: SocketAddr = ([0, 0, 0, 0, 0, 0, 0, 1], gateway.udp_port(0)).into();
    assert_eq!(ask(&udp(listener), b"x"), b"four:x");
    gateway.put("stream_routes/1", &to(&six)).expect(200);
    assert_eq!(ask(&udp(listener), b"x"), b"x");
}

#[test]
fn flows_are_shared_out_over_nodes() {
    let gateway = Gateway::builder(BIN).udp(1).workers(1).start();
    let (a, b) = (UdpPeer::named("a"), UdpPeer::named("b"));
    let body = json!({"upstream": {"nodes": {a.node(): 1, b.node(): 1}}});
    gateway.put("stream_routes/1", &body).expect(201);
    for _ in 0..10 {
        let socket = udp(gateway.udp(0));
        let first = ask(&socket, b"x");
        // Every later datagram of the flow goes to the same node.
        for _ in 0..3 {
            assert_eq!(ask(&socket, b"x"), first);
        }
    }
    assert_eq!((a.sources().len(), b.sources().len()), (5, 5));
}

#[test]
fn at_the_bound_the_flow_that_was_idle_longest_makes_room() {
    let gateway = Gateway::builder(BIN).udp(1).workers(1).stream("udp_max_flows: 16").start();
    let node = UdpPeer::source_teller();
    gateway.put("stream_routes/1", &to(&node)).expect(201);
    let busy = udp(gateway.udp(0));
    let source = ask(&busy, b"x");
    let others: Vec<UdpSocket> = (0..64).map(|_| udp(gateway.udp(0))).collect();
    for other in &others {
        let mine = ask(other, b"x");
        assert_ne!(mine, source);
        // The busy flow is never the one that was idle longest.
        assert_eq!(ask(&busy, b"x"), source);
    }
    // 65 flows came, 16 fit: 49 were evicted, each with a line of its own.
    wait::until_true("49 evicted flows in the access log", SOON, || {
        gateway.access().iter().filter(|line| line.contains("reason=EV ")).count() == 49
    });
    // Who was evicted is served again, as a new flow.
    assert!(!ask(&others[0], b"x").is_empty());
}

#[test]
fn many_clients_at_once() {
    let (gateway, node) = (one_listener(), UdpPeer::echo());
    gateway.put("stream_routes/1", &to(&node)).expect(201);
    let sockets: Vec<UdpSocket> = (0..300).map(|_| udp(gateway.udp(0))).collect();
    for round in 0..3_u8 {
        for (group, sockets) in sockets.chunks(30).enumerate() {
            for (n, socket) in sockets.iter().enumerate() {
                socket.send(format!("{round}-{group}-{n}").as_bytes()).expect("sent");
            }
            for (n, socket) in sockets.iter().enumerate() {
                assert_eq!(receive(socket), format!("{round}-{group}-{n}").into_bytes());
            }
        }
    }
    assert_eq!((node.sources().len(), node.received()), (300, 900));
}

#[test]
fn a_dead_node_costs_datagrams_but_not_the_flow() {
    let (gateway, port) = (one_listener(), Port::take());
    let body = json!({"upstream": {"nodes": {port.local().to_string(): 1}}});
    gateway.put("stream_routes/1", &body).expect(201);
    let socket = udp(gateway.udp(0));
    for _ in 0..3 {
        socket.send(b"lost").expect("sent");
        // Neither an answer nor an error reaches the client.
        assert_eq!(try_receive(&socket, Duration::from_millis(50)), None);
    }
    let node = UdpPeer::echo_at(port.local());
    let answer = wait::until("an answer of the node that came back", SOON, || {
        socket.send(b"found").ok()?;
        try_receive(&socket, Duration::from_millis(200))
    });
    assert_eq!(answer, b"found");
    assert!(node.received() >= 1);
}

#[test]
fn a_flow_whose_node_is_gone_goes_on_with_another() {
    let (gateway, port) = (one_listener(), Port::take());
    let node = UdpPeer::named("alive");
    let body = json!({"upstream": {"nodes": [
        {"host": "127.0.0.1", "port": port.local().port(), "weight": 1, "priority": 1},
        {"host": "127.0.0.1", "port": node.addr().port(), "weight": 1, "priority": 0},
    ]}});
    gateway.put("stream_routes/1", &body).expect(201);
    let socket = udp(gateway.udp(0));
    // The ICMP answer to the first datagram sends the later ones elsewhere.
    let answer = wait::until("an answer of the other node", SOON, || {
        socket.send(b"x").ok()?;
        try_receive(&socket, Duration::from_millis(200))
    });
    assert_eq!(answer, b"alive:x");
    for _ in 0..5 {
        assert_eq!(ask(&socket, b"y"), b"alive:y");
    }
    assert_eq!(node.sources().len(), 1);
    assert!(gateway.access().is_empty(), "still one session");
}

/// A route with limits on its flows.
fn limited(node: &UdpPeer, limits: &Value) -> Value {
    json!({"upstream": {"nodes": {node.node(): 1}}, "udp": limits})
}

#[test]
fn a_flow_ends_when_all_answers_have_come() {
    let (gateway, node) = (one_listener(), UdpPeer::multi(2));
    gateway.put("stream_routes/1", &limited(&node, &json!({"responses": 2}))).expect(201);
    let socket = udp(gateway.udp(0));
    for round in 1..=3 {
        assert_eq!((ask(&socket, b"q"), receive(&socket)), (b"0:q".to_vec(), b"1:q".to_vec()));
        wait::until_true("the flow ends", SOON, || gateway.access().len() == round);
    }
    assert_eq!(node.sources().len(), 3);
    for line in gateway.access() {
        assert!(line.contains("reason=OK") && line.contains("in=1 out=6 "), "{line}");
    }
}

#[test]
fn after_so_many_datagrams_another_flow_begins_and_the_old_one_may_still_be_answered() {
    let (gateway, node) = (one_listener(), UdpPeer::source_teller());
    let limits = json!({"requests": 2, "responses": 1});
    gateway.put("stream_routes/1", &limited(&node, &limits)).expect(201);
    let socket = udp(gateway.udp(0));
    let sources: Vec<_> = (0..6).map(|_| ask(&socket, b"q")).collect();
    assert_eq!(sources[0], sources[1]);
    assert_eq!(sources[2], sources[3]);
    assert_eq!(sources[4], sources[5]);
    assert!(sources[0] != sources[2] && sources[2] != sources[4]);
    wait::until_true("three flows end", SOON, || gateway.access().len() == 3);
    // Datagrams that come together are told apart as well.
    (0..6).for_each(|_| drop(socket.send(b"q")));
    let mut together: Vec<_> = (0..6).map(|_| receive(&socket)).collect();
    together.sort();
    together.dedup();
    assert_eq!(together.len(), 3);
}

#[test]
fn where_no_answer_is_expected_a_flow_ends_with_its_datagrams() {
    let (gateway, node) = (one_listener(), UdpPeer::echo());
    gateway.put("stream_routes/1", &limited(&node, &json!({"responses": 0}))).expect(201);
    let socket = udp(gateway.udp(0));
    for count in 1..=4 {
        socket.send(b"<13>log").expect("sent");
        wait::until_true("the flow ends", SOON, || gateway.access().len() == count);
    }
    for line in gateway.access() {
        assert!(line.contains("reason=OK") && line.contains("in=7 out=0 "), "{line}");
    }
    assert_eq!(node.received(), 4);
    assert_eq!(try_receive(&socket, SILENCE), None, "what it answers all the same goes nowhere");
    // With `requests` it takes so many, and ends then.
    let limits = json!({"requests": 3, "responses": 0});
    gateway.put("stream_routes/1", &limited(&node, &limits)).expect(200);
    for count in 5..=10 {
        socket.send(b"<13>log").expect("sent");
        wait::until_true("it arrives", SOON, || node.received() == count);
    }
    wait::until_true("two flows end", SOON, || gateway.access().len() == 6);
    for line in &gateway.access()[4..] {
        assert!(line.contains("reason=OK") && line.contains("in=21 "), "{line}");
    }
}

#[test]
fn a_route_has_its_own_idle_timeout() {
    let (gateway, node) = (one_listener(), UdpPeer::echo());
    gateway.put("stream_routes/1", &limited(&node, &json!({"idle_timeout": 0.3}))).expect(201);
    assert_eq!(ask(&udp(gateway.udp(0)), b"x"), b"x");
    gateway.wait_access(&["reason=IT"]);
    let refused = gateway.put("stream_routes/1", &limited(&node, &json!({"idle_timeout": 0})));
    refused.expect(400);
    gateway.put("stream_routes/1", &limited(&node, &json!({"idle": 1}))).expect(400);
}

#[test]
fn bursts_of_one_size_arrive_as_they_were_sent() {
    let (gateway, node) = (one_listener(), UdpPeer::echo());
    gateway.put("stream_routes/1", &to(&node)).expect(201);
    let sockets: Vec<_> = (0..3).map(|_| udp(gateway.udp(0))).collect();
    // As many as the default receive buffers hold.
    for (size, count) in [(1, 20), (512, 20), (1_452, 20), (1_453, 20), (9_000, 6)] {
        let payload = |n: u8, who: usize| {
            let mut payload = Pattern::new(u64::from(n) + who as u64 * 99).take(size);
            payload[0] = n;
            payload
        };
        for n in 0..count {
            for (who, socket) in sockets.iter().enumerate() {
                socket.send(&payload(n, who)).expect("sent");
            }
        }
        for (who, socket) in sockets.iter().enumerate() {
            (0..count).for_each(|n| assert_eq!(receive(socket), payload(n, who), "size {size}"));
        }
    }
}

#[test]
fn a_stop_ends_flows_and_logs_them() {
    let (mut gateway, node) = (one_listener(), UdpPeer::echo());
    gateway.put("stream_routes/1", &to(&node)).expect(201);
    assert_eq!(ask(&udp(gateway.udp(0)), b"x"), b"x");
    assert!(gateway.stop().success());
    let line = gateway.wait_access(&["UDP", "reason=DR"]);
    assert!(line.contains("in=1 out=1 "), "{line}");
}

#[test]
fn tcp_and_udp_may_share_a_port_number() {
    let gateway = Gateway::builder(BIN).tcp(1);
    // The TCP listener's port, as the configuration names it.
    let prepared = gateway.prepare();
    let port = prepared.tcp_port(0);
    let yaml = prepared.config().replace(
        &format!("      - {port}\n"),
        &format!("      - {port}\n    udp:\n      - {port}\n"),
    );
    prepared.write_config(&yaml);
    let mut gateway = prepared;
    gateway.launch();
    let (tcp, node) = (headgate_testkit::TcpPeer::echo(), UdpPeer::echo());
    // One route for both: the transport of the upstream leg is the listener's.
    let body = json!({"upstream": {"nodes": {node.node(): 1}}});
    gateway.put("stream_routes/1", &body).expect(201);
    let listener = SocketAddr::from(([127, 0, 0, 1], port));
    assert_eq!(ask(&udp(listener), b"x"), b"x");
    let body = json!({"upstream": {"nodes": {tcp.node(): 1}}});
    gateway.put("stream_routes/1", &body).expect(200);
    headgate_testkit::client::assert_alive(&mut headgate_testkit::client::connect(listener));
}

#[test]
fn at_the_bound_datagrams_that_lead_nowhere_cost_no_flow() {
    const FLOWS: usize = 4;
    let stream = format!("udp_max_flows: {FLOWS}");
    let gateway = Gateway::builder(BIN).udp(2).workers(1).stream(&stream).start();
    let node = UdpPeer::source_teller();
    let mut body = to(&node);
    body["server_port"] = json!(gateway.udp_port(0));
    gateway.put("stream_routes/1", &body).expect(201);
    let flows: Vec<_> = (0..FLOWS)
        .map(|_| {
            let socket = udp(gateway.udp(0));
            let source = ask(&socket, b"x");
            (socket, source)
        })
        .collect();
    for _ in 0..40 {
        udp(gateway.udp(1)).send(b"nowhere").expect("sent");
    }
    wait::until_true("all of them were refused", SOON, || {
        gateway.access().iter().filter(|line| line.contains("reason=NR ")).count() == 40
    });
    for (socket, source) in &flows {
        assert_eq!(ask(socket, b"x"), *source, "the flow was evicted");
    }
    assert_eq!(node.sources().len(), FLOWS);
    assert!(!gateway.access().iter().any(|line| line.contains("reason=EV ")));
}

#[test]
fn without_reuseport_a_client_has_one_flow() {
    let gateway = Gateway::builder(BIN).udp(1).workers(2).apisix("enable_reuseport: false").start();
    let node = UdpPeer::echo();
    gateway.put("stream_routes/1", &to(&node)).expect(201);
    let socket = udp(gateway.udp(0));
    for burst in 0..20_u8 {
        for n in 0..10_u8 {
            socket.send(&[burst, n]).expect("sent");
        }
        // One flow also means one order.
        for n in 0..10_u8 {
            assert_eq!(receive(&socket), [burst, n]);
        }
    }
    assert_eq!((node.received(), node.sources().len()), (200, 1), "{:?}", node.sources());
}

/// Ten descriptors for sessions: flows may hold eight of them.
#[test]
fn flows_leave_descriptors_to_connections() {
    let event = "event:\n  worker_connections: 10";
    let gateway = Gateway::builder(BIN).udp(1).tcp(1).workers(1).nginx(event).start();
    let (node, echo) = (UdpPeer::echo(), TcpPeer::echo());
    let (udp_port, tcp_port) = (gateway.udp_port(0), gateway.tcp_port(0));
    let upstream = json!({"nodes": {node.node(): 1}});
    gateway
        .put("stream_routes/1", &json!({"server_port": udp_port, "upstream": upstream}))
        .expect(201);
    let upstream = json!({"nodes": {echo.node(): 1}});
    gateway
        .put("stream_routes/2", &json!({"server_port": tcp_port, "upstream": upstream}))
        .expect(201);
    let sockets: Vec<UdpSocket> = (0..20).map(|_| udp(gateway.udp(0))).collect();
    for socket in &sockets {
        assert_eq!(ask(socket, b"x"), b"x");
    }
    wait::until_true("12 evicted flows in the access log", SOON, || {
        gateway.access().iter().filter(|line| line.contains("reason=EV ")).count() == 12
    });
    assert_alive(&mut connect(gateway.tcp(0)));
}
