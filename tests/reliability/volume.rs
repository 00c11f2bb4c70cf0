//! Large amounts: bytes through copy and splice, sessions that do nothing, datagrams from everywhere.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use headgate_testkit::client::{self, assert_alive, connect};
use headgate_testkit::pattern::Pattern;
use headgate_testkit::proof::{Scenario, scale, sized};
use headgate_testkit::tls::TlsClient;
use headgate_testkit::{Gateway, SOON, proc, wait};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use serde_json::json;

use crate::binary;
use crate::crowd::descriptors_up_to;
use crate::load::Site;

/// Sends `count` bytes of a pattern, in writes of up to `size`.
fn send(to: &mut impl Write, seed: u64, count: u64, size: usize) -> io::Result<()> {
    let mut pattern = Pattern::new(seed);
    let mut buffer = vec![0; size];
    while pattern.offset() < count {
        let left = usize::try_from(count - pattern.offset()).unwrap_or(size);
        let part = &mut buffer[..left.min(size)];
        pattern.fill(part);
        to.write_all(part)?;
    }
    to.flush()
}

/// Reads to the end, with a pause now and then; answers how much came, all of it right.
fn receive(from: &mut impl Read, seed: u64, pause_every: u64) -> io::Result<u64> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut pattern = Pattern::new(seed);
    let mut next = pause_every;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(pattern.offset()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        pattern.check(&buffer[..count]).map_err(|at| io::Error::other(format!("byte {at}")))?;
        if pattern.offset() > next {
            next += pause_every;
            std::thread::sleep(Duration::from_millis(random.u64(1..40)));
        }
    }
}

/// Both directions of one connection at once; answers bytes in both together.
fn both_ways(here: &TcpStream, there: &TcpStream, count: u64, size: usize) -> u64 {
    let pause = (count / 50).max(1);
    std::thread::scope(|scope| {
        let sides = [(here, there, 1), (there, here, 2)].map(|(from, to, seed)| {
            let sending = scope.spawn(move || {
                let mut from = from;
                send(&mut from, seed, count, size).expect("sent");
                from.shutdown(Shutdown::Write).expect("shut down");
            });
            let receiving = scope.spawn(move || {
                let mut to = to;
                receive(&mut to, seed, pause).expect("every byte as it was sent")
            });
            (sending, receiving)
        });
        let mut total = 0;
        for (sending, receiving) in sides {
            sending.join().expect("no panic");
            let got = receiving.join().expect("no panic");
            assert_eq!(got, count);
            total += got;
        }
        total
    })
}

#[test]
fn bulk_through_splice_and_copy() {
    let bytes = sized("HEADGATE_BULK_MIB", 64, 10 * 1024) << 20;
    Scenario {
        name: "bulk_through_splice_and_copy",
        fault: "random data in both directions at once, in writes of 256 KiB (splice) and 700 bytes \
                (copy), with pauses; then clients that reset in the middle",
        promise: "every byte compares equal",
    }
    .prove(|| {
        let node = TcpListener::bind("127.0.0.1:0").expect("a node");
        let gateway = Gateway::builder(binary()).tcp(1).start();
        let address = node.local_addr().expect("bound").to_string();
        gateway.put("stream_routes/1", &json!({"upstream": {"nodes": {address: 1}}})).expect(201);
        let mut figures = Vec::new();
        // A quarter of the bytes in each direction of each way of relaying.
        for (name, size) in [("splice", 256 * 1024), ("copy", 700)] {
            let here = connect(gateway.tcp(0));
            let there = node.accept().expect("the gateway connects").0;
            for stream in [&here, &there] {
                stream.set_read_timeout(Some(SOON * 6)).expect("a deadline");
                stream.set_write_timeout(Some(SOON * 6)).expect("a deadline");
            }
            let began = Instant::now();
            let total = both_ways(&here, &there, bytes / 4, size);
            let rate = total as f64 / began.elapsed().as_secs_f64() / 1e6;
            figures.push(format!("{} MiB by {name} at {rate:.0} MB/s", total >> 20));
        }
        // What arrives of a stream that is cut off is right as far as it goes.
        let resets = scale(10, 200);
        for n in 0..resets {
            let mut here = connect(gateway.tcp(0));
            let mut there = node.accept().expect("the gateway connects").0;
            there.set_read_timeout(Some(SOON)).expect("a deadline");
            let reading = std::thread::spawn(move || receive(&mut there, n, u64::MAX));
            send(&mut here, n, 1_000_000 + n * 1_000, 50_000).expect("sent");
            client::reset(here);
            if let Err(error) = reading.join().expect("no panic") {
                assert!(client::is_reset(&error), "{error}");
            }
        }
        format!("{}; {resets} cut off by resets, all equal", figures.join(", "))
    });
}

