//! Local ports run out: it is named, and more addresses give more.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use headgate_testkit::client::{
    Seen, ask, assert_alive, connect, read_to_end, reset, try_connect, udp,
};
use headgate_testkit::{Gateway, Namespace, SOON, TcpPeer, UdpPeer, wait};
use serde_json::{Value, json};

use super::BIN;

/// Ports of each address: an even number, because connect(2) leaves one of an odd one out.
const PORTS: usize = 4;

/// Runs `test` on a machine that has few local ports once `few` is called there.
fn on_a_machine_of_few_ports(test: impl FnOnce() + Send) {
    let Some(machine) = Namespace::make() else { return };
    machine.inside(test);
}

const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// The machine has few local ports until this is dropped: peers need some to end.
struct Few;

impl Few {
    fn ports() -> Self {
        fs::write(RANGE, "61500 61503").expect("a small range");
        Self
    }
}

impl Drop for Few {
    fn drop(&mut self) {
        let _ = fs::write(RANGE, "32768 60999");
    }
}

/// The gateway by another address for each client, because clients need ports, too.
fn entrance(port: u16, n: usize) -> SocketAddr {
    let n = u8::try_from(n + 10).expect("few clients");
    (Ipv4Addr::new(127, 0, 1, n), port).into()
}

fn upstream(node: &str, sources: &[&str]) -> Value {
    let mut upstream = json!({"nodes": {node: 1}});
    if !sources.is_empty() {
        upstream["source_addresses"] = json!(sources);
    }
    upstream
}

/// So many sessions, all of them served.
fn serve(gateway: &Gateway, count: usize) -> Vec<TcpStream> {
    let mut served: Vec<TcpStream> =
        (0..count).map(|n| connect(entrance(gateway.tcp_port(0), n))).collect();
    served.iter_mut().for_each(assert_alive);
    served
}

/// Opens sessions until the node takes no more; the one that does not fit is closed.
fn fill(gateway: &Gateway, most: usize) -> Vec<TcpStream> {
    let served = serve(gateway, most);
    let mut last = connect(entrance(gateway.tcp_port(0), most));
    assert_eq!(read_to_end(&mut last), Seen::Closed);
    served
}

#[test]
fn a_lack_of_local_ports_is_named() {
    on_a_machine_of_few_ports(|| {
        let node = TcpPeer::echo();
        let gateway = Gateway::builder(BIN).tcp(1).workers(1).control().start();
        gateway
            .put("stream_routes/1", &json!({"upstream": upstream(&node.node(), &[])}))
            .expect(201);
        let _few = Few::ports();
        let mut served = fill(&gateway, PORTS);
        gateway.wait_access(&["reason=SP"]);
        gateway.wait_for_log("no local port is left for connections to this node", SOON);
        // One ends, and there is room for another.
        served.pop().into_iter().for_each(reset);
        let again = wait::try_until(SOON, || {
            let mut stream = try_connect(entrance(gateway.tcp_port(0), 90))?;
            super::answers(&mut stream, SOON).then_some(())
        });
        assert!(again.is_some(), "log:\n{}", gateway.log().text());
        served.iter_mut().for_each(assert_alive);
    });
}

#[test]
fn more_source_addresses_give_more_ports() {
    let sources = ["127.0.0.2", "127.0.0.3", "127.0.0.4"];
    on_a_machine_of_few_ports(|| {
        let node = TcpPeer::echo();
        let gateway = Gateway::builder(BIN).tcp(1).workers(2).control().start();
        let body = json!({"upstream": upstream(&node.node(), &sources)});
        gateway.put("stream_routes/1", &body).expect(201);
        let _few = Few::ports();
        let mut served = fill(&gateway, sources.len() * PORTS);
        gateway.wait_access(&["reason=SP"]);
        for source in sources {
            let from = node.sources();
            let count = from.iter().filter(|it| it.ip().to_string() == source).count();
            assert_eq!(count, PORTS, "{source} of {from:?}");
        }
        served.iter_mut().for_each(assert_alive);
    });
}

