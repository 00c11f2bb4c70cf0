//! Certificates of clients, of headgate towards upstreams, and their keys: the conformance list's
//! MT and UT parts, SN-04, TL-04, TL-11, PP-07, and rotation under load.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use headgate_testkit::certificate::{Authority, Certificate};
use headgate_testkit::client::{self, Seen};
use headgate_testkit::process::{need, run};
use headgate_testkit::tls::{self, TLS12, TLS13, TlsClient};
use headgate_testkit::{Gateway, GatewayBuilder, SOON, TcpPeer, wait};
use serde_json::{Value, json};

const BIN: &str = env!("CARGO_BIN_EXE_headgate");
const FORMAT: &str = "status=$status reason=$close_reason in=$bytes_received out=$bytes_sent \
    sni=$ssl_server_name reused=$ssl_session_reused verify=$ssl_client_verify \
    subject=$ssl_client_s_dn issuer=$ssl_client_i_dn upstream=$upstream_addr";
const TLS: &str = "addr: \"127.0.0.1:{port}\"\ntls: true";

fn gateway() -> GatewayBuilder {
    Gateway::builder(BIN).access_format(FORMAT)
}

fn ssl(certificate: &Certificate, names: &[&str]) -> Value {
    json!({"cert": certificate.cert, "key": certificate.key, "snis": names})
}

fn demanding(mut ssl: Value, ca: &str, depth: u32) -> Value {
    if let Some(members) = ssl.as_object_mut() {
        members.insert("client".to_owned(), json!({"ca": ca, "depth": depth}));
    }
    ssl
}

fn to(node: &TcpPeer) -> Value {
    json!({"upstream": {"nodes": {node.node(): 1}}})
}

/// Answers with the first line it is sent.
fn first_line_node() -> TcpPeer {
    TcpPeer::new(|mut conversation| {
        let mut line = Vec::new();
        let mut byte = [0; 1];
        while !line.ends_with(b"\r\n") && conversation.read(&mut byte) > 0 {
            line.extend_from_slice(&byte);
        }
        let _ = conversation.stream.write_all(line.trim_ascii_end());
        let _ = conversation.stream.shutdown(Shutdown::Write);
        conversation.drain();
    })
}

/// The answer to a connection whose client may learn of its refusal only when it reads.
fn answer(client: &TlsClient, gateway: &Gateway, name: &str) -> Result<Vec<u8>, String> {
    let mut stream = client.connect(gateway.tcp(0), name)?;
    let (bytes, end) = tls::read_to_end(&mut stream);
    end.map_err(|error| error.to_string()).map(|()| bytes)
}

#[test]
fn mt_01_mt_02_mt_03_client_certificates() {
    let node = TcpPeer::named("a");
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let gateway = gateway().tcp_entry(TLS).start();
    let server = ours.server(&["a.test"]);
    gateway.put("ssls/1", &demanding(ssl(&server, &["a.test"]), &ours.cert, 1)).expect(201);
    gateway.put("stream_routes/1", &to(&node)).expect(201);
    for (versions, alert) in [(&[&TLS12][..], "HandshakeFailure"), (&[&TLS13], "Required")] {
        let good = TlsClient::showing(&ours.client("alice"), versions);
        assert_eq!(answer(&good, &gateway, "a.test").as_deref(), Ok(&b"a\n"[..]));
        let none = TlsClient::with_versions(versions);
        assert!(answer(&none, &gateway, "a.test").expect_err("none").contains(alert));
        let other = TlsClient::showing(&theirs.client("mallory"), versions);
        assert!(answer(&other, &gateway, "a.test").expect_err("theirs").contains("fatal alert"));
        let expired = TlsClient::showing(&ours.expired(&["bob"]), versions);
        let error = answer(&expired, &gateway, "a.test").expect_err("expired");
        assert!(error.contains("CertificateExpired"), "{error}");
    }
    assert_eq!(node.accepted(), 2, "only good ones reach the node");
    gateway.wait_access(&[
        "status=200",
        "verify=SUCCESS subject=O=headgate tests,CN=alice",
        "issuer=CN=ours",
    ]);
    gateway.wait_access(&["status=500 reason=CC", "verify=-"]);
    gateway.wait_for_log("peer did not return a certificate", SOON);
    gateway.wait_for_log("certificate verify failed: unknown issuer", SOON);
    let line = gateway.wait_for_log("certificate verify failed: certificate has expired", SOON);
    assert!(line.contains("sni=\"a.test\"") && line.contains("client=127.0.0.1:"), "{line}");
}

