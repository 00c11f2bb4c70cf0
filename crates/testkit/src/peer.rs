//! TCP nodes behind the gateway: polite, slow, rude and dead ones.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::pattern::Pattern;
use crate::{client, wait};

/// A listening node; every connection is served by a thread of its own. Dropping it ends all.
#[derive(Debug)]
pub struct TcpPeer {
    addr: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    accepted: AtomicUsize,
    received: AtomicU64,
    live: Mutex<HashMap<usize, TcpStream>>,
    sources: Mutex<Vec<SocketAddr>>,
    ends: Mutex<Vec<String>>,
    gate: (Mutex<bool>, Condvar),
}

impl Shared {
    fn forget(&self, id: usize) {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}

/// One accepted connection, as a node sees it.
#[derive(Debug)]
pub struct Conversation {
    /// The connection.
    pub stream: TcpStream,
    id: usize,
    shared: Arc<Shared>,
}

impl Conversation {
    /// Reads some bytes and counts them; 0 is the end. Errors count as the end and are noted.
    pub fn read(&mut self, buffer: &mut [u8]) -> usize {
        match self.stream.read(buffer) {
            Ok(count) => {
                self.shared.received.fetch_add(count as u64, Ordering::SeqCst);
                if count == 0 {
                    self.note("eof");
                }
                count
            }
            Err(error) => {
                self.note(if client::is_reset(&error) { "reset" } else { "error" });
                0
            }
        }
    }

    /// Reads and drops everything until the end.
    pub fn drain(&mut self) {
        let mut buffer = vec![0; 64 * 1024];
        while self.read(&mut buffer) > 0 {}
    }

    /// Ends this connection with RST.
    pub fn reset(self) {
        let Self { stream, id, shared } = self;
        shared.forget(id);
        client::reset(stream);
    }

    /// Waits until [`TcpPeer::release`] is called.
    pub fn wait_for_release(&self) {
        let (open, changed) = &self.shared.gate;
        let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
        while !*open && !self.shared.stop.load(Ordering::SeqCst) {
            open = changed
                .wait_timeout(open, Duration::from_millis(100))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Whether the node is being dropped.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.shared.stop.load(Ordering::SeqCst)
    }

    fn note(&self, how: &str) {
        self.shared.ends.lock().unwrap_or_else(PoisonError::into_inner).push(how.to_owned());
    }
}

impl TcpPeer {
    /// A node on 127.0.0.1 whose connections are served by `serve`.
    #[must_use]
    pub fn new(serve: impl Fn(Conversation) + Send + Sync + 'static) -> Self {
        Self::on(Ipv4Addr::LOCALHOST.into(), serve)
    }

    /// As [`TcpPeer::new`], on an address of one's choice.
    #[must_use]
    pub fn on(ip: IpAddr, serve: impl Fn(Conversation) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((ip, 0)).expect("a listening socket");
        Self::over(listener, serve)
    }

    /// As [`TcpPeer::new`], on a given address and port.
    #[must_use]
    pub fn at(addr: SocketAddr, serve: impl Fn(Conversation) + Send + Sync + 'static) -> Self {
        Self::over(TcpListener::bind(addr).expect("a listening socket"), serve)
    }

    fn over(listener: TcpListener, serve: impl Fn(Conversation) + Send + Sync + 'static) -> Self {
        let addr = listener.local_addr().expect("a bound socket");
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let serve = Arc::new(serve);
        let acceptor = std::thread::spawn(move || {
            while let Ok((stream, from)) = listener.accept() {
                if own.stop.load(Ordering::SeqCst) {
                    break;
                }
                let id = own.accepted.fetch_add(1, Ordering::SeqCst);
                let _ = stream.set_nodelay(true);
                if let Ok(clone) = stream.try_clone() {
                    own.live.lock().unwrap_or_else(PoisonError::into_inner).insert(id, clone);
                }
                own.sources.lock().unwrap_or_else(PoisonError::into_inner).push(from);
                let conversation = Conversation { stream, id, shared: Arc::clone(&own) };
                let serve = Arc::clone(&serve);
                let own = Arc::clone(&own);
                std::thread::spawn(move || {
                    serve(conversation);
                    own.forget(id);
                });
            }
        });
        Self { addr, shared, acceptor: Some(acceptor) }
    }

    /// Says `name` and a line break, then closes once the other side has: which node was reached?
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self::named_on(Ipv4Addr::LOCALHOST.into(), name)
    }

    /// As [`TcpPeer::named`], on an address of one's choice.
    #[must_use]
    pub fn named_on(ip: IpAddr, name: &str) -> Self {
        Self::on(ip, say(name))
    }

    /// As [`TcpPeer::named`], on a given address and port.
    #[must_use]
    pub fn named_at(addr: SocketAddr, name: &str) -> Self {
        Self::at(addr, say(name))
    }

    /// The usual node of the conformance list: answers `pong` and closes.
    #[must_use]
    pub fn pong() -> Self {
        Self::named("pong")
    }

