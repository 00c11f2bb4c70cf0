//! Very many clients: silent ones, ones that never read, one address that connects without end, and
//! datagrams from everywhere.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use headgate_testkit::client::{self, assert_alive, connect, connect_from};
use headgate_testkit::proof::{Scenario, scale};
use headgate_testkit::tls::{self, TlsClient};
use headgate_testkit::{SOON, TcpPeer, UdpPeer, proc, wait};
use serde_json::json;

use crate::load::Site;

/// As many descriptors as wanted, or as the hard limit allows, for this process too.
pub(crate) fn descriptors_up_to(wanted: u64) -> u64 {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("/proc");
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    let hard = line.and_then(|line| line.split_whitespace().nth(4)?.parse().ok());
    let limit = wanted.min(hard.unwrap_or(u64::MAX));
    let argument = format!("--nofile={limit}:{}", hard.unwrap_or(limit));
    let id = std::process::id().to_string();
    let done = std::process::Command::new("prlimit").args(["--pid", &id, &argument]).status();
    assert!(done.is_ok_and(|status| status.success()), "prlimit {argument}");
    limit
}

fn secure_echo(to: SocketAddr) -> Duration {
    let began = Instant::now();
    let mut stream = TlsClient::default().connect(to, "a.test").expect("a handshake");
    assert_eq!(tls::echo(&mut stream, b"hello").expect("an echo"), b"hello");
    began.elapsed()
}

#[test]
fn half_open_clients() {
    let count = scale(1_500, 10_000);
    Scenario {
        name: "half_open_clients",
        fault: "clients that connect to a TLS listener and never send a byte",
        promise: "others are served; a bounded cost for each; everything is given back",
    }
    .prove(|| {
        let limit = descriptors_up_to(20_000);
        let count = count.min(limit as usize / 2 - 500);
        let site = Site::with(|builder| {
            builder
                .nginx("worker_rlimit_nofile: 20000\nevent:\n  worker_connections: 20000")
                .descriptor_limit(limit)
        });
        secure_echo(site.gateway.tcp(1));
        let (before, files) =
            (proc::private(site.gateway.id()), proc::descriptors(site.gateway.id()));
        let mut silent = Vec::with_capacity(count);
        while silent.len() < count {
            silent.push(connect(site.gateway.tcp(1)));
            // Not more at once than the accept queue holds.
            if silent.len() % 200 == 0 {
                wait::until_true("they are accepted", SOON, || {
                    proc::descriptors(site.gateway.id()) >= files + silent.len() - 100
                });
            }
        }
        let each = proc::private(site.gateway.id()).saturating_sub(before) / count as u64;
        let served = (0..5).map(|_| secure_echo(site.gateway.tcp(1))).max().unwrap_or_default();
        assert!(each < 8 * 1024, "{each} bytes each");
        assert!(served < SOON, "{served:?}");
        site.gateway.get("stream_routes").expect(200);
        drop(silent);
        wait::until_true("their descriptors are closed", SOON, || {
            proc::descriptors(site.gateway.id()) <= files + 10
        });
        format!("{count} clients, {each} bytes each; a handshake beside them took {served:.0?}")
    });
}

#[test]
fn receivers_that_never_read() {
    let count = scale(50, 300);
    Scenario {
        name: "receivers_that_never_read",
        fault: "clients that ask for an endless stream and never read it",
        promise: "memory stays bounded, others are served",
    }
    .prove(|| {
        let site = Site::start();
        // Bytes that cost nothing to make: 300 threads that compute leave no processor to anybody.
        let source = TcpPeer::new(
            |mut conversation| {
                while conversation.stream.write_all(&[7; 64 * 1024]).is_ok() {}
            },
        );
        let body = json!({"server_port": site.gateway.tcp_port(0), "remote_addr": "127.0.0.3",
                          "upstream": {"nodes": {source.node(): 1}}});
        // Routes apply in the order in which they were made.
        site.gateway.delete("stream_routes/plain").expect(200);
        site.gateway.put("stream_routes/endless", &body).expect(201);
        let all = json!({"server_port": site.gateway.tcp_port(0), "upstream_id": "u"});
        site.gateway.put("stream_routes/plain", &all).expect(201);
        assert_alive(&mut connect(site.gateway.tcp(0)));
        let before = proc::private(site.gateway.id());
        let from = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));
        let mut deaf: Vec<TcpStream> =
            (0..count).map(|_| connect_from(from, site.gateway.tcp(0))).collect();
        // All are being sent to, until nothing fits any more.
        for stream in &mut deaf {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("the stream begins");
        }
        let mut last = 0;
        wait::until_true("the memory settles", SOON, || {
            std::thread::sleep(Duration::from_millis(100));
            let now = proc::private(site.gateway.id());
            std::mem::replace(&mut last, now) == now
        });
        let each = last.saturating_sub(before) / count as u64;
        for _ in 0..20 {
            assert_alive(&mut connect(site.gateway.tcp(0)));
        }
        assert!(each < 64 * 1024, "{each} bytes each");
        format!("{count} receivers, {each} bytes each")
    });
}

/// Connects again and again from one address; answers how often.
fn flood(from: Ipv4Addr, to: SocketAddr, stop: &AtomicBool) -> u64 {
    let mut count = 0;
    let mut held = std::collections::VecDeque::new();
    while !stop.load(Ordering::SeqCst) {
        let mut stream = connect_from(from.into(), to);
        let _ = stream.write_all(b"flood");
        held.push_back(stream);
        count += 1;
        if held.len() > 500
            && let Some(oldest) = held.pop_front()
        {
            client::reset(oldest);
        }
    }
    held.into_iter().for_each(client::reset);
    count
}

