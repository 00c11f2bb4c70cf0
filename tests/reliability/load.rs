//! Traffic that notices everything: 64 busy and 200 idle TCP connections, TLS connections and UDP
//! flows, with new ones all the time. What goes wrong is counted by kind.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use headgate_testkit::certificate::Authority;
use headgate_testkit::client;
use headgate_testkit::pattern::Pattern;
use headgate_testkit::tls::{self, TlsClient};
use headgate_testkit::{Gateway, GatewayBuilder, SOON, TcpPeer, UdpPeer, wait};
use serde_json::json;

use crate::binary;

const BUSY: u64 = 64;
const IDLE: usize = 200;
const FLOWS: u64 = 50;
const SECURE: usize = 8;
/// Longer than the gateway is ever stopped in a scenario.
const PATIENCE: Duration = Duration::from_secs(60);
const TLS: &str = "addr: \"127.0.0.1:{port}\"\ntls: true";

/// A gateway with a plain and a TLS listener and one for UDP, each leading to an echo node.
pub(crate) struct Site {
    pub(crate) gateway: Gateway,
    pub(crate) node: TcpPeer,
    pub(crate) datagrams: UdpPeer,
}

impl Site {
    /// A site with an ordinary configuration.
    pub(crate) fn start() -> Self {
        Self::with(|builder| builder)
    }

    pub(crate) fn with(more: impl FnOnce(GatewayBuilder) -> GatewayBuilder) -> Self {
        let builder = Gateway::builder(binary()).tcp(1).tcp_entry(TLS).udp(1).no_access_log();
        let gateway = more(builder).start();
        let (node, datagrams) = (TcpPeer::echo(), UdpPeer::echo());
        let own = Authority::new("root").server(&["a.test"]);
        let ssl = json!({"cert": own.cert, "key": own.key, "sni": "a.test"});
        gateway.put("ssls/1", &ssl).expect(201);
        let upstream = json!({"nodes": {node.node(): 1}, "timeout": patience()});
        gateway.put("upstreams/u", &upstream).expect(201);
        for (name, port) in [("plain", gateway.tcp_port(0)), ("tls", gateway.tcp_port(1))] {
            let route = json!({"server_port": port, "upstream_id": "u"});
            gateway.put(&format!("stream_routes/{name}"), &route).expect(201);
        }
        let udp = json!({"server_port": gateway.udp_port(0),
                         "upstream": {"nodes": {datagrams.node(): 1}}});
        gateway.put("stream_routes/udp", &udp).expect(201);
        Self { gateway, node, datagrams }
    }

    /// Change `n` of the configuration, none of which may be noticed by traffic.
    pub(crate) fn change(&self, n: u64) {
        let port = self.gateway.tcp_port(0);
        match n % 4 {
            0 => {
                let body = json!({"desc": n.to_string(), "server_port": port, "upstream_id": "u"});
                self.gateway.put("stream_routes/plain", &body).expect(200);
            }
            1 => {
                let body = json!({"desc": n.to_string(), "nodes": {self.node.node(): 1 + n},
                                  "timeout": patience()});
                self.gateway.put("upstreams/u", &body).expect(200);
            }
            2 => drop(self.gateway.put("stream_routes/x", &json!({"server_port": 1})).ok()),
            _ => {
                self.gateway.put("stream_routes/y", &json!({"server_port": 2})).ok();
                self.gateway.delete("stream_routes/y").expect(200);
            }
        }
    }
}

/// Idle clients stay for as long as any soak lasts; the default ends them after 600 s.
fn patience() -> serde_json::Value {
    json!({"connect": 6, "send": 86_400, "read": 86_400})
}

/// What the clients saw.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    connections: AtomicU64,
    handshakes: AtomicU64,
    bytes: AtomicU64,
    datagrams: AtomicU64,
    refused: AtomicU64,
    reset: AtomicU64,
    wrong: AtomicU64,
    lost: AtomicU64,
    first: Mutex<Option<String>>,
}