    /// Sends back every byte; passes an end on as an end.
    #[must_use]
    pub fn echo() -> Self {
        Self::on(Ipv4Addr::LOCALHOST.into(), serve_echo)
    }

    /// An echo node on a given address and port.
    #[must_use]
    pub fn echo_at(addr: SocketAddr) -> Self {
        Self::at(addr, serve_echo)
    }

    /// Reads and counts, never answers.
    #[must_use]
    pub fn sink() -> Self {
        Self::new(|mut conversation| conversation.drain())
    }

    /// Sends `count` bytes of the pattern `seed`, ends its direction, then reads to the end.
    #[must_use]
    pub fn source(seed: u64, count: u64) -> Self {
        Self::new(move |mut conversation| {
            if Pattern::new(seed).send(&mut conversation.stream, count).is_ok() {
                let _ = conversation.stream.shutdown(Shutdown::Write);
            }
            conversation.drain();
        })
    }

    /// Reads nothing before [`TcpPeer::release`], then everything; checks the pattern `seed` and
    /// answers with the number of good bytes at the end.
    #[must_use]
    pub fn stalled_reader(seed: u64) -> Self {
        Self::new(move |mut conversation| {
            conversation.wait_for_release();
            answer_count(seed, &mut conversation);
        })
    }

    /// Reads to the end first, checking the pattern `seed`, and only then answers with the number
    /// of good bytes: a client that ends its direction must still get the answer.
    #[must_use]
    pub fn answers_at_end(seed: u64) -> Self {
        Self::new(move |mut conversation| answer_count(seed, &mut conversation))
    }

    /// Ends its own direction at once after `greeting` but goes on reading; what it received is
    /// counted in [`TcpPeer::received`].
    #[must_use]
    pub fn half_closer(greeting: &'static [u8]) -> Self {
        Self::new(move |mut conversation| {
            let _ = conversation.stream.write_all(greeting);
            let _ = conversation.stream.shutdown(Shutdown::Write);
            conversation.drain();
        })
    }

    /// Says `greeting`, reads at least `after` bytes, and resets the connection.
    #[must_use]
    pub fn resetter(greeting: &'static [u8], after: u64) -> Self {
        Self::new(move |mut conversation| {
            let _ = conversation.stream.write_all(greeting);
            let mut buffer = [0; 4096];
            let mut got = 0;
            while got < after {
                match conversation.read(&mut buffer) {
                    0 => break,
                    count => got += count as u64,
                }
            }
            conversation.reset();
        })
    }

    /// Address of the node.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The node as Admin API node key, `host:port` with brackets for IPv6.
    #[must_use]
    pub fn node(&self) -> String {
        self.addr.to_string()
    }

    /// Number of connections so far.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Number of bytes read so far, all connections together.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::SeqCst)
    }

    /// Number of connections open now.
    #[must_use]
    pub fn live(&self) -> usize {
        self.shared.live.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Addresses that connections came from, in order.
    #[must_use]
    pub fn sources(&self) -> Vec<SocketAddr> {
        self.shared.sources.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How connections ended so far: `eof`, `reset` or `error`.
    #[must_use]
    pub fn ends(&self) -> Vec<String> {
        self.shared.ends.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the first end of a connection and tells how.
    #[track_caller]
    #[must_use]
    pub fn wait_end(&self) -> String {
        wait::until("the node's connection ends", crate::SOON, || self.ends().first().cloned())
    }

    /// Lets stalled connections go on.
    pub fn release(&self) {
        let (open, changed) = &self.shared.gate;
        *open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }
}

fn say(name: &str) -> impl Fn(Conversation) + Send + Sync + 'static {
    let line = format!("{name}\n");
    move |mut conversation| {
        let _ = conversation.stream.write_all(line.as_bytes());
        let _ = conversation.stream.shutdown(Shutdown::Write);
        conversation.drain();
    }
}

fn serve_echo(mut conversation: Conversation) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match conversation.read(&mut buffer) {
            0 => break,
            count if conversation.stream.write_all(&buffer[..count]).is_err() => break,
            _ => {}
        }
    }
    let _ = conversation.stream.shutdown(Shutdown::Write);
}

fn answer_count(seed: u64, conversation: &mut Conversation) {
    let mut pattern = Pattern::new(seed);
    let mut buffer = vec![0; 64 * 1024];
    let answer = loop {
        match conversation.read(&mut buffer) {
            0 => break format!("{} good", pattern.offset()),
            count => {
                if let Err(offset) = pattern.check(&buffer[..count]) {
                    break format!("wrong byte at {offset}");
                }
            }
        }
    };
    let _ = conversation.stream.write_all(answer.as_bytes());
    let _ = conversation.stream.shutdown(Shutdown::Write);
}

impl Drop for TcpPeer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.release();
        for stream in self.shared.live.lock().unwrap_or_else(PoisonError::into_inner).values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes the thread in `accept`.
        let _ = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