#[test]
fn mt_04_no_way_around_by_a_session_of_another_name() {
    let Some(openssl) = need("openssl", "openssl") else { return };
    let node = TcpPeer::named("a");
    let (one, two) = (Authority::new("one"), Authority::new("two"));
    let gateway = gateway().tcp_entry(TLS).start();
    let server = one.server(&["n1.test", "n2.test"]);
    gateway.put("ssls/1", &demanding(ssl(&server, &["n1.test"]), &one.cert, 1)).expect(201);
    gateway.put("ssls/2", &demanding(ssl(&server, &["n2.test"]), &two.cert, 1)).expect(201);
    gateway.put("stream_routes/1", &to(&node)).expect(201);
    let (cert, key) = one.client("alice").write(gateway.folder(), "client");
    let session = gateway.folder().join("session");
    let s_client = |name: &str, how: &str| {
        let mut command = Command::new(&openssl);
        command.args(["s_client", "-tls1_2", "-servername", name, how]).arg(&session);
        command.arg("-connect").arg(gateway.tcp(0).to_string());
        command.arg("-cert").arg(&cert).arg("-key").arg(&key);
        run(&mut command, SOON).output()
    };
    let first = s_client("n1.test", "-sess_out");
    assert!(first.contains("New, TLSv1.2"), "{first}");
    let again = s_client("n1.test", "-sess_in");
    assert!(again.contains("Reused, TLSv1.2"), "SN-04: {again}");
    gateway.wait_access(&["reason=OK", "reused=r", "sni=n1.test", "verify=SUCCESS"]);
    let before = node.accepted();
    let other = s_client("n2.test", "-sess_in");
    assert!(!other.contains("Reused"), "{other}");
    gateway.wait_for_log(
        "sni in client hello mismatch hostname of ssl session, sni: n2.test, hostname: n1.test",
        SOON,
    );
    gateway.wait_access(&["status=500 reason=CC", "sni=n2.test"]);
    assert_eq!(node.accepted(), before);
}

#[test]
fn mt_05_depth_and_a_demand_that_comes_later() {
    let node = TcpPeer::named("a");
    let root = Authority::new("root");
    let below = root.intermediate("below");
    let gateway = gateway().tcp_entry(TLS).start();
    let server = ssl(&root.server(&["a.test"]), &["a.test"]);
    gateway.put("ssls/1", &server).expect(201);
    gateway.put("stream_routes/1", &to(&node)).expect(201);
    let nobody = TlsClient::with_versions(&[&TLS12]);
    assert!(answer(&nobody, &gateway, "a.test").is_ok());
    let stream = nobody.connect(gateway.tcp(0), "a.test").expect("a handshake");
    assert!(tls::is_resumed(&stream), "tickets work");
    drop(stream);
    gateway.put("ssls/1", &demanding(server.clone(), &root.cert, 0)).expect(200);
    assert!(answer(&nobody, &gateway, "a.test").is_err(), "the ticket does not open the door");
    let client = TlsClient::showing(&below.client("alice"), &[&TLS13]);
    assert!(answer(&client, &gateway, "a.test").is_err(), "depth 0");
    gateway.wait_for_log("certificate chain too long", SOON);
    gateway.put("ssls/1", &demanding(server, &root.cert, 1)).expect(200);
    assert!(answer(&client, &gateway, "a.test").is_ok(), "depth 1");
}

