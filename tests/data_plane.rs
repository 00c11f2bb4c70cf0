//! How the data plane gives things up: draining, connection caps, stalled cores, many ports.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use headgate_testkit::client::{
    Seen, ask, assert_alive, connect, reach, read_to_end, try_receive, udp,
};
use headgate_testkit::process::{need, report};
use headgate_testkit::{Gateway, GatewayBuilder, Port, SOON, TcpPeer, UdpPeer, http, proc, wait};
use serde_json::{Value, json};

const BIN: &str = env!("CARGO_BIN_EXE_headgate");

fn to(node: &str) -> Value {
    json!({"upstream": {"nodes": {node: 1}}})
}

fn draining(policy: &str) -> GatewayBuilder {
    Gateway::builder(BIN).control().top(&format!("headgate:\n  drain:\n    {policy}"))
}

fn drains(gateway: &Gateway) -> Vec<Value> {
    let answer = gateway.control("/v1/drain", &[]).expect(200).json();
    answer.as_array().expect("a list").clone()
}

// ---- draining

#[test]
fn a_graceful_stop_lets_flows_and_connections_go_on_and_shows_who_is_left() {
    let (node, datagrams) = (TcpPeer::echo(), UdpPeer::echo());
    let limit = "worker_shutdown_timeout: 4s";
    let mut gateway = Gateway::builder(BIN).control().tcp(1).udp(1).nginx(limit).start();
    let tcp = json!({"server_port": gateway.tcp_port(0), "upstream": {"nodes": {node.node(): 1}}});
    gateway.put("stream_routes/t", &tcp).expect(201);
    gateway.put("stream_routes/u", &to(&datagrams.node())).expect(201);
    let (mut stream, socket) = (connect(gateway.tcp(0)), udp(gateway.udp(0)));
    assert_alive(&mut stream);
    assert_eq!(ask(&socket, b"before"), b"before");
    assert_eq!(drains(&gateway), Vec::<Value>::new());
    gateway.signal("QUIT");
    wait::until_true("no new connections are taken", SOON, || {
        !proc::tcp_listens(gateway.tcp_port(0))
    });
    assert_alive(&mut stream);
    assert_eq!(ask(&socket, b"after"), b"after");
    let all =
        wait::until("both are shown", SOON, || Some(drains(&gateway)).filter(|it| it.len() == 2));
    for rest in &all {
        assert_eq!((&rest["what"], &rest["sessions"]), (&json!("stop"), &json!(1)), "{rest}");
        assert_eq!(rest["holders"], json!([{"client": "127.0.0.1", "sessions": 1}]));
        assert!(rest["ends_in_seconds"].as_f64().is_some_and(|left| left <= 4.0), "{rest}");
    }
    let other = udp(gateway.udp(0));
    other.send(b"new").expect("sent");
    assert_eq!(try_receive(&other, Duration::from_millis(300)), None);
    assert_eq!(read_to_end(&mut stream), Seen::Closed);
    assert!(gateway.wait_exit(SOON).success());
    gateway.wait_access(&["UDP", "reason=DR"]);
    gateway.wait_access(&["TCP", "reason=DR"]);
}

/// Clients that come back at once must not all come back at the same moment.
#[test]
fn a_gradual_stop_spreads_the_ends() {
    let node = TcpPeer::echo();
    let mut gateway = draining("stop: {mode: gradual, period: 2s}").tcp(1).start();
    gateway.put("stream_routes/1", &to(&node.node())).expect(201);
    let mut streams: Vec<_> = (0..20).map(|_| connect(gateway.tcp(0))).collect();
    streams.iter_mut().for_each(assert_alive);
    let began = Instant::now();
    gateway.signal("QUIT");
    let ends = streams.into_iter().map(|mut stream| {
        std::thread::spawn(move || {
            assert_eq!(read_to_end(&mut stream), Seen::Closed);
            began.elapsed()
        })
    });
    let ends: Vec<_> =
        ends.collect::<Vec<_>>().into_iter().map(|it| it.join().expect("an end")).collect();
    let (first, last) = (ends.iter().min().expect("one"), ends.iter().max().expect("one"));
    report(&format!("20 sessions ended between {first:?} and {last:?}"));
    assert!(*last - *first > Duration::from_millis(300), "{first:?} to {last:?}");
    assert!(gateway.wait_exit(SOON).success());
}

