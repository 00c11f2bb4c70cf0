//! TLS and what goes on behind it: PROXY headers that tell of it, sessions with upstreams that are
//! resumed, certificates that change.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::process::Command;

use headgate_testkit::balancer::HaProxy;
use headgate_testkit::certificate::{Authority, Certificate};
use headgate_testkit::process::{need, run};
use headgate_testkit::tls::{self, TLS12, TLS13, TlsClient};
use headgate_testkit::{Gateway, GatewayBuilder, Port, Process, SOON, TcpPeer, client, proc, wait};
use headgate_wire::proxy_header::{Decoded, Header, decode, tlv};
use serde_json::{Value, json};

const BIN: &str = env!("CARGO_BIN_EXE_headgate");
const FORMAT: &str = "reason=$close_reason sni=$ssl_server_name upstream_sni=$upstream_sni \
    san=$ssl_client_san";
const TLS_V2: &str = "addr: \"127.0.0.1:{port}\"\ntls: true\nproxy_protocol_to_upstream: true\n\
    proxy_protocol_version: 2";

fn gateway() -> GatewayBuilder {
    Gateway::builder(BIN).access_format(FORMAT)
}

fn ssl(certificate: &Certificate, names: &[&str]) -> Value {
    json!({"cert": certificate.cert, "key": certificate.key, "snis": names})
}

fn to(node: SocketAddr) -> Value {
    json!({"upstream": {"nodes": {node.to_string(): 1}}})
}

#[test]
fn a_header_goes_before_tls_that_is_passed_through() {
    let authority = Authority::new("root");
    let own = authority.server(&["a.test"]);
    let node = tls::naming_node(&own, None);
    for version in [1, 2] {
        // HAProxy demands the header and passes on what follows it.
        let Some(server) = HaProxy::start("accept-proxy", node.addr(), "") else { return };
        let entry = format!(
            "addr: \"127.0.0.1:{{port}}\"\ntls_passthrough: true\n\
             proxy_protocol_to_upstream: true\nproxy_protocol_version: {version}"
        );
        let gateway = gateway().tcp_entry(&entry).start();
        let mut route = to(server.addr());
        route["sni"] = json!("a.test");
        gateway.put("stream_routes/1", &route).expect(201);
        let client = TlsClient::default();
        let mut stream = client.connect(gateway.tcp(0), "a.test").expect("a handshake");
        assert_eq!(tls::shown(&stream), tls::der(&own), "the node's own certificate");
        stream.conn.send_close_notify();
        stream.flush().expect("close_notify");
        assert_eq!(tls::read_to_end(&mut stream).0, b"a.test\n");
        drop(stream);
        gateway.wait_access(&["reason=OK sni=a.test upstream_sni=-"]);
    }
    // What is told of TLS that nobody opened: the name.
    let echo = TcpPeer::echo();
    let entry = "addr: \"127.0.0.1:{port}\"\ntls_passthrough: true\n\
                 proxy_protocol_to_upstream: true\nproxy_protocol_version: 2";
    let gateway = gateway().tcp_entry(entry).start();
    gateway.put("stream_routes/1", &to(echo.addr())).expect(201);
    let (_, hello) = TlsClient::default().hello("a.test");
    let mut socket = client::connect(gateway.tcp(0));
    client::send(&mut socket, &hello);
    socket.shutdown(Shutdown::Write).expect("FIN");
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).expect("bytes");
    let (header, rest) = header_of(&bytes);
    assert_eq!(extension(&header.tlvs, tlv::AUTHORITY), Some(&b"a.test"[..]));
    assert_eq!(extension(&header.tlvs, tlv::SSL), None);
    assert_eq!(rest, hello);
}

fn header_of(bytes: &[u8]) -> (Header, &[u8]) {
    match decode(bytes) {
        Ok(Decoded::Done { header, length }) => (header, &bytes[length..]),
        other => panic!("{other:?} from {}", bytes.escape_ascii()),
    }
}

fn extension(tlvs: &[(u8, Vec<u8>)], kind: u8) -> Option<&[u8]> {
    tlvs.iter().find(|(other, _)| *other == kind).map(|(_, value)| value.as_slice())
}

