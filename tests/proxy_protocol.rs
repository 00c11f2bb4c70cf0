//! PROXY protocol, received and sent: the conformance list's PP part (PP-07 needs TLS).
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use headgate_testkit::balancer::HaProxy;
use headgate_testkit::client::{self, Seen, assert_alive, connect, reach, read_to_end, send};
use headgate_testkit::pattern::Pattern;
use headgate_testkit::{Gateway, GatewayBuilder, SOON, TcpPeer, UdpPeer, wait};
use headgate_wire::proxy_header::{Decoded, Header, decode, tlv};
use serde_json::{Value, json};

const BIN: &str = env!("CARGO_BIN_EXE_headgate");
const FORMAT: &str = "client=$remote_addr:$remote_port \
    peer=$realip_remote_addr:$realip_remote_port local=$server_addr:$server_port \
    header=$proxy_protocol_addr:$proxy_protocol_port \
    to=$proxy_protocol_server_addr:$proxy_protocol_server_port \
    status=$status reason=$close_reason in=$bytes_received out=$bytes_sent route=$route_id";

/// A listener that expects a header.
const EXPECTS: &str = "addr: {port}\nproxy_protocol: true";
/// A listener that sends one.
const SENDS: &str = "addr: {port}\nproxy_protocol_to_upstream: true";
const TRUST_ALL_LOCAL: &str = "real_ip_from:\n  - 192.0.2.200\n  - 127.0.0.0/8";

/// What a balancer says: 203.0.113.7:51000 connected to 198.51.100.1:443.
const V1: &[u8] = b"PROXY TCP4 203.0.113.7 198.51.100.1 51000 443\r\n";
const V1_IPV6: &[u8] = b"PROXY TCP6 2001:db8::7 2001:db8::1 51000 443\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const SAID: &str = "header=203.0.113.7:51000 to=198.51.100.1:443";

/// A header of version 2.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).expect("a length").to_be_bytes();
    [SIGNATURE, &[command, family], &length, block].concat()
}

/// The same as [`V1`], in version 2.
fn v2_ipv4(tlvs: &[u8]) -> Vec<u8> {
    let addresses = [203, 0, 113, 7, 198, 51, 100, 1, 0xc7, 0x38, 0x01, 0xbb];
    v2(0x21, 0x11, &[&addresses, tlvs].concat())
}

fn gateway() -> GatewayBuilder {
    Gateway::builder(BIN).access_format(FORMAT)
}

fn to(node: &TcpPeer) -> Value {
    json!({"upstream": {"nodes": {node.node(): 1}}})
}

/// Starts it with a route for everything to `node`.
fn before(node: &TcpPeer, builder: GatewayBuilder) -> Gateway {
    let gateway = builder.start();
    gateway.put("stream_routes/1", &to(node)).expect(201);
    gateway
}

/// Sends `bytes` as one piece and ends; what came back, and the own address.
fn exchange(to: SocketAddr, bytes: &[u8]) -> (Vec<u8>, SocketAddr) {
    let mut stream = connect(to);
    let own = stream.local_addr().expect("an address");
    send(&mut stream, bytes);
    let _ = stream.shutdown(Shutdown::Write); // it fails when the gateway was faster
    match read_to_end(&mut stream) {
        Seen::Closed => (Vec::new(), own),
        Seen::Bytes(back) => (back, own),
        other @ Seen::BytesThenReset(_) => panic!("{other:?}"),
    }
}

/// `header` is accepted and not passed on; what follows it is, to the byte.
#[track_caller]
fn accepts(listener: SocketAddr, header: &[u8]) {
    let (back, _) = exchange(listener, &[header, b"hello"].concat());
    assert_eq!(back, b"hello", "after {}", header.escape_ascii());
}

/// The connection is closed without a byte and without a word to the node.
#[track_caller]
fn refuses(listener: SocketAddr, bytes: &[u8]) {
    let (back, _) = exchange(listener, bytes);
    assert!(back.is_empty(), "{} is served: {}", bytes.escape_ascii(), back.escape_ascii());
}

/// Nothing is added and nothing taken away.
#[track_caller]
fn passes_untouched(listener: SocketAddr) {
    for bytes in [b"hello".as_slice(), V1] {
        assert_eq!(exchange(listener, bytes).0, bytes);
    }
}