/// Each node is reached from the addresses of its own family.
#[test]
fn sessions_leave_from_ipv6_addresses_too() {
    let Some(machine) = Namespace::make() else { return };
    let sources = ["fd00::5", "fd00::6"];
    sources.iter().for_each(|source| machine.own(&format!("{source}/128")));
    machine.inside(|| {
        let new = TcpPeer::echo_at("[::1]:0".parse().expect("an address"));
        let old = TcpPeer::echo();
        let gateway = Gateway::builder(BIN).tcp(1).workers(1).start();
        let body = json!({"upstream": {
            "nodes": {new.node(): 1, old.node(): 1},
            "source_addresses": [sources[0], "127.0.0.2", sources[1]],
        }});
        gateway.put("stream_routes/1", &body).expect(201);
        let _few = Few::ports();
        let _served = serve(&gateway, 2 * PORTS);
        let from = |node: &TcpPeer| -> Vec<String> {
            let mut from: Vec<_> = node.sources().iter().map(|it| it.ip().to_string()).collect();
            from.sort();
            from
        };
        assert_eq!(from(&old), ["127.0.0.2"; PORTS]);
        assert_eq!(from(&new), [sources[0], sources[0], sources[1], sources[1]]);
    });
}

/// Without `IP_BIND_ADDRESS_NO_PORT` a port is the address's alone, whatever the node.
#[test]
fn a_port_serves_several_nodes() {
    on_a_machine_of_few_ports(|| {
        let nodes = [TcpPeer::echo(), TcpPeer::echo()];
        let gateway = Gateway::builder(BIN).tcp(1).workers(1).start();
        let body = json!({"upstream": {
            "nodes": {nodes[0].node(): 1, nodes[1].node(): 1},
            "source_addresses": ["127.0.0.2"],
        }});
        gateway.put("stream_routes/1", &body).expect(201);
        let _few = Few::ports();
        let _served = serve(&gateway, 2 * PORTS);
    });
}

#[test]
fn flows_and_probes_leave_from_the_source_addresses() {
    on_a_machine_of_few_ports(|| {
        let (node, checked) = (UdpPeer::source_teller(), TcpPeer::echo());
        let gateway = Gateway::builder(BIN).tcp(1).udp(1).workers(1).start();
        let body = json!({"server_port": gateway.udp_port(0),
                          "upstream": upstream(&node.node(), &["127.0.0.2", "127.0.0.3"])});
        gateway.put("stream_routes/udp", &body).expect(201);
        let mut body = json!({"server_port": gateway.tcp_port(0),
                              "upstream": upstream(&checked.node(), &["127.0.0.5"])});
        body["upstream"]["checks"] =
            json!({"active": {"type": "tcp", "healthy": {"interval": 1, "successes": 1}}});
        gateway.put("stream_routes/tcp", &body).expect(201);
        let clients: Vec<_> = (0..2 * PORTS).map(|_| udp(gateway.udp(0))).collect();
        let late = udp(gateway.udp(0));
        let _few = Few::ports();
        let from: Vec<String> = clients
            .iter()
            .map(|client| String::from_utf8_lossy(&ask(client, b"who?")).into_owned())
            .collect();
        for source in ["127.0.0.2:", "127.0.0.3:"] {
            let count = from.iter().filter(|it| it.starts_with(source)).count();
            assert_eq!(count, PORTS, "{source} of {from:?}");
        }
        // Unlike TCP, a datagram socket's port is its own.
        late.send(b"too many").expect("sent");
        gateway.wait_access(&["reason=SP"]);
        wait::until_true("a probe from 127.0.0.5", SOON, || {
            checked.sources().iter().any(|it| it.ip().to_string() == "127.0.0.5")
        });
    });
}

#[test]
fn source_addresses_that_cannot_be_used_are_named() {
    let node = TcpPeer::echo();
    let gateway = Gateway::builder(BIN).tcp(1).workers(1).start();
    let put = |sources: &[&str]| {
        let body = json!({"upstream": upstream(&node.node(), sources)});
        gateway.put("stream_routes/1", &body)
    };
    for wrong in [json!(["10.0.0.0/8"]), json!(["host"]), json!([]), json!("127.0.0.2")] {
        let body =
            json!({"upstream": {"nodes": {node.node(): 1}, "source_addresses": wrong.clone()}});
        let refused = gateway.put("stream_routes/1", &body).expect(400).body;
        assert!(refused.contains("source_addresses"), "{refused}");
    }
    // One that this machine does not have is passed over; when there is no other, the log says so.
    put(&["192.0.2.9", "127.0.0.2"]).expect(201);
    for _ in 0..3 {
        assert_alive(&mut connect(gateway.tcp(0)));
    }
    put(&["192.0.2.9"]).expect(200);
    assert_eq!(read_to_end(&mut connect(gateway.tcp(0))), Seen::Closed);
    gateway.wait_access(&["reason=UF"]);
    gateway.wait_for_log("192.0.2.9 is no address of this machine", SOON);
    put(&["::1"]).expect(200);
    assert_eq!(read_to_end(&mut connect(gateway.tcp(0))), Seen::Closed);
    gateway.wait_for_log("no IPv4 address to reach 127.0.0.1", SOON);
}
