//! Health checks simulated: the checker as it runs, over servers that fail, hang, flap and come
//! back as a seed says, while clocks jump and the configuration changes. No sockets and no waiting;
//! a seed always plays out the same way.
//!
//! `HEADGATE_SEED=7 cargo test -p headgate-upstream simulation` plays one seed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use headgate_model::resource::Upstream as Resource;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::checker::{self, Probe, Target};
use super::grid::Grid;
use super::{Event, Record, Status};
use crate::{Endpoint, KeyHash, Names, Tried, Upstream};

const SEEDS: u64 = 60;
const STEPS: u32 = 120;
const SERVERS: u16 = 6;

/// How a server behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Server {
    Up,
    Refuses,
    Hangs,
    BadStatus,
    /// A status that says nothing.
    Neutral,
    /// Up and down, 200 ms each.
    Flaps,
}

/// What the servers are, and what is known of each endpoint by counting along.
#[derive(Default)]
struct World {
    servers: BTreeMap<u16, Server>,
    known: HashMap<usize, (Arc<Endpoint>, Record)>,
    limits: Limits,
    probing: HashMap<usize, Arc<Endpoint>>,
    most_at_once: usize,
    probes: BTreeMap<u16, u32>,
    /// Everything that was seen, in order.
    trace: Vec<(u64, u16, Option<Event>)>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Limits {
    successes: u8,
    tcp: u8,
    http: u8,
    timeouts: u8,
    /// Seconds.
    interval: u64,
    concurrency: usize,
}

impl Limits {
    fn random(random: &mut fastrand::Rng) -> Self {
        let mut limit = || random.u8(1..4);
        Self {
            successes: limit(),
            tcp: limit(),
            http: limit(),
            timeouts: limit(),
            interval: random.u64(1..4),
            concurrency: random.usize(1..5),
        }
    }

    fn checks(&self) -> Value {
        let Self { successes, tcp, http, timeouts, interval, concurrency } = *self;
        json!({"active": {
            "timeout": 0.5, "concurrency": concurrency,
            "healthy": {"interval": interval, "successes": successes},
            "unhealthy": {
                "interval": interval,
                "tcp_failures": tcp, "http_failures": http, "timeouts": timeouts
            }
        }})
    }