/// Flags, result of the verification, and what else the SSL extension holds.
fn ssl_facts(header: &Header) -> (u8, u32, Vec<(u8, Vec<u8>)>) {
    let value = extension(&header.tlvs, tlv::SSL).expect("the SSL extension");
    let (flags, rest) = value.split_first().expect("flags");
    let (verify, mut rest) = rest.split_first_chunk::<4>().expect("a result");
    let mut inner = Vec::new();
    while let [kind, high, low, more @ ..] = rest {
        let (value, next) = more.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        inner.push((*kind, value.to_vec()));
        rest = next;
    }
    (*flags, u32::from_be_bytes(*verify), inner)
}

#[test]
fn binary_headers_tell_of_tls() {
    let node = TcpPeer::echo();
    let authority = Authority::new("root");
    let gateway = gateway().tcp_entry(TLS_V2).start();
    let mut demanding = ssl(&authority.server(&["mutual.test"]), &["mutual.test"]);
    demanding["client"] = json!({"ca": authority.cert});
    gateway.put("ssls/mutual", &demanding).expect(201);
    gateway.put("ssls/1", &ssl(&authority.server(&["a.test"]), &["a.test"])).expect(201);
    gateway.put("stream_routes/1", &to(node.addr())).expect(201);
    let told = |client: &TlsClient, name: &str| {
        let mut stream = client.connect(gateway.tcp(0), name).expect("a handshake");
        let local = stream.sock.local_addr().expect("an address");
        stream.write_all(b"hello").expect("bytes");
        stream.conn.send_close_notify();
        stream.flush().expect("close_notify");
        let bytes = tls::read_to_end(&mut stream).0;
        let (header, rest) = header_of(&bytes);
        assert_eq!((header.source, rest), (Some(local), &b"hello"[..]));
        assert_eq!(extension(&header.tlvs, tlv::AUTHORITY), Some(name.as_bytes()));
        ssl_facts(&header)
    };
    for (versions, protocol) in [(&[&TLS12][..], &b"TLSv1.2"[..]), (&[&TLS13], b"TLSv1.3")] {
        let (flags, verify, inner) = told(&TlsClient::with_versions(versions), "a.test");
        assert_eq!((flags, verify), (tlv::CLIENT_SSL, 1), "no certificate, nothing verified");
        assert_eq!(extension(&inner, tlv::SSL_VERSION), Some(protocol));
        assert!(extension(&inner, tlv::SSL_CIPHER).is_some_and(|name| name.len() > 10));
        assert_eq!(extension(&inner, tlv::SSL_CN), None);
        let own = authority.client_of("alice", &["alice.test", "10.1.2.3"]);
        let alice = TlsClient::showing(&own, versions);
        let (flags, verify, inner) = told(&alice, "mutual.test");
        let shown = tlv::CLIENT_SSL | tlv::CLIENT_CERT_CONN | tlv::CLIENT_CERT_SESS;
        assert_eq!((flags, verify), (shown, 0));
        assert_eq!(extension(&inner, tlv::SSL_CN), Some(&b"alice"[..]));
        // Resumed: the certificate belongs to the session, not to this connection.
        let (flags, verify, inner) = told(&alice, "mutual.test");
        assert_eq!((flags, verify), (tlv::CLIENT_SSL | tlv::CLIENT_CERT_SESS, 0));
        assert_eq!(extension(&inner, tlv::SSL_CN), Some(&b"alice"[..]));
    }
    gateway.wait_access(&["sni=mutual.test", "san=DNS:alice.test,IP:10.1.2.3"]);
}