#[test]
fn idle_sessions() {
    let count = scale(500, 10_000);
    let time = Duration::from_secs(sized("HEADGATE_IDLE_SECONDS", 1, 300));
    Scenario {
        name: "idle_sessions",
        fault: "sessions that do nothing",
        promise: "all are there afterwards; descriptors, places and memory come back when they close",
    }
    .prove(|| {
        let limit = descriptors_up_to(4 * count as u64 + 2_000);
        // Here and in the gateway two descriptors for each, and the gateway keeps a reserve.
        let count = count.min(limit as usize / 2 - 200);
        let nginx = format!("worker_rlimit_nofile: {limit}\nevent:\n  worker_connections: {limit}");
        let gateway = Gateway::builder(binary())
            .tcp(1)
            .nginx(&nginx)
            .descriptor_limit(limit)
            .no_access_log()
            .env("MIMALLOC_ALLOW_THP", "0")
            .start();
        let node = TcpListener::bind("127.0.0.1:0").expect("a node");
        let address = node.local_addr().expect("bound").to_string();
        gateway.put("stream_routes/1", &json!({"upstream": {"nodes": {address: 1}}})).expect(201);
        let (files, before) = (proc::descriptors(gateway.id()), proc::private(gateway.id()));
        let mut pairs: Vec<(TcpStream, TcpStream)> = (0..count)
            .map(|_| {
                let here = connect(gateway.tcp(0));
                (here, node.accept().expect("the gateway connects").0)
            })
            .collect();
        let each = proc::private(gateway.id()).saturating_sub(before) / count as u64;
        let began = Instant::now();
        while began.elapsed() < time {
            let _ = wait::try_until(Duration::from_millis(200), || None::<()>);
            gateway.get("upstreams").expect(200);
        }
        // Accepted in the order in which they connected, one by one.
        for (n, (here, there)) in pairs.iter_mut().enumerate() {
            let word = n.to_le_bytes();
            client::send(here, &word);
            let mut got = [0; 8];
            there.read_exact(&mut got).expect("what its client sent");
            assert_eq!(got, word);
        }
        drop(pairs);
        wait::until_true("all sessions have ended", SOON * 2, || {
            proc::descriptors(gateway.id()) <= files + 2
        });
        let mut left = u64::MAX;
        let _ = wait::try_until(SOON, || {
            left = left.min(proc::private(gateway.id()));
            (left < before + (4 << 20)).then_some(())
        });
        let left = left.saturating_sub(before);
        assert!(left < 4 << 20, "{left} bytes are not given back");
        format!(
            "{count} sessions for {} s at {each} bytes each; {} KiB more than before when they are gone",
            time.as_secs(),
            left >> 10
        )
    });
}

/// Echoes datagrams until told to stop.
fn echo(socket: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = [0; 2_048];
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a deadline");
    while !stop.load(Ordering::Relaxed) {
        if let Ok((count, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..count], from);
        }
    }
}

/// Hands on what arrives at any of the sockets, with the socket's place, until `take` has had enough
/// or nothing has come for long.
fn each_datagram(sockets: &[UdpSocket], mut take: impl FnMut(usize, [u8; 8]) -> bool) {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
    for (n, socket) in sockets.iter().enumerate() {
        let data = epoll::EventData::new_u64(n as u64);
        epoll::add(&poll, socket, data, epoll::EventFlags::IN).expect("added");
    }
    let mut ready = Vec::with_capacity(1_024);
    let patience = rustix::event::Timespec::try_from(SOON).expect("a deadline");
    loop {
        ready.clear();
        let came = epoll::wait(&poll, spare_capacity(&mut ready), Some(&patience));
        if came.expect("epoll_wait") == 0 {
            return;
        }
        for event in &ready {
            let n = event.data.u64() as usize;
            let mut word = [0; 8];
            while let Ok(8) = sockets[n].recv(&mut word) {
                if !take(n, word) {
                    return;
                }
            }
        }
    }
}