/// A node that answers no connection attempt, not even with a refusal: its accept queue is full.
#[derive(Debug)]
pub struct BlackHole {
    addr: SocketAddr,
    _listener: Socket,
    _queued: Vec<Socket>,
}

impl BlackHole {
    /// Opens one on 127.0.0.1.
    #[must_use]
    pub fn open() -> Self {
        let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
        let tcp = || Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP));
        let listener = tcp().expect("a socket");
        listener.bind(&any.into()).expect("a local address");
        listener.listen(0).expect("a listening socket");
        let addr =
            listener.local_addr().ok().and_then(|addr| addr.as_socket()).expect("an address");
        let mut queued = Vec::new();
        loop {
            let filler = tcp().expect("a socket");
            if filler.connect_timeout(&addr.into(), Duration::from_millis(300)).is_err() {
                break;
            }
            queued.push(filler);
            assert!(queued.len() < 64, "the accept queue does not fill");
        }
        Self { addr, _listener: listener, _queued: queued }
    }

    /// Its address.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::client::{Seen, connect, read_to_end};

    #[test]
    fn echo_returns_bytes_and_passes_the_end_on() {
        let peer = TcpPeer::echo();
        let mut stream = connect(peer.addr());
        let bytes = Pattern::new(3).take(100_000);
        assert_eq!(client::echo(&mut stream, &bytes), bytes);
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut stream), Seen::Closed);
        assert_eq!((peer.accepted(), peer.received()), (1, 100_000));
    }

    #[test]
    fn a_named_node_is_told_by_its_name() {
        let peer = TcpPeer::named("a");
        assert_eq!(client::reach(peer.addr()).as_deref(), Some("a"));
        assert_eq!(TcpPeer::pong().accepted(), 0);
    }

    #[test]
    fn source_and_sink_agree_on_bytes() {
        let source = TcpPeer::source(5, 1_000_000);
        let mut stream = connect(source.addr());
        assert_eq!(Pattern::new(5).receive(&mut stream, u64::MAX).unwrap(), 1_000_000);
        let sink = TcpPeer::sink();
        Pattern::new(5).send(&mut connect(sink.addr()), 70_001).unwrap();
        assert_eq!(sink.wait_end(), "eof");
        assert_eq!(sink.received(), 70_001);
    }

    #[test]
    fn a_stalled_reader_takes_nothing_before_its_release() {
        let peer = TcpPeer::stalled_reader(9);
        let mut stream = connect(peer.addr());
        Pattern::new(9).send(&mut stream, 5_000).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        wait::until_true("accepted", crate::SOON, || peer.live() == 1);
        wait::stays_true("reads too early", Duration::from_millis(50), || peer.received() == 0);
        peer.release();
        assert_eq!(read_to_end(&mut stream), Seen::Bytes(b"5000 good".to_vec()));
    }

    #[test]
    fn an_answer_comes_after_the_clients_end() {
        let peer = TcpPeer::answers_at_end(2);
        let mut stream = connect(peer.addr());
        Pattern::new(2).send(&mut stream, 10).unwrap();
        stream.write_all(b"x").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut stream), Seen::Bytes(b"wrong byte at 10".to_vec()));
    }

    #[test]
    fn a_half_closer_still_reads() {
        let peer = TcpPeer::half_closer(b"hello");
        let mut stream = connect(peer.addr());
        assert_eq!(read_to_end(&mut stream), Seen::Bytes(b"hello".to_vec()));
        stream.write_all(&[7; 3_000]).unwrap();
        drop(stream);
        assert_eq!(peer.wait_end(), "eof");
        assert_eq!(peer.received(), 3_000);
    }

    #[test]
    fn a_resetter_resets() {
        let peer = TcpPeer::resetter(b"hi", 3);
        let mut stream = connect(peer.addr());
        let mut two = [0; 2];
        stream.read_exact(&mut two).unwrap();
        stream.write_all(b"abc").unwrap();
        let error = stream.read(&mut two).unwrap_err();
        assert!(client::is_reset(&error), "{error}");
    }

    #[test]
    fn a_reset_client_is_noticed() {
        let peer = TcpPeer::sink();
        let stream = connect(peer.addr());
        wait::until_true("accepted", crate::SOON, || peer.live() == 1);
        client::reset(stream);
        assert_eq!(peer.wait_end(), "reset");
    }

    #[test]
    fn a_black_hole_neither_accepts_nor_refuses() {
        let hole = BlackHole::open();
        let began = Instant::now();
        let error =
            TcpStream::connect_timeout(&hole.addr(), Duration::from_millis(400)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= Duration::from_millis(390));
    }

    #[test]
    fn a_dropped_node_refuses_and_ends_its_connections() {
        let peer = TcpPeer::echo();
        let addr = peer.addr();
        let mut stream = connect(addr);
        client::assert_alive(&mut stream);
        drop(peer);
        assert_eq!(read_to_end(&mut stream), Seen::Closed);
        assert!(TcpStream::connect_timeout(&addr, Duration::from_secs(1)).is_err());
    }
}