#[test]
fn resumption_can_be_switched_off() {
    let node = TcpPeer::named("a");
    let authority = Authority::new("root");
    for (setting, expected) in [("true", true), ("false", false)] {
        let builder = gateway().tcp_entry(TLS);
        let gateway = builder.apisix(&format!("ssl:\n  ssl_session_tickets: {setting}")).start();
        gateway.put("ssls/1", &ssl(&authority.server(&["a.test"]), &["a.test"])).expect(201);
        gateway.put("stream_routes/1", &to(&node)).expect(201);
        for versions in [&[&TLS12][..], &[&TLS13]] {
            let client = TlsClient::with_versions(versions);
            assert!(answer(&client, &gateway, "a.test").is_ok());
            let stream = client.connect(gateway.tcp(0), "a.test").expect("a handshake");
            assert_eq!(tls::is_resumed(&stream), expected, "{setting} {versions:?}");
        }
    }
}

#[test]
fn ut_04_ut_05_ut_06_ut_08_certificates_for_the_upstream() {
    let authority = Authority::new("root");
    let node = tls::naming_node(&authority.server(&["node"]), Some(&authority.cert));
    let gateway = gateway().tcp(1).start();
    let own = authority.client("headgate");
    let route =
        |tls: Value| json!({"upstream": {"nodes": {node.node(): 1}, "scheme": "tls", "tls": tls}});
    let reach = || client::reach(gateway.tcp(0));
    let pair = json!({"client_cert": own.cert, "client_key": own.key});
    gateway.put("stream_routes/1", &route(pair)).expect(201);
    let mut stream = client::connect(gateway.tcp(0));
    stream.shutdown(Shutdown::Write).expect("FIN");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("bytes");
    assert_eq!(text, "apisix_backend with certificate\n", "UT-04, and UT-07: encrypted at rest");
    let stored = gateway.get("stream_routes/1").ok().body;
    assert!(!stored.contains("PRIVATE KEY"));
    gateway.put("stream_routes/1", &route(json!({}))).expect(200);
    let mut stream = client::connect(gateway.tcp(0));
    assert!(matches!(client::read_to_end(&mut stream), Seen::Closed), "UT-05");
    let object = json!({"type": "client", "cert": own.cert, "key": own.key});
    gateway.put("ssls/own", &object).expect(201);
    gateway.put("stream_routes/1", &route(json!({"client_cert_id": "own"}))).expect(200);
    let mut stream = client::connect(gateway.tcp(0));
    stream.shutdown(Shutdown::Write).expect("FIN");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("bytes");
    assert_eq!(text, "apisix_backend with certificate\n", "UT-06");
    // What is wrong with the id is found at once, and again if the object goes away.
    let server = ssl(&authority.server(&["a.test"]), &["a.test"]);
    gateway.put("ssls/own", &server).expect(200);
    assert_eq!(reach(), None);
    gateway.wait_for_log("failed to get ssl cert: ssl type should be 'client'", SOON);
    gateway.delete("ssls/own?force=true");
    assert_eq!(reach(), None);
    gateway.wait_for_log("failed to get ssl cert: ssl id [own] not exits", SOON);
}

#[test]
fn a_verified_upstream() {
    let (good, bad) = (Authority::new("good"), Authority::new("bad"));
    let node = tls::naming_node(&good.server(&["node.test"]), None);
    let stranger = tls::naming_node(&bad.server(&["node.test"]), None);
    let gateway = gateway().tcp(1).start();
    let route = |node: &TcpPeer, tls: Value| json!({"upstream": {"nodes": {node.node(): 1}, "scheme": "tls", "tls": tls}});
    let ask = || {
        let mut stream = client::connect(gateway.tcp(0));
        let _ = stream.shutdown(Shutdown::Write);
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        text
    };
    let trusting = json!({"verify": true, "ca_certs": [good.cert], "sni": "node.test"});
    gateway.put("stream_routes/1", &route(&node, trusting.clone())).expect(201);
    assert_eq!(ask(), "node.test\n");
    let other_name = json!({"verify": true, "ca_certs": [good.cert], "sni": "other.test"});
    gateway.put("stream_routes/1", &route(&node, other_name)).expect(200);
    assert_eq!(ask(), "");
    gateway.wait_for_log("certificate not valid for name \"other.test\"", SOON);
    gateway.put("stream_routes/1", &route(&stranger, trusting.clone())).expect(200);
    assert_eq!(ask(), "");
    gateway.wait_for_log("certificate verify failed: unknown issuer", SOON);
    gateway.wait_access(&["status=502 reason=UF"]);
    // A failed handshake is a failed attempt: the next node serves.
    let both = json!({"upstream": {
        "nodes": {node.node(): 1, stranger.node(): 1000}, "scheme": "tls", "tls": trusting,
    }});
    gateway.put("stream_routes/1", &both).expect(200);
    for _ in 0..3 {
        assert_eq!(ask(), "node.test\n");
    }
}