#[test]
fn datagrams_from_many_ports() {
    let (ports, total) = scale((500, 5_000), (20_000, 200_000));
    let rate = sized("HEADGATE_UDP_RATE", 10_000, 100_000);
    Scenario {
        name: "datagrams_from_many_ports",
        fault: "datagrams from as many flows as there are, at a steady rate",
        promise: "every one is answered",
    }
    .prove(|| {
        let limit = descriptors_up_to(4 * ports as u64 + 2_000);
        // One descriptor here and one in the gateway, which keeps a reserve and leaves a quarter
        // to connections.
        let ports = ports.min((limit as usize - 256) / 4 * 3 - 200);
        let site = Site::with(|builder| {
            builder
                .nginx(&format!(
                    "worker_rlimit_nofile: {limit}\nevent:\n  worker_connections: {limit}"
                ))
                .stream(&format!("udp_max_flows: {}", ports * 3))
                .descriptor_limit(limit)
        });
        let server = socket2::Socket::from(UdpSocket::bind("127.0.0.1:0").expect("a node"));
        // As much as net.core.rmem_max allows.
        let _ = server.set_recv_buffer_size(32 << 20);
        let server = UdpSocket::from(server);
        let node = server.local_addr().expect("bound").to_string();
        let body =
            json!({"server_port": site.gateway.udp_port(0), "upstream": {"nodes": {node: 1}}});
        site.gateway.put("stream_routes/udp", &body).expect(200);
        // Below the ports that the kernel chooses from: the gateway needs as many of those.
        let candidates = (1..=8).flat_map(|host| (2_000..9_900).map(move |port| (host, port)));
        let bound = candidates.filter_map(|(host, port)| {
            UdpSocket::bind((Ipv4Addr::new(127, 0, 2, host), port)).ok()
        });
        let sockets: Vec<UdpSocket> = bound.take(ports).collect();
        assert_eq!(sockets.len(), ports, "addresses and ports");
        for socket in &sockets {
            socket.connect(site.gateway.udp(0)).expect("connected");
            socket.set_nonblocking(true).expect("set");
        }
        let (stop, mut foreign) = (AtomicBool::new(false), 0);
        let (answered, took) = std::thread::scope(|scope| {
            scope.spawn(|| echo(&server, &stop));
            let sending = scope.spawn(|| {
                let began = Instant::now();
                for n in 0..total {
                    let due = Duration::from_secs_f64(n as f64 / rate as f64);
                    // In bursts of a millisecond.
                    if n % (rate as usize / 1_000).max(1) == 0 {
                        std::thread::sleep(due.saturating_sub(began.elapsed()));
                    }
                    let payload = (n as u64).to_le_bytes();
                    while sockets[n % ports].send(&payload).is_err() {
                        std::thread::yield_now();
                    }
                }
                began.elapsed()
            });
            let (mut answered, mut is_answered) = (0, vec![false; total]);
            each_datagram(&sockets, |n, word| {
                let number = usize::try_from(u64::from_le_bytes(word)).unwrap_or(0);
                foreign += u32::from(number % ports != n);
                if let Some(is_answered) = is_answered.get_mut(number) {
                    answered += usize::from(!std::mem::replace(is_answered, true));
                }
                answered < total
            });
            let took = sending.join().expect("no panic");
            stop.store(true, Ordering::Relaxed);
            (answered, took)
        });
        assert_eq!((answered, foreign), (total, 0), "answered, and answers of other flows");
        let real = total as f64 / took.as_secs_f64();
        format!("{answered} of {total} datagrams of {ports} ports at {real:.0}/s answered")
    });
}

/// TLS carries the same bytes as the plain relay.
#[test]
fn bulk_through_tls() {
    let bytes = sized("HEADGATE_BULK_MIB", 16, 1024) << 20;
    Scenario {
        name: "bulk_through_tls",
        fault: "random data through TLS termination to an echo node and back",
        promise: "every byte compares equal",
    }
    .prove(|| {
        let site = Site::start();
        let mut stream =
            TlsClient::default().connect(site.gateway.tcp(1), "a.test").expect("a handshake");
        let began = Instant::now();
        let (mut pattern, mut buffer) = (Pattern::new(3), vec![0; 64 * 1024]);
        while pattern.offset() < bytes {
            let part = pattern.take(buffer.len());
            stream.write_all(&part).expect("sent");
            stream.flush().expect("sent");
            stream.read_exact(&mut buffer).expect("the echo");
            assert!(part == buffer, "wrong bytes before {}", pattern.offset());
        }
        assert_alive(&mut connect(site.gateway.tcp(0)));
        let rate = 2.0 * bytes as f64 / began.elapsed().as_secs_f64() / 1e6;
        format!("{} MiB each way at {rate:.0} MB/s", bytes >> 20)
    });
}