/// What the node behind `listener` gets before `hello` names the client and the listener.
#[track_caller]
fn sends_header(listener: SocketAddr) {
    let (back, own) = exchange(listener, b"hello");
    let (from, to) = (own.port(), listener.port());
    let expected = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {from} {to}\r\nhello");
    assert_eq!(String::from_utf8_lossy(&back), expected);
}

// ---- which listeners

#[test]
fn pp_01_by_default_no_header_is_expected_or_sent() {
    let node = TcpPeer::echo();
    let gateway = before(&node, gateway().tcp(1));
    passes_untouched(gateway.tcp(0));
    gateway.wait_access(&["header=-:- to=-:-", "reason=OK"]);
}

#[test]
fn pp_02_the_global_switch_makes_all_tcp_listeners_expect_one() {
    let (node, datagrams) = (TcpPeer::echo(), UdpPeer::echo());
    let builder = gateway().tcp(1).tcp_entry("addr: \"127.0.0.1:{port}\"").udp(1);
    let gateway = before(&node, builder.apisix("proxy_protocol:\n  enable_tcp_pp: true"));
    let route = json!({
        "server_port": gateway.udp_port(0),
        "upstream": {"nodes": {datagrams.node(): 1}},
    });
    for index in [0, 1] {
        accepts(gateway.tcp(index), V1);
        refuses(gateway.tcp(index), b"hello");
    }
    assert_eq!(node.accepted(), 2);
    gateway.delete("stream_routes/1").expect(200);
    gateway.put("stream_routes/2", &route).expect(201);
    for datagram in [b"hello".as_slice(), V1, &v2_ipv4(b"")] {
        assert_eq!(client::ask(&client::udp(gateway.udp(0)), datagram), datagram);
    }
}

#[test]
fn pp_03_an_entry_may_opt_out() {
    let node = TcpPeer::echo();
    let builder = gateway().tcp(1).tcp_entry("addr: {port}\nproxy_protocol: false");
    let gateway = before(&node, builder.apisix("proxy_protocol:\n  enable_tcp_pp: true"));
    accepts(gateway.tcp(0), V1);
    refuses(gateway.tcp(0), b"hello");
    passes_untouched(gateway.tcp(1));
}

#[test]
fn pp_04_one_entry_alone() {
    let node = TcpPeer::echo();
    let range = "addr: \"{port}-{last}\"\nproxy_protocol: true";
    let gateway = before(&node, gateway().tcp(1).tcp_entry(EXPECTS).tcp_range(range, 2));
    passes_untouched(gateway.tcp(0));
    for index in 1..4 {
        accepts(gateway.tcp(index), V1);
        refuses(gateway.tcp(index), b"hello");
    }
}

#[test]
fn pp_05_only_connections_by_one_listener_carry_a_header() {
    let node = TcpPeer::echo();
    let gateway = before(&node, gateway().tcp(1).tcp_entry(SENDS));
    passes_untouched(gateway.tcp(0));
    sends_header(gateway.tcp(1));
}

#[test]
fn pp_06_the_global_switch_sends_from_all_tcp_listeners() {
    let (node, datagrams) = (TcpPeer::echo(), UdpPeer::echo());
    let opt_out = "addr: {port}\nproxy_protocol_to_upstream: false";
    let builder = gateway().tcp(2).tcp_entry(opt_out).udp(1);
    let switch = "proxy_protocol:\n  enable_tcp_pp_to_upstream: true";
    let gateway = before(&node, builder.apisix(switch));
    sends_header(gateway.tcp(0));
    sends_header(gateway.tcp(1));
    passes_untouched(gateway.tcp(2));
    gateway.put("stream_routes/1", &json!({"upstream": {"nodes": {datagrams.node(): 1}}})).ok();
    assert_eq!(client::ask(&client::udp(gateway.udp(0)), b"hello"), b"hello");
}

#[test]
fn a_reload_switches_a_listener() {
    let node = TcpPeer::echo();
    let gateway = before(&node, gateway().tcp_entry(EXPECTS).tcp_entry(SENDS));
    accepts(gateway.tcp(0), V1);
    sends_header(gateway.tcp(1));
    let config = gateway.config();
    let other = config.replace("proxy_protocol: true", "proxy_protocol: false");
    let other = other.replace("to_upstream: true", "to_upstream: false");
    assert_ne!(config, other);
    for (config, on) in [(other, false), (config, true)] {
        let mark = gateway.mark();
        gateway.write_config(&config);
        gateway.signal("HUP");
        gateway.wait_for_log_after(mark, "reloaded config.yaml");
        if on {
            accepts(gateway.tcp(0), V1);
            sends_header(gateway.tcp(1));
        } else {
            passes_untouched(gateway.tcp(0));
            passes_untouched(gateway.tcp(1));
        }
    }
}