#[test]
fn tl_04_tl_11_keys_from_the_environment_and_encrypted() {
    let node = TcpPeer::named("a");
    let authority = Authority::new("root");
    let own = authority.server(&["a.test"]);
    let both = json!({"cert": own.cert, "key": own.key}).to_string();
    let gateway = gateway()
        .tcp_entry(TLS)
        .env("GATE_CERT", &own.cert)
        .env("GATE_KEY", &own.key)
        .env("GATE_BOTH", &both)
        .start();
    gateway.put("stream_routes/1", &to(&node)).expect(201);
    for (cert, key) in
        [("$ENV://GATE_CERT", "$env://GATE_KEY"), ("$env://GATE_BOTH/cert", "$env://GATE_BOTH/key")]
    {
        let object = json!({"cert": cert, "key": key, "sni": "a.test"});
        gateway.put("ssls/1", &object).ok();
        assert!(answer(&TlsClient::default(), &gateway, "a.test").is_ok(), "{cert}");
    }
    gateway.put("ssls/1", &ssl(&own, &["a.test"])).expect(200);
    assert!(answer(&TlsClient::default(), &gateway, "a.test").is_ok());
    let shown = gateway.get("ssls/1").ok().body;
    assert!(!shown.contains("PRIVATE KEY"));
    let missing = json!({"cert": own.cert, "key": "$env://NOT_THERE", "sni": "a.test"});
    gateway.put("ssls/1", &missing).expect(200);
    assert!(answer(&TlsClient::default(), &gateway, "a.test").is_err());
    gateway.wait_for_log("failed to resolve secret reference: $env://NOT_THERE", SOON);
    assert!(!gateway.everything_logged().contains("PRIVATE KEY"));
}

#[test]
fn certificates_that_cannot_serve_say_why() {
    let node = TcpPeer::named("a");
    let authority = Authority::new("root");
    let gateway = gateway().tcp_entry(TLS).start();
    gateway.put("stream_routes/1", &to(&node)).expect(201);
    let (one, two) = (authority.server(&["a.test"]), authority.server(&["a.test"]));
    let mixed = Certificate { cert: one.cert.clone(), key: two.key };
    gateway.put("ssls/1", &ssl(&mixed, &["a.test"])).expect(201);
    let error = answer(&TlsClient::default(), &gateway, "a.test").expect_err("a wrong key");
    let warnings = gateway.put("ssls/1", &ssl(&mixed, &["a.test"])).expect(200).warnings();
    let unusable = warnings.iter().find(|it| it["code"] == "ssl/unusable").expect("a warning");
    let text = unusable["message"].as_str().unwrap_or_default();
    assert!(text.contains("write the key that the certificate was requested with"), "{text}");
    assert!(error.contains("InternalError"), "{error}");
    gateway.wait_for_log("failed to set PEM priv key: it does not belong to the certificate", SOON);
    gateway.wait_access(&["status=500 reason=NC"]);
    let missing = json!({"cert": one.cert, "key": "$env://NOT_THERE", "sni": "a.test"});
    let warnings = gateway.put("ssls/1", &missing).expect(200).warnings();
    assert!(warnings.iter().any(|it| it["code"] == "ssl/unusable"), "{warnings:?}");
    let good = gateway.put("ssls/1", &ssl(&one, &["a.test"])).expect(200).warnings();
    assert_eq!(good, Vec::<Value>::new());
    locked_keys(&gateway, &one);
    // An expired one is served, as in the reference; whoever writes it is warned.
    let old = authority.expired(&["a.test"]);
    let warnings = gateway.put("ssls/1", &ssl(&old, &["a.test"])).ok().warnings();
    assert!(warnings.iter().any(|it| it["code"] == "ssl/expired"), "{warnings:?}");
    assert!(answer(&TlsClient::default(), &gateway, "a.test").is_ok());
}