#[test]
fn an_immediate_stop_does_not_wait() {
    let node = TcpPeer::echo();
    let mut gateway = draining("stop: {mode: immediate}").tcp(1).start();
    gateway.put("stream_routes/1", &to(&node.node())).expect(201);
    let mut stream = connect(gateway.tcp(0));
    assert_alive(&mut stream);
    gateway.signal("QUIT");
    assert_eq!(read_to_end(&mut stream), Seen::Closed);
    assert!(gateway.wait_exit(SOON).success());
}

#[test]
fn sessions_of_a_removed_listener_have_a_deadline() {
    let (node, datagrams) = (TcpPeer::echo(), UdpPeer::echo());
    let gateway = draining("listener: {timeout: 3s}").tcp(1).start();
    let (tcp, dns) = (Port::take(), Port::take());
    let route = json!({"server_port": tcp.number(), "upstream": {"nodes": {node.node(): 1}}});
    gateway.put("stream_routes/t", &route).expect(201);
    gateway.put("stream_routes/u", &to(&datagrams.node())).expect(201);
    gateway.put("stream_listeners/t", &json!({"addr": tcp.number()})).expect(201);
    gateway
        .put("stream_listeners/u", &json!({"addr": dns.number(), "protocol": "udp"}))
        .expect(201);
    let (mut stream, socket) = (connect(tcp.local()), udp(dns.local()));
    assert_alive(&mut stream);
    assert_eq!(ask(&socket, b"x"), b"x");
    gateway.delete("stream_listeners/t").expect(200);
    gateway.delete("stream_listeners/u").expect(200);
    // They go on, nobody new comes in, and everybody sees it.
    assert_alive(&mut stream);
    assert_eq!(ask(&socket, b"y"), b"y");
    let all =
        wait::until("both are shown", SOON, || Some(drains(&gateway)).filter(|it| it.len() == 2));
    let mut names: Vec<_> = all.iter().map(|it| it["what"].as_str().expect("a text")).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            format!("listener tcp://0.0.0.0:{}", tcp.number()),
            format!("listener udp://0.0.0.0:{}", dns.number())
        ]
    );
    assert_eq!(read_to_end(&mut stream), Seen::Closed);
    wait::until_true("nothing is left", SOON, || drains(&gateway).is_empty());
    gateway.wait_access(&["UDP", "reason=DR"]);
}

#[test]
fn an_address_may_come_back_while_its_flows_drain() {
    let datagrams = UdpPeer::echo();
    let gateway = Gateway::builder(BIN).tcp(1).start();
    let port = Port::take();
    let document = json!({"addr": port.number(), "protocol": "udp"});
    gateway.put("stream_routes/u", &to(&datagrams.node())).expect(201);
    let old: Vec<_> = (0..6).map(|_| udp(port.local())).collect();
    gateway.put("stream_listeners/u", &document).expect(201);
    old.iter().for_each(|socket| assert_eq!(ask(socket, b"x"), b"x"));
    gateway.delete("stream_listeners/u").expect(200);
    gateway.put("stream_listeners/u", &document).expect(201);
    // A datagram may still have gone to a socket that closes at this moment.
    let answers = |socket: &std::net::UdpSocket| {
        wait::until_true("an answer", SOON, || {
            let _ = socket.send(b"y");
            try_receive(socket, Duration::from_millis(200)).is_some()
        });
    };
    old.iter().for_each(answers);
    (0..6).map(|_| udp(port.local())).for_each(|socket| answers(&socket));
}

#[test]
fn sessions_of_a_removed_node_end_if_they_are_told_to() {
    let nodes = [TcpPeer::echo(), TcpPeer::echo()];
    let gateway = draining("node: {mode: immediate}").tcp(1).start();
    gateway.put("stream_routes/1", &to(&nodes[0].node())).expect(201);
    let mut stream = connect(gateway.tcp(0));
    assert_alive(&mut stream);
    gateway.put("stream_routes/1", &to(&nodes[1].node())).expect(200);
    assert_eq!(read_to_end(&mut stream), Seen::Closed);
    gateway.wait_access(&["reason=ND"]);
    assert_alive(&mut connect(gateway.tcp(0)));
}

#[test]
fn by_default_sessions_of_a_removed_node_go_on_and_are_shown() {
    let nodes = [TcpPeer::echo(), TcpPeer::echo()];
    let gateway = Gateway::builder(BIN).control().tcp(1).start();
    gateway.put("stream_routes/1", &to(&nodes[0].node())).expect(201);
    let mut stream = connect(gateway.tcp(0));
    assert_alive(&mut stream);
    gateway.put("stream_routes/1", &to(&nodes[1].node())).expect(200);
    assert_alive(&mut stream);
    let all = drains(&gateway);
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(all[0]["what"], format!("node {}", nodes[0].addr()));
    assert_eq!((&all[0]["route"], &all[0]["ends_in_seconds"]), (&json!("1"), &Value::Null));
    assert_alive(&mut stream);
}