// ---- whose address

#[test]
fn pp_08_nobody_is_believed_by_default() {
    let (named, direct) = (TcpPeer::named("header"), TcpPeer::named("balancer"));
    let gateway = gateway().tcp_entry(EXPECTS).start();
    for (id, address, node) in [("1", "203.0.113.7", &named), ("2", "127.0.0.1", &direct)] {
        let mut route = to(node);
        route["remote_addr"] = json!(address);
        gateway.put(&format!("stream_routes/{id}"), &route).expect(201);
    }
    let (back, own) = exchange(gateway.tcp(0), V1);
    assert_eq!(back.trim_ascii_end(), b"balancer");
    let local = gateway.tcp(0);
    let client = format!("client={own} peer={own} local={local} {SAID} status=200");
    gateway.wait_access(&[&client, "route=2"]);
}

#[test]
fn pp_08_a_trusted_peers_header_names_the_client() {
    let (named, direct) = (TcpPeer::named("header"), TcpPeer::named("balancer"));
    let gateway = gateway().tcp_entry(EXPECTS).stream(TRUST_ALL_LOCAL).start();
    for (id, address, node) in [
        ("1", "203.0.113.0/24", &named),
        ("2", "127.0.0.1", &direct),
        ("3", "2001:db8::/32", &named),
    ] {
        let mut route = to(node);
        route["remote_addr"] = json!(address);
        gateway.put(&format!("stream_routes/{id}"), &route).expect(201);
    }
    let local = gateway.tcp(0);
    for header in [V1.to_vec(), v2_ipv4(b"")] {
        let (back, own) = exchange(local, &header);
        assert_eq!(back.trim_ascii_end(), b"header");
        let client = format!("client=203.0.113.7:51000 peer={own} local={local} {SAID} status=200");
        gateway.wait_access(&[&client, "route=1"]);
    }
    let (back, own) = exchange(local, V1_IPV6);
    assert_eq!(back.trim_ascii_end(), b"header");
    let client = format!("client=2001:db8::7:51000 peer={own} local={local} ");
    gateway.wait_access(&[&client, "header=2001:db8::7:51000 to=2001:db8::1:443", "route=3"]);
}

#[test]
fn pp_08_trust_ends_where_the_list_ends_and_changes_with_a_reload() {
    let named = TcpPeer::named("header");
    let gateway = gateway().tcp_entry(EXPECTS).stream("real_ip_from:\n  - 127.0.0.2").start();
    let mut route = to(&named);
    route["remote_addr"] = json!("203.0.113.7");
    gateway.put("stream_routes/1", &route).expect(201);
    let from = |local: &str| {
        let mut stream = client::connect_from(local.parse().expect("an address"), gateway.tcp(0));
        send(&mut stream, V1);
        read_to_end(&mut stream)
    };
    let reached = Seen::Bytes(b"header".to_vec());
    let trimmed = |seen| match seen {
        Seen::Bytes(bytes) => Seen::Bytes(bytes.trim_ascii_end().to_vec()),
        other => other,
    };
    assert_eq!(trimmed(from("127.0.0.2")), reached);
    assert_eq!(from("127.0.0.3"), Seen::Closed);
    let mark = gateway.mark();
    gateway.write_config(&gateway.config().replace("- 127.0.0.2", "- 127.0.0.3"));
    gateway.signal("HUP");
    gateway.wait_for_log_after(mark, "reloaded config.yaml");
    assert_eq!(from("127.0.0.2"), Seen::Closed);
    assert_eq!(trimmed(from("127.0.0.3")), reached);
}