impl Tally {
    fn note(&self, what: &str, error: &io::Error) {
        let counter = match error.kind() {
            ErrorKind::ConnectionRefused => &self.refused,
            ErrorKind::InvalidData => &self.wrong,
            ErrorKind::TimedOut | ErrorKind::WouldBlock => &self.lost,
            _ => &self.reset,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| format!("{what}: {error}"));
    }

    fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

/// Traffic until [`Load::finish`].
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    tally: Arc<Tally>,
    workers: Vec<JoinHandle<()>>,
    idle: Vec<TcpStream>,
}

impl Load {
    /// Starts the traffic and returns when all of it flows.
    pub(crate) fn start(site: &Site) -> Self {
        let (stop, tally) = (Arc::<AtomicBool>::default(), Arc::<Tally>::default());
        let idle: Vec<_> = (0..IDLE).map(|_| open(site.gateway.tcp(0)).expect("idle")).collect();
        let mut workers = Vec::new();
        for part in 0..2 {
            let (to, stop, tally) = (site.gateway.tcp(0), Arc::clone(&stop), Arc::clone(&tally));
            workers.push(std::thread::spawn(move || busy(to, part, &stop, &tally)));
        }
        let (to, is_over, count) = (site.gateway.tcp(1), Arc::clone(&stop), Arc::clone(&tally));
        workers.push(std::thread::spawn(move || secure(to, &is_over, &count)));
        let (to, is_over, count) = (site.gateway.udp(0), Arc::clone(&stop), Arc::clone(&tally));
        workers.push(std::thread::spawn(move || flows(to, &is_over, &count)));
        let load = Self { stop, tally, workers, idle };
        let all = IDLE + BUSY as usize + SECURE;
        wait::until_true("all connections are open", SOON * 3, || site.node.live() >= all);
        load.wait_for_work(4);
        load
    }

    /// Waits until every kind of traffic has moved on.
    pub(crate) fn wait_for_work(&self, rounds: u64) {
        for counter in [&self.tally.connections, &self.tally.handshakes, &self.tally.datagrams] {
            let before = Tally::get(counter);
            wait::until_true("the traffic goes on", PATIENCE, || {
                Tally::get(counter) >= before + rounds || self.has_errors()
            });
        }
    }

    /// How many connections were opened so far.
    pub(crate) fn opened(&self) -> u64 {
        let lasting = IDLE as u64 + BUSY + SECURE as u64;
        lasting + Tally::get(&self.tally.connections) + Tally::get(&self.tally.handshakes)
    }

    fn has_errors(&self) -> bool {
        let counters =
            [&self.tally.refused, &self.tally.reset, &self.tally.wrong, &self.tally.lost];
        counters.iter().any(|counter| Tally::get(counter) > 0)
    }

    /// Ends the traffic in order, and answers with what it was; panics if anything went wrong.
    pub(crate) fn finish(self) -> String {
        self.stop.store(true, Ordering::SeqCst);
        for worker in self.workers {
            worker.join().expect("no client panics");
        }
        for (n, mut stream) in self.idle.into_iter().enumerate() {
            let alive = round(&mut stream, &mut Pattern::new(n as u64), 100);
            let ended = alive.and_then(|()| end(&mut stream));
            if let Err(error) = ended {
                self.tally.note("idle connection", &error);
            }
        }
        let tally = self.tally;
        let figure = format!(
            "{} refused, {} reset, {} wrong bytes, {} unanswered; {} new connections, {} TLS \
             handshakes, {} MB, {} datagrams",
            Tally::get(&tally.refused),
            Tally::get(&tally.reset),
            Tally::get(&tally.wrong),
            Tally::get(&tally.lost),
            Tally::get(&tally.connections),
            Tally::get(&tally.handshakes),
            Tally::get(&tally.bytes) / 1_000_000,
            Tally::get(&tally.datagrams),
        );
        let first = tally.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        assert!(first.is_none(), "{figure}; first: {}", first.unwrap_or_default());
        figure
    }
}

