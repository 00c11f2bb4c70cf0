//! Many routes and many connections: matching, writing and memory with numbers that users have.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use headgate_testkit::client::{self, connect, reach_from};
use headgate_testkit::gateway::ADMIN_KEY;
use headgate_testkit::http::Client;
use headgate_testkit::process::report;
use headgate_testkit::{Gateway, SOON, TcpPeer, proc, wait};
use serde_json::json;

const BIN: &str = env!("CARGO_BIN_EXE_headgate");

/// Connections that load routes at the same time. Writes that arrive together share one commit and
/// one publication, so more of them load faster.
const LOADERS: usize = 48;
/// Routes to load; fewer when the machine takes longer than [`LOAD_TIME`] for them.
const ROUTES: usize = 10_000;
const ENOUGH_ROUTES: usize = 2_000;
const LOAD_TIME: Duration = Duration::from_secs(15);

/// The client address that route `n` is for; no two routes share one.
fn client_of(n: usize) -> IpAddr {
    let part = |value: usize| u8::try_from(value).expect("a byte");
    Ipv4Addr::new(127, 10, part(n / 200), part(1 + n % 200)).into()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Loads routes on keep-alive connections until all are there, or enough of them and the time is up.
/// Route `n` is for client `n` on one of the listeners, and leads to one of the nodes.
fn load(gateway: &Gateway, nodes: &[TcpPeer]) -> usize {
    let began = Instant::now();
    let (admin, ports) = (gateway.admin(), [gateway.tcp_port(0), gateway.tcp_port(1)]);
    let addresses: Vec<String> = nodes.iter().map(TcpPeer::node).collect();
    let loaders: Vec<_> = (0..LOADERS)
        .map(|loader| {
            let addresses = addresses.clone();
            std::thread::spawn(move || {
                let mut client = Client::connect(admin, SOON * 3).expect("a connection");
                let mut done = 0;
                for n in (loader..ROUTES).step_by(LOADERS) {
                    if n >= ENOUGH_ROUTES && began.elapsed() > LOAD_TIME {
                        break;
                    }
                    let body = json!({
                        "server_port": ports[n % 2],
                        "remote_addr": client_of(n).to_string(),
                        "upstream": {"nodes": {&addresses[n % addresses.len()]: 1}}
                    });
                    let path = format!("/apisix/admin/stream_routes/r{n}");
                    let headers = [("X-API-KEY", ADMIN_KEY)];
                    let answer = client
                        .request("PUT", &path, &headers, Some(body.to_string().as_bytes()))
                        .expect("an answer");
                    let _ = answer.expect(201);
                    done += 1;
                }
                done
            })
        })
        .collect();
    let done: Vec<usize> =
        loaders.into_iter().map(|loader| loader.join().expect("all were accepted")).collect();
    let count: usize = done.iter().sum();
    let time = began.elapsed();
    report(&format!(
        "{count} routes in {time:.1?} on {LOADERS} connections, {:.0} a second; RSS {} MB",
        count as f64 / time.as_secs_f64(),
        proc::resident(gateway.id()) / 1_000_000
    ));
    assert!(count >= ENOUGH_ROUTES);
    // Up to here every loader has got; some may have gone a little further.
    LOADERS * done.iter().min().expect("loaders")
}

/// Connects as clients spread over all routes and checks that each reaches the node of its route.
fn check_matches(gateway: &Gateway, routes: usize) -> Duration {
    let names = ["a", "b", "c"];
    let step = routes / 97;
    let times = (0..routes)
        .step_by(step)
        .chain([routes - 1])
        .map(|n| {
            let began = Instant::now();
            let reached = reach_from(client_of(n), gateway.tcp(n % 2));
            let time = began.elapsed();
            assert_eq!(reached.as_deref(), Some(names[n % 3]), "client of route {n}");
            time
        })
        .collect();
    // The right client on the other listener, and a client of no route.
    for n in (0..routes).step_by(step * 10) {
        assert_eq!(reach_from(client_of(n), gateway.tcp((n + 1) % 2)), None, "route {n}");
    }
    assert_eq!(reach_from(Ipv4Addr::new(127, 11, 0, 1).into(), gateway.tcp(0)), None);
    median(times)
}

#[test]
fn ten_thousand_routes_match_like_one_and_are_changed_at_once() {
    let mut gateway = Gateway::builder(BIN).tcp(2).no_access_log().log_level("warn").start();
    let nodes = ["a", "b", "c"].map(TcpPeer::named);

    // One route for comparison: route 0 as it will be loaded.
    let body = json!({
        "server_port": gateway.tcp_port(0),
        "remote_addr": client_of(0).to_string(),
        "upstream": {"nodes": {nodes[0].node(): 1}}
    });
    gateway.put("stream_routes/r0", &body).expect(201);
    let one = median(
        (0..97)
            .map(|_| {
                let began = Instant::now();
                assert_eq!(reach_from(client_of(0), gateway.tcp(0)).as_deref(), Some("a"));
                began.elapsed()
            })
            .collect(),
    );
    gateway.delete("stream_routes/r0").expect(200);

    let routes = load(&gateway, &nodes);
    let many = check_matches(&gateway, routes);
    report(&format!("a connection with 1 route: {one:.2?}, with {routes}: {many:.2?}"));
    assert!(many < one * 5 + Duration::from_millis(5), "{many:?} instead of {one:?}");

    // Single changes: answered soon, and in effect with the answer.
    let port = gateway.tcp_port(0);
    let times: Vec<Duration> = (0..31)
        .map(|round| {
            let node = &nodes[1 + round % 2];
            let body = json!({
                "server_port": port,
                "remote_addr": client_of(0).to_string(),
                "upstream": {"nodes": {node.node(): 1}}
            });
            let began = Instant::now();
            gateway.put("stream_routes/r0", &body).expect(200);
            let time = began.elapsed();
            let expected = ["b", "c"][round % 2];
            assert_eq!(reach_from(client_of(0), gateway.tcp(0)).as_deref(), Some(expected));
            time
        })
        .collect();
    let worst = times.iter().max().copied().unwrap_or_default();
    let middle = median(times);
    report(&format!("a PUT with {routes} routes: median {middle:.2?}, worst {worst:.2?}"));
    assert!(middle < Duration::from_millis(250), "{middle:?}");
    let body = json!({
        "server_port": port,
        "remote_addr": client_of(0).to_string(),
        "upstream": {"nodes": {nodes[0].node(): 1}}
    });
    gateway.put("stream_routes/r0", &body).expect(200);

    // The list has them all, and a restart finds them again.
    let began = Instant::now();
    let list = gateway.get("stream_routes").expect(200);
    let total = list.json()["total"].as_u64().expect("a number");
    assert!(total >= routes as u64, "{total}");
    let page = gateway.get("stream_routes?page=3&page_size=500").expect(200).json();
    assert_eq!((&page["total"], page["list"].as_array().map(Vec::len)), (&json!(total), Some(500)));
    report(&format!("the list of {total}: {} bytes, {:.0?}", list.body.len(), began.elapsed()));
    gateway.stop();
    let began = Instant::now();
    gateway.launch();
    report(&format!("a start with {total} routes: {:.0?}", began.elapsed()));
    check_matches(&gateway, routes);
}

/// A node that accepts and holds connections on a single thread, until it is dropped.
struct Holder {
    node: String,
    count: mpsc::Receiver<TcpStream>,
    held: Vec<TcpStream>,
}

impl Holder {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let node = listener.local_addr().expect("an address").to_string();
        let (sender, count) = mpsc::channel();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if sender.send(stream).is_err() {
                    break;
                }
            }
        });
        Self { node, count, held: Vec::new() }
    }

    fn wait_for(&mut self, count: usize) {
        while self.held.len() < count {
            let stream = self.count.recv_timeout(SOON).unwrap_or_else(|_| {
                panic!("{} of {count} connections have arrived", self.held.len())
            });
            self.held.push(stream);
        }
    }
}