    fn of(&self, event: Event) -> u8 {
        match event {
            Event::Success => self.successes,
            Event::TcpFailure => self.tcp,
            Event::HttpFailure => self.http,
            Event::Timeout => self.timeouts,
        }
    }
}

#[derive(Clone)]
struct Shared {
    world: Arc<Mutex<World>>,
    began: Instant,
}

impl Shared {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// Stands for a probe over the network.
    async fn probe(self, target: Target) -> Option<Event> {
        let (id, port) = (place(&target.endpoint), port(&target.endpoint));
        let server = {
            let mut world = self.world();
            let before = world.probing.insert(id, Arc::clone(&target.endpoint));
            assert!(before.is_none(), "two probes of one endpoint at a time");
            world.most_at_once = world.most_at_once.max(world.probing.len());
            world.servers.get(&port).copied().unwrap_or(Server::Refuses)
        };
        let (time, event) = match server {
            Server::Up => (20, Some(Event::Success)),
            Server::Refuses => (0, Some(Event::TcpFailure)),
            Server::Hangs => (500, Some(Event::Timeout)),
            Server::BadStatus => (30, Some(Event::HttpFailure)),
            Server::Neutral => (10, None),
            Server::Flaps if (self.now_ms() / 200).is_multiple_of(2) => (1, Some(Event::Success)),
            Server::Flaps => (1, Some(Event::TcpFailure)),
        };
        tokio::time::sleep(Duration::from_millis(time)).await;
        let mut world = self.world();
        world.probing.remove(&id);
        *world.probes.entry(port).or_default() += 1;
        let at = self.now_ms();
        world.trace.push((at, port, event));
        if let Some(event) = event {
            let limit = world.limits.of(event);
            let fresh = || (Arc::clone(&target.endpoint), Record::default());
            let (_, record) = world.known.entry(id).or_insert_with(fresh);
            *record = record.after(event, limit).unwrap_or(*record);
        }
        event
    }
}

fn place(endpoint: &Arc<Endpoint>) -> usize {
    Arc::as_ptr(endpoint) as usize
}

fn port(endpoint: &Endpoint) -> u16 {
    match &endpoint.address {
        crate::Address::Ip(address) => address.port(),
        crate::Address::Unix(_) => 0,
    }
}

/// The upstream with these ports; what it was before is taken over.
fn upstream(
    ports: &[u16],
    limits: &Limits,
    version: u64,
    previous: Option<&Upstream>,
) -> Arc<Upstream> {
    let nodes: serde_json::Map<_, _> =
        ports.iter().map(|port| (format!("127.0.0.1:{port}"), json!(1))).collect();
    let resource = json!({"nodes": nodes, "checks": limits.checks()});
    let resource: Resource = serde_json::from_value(resource).unwrap();
    let key = "upstreams/1".to_owned();
    Upstream::new(key, version, &resource, &Names::default(), |_| None, None, previous).unwrap()
}

fn some_ports(random: &mut fastrand::Rng) -> Vec<u16> {
    let mut ports: Vec<u16> = (1..=SERVERS).filter(|_| random.bool()).collect();
    if ports.is_empty() {
        ports.push(1);
    }
    ports
}

/// One life of an upstream. Returns all that its probes saw.
async fn play(seed: u64) -> Vec<(u64, u16, Option<Event>)> {
    let mut random = fastrand::Rng::with_seed(seed);
    fastrand::seed(seed); // the jitter of the checker
    let shared = Shared { world: Arc::default(), began: Instant::now() };
    let mut ports = some_ports(&mut random);
    let mut limits = Limits::random(&mut random);
    shared.world().limits = limits;
    shared.world().servers = (1..=SERVERS).map(|port| (port, Server::Up)).collect();
    let mut current = upstream(&ports, &limits, 0, None);
    current.plan.board.set_live(true);
    let (publish, live) = watch::channel(Arc::clone(&current));
    let probe = {
        let shared = shared.clone();
        move |target| Probe::Ask(shared.clone().probe(target))
    };
    let checker = tokio::spawn(checker::run(live, probe, Grid::from(shared.began), true));

    for step in 0..STEPS {
        match random.u8(0..20) {
            0..8 => {
                let port = random.u16(1..=SERVERS);
                let kinds = [Server::Up, Server::Refuses, Server::Hangs, Server::BadStatus];
                let kinds = [&kinds[..], &[Server::Neutral, Server::Flaps, Server::Up]].concat();
                let kind = kinds[random.usize(..kinds.len())];
                shared.world().servers.insert(port, kind);
            }
            8..11 => {
                ports = some_ports(&mut random);
                current = upstream(&ports, &limits, u64::from(step), Some(&current));
                publish.send_replace(Arc::clone(&current));
            }
            11 => {
                let before = limits;
                limits = Limits::random(&mut random);
                current = upstream(&ports, &limits, u64::from(step), Some(&current));
                let mut world = shared.world();
                world.limits = limits;
                if limits != before {
                    // Other checks begin with a clean slate.
                    world.known.values_mut().for_each(|(_, record)| *record = Record::default());
                }
                drop(world);
                publish.send_replace(Arc::clone(&current));
            }
            12 => tokio::time::advance(Duration::from_secs(random.u64(1..100_000))).await,
            _ => tokio::time::sleep(Duration::from_millis(random.u64(1..2500))).await,
        }
        settle().await;
        check(&shared, &current, &format!("seed {seed}, step {step}"));
    }
    calm_down(&shared, &current, &limits, seed).await;
    checker.abort();
    assert!(checker.await.unwrap_err().is_cancelled(), "seed {seed}: the checker has ended");
    let mut world = shared.world();
    std::mem::take(&mut world.trace)
}

/// Lets the checker do what it can do now.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(2)).await;
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

fn check(shared: &Shared, current: &Upstream, when: &str) {
    let set = current.endpoints();
    for endpoint in set.endpoints() {
        let world = shared.world();
        let expected = world.known.get(&place(endpoint)).map(|(_, record)| *record);
        assert_eq!(endpoint.health(), expected.unwrap_or_default(), "{when}: {endpoint:?}");
        assert!(world.probing.len() <= 2 * SERVERS as usize, "{when}: probes pile up");
    }
    assert!(set.is_current(None), "{when}: the set does not follow the health");
    // Nobody is sent to an unusable endpoint while another one is usable.
    let any_usable = set.has_a_usable_one();
    for _ in 0..set.len() {
        let lease = set.pick(KeyHash::default(), &mut Tried::default()).unwrap();
        assert!(!any_usable || lease.endpoint().is_usable(), "{when}");
    }
}

/// Once nothing changes any more, every endpoint is known for what it is.
async fn calm_down(shared: &Shared, current: &Arc<Upstream>, limits: &Limits, seed: u64) {
    for server in shared.world().servers.values_mut() {
        if matches!(server, Server::Flaps | Server::Neutral) {
            *server = Server::Up;
        }
    }
    // What is under way may still tell of before.
    let time = Duration::from_secs(limits.interval * 12);
    tokio::time::sleep(time * 2).await;
    settle().await;
    shared.world().probes.clear();
    shared.world().most_at_once = 0;
    tokio::time::sleep(time).await;
    settle().await;
    check(shared, current, &format!("seed {seed}, at the end"));
    let world = shared.world();
    for endpoint in current.endpoints().endpoints() {
        let port = port(endpoint);
        let expected = match world.servers[&port] {
            Server::Up => Status::Healthy,
            _ => Status::Unhealthy,
        };
        assert_eq!(endpoint.health().status, expected, "seed {seed}, {port}: {world:?}");
        // 12 intervals, each between 95 and 105 percent and a probe long, which one that hangs
        // makes half a second longer; with few at a time, some wait for others.
        let probes = world.probes.get(&port).copied().unwrap_or_default();
        assert!((3..=13).contains(&probes), "seed {seed}: {probes} probes of {port}");
    }
    assert!(world.most_at_once <= limits.concurrency, "seed {seed}: more at once than allowed");
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World")
            .field("servers", &self.servers)
            .field("limits", &self.limits)
            .finish()
    }
}

fn run(seed: u64) -> Vec<(u64, u16, Option<Event>)> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().unwrap().block_on(play(seed))
}

#[test]
fn health_follows_the_servers_whatever_happens() {
    let seed = std::env::var("HEADGATE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = seed.map_or(0..SEEDS, |seed: u64| seed..seed + 1);
    let probes: usize = seeds.map(|seed| run(seed).len()).sum();
    assert!(probes > 0, "nothing was probed");
}

#[test]
fn a_seed_plays_out_the_same_way_each_time() {
    for seed in [3, 11] {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}