#[test]
fn a_unix_peer_is_trusted_by_name() {
    let node = TcpPeer::echo();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("gate.sock");
    let entry = format!("addr: \"unix:{}\"\nproxy_protocol: true", path.display());
    let gateway = gateway().tcp_entry(&entry).stream("real_ip_from:\n  - \"unix:\"").start();
    let mut route = to(&node);
    route["remote_addr"] = json!("203.0.113.7");
    gateway.put("stream_routes/1", &route).expect(201);
    let mut stream = UnixStream::connect(&path).expect("connected");
    stream.set_read_timeout(Some(SOON)).expect("a deadline");
    stream.write_all(&[V1, b"hello"].concat()).expect("sent");
    let mut back = [0; 5];
    stream.read_exact(&mut back).expect("an answer");
    assert_eq!(&back, b"hello");
    drop(stream);
    gateway.wait_access(&["client=203.0.113.7:51000 ", SAID, "route=1"]);
}

#[test]
fn a_header_that_names_nobody_keeps_the_peers_address() {
    let node = TcpPeer::echo();
    let gateway = before(&node, gateway().tcp_entry(EXPECTS).stream(TRUST_ALL_LOCAL));
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 203.0.113.7 198.51.100.1 51000 443\r\n".to_vec(),
        v2(0x20, 0x00, b""),
        v2(0x20, 0x11, &[203, 0, 113, 7, 198, 51, 100, 1, 0, 1, 0, 2]),
        v2(0x21, 0x00, b""),
        v2(0x21, 0x00, b"ignored"),
        v2(0x21, 0x31, &[b'x'; 216]),
    ] {
        let bytes = [header.as_slice(), b"hello"].concat();
        let (back, own) = exchange(gateway.tcp(0), &bytes);
        assert_eq!(back, b"hello", "after {}", header.escape_ascii());
        let client = format!("client={own} peer={own} ");
        gateway.wait_access(&[&client, "header=-:- to=-:- status=200 reason=OK in=5 out=5"]);
    }
}

#[test]
fn pp_10_the_original_client_is_passed_on() {
    let node = TcpPeer::echo();
    let both = "addr: {port}\nproxy_protocol: true\nproxy_protocol_to_upstream: true";
    let trusting = before(&node, gateway().tcp_entry(both).stream(TRUST_ALL_LOCAL));
    let port = trusting.tcp_port(0);
    for header in [V1.to_vec(), v2_ipv4(b"\x01\0\x02h2")] {
        let (back, _) = exchange(trusting.tcp(0), &[header.as_slice(), b"hello"].concat());
        let expected = format!("PROXY TCP4 203.0.113.7 127.0.0.1 51000 {port}\r\nhello");
        assert_eq!(String::from_utf8_lossy(&back), expected);
    }
    // Somebody who is not trusted is passed on as who it is.
    let doubting = before(&node, gateway().tcp_entry(both));
    let (back, own) = exchange(doubting.tcp(0), &[V1, b"hello"].concat());
    let (from, to) = (own.port(), doubting.tcp_port(0));
    let expected = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {from} {to}\r\nhello");
    assert_eq!(String::from_utf8_lossy(&back), expected);
}

#[test]
fn a_header_goes_out_before_the_client_says_anything_and_on_every_try() {
    // The first node refuses; the second speaks only after it has read the header.
    let node = TcpPeer::new(|mut conversation| {
        let (mut line, mut byte) = (Vec::new(), [0]);
        while !line.ends_with(b"\r\n") && conversation.read(&mut byte) > 0 {
            line.extend(byte);
        }
        let _ = conversation.stream.write_all(&[b"welcome ".as_slice(), &line].concat());
    });
    let refusing = headgate_testkit::Port::take();
    let gateway = gateway().tcp_entry(SENDS).start();
    let upstream = json!({"nodes": [
        {"host": "127.0.0.1", "port": refusing.number(), "weight": 1, "priority": 1},
        {"host": "127.0.0.1", "port": node.addr().port(), "weight": 1},
    ]});
    gateway.put("stream_routes/1", &json!({"upstream": upstream})).expect(201);
    let mut stream = connect(gateway.tcp(0));
    let (from, to) = (stream.local_addr().expect("an address").port(), gateway.tcp_port(0));
    let expected = format!("welcome PROXY TCP4 127.0.0.1 127.0.0.1 {from} {to}\r\n");
    assert_eq!(read_to_end(&mut stream), Seen::Bytes(expected.into_bytes()));
}