/// Pages of the program file are not counted (the file is not optimised here, and its pages are shared
/// and can be dropped), and huge pages are off: whether the kernel gives them, and how many, depends on
/// the machine.
#[test]
fn two_thousand_idle_connections_fit_into_30_megabytes() {
    const CONNECTIONS: usize = 2_000;
    const LIMIT: u64 = 30_000_000;
    let gateway = Gateway::builder(BIN).tcp(1).env("MIMALLOC_ALLOW_THP", "0").start();
    let mut node = Holder::start();
    gateway.put("stream_routes/1", &json!({"upstream": {"nodes": {&node.node: 1}}})).expect(201);
    let own = || proc::private(gateway.id());
    let (before, total) = (own(), proc::resident(gateway.id()));
    let mut streams = Vec::with_capacity(CONNECTIONS);
    for count in 1..=CONNECTIONS {
        streams.push(connect(gateway.tcp(0)));
        // Not more at once than fit into the accept queue.
        if count % 100 == 0 {
            node.wait_for(count);
        }
    }
    let silent = own();
    // Each transfers something, as connections have that are idle now. In the node they stand in
    // another order than here, so a batch at a time in each direction.
    let bytes = [7; 20_000];
    let mut got = bytes;
    streams.iter_mut().for_each(|stream| client::send(stream, &bytes));
    for peer in &mut node.held {
        peer.set_read_timeout(Some(SOON)).expect("a deadline");
        peer.read_exact(&mut got).expect("what a client sent");
        client::send(peer, &bytes);
    }
    for stream in &mut streams {
        stream.read_exact(&mut got).expect("what the node sent");
    }
    // Memory that is free again goes back to the system with some delay.
    let _ = wait::try_until(Duration::from_secs(3), || (own() < LIMIT).then_some(()));
    let idle = own();
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    report(&format!(
        "private memory: {:.1} MB at rest ({:.1} with the program's pages), {:.1} MB with \
         {CONNECTIONS} connections that never sent, {:.1} MB after 20 kB each way on all of them",
        megabytes(before),
        megabytes(total),
        megabytes(silent),
        megabytes(idle)
    ));
    assert!(silent < LIMIT, "{silent} bytes with connections that never sent");
    assert!(idle < LIMIT, "{idle} bytes with idle connections");
    // All are still there, and nothing is left of them afterwards.
    let open = proc::descriptors(gateway.id());
    assert!(open >= 2 * CONNECTIONS, "{open} descriptors");
    drop((streams, node));
    wait::until_true("all sessions have ended", SOON, || {
        proc::descriptors(gateway.id()) < CONNECTIONS / 10
    });
}