/// Keys with a passphrase, as `openssl` writes them in two forms.
fn locked_keys(gateway: &Gateway, own: &Certificate) {
    let Some(openssl) = need("openssl", "openssl") else { return };
    let (_, plain) = own.write(gateway.folder(), "plain");
    for form in [&["pkcs8", "-topk8"][..], &["ec", "-aes128"]] {
        let mut command = Command::new(&openssl);
        command.args(form).arg("-in").arg(&plain).args(["-passout", "pass:secret"]);
        let key = run(&mut command, SOON).success().stdout;
        assert!(key.contains("ENCRYPTED"), "{form:?}");
        let locked = Certificate { cert: own.cert.clone(), key };
        gateway.put("ssls/1", &ssl(&locked, &["a.test"])).refused(
            400,
            "failed to parse key: PEM_read_bio_PrivateKey() failed: it is encrypted with a \
             passphrase; remove it: openssl pkey -in key.pem -out plain.pem",
        );
    }
}

#[test]
fn chains_in_any_order_are_served_in_order() {
    let Some(openssl) = need("openssl", "openssl") else { return };
    let node = TcpPeer::named("a");
    let root = Authority::new("root");
    let lowest = root.intermediate("below").intermediate("lowest");
    let own = lowest.server_with_issuer_at(&["a.test"], "http://ca.test/lowest.crt");
    let gateway = gateway().tcp_entry(TLS).start();
    gateway.put("stream_routes/1", &to(&node)).expect(201);
    let ca = gateway.folder().join("ca.crt");
    std::fs::write(&ca, &root.cert).expect("a file");
    let look = || {
        let mut command = Command::new(&openssl);
        command.args(["s_client", "-showcerts", "-servername", "a.test", "-CAfile"]).arg(&ca);
        command.arg("-connect").arg(gateway.tcp(0).to_string());
        run(&mut command, SOON).output().replace(" = ", "=")
    };
    let put = |blocks: &[&String]| {
        let cert: String = blocks.iter().map(|block| block.as_str()).collect();
        let object = json!({"cert": cert, "key": own.key, "sni": "a.test"});
        gateway.put("ssls/1", &object).ok().warnings()
    };
    let blocks = own.blocks();
    let [leaf, first, second] = [&blocks[0], &blocks[1], &blocks[2]];
    assert_eq!(put(&[leaf, first, second]), Vec::<Value>::new());
    for order in [[second, first, leaf], [first, leaf, second], [leaf, second, first]] {
        let warnings = put(&order);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert_eq!(warnings[0]["code"], "ssl/chain-order");
        let seen = look();
        assert!(seen.contains("Verify return code: 0 (ok)"), "{seen}");
        let subjects: Vec<_> = seen.lines().filter(|line| line.contains(" s:")).collect();
        assert_eq!(subjects.len(), 3, "{seen}");
        for (subject, name) in subjects.iter().zip(["CN=a.test", "CN=lowest", "CN=below"]) {
            assert!(subject.contains(name), "{subjects:?}");
        }
    }
    // Without what is between: the client says so, and the answer to the write says more.
    let warnings = put(&[leaf]);
    assert_eq!(warnings[0]["code"], "ssl/chain-incomplete", "{warnings:?}");
    let hint = warnings[0]["hint"].as_str().unwrap_or_default();
    assert!(hint.contains("CN=lowest") && hint.contains("http://ca.test/lowest.crt"), "{hint}");
    assert!(look().contains("unable to verify the first certificate"));
    let codes: Vec<_> = put(&[leaf, second]).iter().map(|it| it["code"].clone()).collect();
    assert_eq!(codes, ["ssl/chain-incomplete", "ssl/chain-stranger"]);
}