#[test]
fn ipv6_is_written_as_such() {
    let node = TcpPeer::echo();
    let entry = "addr: \"[::]:{port}\"\nproxy_protocol_to_upstream: true";
    let gateway = before(&node, gateway().tcp_entry(entry));
    let listener = SocketAddr::new("::1".parse().expect("an address"), gateway.tcp_port(0));
    let (back, own) = exchange(listener, b"hello");
    let expected = format!("PROXY TCP6 ::1 ::1 {} {}\r\nhello", own.port(), listener.port());
    assert_eq!(String::from_utf8_lossy(&back), expected);
}

// ---- version 2

/// A listener that sends the binary form.
const SENDS_V2: &str = "addr: {port}\nproxy_protocol_to_upstream: true\nproxy_protocol_version: 2";

/// The header in front of what a node got, and what followed it.
#[track_caller]
fn received(bytes: &[u8]) -> (Header, &[u8]) {
    match decode(bytes) {
        Ok(Decoded::Done { header, length }) => (header, &bytes[length..]),
        other => panic!("{other:?} from {}", bytes.escape_ascii()),
    }
}

fn extension(header: &Header, kind: u8) -> Option<&[u8]> {
    header.tlvs.iter().find(|(other, _)| *other == kind).map(|(_, value)| value.as_slice())
}

#[test]
fn the_binary_form_names_client_and_session() {
    let node = TcpPeer::echo();
    let builder = gateway().access_format("id=$session_id").tcp_entry(SENDS_V2);
    let gateway = before(&node, builder);
    let (back, own) = exchange(gateway.tcp(0), b"hello");
    let (header, rest) = received(&back);
    assert_eq!((header.source, header.destination), (Some(own), Some(gateway.tcp(0))));
    assert_eq!(rest, b"hello");
    let id = extension(&header, tlv::UNIQUE_ID).expect("a name of the session");
    gateway.wait_access(&[&format!("id={}", String::from_utf8_lossy(id))]);
    assert_eq!(header.tlvs.len(), 1, "there is no TLS to tell of");
}

#[test]
fn the_version_may_be_set_for_all_listeners() {
    let node = TcpPeer::echo();
    let own = "addr: {port}\nproxy_protocol_version: 1";
    let switch = "proxy_protocol:\n  enable_tcp_pp_to_upstream: true\n  version_to_upstream: 2";
    let gateway = before(&node, gateway().tcp(1).tcp_entry(own).apisix(switch));
    assert_eq!(received(&exchange(gateway.tcp(0), b"hello").0).1, b"hello");
    sends_header(gateway.tcp(1));
}

#[test]
fn haproxy_understands_the_binary_form() {
    let node = TcpPeer::echo();
    let Some(server) = HaProxy::start("accept-proxy", node.addr(), "send-proxy") else { return };
    let gateway = gateway().tcp_entry(SENDS_V2).start();
    let upstream = json!({"upstream": {"nodes": {server.addr().to_string(): 1}}});
    gateway.put("stream_routes/1", &upstream).expect(201);
    sends_header(gateway.tcp(0));
}

#[test]
fn each_datagram_carries_the_header() {
    let node = UdpPeer::echo();
    let entry = "addr: \"127.0.0.1:{port}\"\nproxy_protocol_to_upstream: true";
    let gateway = gateway().udp_entry(entry).start();
    gateway.put("stream_routes/1", &json!({"upstream": {"nodes": {node.node(): 1}}})).expect(201);
    let socket = client::udp(gateway.udp(0));
    for payload in [&b"one"[..], b"", &[7; 1_400], &[8; 60_000]] {
        let back = client::ask(&socket, payload);
        // The datagram family of version 2, and the addresses behind the fixed part.
        assert_eq!(back[..14], [SIGNATURE, &[0x21, 0x12]].concat());
        assert_eq!(back[16..20], [127, 0, 0, 1]);
        let own = socket.local_addr().expect("an address").port().to_be_bytes();
        assert_eq!(back[24..26], own);
        assert!(back.ends_with(payload) && back.len() > payload.len() + 16);
    }
}

#[test]
fn a_header_that_nobody_expects_is_passed_on_and_said() {
    let node = TcpPeer::echo();
    let gateway = before(&node, gateway().tcp(1));
    for header in [V1.to_vec(), v2_ipv4(b"")] {
        let bytes = [&header[..], b"hello"].concat();
        let mark = gateway.mark();
        assert_eq!(exchange(gateway.tcp(0), &bytes).0, bytes, "payload like any other");
        let said = "begins with a PROXY protocol header that this listener does not expect";
        gateway.wait_for_log_after(mark, said);
    }
    let mark = gateway.mark();
    assert_eq!(exchange(gateway.tcp(0), b"PROXY war").0, b"PROXY war");
    gateway.wait_access(&["in=9 "]);
    assert!(gateway.log().lines_with(mark, "does not expect").is_empty());
    assert!(!gateway.access().concat().contains("reason=XP"), "the node understood it");
}