// ---- caps

#[test]
fn a_listener_with_all_its_connections_refuses_further_ones() {
    let node = TcpPeer::echo();
    let gateway = Gateway::builder(BIN)
        .control()
        .tcp_entry("{addr: {port}, max_connections: 2}")
        .tcp(1)
        .start();
    gateway.put("stream_routes/1", &to(&node.node())).expect(201);
    let mut streams: Vec<_> = (0..2).map(|_| connect(gateway.tcp(0))).collect();
    streams.iter_mut().for_each(assert_alive);
    assert_eq!(read_to_end(&mut connect(gateway.tcp(0))), Seen::Closed);
    gateway.wait_access(&["reason=LC", "status=503"]);
    gateway.wait_for_log("the listener has max_connections sessions", SOON);
    let counters = gateway.control("/v1/counters", &[]).expect(200).json();
    assert_eq!(counters["closed_LC"], 1);
    // Others are not concerned, and a place that comes free is given out again.
    assert_alive(&mut connect(gateway.tcp(1)));
    let states = gateway.control("/v1/listeners", &[]).expect(200).json();
    assert_eq!(states[0]["sessions"], 2);
    assert_eq!(states[0]["max_connections"], 2);
    assert_eq!(states[0]["source"], "apisix.stream_proxy.tcp[0] of config.yaml");
    streams.pop();
    wait::until_true("a place is free", SOON, || reach_echo(&gateway));
}

fn reach_echo(gateway: &Gateway) -> bool {
    use std::io::{Read as _, Write as _};
    let mut stream = connect(gateway.tcp(0));
    let mut answer = [0; 1];
    stream.write_all(b"x").is_ok() && stream.read(&mut answer).is_ok_and(|count| count == 1)
}

#[test]
fn a_udp_listener_with_all_its_flows_takes_no_further_ones() {
    let node = UdpPeer::echo();
    let gateway = Gateway::builder(BIN).control().tcp(1).start();
    gateway.put("stream_routes/1", &to(&node.node())).expect(201);
    let port = Port::take();
    let document = json!({"addr": port.number(), "protocol": "udp", "max_connections": 1});
    gateway.put("stream_listeners/u", &document).expect(201);
    let (first, second) = (udp(port.local()), udp(port.local()));
    assert_eq!(ask(&first, b"x"), b"x");
    second.send(b"y").expect("sent");
    assert_eq!(try_receive(&second, Duration::from_millis(300)), None);
    let dropped = || {
        let counters = gateway.control("/v1/counters", &[]).expect(200).json();
        counters["datagrams_dropped_listener_full"].as_u64().expect("a number")
    };
    assert_eq!(dropped(), 1);
    gateway.patch("stream_listeners/u", &json!({"max_connections": 2})).expect(200);
    assert_eq!(ask(&second, b"z"), b"z");
    assert_eq!(ask(&first, b"x"), b"x");
}

/// Clients that connect and say nothing do not keep others out.
#[test]
fn of_too_many_handshakes_the_oldest_is_cut() {
    let node = TcpPeer::echo();
    let gateway = Gateway::builder(BIN)
        .control()
        .tcp_entry("{addr: {port}, proxy_protocol: true}")
        .workers(1)
        .top("headgate:\n  limits:\n    pending_handshakes: 4")
        .start();
    gateway.put("stream_routes/1", &to(&node.node())).expect(201);
    let mut silent: Vec<_> = (0..4).map(|_| connect(gateway.tcp(0))).collect();
    let mut honest = connect(gateway.tcp(0));
    headgate_testkit::client::send(&mut honest, b"PROXY TCP4 192.0.2.7 192.0.2.8 5000 6000\r\n");
    assert_alive(&mut honest);
    assert_eq!(read_to_end(&mut silent[0]), Seen::Closed);
    gateway.wait_access(&["reason=HB"]);
    let counters = gateway.control("/v1/counters", &[]).expect(200).json();
    assert_eq!(counters["closed_HB"], 1);
    for stream in &mut silent[1..] {
        headgate_testkit::client::send(stream, b"PROXY TCP4 192.0.2.7 192.0.2.8 5000 6000\r\n");
        assert_alive(stream);
    }
}

// ---- many ports

