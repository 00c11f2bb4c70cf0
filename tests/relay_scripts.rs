//! The relay against a model: both sides follow random scripts of writes, stalls, half-closes and
//! resets, and every byte that arrives has to be the next one that was sent.
//!
//! `HEADGATE_RELAY_SEED=n` replays the script of one seed, `HEADGATE_RELAY_SCRIPTS=n` runs that many.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use headgate_testkit::client::{connect, connect_with_buffers, reset};
use headgate_testkit::pattern::Pattern;
use headgate_testkit::process::report;
use headgate_testkit::proof::{Scenario, scale};
use headgate_testkit::{Gateway, SOON};
use serde_json::json;

const BIN: &str = env!("CARGO_BIN_EXE_headgate");
const SCRIPTS: u64 = 80;

/// How a side ends what it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    HalfClose,
    Reset,
}

/// What one side does.
#[derive(Debug, Clone)]
struct Script {
    /// Sizes of its writes.
    writes: Vec<usize>,
    end: End,
    /// After so many bytes it stops reading until the other side has written everything, or for
    /// the time given, whichever is shorter.
    stall: Option<(u64, Duration)>,
    small_buffers: bool,
}

impl Script {
    fn random(random: &mut fastrand::Rng, may_reset: bool) -> Self {
        // Small talk, messages, bulk that is copied, bulk that is spliced.
        let (count, most) = match random.u8(0..8) {
            0..3 => (random.usize(0..40), 200),
            3..5 => (random.usize(0..30), 20_000),
            5..7 => (random.usize(0..20), 200_000),
            _ => (random.usize(4..8), 2_000_000),
        };
        let writes = (0..count).map(|_| random.usize(1..=most)).collect();
        let end = if may_reset && random.u8(0..4) == 0 { End::Reset } else { End::HalfClose };
        let stall = random
            .bool()
            .then(|| (random.u64(0..300_000), Duration::from_millis(random.u64(1..60))));
        Self { writes, end, stall, small_buffers: random.u8(0..4) == 0 }
    }

    fn total(&self) -> u64 {
        self.writes.iter().map(|size| *size as u64).sum()
    }
}

/// How a side saw the other one end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// Its whole stream.
    Finished(u64),
    /// So many bytes of it, then an error.
    Broken(u64),
}

fn write(mut stream: TcpStream, script: &Script, seed: u64, done: &Sender<()>) {
    let mut pattern = Pattern::new(seed);
    for size in &script.writes {
        // Once a reset is on its way in either direction writes may fail; the reader tells.
        if stream.write_all(&pattern.take(*size)).is_err() {
            return;
        }
    }
    let _ = done.send(());
    match script.end {
        End::HalfClose => drop(stream.shutdown(Shutdown::Write)),
        End::Reset => reset(stream),
    }
}

fn read(mut stream: &TcpStream, script: &Script, seed: u64, written: &Receiver<()>) -> Seen {
    let mut pattern = Pattern::new(seed);
    let mut buffer = vec![0; 64 * 1024];
    let mut stall = script.stall;
    loop {
        if let Some((_, time)) = stall.take_if(|(after, _)| pattern.offset() >= *after) {
            let _ = written.recv_timeout(time);
        }
        match stream.read(&mut buffer) {
            Ok(0) => return Seen::Finished(pattern.offset()),
            Ok(count) => pattern.check(&buffer[..count]).expect("the next bytes of the stream"),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
                return Seen::Broken(pattern.offset());
            }
        }
    }
}

/// Runs one side; `own` and `other` are the seeds of what it sends and what it has to receive.
fn play(
    stream: TcpStream,
    script: Script,
    (own, other): (u64, u64),
    done: Sender<()>,
    written: Receiver<()>,
) -> Seen {
    for direction in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
        direction(&stream, Some(SOON)).expect("a deadline");
    }
    let writer = stream.try_clone().expect("a second handle");
    let writes = script.clone();
    let writing = std::thread::spawn(move || write(writer, &writes, own, &done));
    let seen = read(&stream, &script, other, &written);
    writing.join().expect("no panic");
    seen
}

fn check(sender: &Script, receiver: &Script, seen: Seen) {
    let is_clean = sender.end == End::HalfClose && receiver.end == End::HalfClose;
    match seen {
        Seen::Finished(bytes) if is_clean => assert_eq!(bytes, sender.total()),
        // Somebody reset: a part of the stream, every byte of which was checked.
        Seen::Finished(bytes) | Seen::Broken(bytes) => {
            assert!(!is_clean, "broke after {bytes} of {} bytes", sender.total());
            assert!(bytes <= sender.total());
        }
    }
}

fn run(gateway: &Gateway, node: &TcpListener, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let client = Script::random(&mut random, true);
    let server = Script::random(&mut random, client.end == End::HalfClose);
    report(&format!("seed {seed}: {:?}/{:?}", client.end, server.end));
    let here = match client.small_buffers {
        true => connect_with_buffers(gateway.tcp(0), 8 * 1024),
        false => connect(gateway.tcp(0)),
    };
    let there = node.accept().expect("the gateway connects").0;
    let (client_done, server_hears) = channel();
    let (server_done, client_hears) = channel();
    let (seeds, mirrored) = ((seed * 2, seed * 2 + 1), (seed * 2 + 1, seed * 2));
    let script = server.clone();
    let playing =
        std::thread::spawn(move || play(there, script, mirrored, server_done, server_hears));
    let seen_by_client = play(here, client.clone(), seeds, client_done, client_hears);
    let seen_by_server = playing.join().expect("no panic");
    check(&server, &client, seen_by_client);
    check(&client, &server, seen_by_server);
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn random_scripts_lose_no_byte() {
    Scenario {
        name: "random_scripts_lose_no_byte",
        fault: "both sides write, stall, half-close and reset by random scripts, small and bulk",
        promise: "every byte that arrives is the next one that was sent, in both directions",
    }
    .prove(|| {
        let node = TcpListener::bind("127.0.0.1:0").expect("a node");
        let gateway = Gateway::builder(BIN).tcp(1).start();
        let address = node.local_addr().expect("bound").to_string();
        gateway.put("stream_routes/1", &json!({"upstream": {"nodes": {address: 1}}})).expect(201);
        if let Some(seed) = number("HEADGATE_RELAY_SEED") {
            run(&gateway, &node, seed);
            return format!("the script of seed {seed}");
        }
        let scripts = number("HEADGATE_RELAY_SCRIPTS").unwrap_or_else(|| scale(SCRIPTS, 2_000));
        (0..scripts).for_each(|seed| run(&gateway, &node, seed));
        format!("{scripts} scripts")
    });
}