/// The close reason says it when the node does not take the header: it ends or resets without a
/// byte.
#[test]
fn a_header_that_nobody_understands_is_the_close_reason() {
    let ends = TcpPeer::new(|mut conversation| {
        conversation.read(&mut [0; 4096]);
    });
    let gateway = before(&ends, gateway().tcp(1));
    let bytes = [V1, b"hello"].concat();
    assert_eq!(exchange(gateway.tcp(0), &bytes).0, b"");
    gateway.wait_access(&["status=200 reason=XP in=52 out=0 route=1"]);
    let resets = TcpPeer::resetter(b"", 1);
    gateway.put("stream_routes/1", &to(&resets)).ok();
    assert_eq!(exchange(gateway.tcp(0), &v2_ipv4(b"")).0, b"");
    gateway.wait_access(&["status=200 reason=XP in=28 out=0 route=1"]);
    // Nothing of that when there was no header.
    assert_eq!(exchange(gateway.tcp(0), b"PROXY war").0, b"");
    gateway.wait_access(&["reason=UR in=9 "]);
}

#[test]
fn extensions_of_a_header_are_variables() {
    let node = TcpPeer::echo();
    let format = "alpn=$proxy_protocol_tlv_alpn vpc=$proxy_protocol_tlv_0xea \
        cn=$proxy_protocol_tlv_ssl_cn verified=$proxy_protocol_tlv_ssl_verify \
        id=$proxy_protocol_tlv_unique_id other=$proxy_protocol_tlv_whatever";
    let gateway = before(&node, gateway().tcp_entry(EXPECTS).access_format(format));
    let ssl = [&[7, 0, 0, 0, 0, 0x22, 0, 3][..], b"bob"].concat();
    let tlvs = [&b"\x01\0\x02h2\xea\0\x05vpc-1\x20\0\x0b"[..], &ssl].concat();
    accepts(gateway.tcp(0), &v2_ipv4(&tlvs));
    gateway.wait_access(&["alpn=h2 vpc=vpc-1 cn=bob verified=0 id=- other=-"]);
    // Expressions and keys know them too.
    let filtered = json!({"whitelist": ["192.0.2.1"],
        "_meta": {"filter": [["proxy_protocol_tlv_0xea", "==", "vpc-2"]]}});
    let mut route = to(&node);
    route["plugins"] = json!({"ip-restriction": filtered});
    gateway.put("stream_routes/1", &route).ok();
    accepts(gateway.tcp(0), &v2_ipv4(&tlvs));
    let other = v2_ipv4(b"\xea\0\x05vpc-2");
    assert_eq!(exchange(gateway.tcp(0), &other).0, b"", "refused");
}

// ---- how it arrives

#[test]
fn pp_09_version_2_is_accepted_with_and_without_extensions() {
    let node = TcpPeer::echo();
    let gateway = before(&node, gateway().tcp_entry(EXPECTS));
    accepts(gateway.tcp(0), &v2_ipv4(b""));
    accepts(gateway.tcp(0), &v2_ipv4(b"\x01\0\x02h2\x04\0\0"));
    accepts(gateway.tcp(0), &v2_ipv4(&[&[0x04, 0x0f, 0x00], [0; 0xf00].as_slice()].concat()));
    wait::until_true("three sessions are logged", SOON, || gateway.access().len() == 3);
    assert!(gateway.access().iter().all(|line| line.contains(SAID)), "{:?}", gateway.access());
}