#[test]
fn haproxy_reads_the_name_from_the_header() {
    let (Some(haproxy), Some(curl)) = (need("haproxy", "haproxy"), need("curl", "curl")) else {
        return;
    };
    let authority = Authority::new("root");
    let gateway = gateway().tcp_entry(TLS_V2).start();
    let port = Port::take();
    let config = gateway.folder().join("haproxy.cfg");
    let text = format!(
        "defaults\n  mode http\n  timeout client 20s\n  timeout connect 10s\n  timeout server 20s\n\
         frontend f\n  bind {} accept-proxy\n  http-request return status 200 content-type \
         text/plain lf-string \"name %[fc_pp_authority] of %[src]\"\n",
        port.local()
    );
    fs::write(&config, text).expect("a file");
    let _haproxy = Process::spawn(Command::new(haproxy).arg("-db").arg("-f").arg(&config));
    wait::until_true("haproxy", SOON * 2, || proc::tcp_listens(port.number()));
    gateway.put("ssls/1", &ssl(&authority.server(&["a.test"]), &["a.test"])).expect(201);
    gateway.put("stream_routes/1", &to(port.local())).expect(201);
    let number = gateway.tcp(0).port();
    let mut command = Command::new(curl);
    command.args(["-sk", "--http1.1", "--resolve", &format!("a.test:{number}:127.0.0.1")]);
    let answer = run(command.arg(format!("https://a.test:{number}/")), SOON).success().stdout;
    assert_eq!(answer, "name a.test of 127.0.0.1");
}

/// A node that answers with the common name of the client's certificate.
fn greeting_node(own: &Certificate, ca: &str) -> TcpPeer {
    tls::node(own, Some(ca), |mut stream| {
        let chain = stream.conn.peer_certificates().unwrap_or_default();
        let leaf = chain.first().map(|der| der.to_vec()).unwrap_or_default();
        let name = ["first", "second"]
            .into_iter()
            .find(|name| leaf.windows(name.len()).any(|part| part == name.as_bytes()));
        let _ = stream.write_all(name.unwrap_or("nobody").as_bytes());
        stream.conn.send_close_notify();
        let _ = stream.flush();
    })
}

#[test]
fn an_inline_upstream_of_a_plugin_shows_the_certificate_of_today() {
    let authority = Authority::new("root");
    let node = greeting_node(&authority.server(&["node"]), &authority.cert);
    let own = TcpPeer::named("own");
    let gateway = gateway().tcp(1).start();
    let object = |name: &str| {
        let certificate = authority.client(name);
        json!({"type": "client", "cert": certificate.cert, "key": certificate.key})
    };
    gateway.put("ssls/c", &object("first")).expect(201);
    let inline = json!({
        "nodes": {node.node(): 1}, "scheme": "tls", "tls": {"client_cert_id": "c"},
    });
    let rules = json!([{"weighted_upstreams": [{"upstream": inline, "weight": 1}]}]);
    let mut route = to(own.addr());
    route["plugins"] = json!({"traffic-split": {"rules": rules}});
    gateway.put("stream_routes/1", &route).expect(201);
    let ask = || {
        let mut stream = client::connect(gateway.tcp(0));
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        text
    };
    assert_eq!(ask(), "first");
    gateway.put("ssls/c", &object("second")).expect(200);
    assert_eq!(ask(), "second", "the object has changed, not the route");
    gateway.delete("ssls/c?force=true").expect(200);
    assert_eq!(ask(), "", "there is no certificate to show");
    gateway.put("ssls/c", &object("first")).expect(201);
    assert_eq!(ask(), "first");
}

#[test]
fn sessions_with_upstreams_are_resumed() {
    let authority = Authority::new("root");
    let node = tls::node(&authority.server(&["node"]), None, |mut stream| {
        let kind = format!("{:?}", stream.conn.handshake_kind());
        let _ = stream.write_all(kind.as_bytes());
        stream.conn.send_close_notify();
        let _ = stream.flush();
    });
    let gateway = gateway().tcp(1).workers(1).start();
    let upstream = json!({"nodes": {node.node(): 1}, "scheme": "tls"});
    gateway.put("stream_routes/1", &json!({"upstream": upstream})).expect(201);
    let ask = || {
        let mut stream = client::connect(gateway.tcp(0));
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        text
    };
    assert_eq!(ask(), "Some(Full)");
    for _ in 0..3 {
        assert_eq!(ask(), "Some(Resumed)");
    }
    gateway.wait_access(&["upstream_sni=apisix_backend"]);
    // Other trust means other sessions.
    let verified = json!({
        "nodes": {node.node(): 1}, "scheme": "tls",
        "tls": {"verify": true, "sni": "node", "ca_certs": [authority.cert]},
    });
    gateway.put("stream_routes/1", &json!({"upstream": verified})).expect(200);
    assert_eq!(ask(), "Some(Full)");
    assert_eq!(ask(), "Some(Resumed)");
}