#[test]
fn four_thousand_ports_open_at_once() {
    let node = TcpPeer::named("a");
    let gateway = Gateway::builder(BIN).tcp(1).workers(1).start();
    gateway.put("stream_routes/1", &to(&node.node())).expect(201);
    // An address that no other test listens on, above the ports of clients.
    let id = std::process::id();
    let ip = format!("127.{}.{}.1", 64 + (id >> 8) % 64, id % 256);
    let addr = format!("{ip}:61000-64999");
    let began = Instant::now();
    gateway.put("stream_listeners/many", &json!({"addr": addr})).expect(201);
    let opened = began.elapsed();
    for port in [61_000, 61_001, 63_000, 64_999] {
        let address = format!("{ip}:{port}").parse().expect("an address");
        assert_eq!(reach(address).as_deref(), Some("a"), "{port}");
    }
    let began = Instant::now();
    gateway.delete("stream_listeners/many").expect(200);
    report(&format!("4,000 ports: opened in {opened:?}, closed in {:?}", began.elapsed()));
    // One second is the aim; the limit leaves room for a machine that does other things, too.
    assert!(opened < Duration::from_secs(5), "{opened:?}");
}

// ---- cores

#[test]
fn what_each_core_does_can_be_seen() {
    let node = TcpPeer::echo();
    let gateway = Gateway::builder(BIN).control().tcp(1).workers(2).start();
    gateway.put("stream_routes/1", &to(&node.node())).expect(201);
    let mut streams: Vec<_> = (0..30).map(|_| connect(gateway.tcp(0))).collect();
    streams.iter_mut().for_each(assert_alive);
    let seen = gateway.control("/v1/cores", &[]).expect(200).json();
    let cores = seen["cores"].as_array().expect("a list");
    assert_eq!(cores.len(), 2);
    let sum =
        |name: &str| cores.iter().map(|core| core[name].as_u64().expect("a number")).sum::<u64>();
    assert_eq!((sum("sessions"), sum("tcp_accepted"), sum("stalls")), (30, 30, 0));
    assert!(sum("turns") > 0);
    let imbalance = seen["imbalance"].as_f64().expect("a number");
    assert!((1.0..=2.0).contains(&imbalance), "{seen}");
    for core in cores {
        assert!(core["thread"].as_i64().is_some_and(|id| id > 0), "{core}");
        assert!(core["longest_turn_seconds"].as_f64().is_some(), "{core}");
    }
}

struct Tracer(Child);

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-INT", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}

/// A core that a tracer holds up inside of a system call is found and described.
#[test]
fn a_stalled_core_is_reported() {
    let Some(strace) = need("strace", "strace") else { return };
    let (node, status) = (TcpPeer::named("a"), Port::take());
    let gateway = Gateway::builder(BIN)
        .control()
        .tcp(1)
        .workers(1)
        .apisix(&format!("status:\n  port: {}", status.number()))
        .top("headgate:\n  watchdog:\n    threshold: 400ms")
        .start();
    gateway.put("stream_routes/1", &to(&node.node())).expect(201);
    assert_eq!(reach(gateway.tcp(0)).as_deref(), Some("a"));
    let cores = gateway.control("/v1/cores", &[]).expect(200).json();
    let thread = cores["cores"][0]["thread"].to_string();
    let tracer = Tracer(
        Command::new(strace)
            .args(["-q", "-o", "/dev/null", "-p", &thread, "-e", "trace=accept4"])
            .args(["-e", "inject=accept4:delay_enter=3000000:when=1"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace"),
    );
    wait::until_true("strace is attached", SOON, || {
        let path = format!("/proc/{}/task/{thread}/status", gateway.id());
        let status = std::fs::read_to_string(path).unwrap_or_default();
        status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
    });
    let client = std::thread::spawn({
        let address = gateway.tcp(0);
        move || reach(address)
    });
    let line = gateway.wait_for_log("a core does not come back to its event loop", SOON);
    assert!(line.contains("last it was accepting connections"), "{line}");
    assert!(line.contains("state: "), "{line}");
    let ready = || {
        http::request(status.local(), "GET", "/status/ready", &[], None, SOON).expect("an answer")
    };
    let answer = ready();
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.json()["error"].as_str().expect("a text").contains("core 0 has not come back"));
    gateway.wait_for_log("the core goes on", SOON);
    assert_eq!(client.join().expect("no panic").as_deref(), Some("a"));
    let cores = gateway.control("/v1/cores", &[]).expect(200).json();
    assert!(cores["cores"][0]["stalls"].as_u64().is_some_and(|count| count > 0), "{cores}");
    wait::until_true("it is ready again", SOON, || ready().status == 200);
    drop(tracer);
}
