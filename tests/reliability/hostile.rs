//! Bytes that nobody should send, in large numbers and from a seed that replays them
//! (`HEADGATE_SEED`).

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use headgate_testkit::client::{assert_alive, connect};
use headgate_testkit::proof::{Scenario, sized};
use headgate_testkit::tls::{self, TlsClient};
use headgate_testkit::{SOON, proc, wait};
use serde_json::json;

use crate::load::Site;

const THREADS: u64 = 4;

/// A few bytes flipped, replaced, removed, inserted, or everything cut off somewhere.
fn mutate(bytes: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..random.usize(1..=4) {
        if bytes.is_empty() {
            break;
        }
        let at = random.usize(..bytes.len());
        match random.u8(0..6) {
            0 => bytes[at] ^= 1 << random.u8(0..8),
            1 => bytes[at] = random.u8(..),
            2 => {
                bytes.remove(at);
            }
            3 => bytes.insert(at, random.u8(..)),
            4 => bytes.truncate(at),
            _ => bytes[at] = [0, 0xff, 0x7f, b' ', b'\r'][random.usize(..5)],
        }
    }
    bytes
}

/// Sends it, ends, and reads whatever comes; the other side must end it, too.
fn throw(to: SocketAddr, bytes: &[u8]) {
    let mut stream: TcpStream = connect(to);
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut buffer = [0; 4096];
    let began = Instant::now();
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock) => {
                panic!("still open after {:?}: {bytes:02x?}", began.elapsed())
            }
            Err(_) => return,
        }
    }
}

fn bombard(to: SocketAddr, originals: &[Vec<u8>], count: u64) {
    let seed = sized("HEADGATE_SEED", 1, 1);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for n in (thread..count).step_by(THREADS as usize) {
                    let mut random = fastrand::Rng::with_seed((seed << 32) | n);
                    let original = &originals[random.usize(..originals.len())];
                    throw(to, &mutate(original, &mut random));
                }
            });
        }
    });
}

#[test]
fn mutated_hellos() {
    let count = sized("HEADGATE_MUTATIONS", 3_000, 100_000);
    Scenario {
        name: "mutated_hellos",
        fault: "ClientHellos with bytes changed, lost, inserted or cut off",
        promise: "each is answered or closed; no panic, nothing left behind, others are served",
    }
    .prove(|| {
        let site = Site::start();
        let hellos: Vec<_> = [
            TlsClient::default(),
            TlsClient::with_versions(&[&tls::TLS12]),
            TlsClient::default().offering(&["mqtt", "h2"]),
            TlsClient::default().without_sni(),
        ]
        .iter()
        .map(|client| client.hello("a.test").1)
        .collect();
        let idle = proc::descriptors(site.gateway.id());
        bombard(site.gateway.tcp(1), &hellos, count);
        let mut stream =
            TlsClient::default().connect(site.gateway.tcp(1), "a.test").expect("a handshake");
        assert_eq!(tls::echo(&mut stream, b"still there").expect("an echo"), b"still there");
        drop(stream);
        nothing_left(&site, idle);
        format!("{count} hellos, no panic, no descriptor left")
    });
}

#[test]
fn mutated_proxy_headers() {
    let count = sized("HEADGATE_MUTATIONS", 3_000, 100_000);
    Scenario {
        name: "mutated_proxy_headers",
        fault: "PROXY headers (v1, v2) with bytes changed, lost, inserted or cut off",
        promise: "each is served or closed; no panic, nothing left behind, others are served",
    }
    .prove(|| {
        let entry = "addr: \"127.0.0.1:{port}\"\nproxy_protocol: true";
        let site = Site::with(|builder| builder.tcp_entry(entry));
        let (port, to) = (site.gateway.tcp_port(2), site.gateway.tcp(2));
        let route = json!({"server_port": port, "upstream_id": "u"});
        site.gateway.put("stream_routes/proxied", &route).expect(201);
        // The port that the header names is the one that routes match.
        let v1 = format!("PROXY TCP4 192.0.2.1 127.0.0.1 4711 {port}\r\nhello").into_bytes();
        let v1_v6 = format!("PROXY TCP6 2001:db8::1 ::1 4711 {port}\r\nhello").into_bytes();
        let signature = b"\r\n\r\n\0\r\nQUIT\n";
        let addresses = [192, 0, 2, 1, 127, 0, 0, 1, 0x12, 0x67];
        let unique = [0x05, 0, 4, 1, 2, 3, 4];
        let v2 = [
            &signature[..],
            &[0x21, 0x11, 0, 12 + 7],
            &addresses,
            &port.to_be_bytes(),
            &unique,
            b"hello",
        ]
        .concat();
        let local = [&signature[..], &[0x20, 0, 0, 0], b"hello"].concat();
        let idle = proc::descriptors(site.gateway.id());
        bombard(to, &[v1.clone(), v1_v6, v2, local], count);
        let mut stream = connect(to);
        stream.write_all(&v1).expect("sent");
        let mut back = [0; 5];
        stream.read_exact(&mut back).expect("an echo");
        assert_eq!(&back, b"hello");
        drop(stream);
        assert_alive(&mut connect(site.gateway.tcp(0)));
        nothing_left(&site, idle);
        format!("{count} headers, no panic, no descriptor left")
    });
}

fn nothing_left(site: &Site, idle: usize) {
    wait::until_true("no descriptor is left behind", SOON + Duration::from_secs(10), || {
        proc::descriptors(site.gateway.id()) <= idle
    });
    assert!(!site.gateway.log().text().contains("panicked"), "a panic");
}