#[test]
fn a_header_may_come_byte_by_byte() {
    let (node, ping) = (TcpPeer::echo(), TcpPeer::named("ping"));
    let gateway = gateway().tcp_entry(EXPECTS).tcp(1).workers(1).start();
    let other = json!({"server_port": gateway.tcp_port(1), "upstream": to(&ping)["upstream"]});
    gateway.put("stream_routes/1", &other).expect(201);
    gateway.put("stream_routes/2", &to(&node)).expect(201);
    for header in [V1.to_vec(), v2_ipv4(b"\xea\0\x01x")] {
        let mut stream = connect(gateway.tcp(0));
        for byte in &header {
            send(&mut stream, &[*byte]);
            // The one worker serves somebody else: it has seen the byte before.
            assert_eq!(reach(gateway.tcp(1)).as_deref(), Some("ping"));
        }
        assert_alive(&mut stream);
    }
    wait::until_true("both sessions are logged", SOON, || {
        gateway.access().iter().filter(|line| line.contains(SAID)).count() == 2
    });
}

#[test]
fn what_follows_in_the_same_segment_arrives_intact() {
    const COUNT: u64 = 3 << 20;
    for size in [1, 500, 1024, 5000] {
        let node = TcpPeer::answers_at_end(9);
        let gateway = before(&node, gateway().tcp_entry(EXPECTS));
        let mut stream = connect(gateway.tcp(0));
        let mut payload = Vec::new();
        Pattern::new(9).send(&mut payload, COUNT).expect("written");
        let (first, rest) = payload.split_at(size);
        send(&mut stream, &[V1, first].concat());
        send(&mut stream, rest);
        stream.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(read_to_end(&mut stream), Seen::Bytes(format!("{COUNT} good").into_bytes()));
        gateway.wait_access(&["reason=OK", &format!("in={COUNT} ")]);
    }
}

#[test]
fn payload_in_the_headers_segment_follows_the_header_that_is_sent() {
    let node = TcpPeer::echo();
    let both = "addr: {port}\nproxy_protocol: true\nproxy_protocol_to_upstream: true";
    let gateway = before(&node, gateway().tcp_entry(both).stream(TRUST_ALL_LOCAL));
    let payload = b"\x16\x03\x01PROXY TCP4 not a header".repeat(100);
    let (back, _) = exchange(gateway.tcp(0), &[V1, &payload].concat());
    let port = gateway.tcp_port(0);
    let header = format!("PROXY TCP4 203.0.113.7 127.0.0.1 51000 {port}\r\n");
    assert!(back == [header.as_bytes(), &payload].concat(), "{}", back.escape_ascii());
}

#[test]
fn only_one_header_is_taken() {
    let node = TcpPeer::echo();
    let gateway = before(&node, gateway().tcp_entry(EXPECTS));
    let (back, _) = exchange(gateway.tcp(0), &[V1, V1_IPV6].concat());
    assert_eq!(back, V1_IPV6);
    gateway.wait_access(&[SAID]);
}

// ---- HAProxy

#[test]
fn haproxys_headers_are_understood() {
    let node = TcpPeer::echo();
    let gateway = before(&node, gateway().tcp_entry(EXPECTS).stream(TRUST_ALL_LOCAL));
    for send in ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"] {
        let Some(balancer) = HaProxy::start("", gateway.tcp(0), send) else { return };
        let (back, own) = exchange(balancer.addr(), b"hello");
        assert_eq!(back, b"hello", "{send}");
        let local = gateway.tcp(0);
        let header = format!("client={own} peer=127.0.0.1:");
        let said = format!("local={local} header={own} to={} status=200", balancer.addr());
        gateway.wait_access(&[&header, &said]);
    }
}

#[test]
fn haproxy_understands_what_is_sent() {
    let node = TcpPeer::echo();
    // What HAProxy has understood it says in a header of its own.
    let Some(server) = HaProxy::start("accept-proxy", node.addr(), "send-proxy") else { return };
    let entry = "addr: \"[::]:{port}\"\nproxy_protocol_to_upstream: true";
    let gateway = gateway().tcp_entry(SENDS).tcp_entry(entry).start();
    let upstream = json!({"upstream": {"nodes": {server.addr().to_string(): 1}}});
    gateway.put("stream_routes/1", &upstream).expect(201);
    sends_header(gateway.tcp(0));
    let listener = SocketAddr::new("::1".parse().expect("an address"), gateway.tcp_port(1));
    let (back, own) = exchange(listener, b"hello");
    let expected = format!("PROXY TCP6 ::1 ::1 {} {}\r\nhello", own.port(), listener.port());
    assert_eq!(String::from_utf8_lossy(&back), expected);
}

// ---- what is no header