fn open(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends the next bytes of a pattern and checks that they come back.
fn round(stream: &mut (impl Read + Write), pattern: &mut Pattern, count: usize) -> io::Result<()> {
    let bytes = pattern.take(count);
    stream.write_all(&bytes)?;
    stream.flush()?;
    let mut back = vec![0; count];
    stream.read_exact(&mut back)?;
    if back == bytes { Ok(()) } else { Err(io::Error::from(ErrorKind::InvalidData)) }
}

/// A proper end: nothing more comes.
fn end(stream: &mut TcpStream) -> io::Result<()> {
    stream.shutdown(std::net::Shutdown::Write)?;
    match stream.read(&mut [0; 8])? {
        0 => Ok(()),
        _ => Err(io::Error::from(ErrorKind::InvalidData)),
    }
}

/// Half of the busy connections, and a new one each time round.
fn busy(to: SocketAddr, part: u64, stop: &AtomicBool, tally: &Tally) {
    const SIZES: [usize; 4] = [1, 200, 4_000, 60_000];
    let mut streams: Vec<Option<(TcpStream, Pattern)>> = (0..BUSY / 2).map(|_| None).collect();
    let mut seed = part << 32;
    while !stop.load(Ordering::SeqCst) {
        for (n, slot) in streams.iter_mut().enumerate() {
            if slot.is_none() {
                seed += 1;
                match open(to) {
                    Ok(stream) => *slot = Some((stream, Pattern::new(seed))),
                    Err(error) => tally.note("connect", &error),
                }
            }
            let Some((stream, pattern)) = slot else { continue };
            let size = SIZES[n % SIZES.len()];
            match round(stream, pattern, size) {
                Ok(()) => Tally::add(&tally.bytes, 2 * size as u64),
                Err(error) => {
                    tally.note("busy connection", &error);
                    *slot = None;
                }
            }
        }
        seed += 1;
        let brief = open(to).and_then(|mut stream| {
            round(&mut stream, &mut Pattern::new(seed), 500)?;
            end(&mut stream)
        });
        match brief {
            Ok(()) => Tally::add(&tally.connections, 1),
            Err(error) => tally.note("new connection", &error),
        }
    }
    for (mut stream, _) in streams.into_iter().flatten() {
        if let Err(error) = end(&mut stream) {
            tally.note("end of a busy connection", &error);
        }
    }
}

fn handshake(to: SocketAddr) -> io::Result<tls::Stream> {
    let socket = open(to)?;
    TlsClient::default().over(socket, "a.test").map_err(io::Error::other)
}

/// TLS connections that stay, and a new handshake each time round.
fn secure(to: SocketAddr, stop: &AtomicBool, tally: &Tally) {
    let mut streams: Vec<tls::Stream> = Vec::new();
    for _ in 0..SECURE {
        match handshake(to) {
            Ok(stream) => streams.push(stream),
            Err(error) => tally.note("TLS connection", &error),
        }
    }
    while !stop.load(Ordering::SeqCst) {
        for (n, stream) in streams.iter_mut().enumerate() {
            match round(stream, &mut Pattern::new(n as u64), 3_000) {
                Ok(()) => Tally::add(&tally.bytes, 6_000),
                Err(error) => tally.note("TLS connection", &error),
            }
        }
        match handshake(to).and_then(|mut stream| round(&mut stream, &mut Pattern::new(1), 10)) {
            Ok(()) => Tally::add(&tally.handshakes, 1),
            Err(error) => tally.note("new TLS connection", &error),
        }
    }
}

/// UDP flows that ask in turn.
fn flows(to: SocketAddr, stop: &AtomicBool, tally: &Tally) {
    let sockets: Vec<UdpSocket> = (0..FLOWS).map(|_| client::udp(to)).collect();
    for socket in &sockets {
        socket.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    }
    let mut n = 0_u64;
    while !stop.load(Ordering::SeqCst) {
        for socket in &sockets {
            n += 1;
            let mut buffer = [0; 64];
            let asked = socket.send(&n.to_le_bytes()).and_then(|_| socket.recv(&mut buffer));
            match asked {
                Ok(count) if buffer[..count] == n.to_le_bytes() => {
                    Tally::add(&tally.datagrams, 1);
                }
                Ok(_) => tally.note("UDP flow", &io::Error::from(ErrorKind::InvalidData)),
                Err(error) => tally.note("UDP flow", &error),
            }
        }
    }
}