#[test]
fn a_flood_from_one_address() {
    let time = Duration::from_secs(scale(3, 30));
    Scenario {
        name: "a_flood_from_one_address",
        fault: "127.0.0.2 connects without end and holds 500 connections, `limit-conn` 20 by \
                `remote_addr`",
        promise: "it gets no more than its 20; every other client is served",
    }
    .prove(|| {
        let site = Site::start();
        let plugins = json!({"limit-conn": {"conn": 20, "burst": 0, "default_conn_delay": 0.1,
                                            "key": "remote_addr", "key_type": "var"}});
        let body = json!({"server_port": site.gateway.tcp_port(0), "upstream_id": "u",
                          "plugins": plugins});
        site.gateway.put("stream_routes/plain", &body).expect(200);
        let stop = Arc::<AtomicBool>::default();
        let (to, is_over) = (site.gateway.tcp(0), Arc::clone(&stop));
        let attacker = std::thread::spawn(move || flood(Ipv4Addr::new(127, 0, 0, 2), to, &is_over));
        let (began, mut served, mut worst) = (Instant::now(), 0_u32, Duration::ZERO);
        while began.elapsed() < time {
            let asked = Instant::now();
            // Many others: one that comes a thousand times a second may have 20 that are not quite
            // over yet, and then the limit is right about it, too.
            let other = Ipv4Addr::new(127, 0, 1, 1 + (served % 250) as u8);
            assert_alive(&mut connect_from(other.into(), to));
            worst = worst.max(asked.elapsed());
            served += 1;
        }
        stop.store(true, Ordering::SeqCst);
        let flooded = attacker.join().expect("no panic");
        // It holds 500 and resets the oldest, so that 20 of 500 get through.
        let through = (site.node.accepted() as u64).saturating_sub(served.into());
        assert!(through < flooded / 4 + 100, "{through} of {flooded} got through");
        assert!(worst < SOON, "{worst:?}");
        format!("{flooded} connections flooded, {through} got through; {served} others served, the slowest in {worst:.0?}")
    });
}

#[test]
fn a_flood_of_datagrams_from_everywhere() {
    const FLOWS: usize = 500;
    let ports = scale(3_000, 20_000);
    Scenario {
        name: "a_flood_of_datagrams_from_everywhere",
        fault: "datagrams from ever new source ports, `udp_max_flows` 500",
        promise: "no more flows than the bound; a flow that talks is not the one that is ended",
    }
    .prove(|| {
        let site = Site::with(|builder| builder.stream("udp_max_flows: 500").workers(1));
        let node = UdpPeer::source_teller();
        let body = json!({"server_port": site.gateway.udp_port(0),
                          "upstream": {"nodes": {node.node(): 1}}});
        site.gateway.put("stream_routes/udp", &body).expect(200);
        let idle = proc::descriptors(site.gateway.id());
        let to = site.gateway.udp(0);
        let talker = client::udp(to);
        let own = client::ask(&talker, b"who am I?");
        let (mut most, mut repeated, mut asked) = (0, 0, 0_u32);
        for n in 0..ports {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            let _ = socket.send_to(b"flood", to);
            if n % 100 == 0 {
                most = most.max(proc::descriptors(site.gateway.id()));
                asked += 1;
                // A datagram may be lost where all share one queue.
                let answer = wait::until("the talker is answered", SOON, || {
                    talker.send(b"and now?").expect("sent");
                    let answer = client::try_receive(&talker, Duration::from_millis(500));
                    repeated += u32::from(answer.is_none());
                    answer
                });
                assert_eq!(answer, own, "another flow");
            }
        }
        assert!(most <= idle + FLOWS + 10, "{most} descriptors");
        let sources = node.sources();
        assert!(sources.len() > FLOWS, "{} flows", sources.len());
        format!(
            "{} flows, at most {} at once; {asked} questions of the talker answered ({repeated} \
             asked again)",
            sources.len(),
            most - idle
        )
    });
}

#[test]
fn vanishing_clients() {
    let rounds = scale(20, 400);
    Scenario {
        name: "vanishing_clients",
        fault: "50 clients at a time that reset in the middle of a transfer",
        promise: "no descriptor and no session is left behind",
    }
    .prove(|| {
        let site = Site::start();
        assert_alive(&mut connect(site.gateway.tcp(0)));
        let idle = proc::descriptors(site.gateway.id());
        let bytes = vec![7; 100_000];
        let sent = AtomicU64::new(0);
        for _ in 0..rounds {
            let streams: Vec<_> = (0..50).map(|_| connect(site.gateway.tcp(0))).collect();
            for mut stream in streams {
                sent.fetch_add(stream.write(&bytes).unwrap_or(0) as u64, Ordering::Relaxed);
                client::reset(stream);
            }
        }
        wait::until_true("no descriptor is left behind", SOON, || {
            proc::descriptors(site.gateway.id()) <= idle
        });
        wait::until_true("no session is left at the node", SOON, || site.node.live() == 0);
        let megabytes = sent.into_inner() / 1_000_000;
        format!("{} clients reset after {megabytes} MB, nothing left", rounds * 50)
    });
}