#[test]
fn pp_09_what_is_no_header_is_closed_and_quoted() {
    let node = TcpPeer::echo();
    let gateway = before(&node, gateway().tcp_entry(EXPECTS));
    for (bytes, quoted) in [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "GET / HTTP/1.1"),
        (b"\x16\x03\x01\x02".to_vec(), r"\x16\x03\x01\x02"),
        (
            b"PROXY TCP4 203.0.113.7 198.51.100.1 65536 443\r\n".to_vec(),
            "PROXY TCP4 203.0.113.7 198.51.100.1 65536 443",
        ),
        (b"PROXY TCP4 ::1 ::1 1 2\r\n".to_vec(), "PROXY TCP4 ::1 ::1 1 2"),
        (v2(0x31, 0x11, &[0; 12]), r"\r\n\r\n\x00\r\nQUIT\n1"),
        (v2(0x21, 0x11, &[0; 11]), r"\r\n\r\n\x00\r\nQUIT\n!\x11\x00\x0b"),
        (vec![b'x'; 300], &"x".repeat(107)),
    ] {
        let mark = gateway.mark();
        refuses(gateway.tcp(0), &bytes);
        let line = gateway.wait_for_log_after(mark, "while reading PROXY protocol");
        let header = line.split_once(" broken header: \"").map(|(_, rest)| rest);
        let header = header.and_then(|rest| rest.split_once("\" while reading PROXY protocol"));
        assert!(header.is_some_and(|(header, _)| header.starts_with(quoted)), "{line}");
    }
    wait::until_true("all are logged", SOON, || gateway.access().len() == 7);
    for line in gateway.access() {
        assert!(line.contains(" header=-:- to=-:- status=400 reason=PH in=0 out=0"), "{line}");
    }
    assert_eq!(node.accepted(), 0);
}

#[test]
fn a_wrong_first_byte_is_not_waited_upon() {
    let node = TcpPeer::echo();
    let gateway = before(&node, gateway().tcp_entry(EXPECTS));
    for start in [b"G".as_slice(), b"\x16", b"PROXY t", b"\r\n\r\n\r", b"SSH-2.0-x\r\n"] {
        // The client keeps its side open.
        let mut stream = connect(gateway.tcp(0));
        send(&mut stream, start);
        assert_eq!(read_to_end(&mut stream), Seen::Closed, "{}", start.escape_ascii());
    }
    assert_eq!(node.accepted(), 0);
}

#[test]
fn a_header_that_is_cut_short_is_refused() {
    let node = TcpPeer::echo();
    let gateway = before(&node, gateway().tcp_entry(EXPECTS));
    let binary = v2_ipv4(b"");
    for part in [&V1[..1], &V1[..V1.len() - 1], &binary[..12], &binary[..27]] {
        refuses(gateway.tcp(0), part);
    }
    client::reset({
        let mut stream = connect(gateway.tcp(0));
        send(&mut stream, &V1[..20]);
        stream
    });
    wait::until_true("all are logged", SOON, || gateway.access().len() == 5);
    for line in gateway.access() {
        assert!(line.contains("status=400 reason=PH in=0"), "{line}");
    }
    assert_eq!(node.accepted(), 0);
    accepts(gateway.tcp(0), V1);
}

#[test]
fn a_silent_client_is_waited_for_and_holds_nobody_up() {
    let node = TcpPeer::echo();
    let gateway = before(&node, gateway().tcp_entry(EXPECTS).workers(1));
    let mut silent: Vec<TcpStream> = (0..20).map(|_| connect(gateway.tcp(0))).collect();
    for stream in silent.iter_mut().skip(10) {
        send(stream, &V1[..30]);
    }
    for _ in 0..20 {
        accepts(gateway.tcp(0), V1);
    }
    // Two seconds without a byte from either side: nobody is closed early.
    let still_open = |stream: &mut TcpStream, limit| {
        stream.set_read_timeout(Some(limit)).expect("a deadline");
        let error = stream.read(&mut [0]).expect_err("neither bytes nor an end");
        assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
        stream.set_read_timeout(Some(SOON)).expect("a deadline");
    };
    still_open(&mut silent[0], Duration::from_secs(2));
    silent.iter_mut().for_each(|stream| still_open(stream, Duration::from_millis(1)));
    for (index, stream) in silent.iter_mut().enumerate() {
        send(stream, if index < 10 { V1 } else { &V1[30..] });
        assert_alive(stream);
    }
}