#[test]
fn pp_07_a_proxy_header_goes_before_tls_to_the_upstream_and_behind_it_from_the_client() {
    let node = first_line_node();
    let authority = Authority::new("root");
    let entry = "addr: \"127.0.0.1:{port}\"\ntls: true\nproxy_protocol: true\n\
                 proxy_protocol_to_upstream: true";
    let gateway = gateway().tcp_entry(entry).start();
    gateway.put("ssls/1", &ssl(&authority.server(&["a.test"]), &["a.test"])).expect(201);
    gateway.put("stream_routes/1", &to(&node)).expect(201);
    let mut socket = client::connect(gateway.tcp(0));
    client::send(&mut socket, b"PROXY TCP4 203.0.113.7 198.51.100.1 51000 443\r\n");
    let local = socket.local_addr().expect("an address");
    let mut stream = TlsClient::default().over(socket, "a.test").expect("a handshake");
    stream.write_all(b"hello").expect("bytes");
    stream.flush().expect("bytes");
    let (bytes, _) = tls::read_to_end(&mut stream);
    let expected =
        format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}", local.port(), gateway.tcp(0).port());
    assert_eq!(String::from_utf8_lossy(&bytes), expected);
    // The same in front of TLS to the upstream.
    let plain = first_line_node();
    let tls = json!({"upstream": {"nodes": {plain.node(): 1}, "scheme": "tls"}});
    gateway.put("stream_routes/1", &tls).expect(200);
    let mut socket = client::connect(gateway.tcp(0));
    client::send(&mut socket, b"PROXY TCP4 203.0.113.7 198.51.100.1 51000 443\r\n");
    let stream = TlsClient::default().over(socket, "a.test");
    drop(stream);
    wait::until_true("the node has seen the header", SOON, || plain.received() > 40);
}

#[test]
fn a_thousand_new_certificates_lose_no_handshake() {
    let node = TcpPeer::named("a");
    let authority = Authority::new("root");
    let gateway = gateway().tcp_entry(TLS).start();
    let both = [authority.server(&["a.test"]), authority.server(&["a.test"])];
    gateway.put("ssls/1", &ssl(&both[0], &["a.test"])).expect(201);
    gateway.put("stream_routes/1", &to(&node)).expect(201);
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let to = gateway.tcp(0);
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let stream = TlsClient::default().connect(to, "a.test");
                    let mut stream = stream.unwrap_or_else(|error| panic!("lost: {error}"));
                    assert_eq!(tls::read_to_end(&mut stream).0, b"a\n");
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for round in 0..1000 {
        let next = &both[(round + 1) % 2];
        gateway.put("ssls/1", &ssl(next, &["a.test"])).expect(200);
        if round % 100 == 0 {
            let stream = TlsClient::default().connect(to, "a.test").expect("a handshake");
            assert_eq!(tls::shown(&stream), tls::der(next), "new at once");
        }
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().expect("no handshake was lost");
    }
    assert!(done.load(Ordering::SeqCst) > 50, "{done:?}");
}

#[test]
fn openssl_reconnects_with_its_session() {
    let Some(openssl) = need("openssl", "openssl") else { return };
    let node = TcpPeer::named("a");
    let authority = Authority::new("root");
    let gateway = gateway().tcp_entry(TLS).start();
    gateway.put("ssls/1", &ssl(&authority.server(&["a.test"]), &["a.test"])).expect(201);
    gateway.put("stream_routes/1", &to(&node)).expect(201);
    let ca = gateway.folder().join("ca.crt");
    std::fs::write(&ca, &authority.cert).expect("a file");
    let mut command = Command::new(openssl);
    command.args(["s_client", "-tls1_2", "-reconnect", "-servername", "a.test", "-CAfile"]);
    command.arg(Path::new(&ca)).arg("-connect").arg(gateway.tcp(0).to_string());
    let output = run(&mut command, SOON).output();
    assert_eq!(output.matches("Reused, TLSv1.2").count(), 5, "{output}");
    assert!(output.contains("Verify return code: 0 (ok)"), "{output}");
}
