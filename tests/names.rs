//! Host names in nodes: all their addresses, for as long as answers last, whatever DNS does.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use headgate_testkit::client::{self, reach, udp};
use headgate_testkit::process::{need, report, run};
use headgate_testkit::server::Dnsmasq;
use headgate_testkit::{Gateway, Port, SOON, TcpPeer, UdpPeer, wait};
use serde_json::{Value, json};

const BIN: &str = env!("CARGO_BIN_EXE_headgate");

/// A dnsmasq whose records can be changed.
struct Records {
    server: Dnsmasq,
    file: PathBuf,
    _folder: tempfile::TempDir,
}

impl Records {
    fn start(hosts: &str, lines: &[&str]) -> Option<Self> {
        let folder = tempfile::TempDir::with_prefix("headgate-names-").expect("a folder");
        let file = folder.path().join("hosts");
        fs::write(&file, hosts).expect("a file");
        let mut all = vec![format!("addn-hosts={}", file.display())];
        all.extend(lines.iter().map(|line| (*line).to_owned()));
        let server = Dnsmasq::start_with(&all)?;
        Some(Self { server, file, _folder: folder })
    }

    fn change(&self, hosts: &str) {
        fs::write(&self.file, hosts).expect("a file");
        self.server.signal("HUP");
    }
}

fn ip(last: u8) -> IpAddr {
    [127, 0, 0, last].into()
}

/// Nodes `b2`, `b3` and so on, on 127.0.0.2 and so on, all on the same port.
fn nodes<const N: usize>(port: &Port, lasts: [u8; N]) -> [TcpPeer; N] {
    lasts.map(|last| {
        TcpPeer::named_at(SocketAddr::new(ip(last), port.number()), &format!("b{last}"))
    })
}

fn gateway(dns: SocketAddr, extra: &str) -> Gateway {
    Gateway::builder(BIN)
        .tcp(1)
        .control()
        .apisix(&format!("dns_resolver:\n  - {dns}\nresolver_timeout: 1\n{extra}"))
        .start()
}

fn to(host: &str, port: &Port) -> Value {
    json!({"upstream": {"nodes": [{"host": host, "port": port.number(), "weight": 1}]}})
}

fn names(gateway: &Gateway, times: usize) -> BTreeSet<String> {
    (0..times).map(|_| reach(gateway.tcp(0)).unwrap_or_else(|| "nobody".to_owned())).collect()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

#[test]
fn up_01_every_address_of_a_name_is_a_node_and_changes_arrive() {
    let Some(records) = Records::start("127.0.0.2 db.test\n127.0.0.3 db.test\n", &["local-ttl=1"])
    else {
        return;
    };
    let port = Port::take();
    let _nodes = nodes(&port, [2, 3, 4]);
    let gateway = gateway(records.server.addr(), "");
    gateway.put("upstreams/1", &to("db.test", &port)["upstream"]).expect(201);
    gateway.put("stream_routes/1", &json!({"upstream_id": "1"})).expect(201);
    assert_eq!(names(&gateway, 6), set(["b2", "b3"]), "known with the first session");
    records.change("127.0.0.3 db.test\n127.0.0.4 db.test\n");
    wait::until_true("the new addresses are used", SOON, || {
        names(&gateway, 6) == set(["b3", "b4"])
    });
    // DNS goes away: the last answer stays.
    drop(records);
    gateway.wait_for_log("dns resolver domain: db.test error: ", SOON);
    assert_eq!(names(&gateway, 6), set(["b3", "b4"]));
}

#[test]
fn answers_last_as_long_as_they_say_or_as_configured() {
    for (ttl, valid, expected) in
        [("local-ttl=60", "dns_resolver_valid: 1", true), ("local-ttl=60", "", false)]
    {
        let Some(records) = Records::start("127.0.0.2 db.test\n", &[ttl]) else { return };
        let port = Port::take();
        let _nodes = nodes(&port, [2, 3]);
        let gateway = gateway(records.server.addr(), valid);
        gateway.put("stream_routes/1", &to("db.test", &port)).expect(201);
        assert_eq!(names(&gateway, 3), set(["b2"]));
        records.change("127.0.0.3 db.test\n");
        let changed = wait::try_until(Duration::from_secs(4), || {
            (names(&gateway, 3) == set(["b3"])).then_some(())
        });
        assert_eq!(changed.is_some(), expected, "{ttl} {valid}");
    }
}

#[test]
fn up_02_a_bad_name_beside_a_good_one_and_alone() {
    let Some(records) = Records::start("127.0.0.2 db.test\n", &["local=/test/"]) else { return };
    let port = Port::take();
    let _nodes = nodes(&port, [2]);
    let gateway = gateway(records.server.addr(), "");
    let node = |host: &str| json!({"host": host, "port": port.number(), "weight": 1});
    let both = json!({"upstream": {"nodes": [node("nope.test"), node("db.test")]}});
    gateway.put("stream_routes/1", &both).expect(201);
    assert_eq!(names(&gateway, 4), set(["b2"]));
    gateway.wait_for_log("dns resolver domain: nope.test error: ", SOON);
    gateway.put("stream_routes/1", &to("nope.test", &port)).expect(200);
    assert_eq!(names(&gateway, 1), set(["nobody"]));
    gateway.wait_for_log("no valid upstream node", SOON);
    gateway.wait_access(&["reason=NU", "status=503"]);
    // Later it exists, and is found without any change here.
    records.change("127.0.0.2 nope.test\n");
    wait::until_true("found", SOON * 2, || names(&gateway, 1) == set(["b2"]));
}

#[test]
fn services_bring_their_ports_and_priorities() {
    // On a port that stays its own when it is gone.
    let port = Port::take();
    let (best, spare) = (TcpPeer::named_at(port.local(), "best"), TcpPeer::named("spare"));
    let lines = [
        format!("srv-host=_db._tcp.test,one.test,{},10,5", best.addr().port()),
        format!("srv-host=_db._tcp.test,one.test,{},20,5", spare.addr().port()),
    ];
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    let Some(records) = Records::start("127.0.0.1 one.test\n", &lines) else { return };
    let gateway = gateway(records.server.addr(), "");
    let upstream = json!({"nodes": [{"host": "_db._tcp.test", "weight": 1}]});
    let warnings = gateway.put("upstreams/1", &upstream).expect(201).warnings();
    assert!(warnings.is_empty(), "{warnings:?}");
    gateway.put("stream_routes/1", &json!({"upstream_id": "1"})).expect(201);
    assert_eq!(names(&gateway, 4), set(["best"]));
    drop(best);
    assert_eq!(names(&gateway, 4), set(["spare"]));
}

// ---- the search list of the system

/// A file that a gateway takes for `/etc/resolv.conf`.
struct ResolvConf(tempfile::NamedTempFile);

impl ResolvConf {
    /// `None`, after saying so, where this process may not mount anything: it takes root.
    fn write(text: &str) -> Option<Self> {
        let unshare = need("unshare", "util-linux")?;
        let bind = "mount --bind /etc/resolv.conf /etc/resolv.conf";
        let first = run(Command::new(unshare).args(["--mount", "sh", "-c", bind]), SOON);
        if !first.status.success() {
            report(&format!("SKIPPED: nothing can be mounted here: {}", first.stderr));
            return None;
        }
        let conf = Self(tempfile::NamedTempFile::new().expect("a file"));
        conf.change(text);
        Some(conf)
    }

    fn change(&self, text: &str) {
        fs::write(self.0.path(), text).expect("a file");
    }

    fn gateway(&self, apisix: &str) -> Gateway {
        let run = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/with-resolv-conf.sh");
        Gateway::builder(run)
            .env("HEADGATE", BIN)
            .env("RESOLV_CONF", &self.0.path().display().to_string())
            .tcp(1)
            .apisix(&format!("resolver_timeout: 1\n{apisix}"))
            .start()
    }
}

#[test]
fn short_names_are_found_by_the_search_list_of_the_system() {
    let hosts = "127.0.0.2 db.one.test\n127.0.0.3 db.two.test\n127.0.0.4 spare.two.test\n\
                 127.0.0.4 db.pod.two.test\n";
    let Some(records) = Records::start(hosts, &["local=/test/"]) else { return };
    let server = records.server.addr();
    // Name servers of the system are asked at port 53.
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let front = SocketAddr::new([127, 77, high, low].into(), 53);
    let system = format!("nameserver {}\nsearch one.test two.test\n", front.ip());
    let Some(conf) = ResolvConf::write(&system) else { return };
    let front = UdpPeer::at(front, move |query, _| {
        let socket = udp(server);
        let _ = socket.send(query);
        client::try_receive(&socket, Duration::from_secs(1)).into_iter().collect()
    });
    let port = Port::take();
    let _nodes = nodes(&port, [2, 3, 4]);
    let gateway = conf.gateway("dns_resolver_valid: 1");
    let first = |name: &str, expected: u16, node: &'static str| {
        gateway.put("stream_routes/1", &to(name, &port)).expect(expected);
        wait::until_true(name, SOON, || names(&gateway, 1) == set([node]));
    };
    first("db", 201, "b2");
    first("spare", 200, "b4");
    first("db.pod", 200, "b4");
    first("db.two.test", 200, "b3");
    assert!(front.received() > 0);
    // A changed list is used without a restart.
    first("db", 200, "b2");
    conf.change(&system.replace("one.test two.test", "two.test one.test"));
    wait::until_true("the other order", SOON, || names(&gateway, 1) == set(["b3"]));
}

#[test]
fn the_search_list_goes_with_servers_of_our_own_and_can_be_switched_off() {
    let Some(records) = Records::start("127.0.0.2 db.one.test\n", &["local=/test/"]) else {
        return;
    };
    let Some(conf) = ResolvConf::write("search one.test\n") else { return };
    let port = Port::take();
    let _nodes = nodes(&port, [2]);
    let servers = format!("dns_resolver:\n  - {}\n", records.server.addr());
    for (extra, expected) in [("", "b2"), ("enable_resolv_search_opt: false\n", "nobody")] {
        let gateway = conf.gateway(&format!("{servers}{extra}"));
        gateway.put("stream_routes/1", &to("db", &port)).expect(201);
        if expected == "nobody" {
            gateway.wait_for_log("dns resolver domain: db error: ", SOON);
        }
        wait::until_true(expected, SOON, || names(&gateway, 1) == set([expected]));
    }
}

#[test]
fn the_hosts_file_wins_and_needs_no_dns() {
    let line = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let mut words = line.lines().filter(|line| !line.starts_with('#')).map(str::split_whitespace);
    let name = words.find_map(|mut words| {
        let ip = words.next()?.parse::<std::net::Ipv4Addr>().ok()?;
        let name = words.next().filter(|name| *name != "localhost" && ip.is_loopback())?;
        Some((ip, name.to_owned()))
    });
    let (node, silent) = (TcpPeer::named("a"), UdpPeer::sink());
    let gateway = gateway(silent.addr(), "");
    let local = json!({"host": "localhost", "port": node.addr().port(), "weight": 1});
    gateway.put("stream_routes/1", &json!({"upstream": {"nodes": [local]}})).expect(201);
    assert_eq!(names(&gateway, 2), set(["a"]));
    let Some((ip, name)) = name else { return };
    let node = TcpPeer::named_on(ip.into(), "by-name");
    let by_name = json!({"host": name, "port": node.addr().port(), "weight": 1});
    gateway.put("stream_routes/1", &json!({"upstream": {"nodes": [by_name]}})).expect(200);
    assert_eq!(names(&gateway, 2), set(["by-name"]));
}

#[test]
fn a_flow_leaves_an_address_that_its_name_has_lost() {
    let Some(records) = Records::start("127.0.0.2 db.test\n", &["local-ttl=1"]) else { return };
    let port = Port::take();
    let [b2, b3] = [2, 3].map(|last| {
        let answer =
            move |payload: &[u8], _| vec![[b"b", &[b'0' + last][..], b":", payload].concat()];
        UdpPeer::at(SocketAddr::new(ip(last), port.number()), answer)
    });
    let gateway = Gateway::builder(BIN)
        .udp(1)
        .apisix(&format!("dns_resolver:\n  - {}\nresolver_timeout: 1", records.server.addr()))
        .start();
    let flows = |policy: &str| {
        let mut route = to("db.test", &port);
        if !policy.is_empty() {
            route["upstream"]["on_node_down"] = json!(policy);
        }
        let _ = gateway.put("stream_routes/1", &route);
        let client = udp(gateway.udp(0));
        wait::until_true("resolved", SOON, || {
            let _ = client.send(b"?");
            client::try_receive(&client, Duration::from_millis(200)).is_some()
        });
        client
    };
    let leaves = flows("");
    let stays = flows("keep");
    assert!(b2.received() > 1 && b3.received() == 0);
    records.change("127.0.0.3 db.test\n");
    wait::until_true("the flow goes where the name points", SOON, || {
        let _ = leaves.send(b"!");
        client::try_receive(&leaves, Duration::from_millis(200)) == Some(b"b3:!".to_vec())
    });
    assert_eq!(client::ask(&stays, b"!"), b"b2:!");
}

#[test]
fn sessions_never_wait_for_dns() {
    let Some(records) = Records::start("127.0.0.2 db.test\n", &["local-ttl=1"]) else { return };
    let port = Port::take();
    let _nodes = nodes(&port, [2]);
    // In front of the name server: something that stops passing queries on.
    let stalled = Arc::new(AtomicBool::new(false));
    let (own, server) = (Arc::clone(&stalled), records.server.addr());
    let front = UdpPeer::new(move |query, _| {
        if own.load(Ordering::SeqCst) {
            return Vec::new();
        }
        let socket = udp(server);
        let _ = socket.send(query);
        client::try_receive(&socket, Duration::from_secs(1)).into_iter().collect()
    });
    let gateway = gateway(front.addr(), "");
    gateway.put("stream_routes/1", &to("db.test", &port)).expect(201);
    wait::until_true("resolved", SOON, || names(&gateway, 1) == set(["b2"]));
    stalled.store(true, Ordering::SeqCst);
    let queries = front.received();
    wait::until_true("a query is under way", SOON, || front.received() > queries);
    for _ in 0..20 {
        let began = Instant::now();
        assert_eq!(names(&gateway, 1), set(["b2"]));
        assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
    // Another change, with a name that nobody answers for, is not held up for long either.
    let began = Instant::now();
    gateway.put("stream_routes/2", &to("slow.test", &port)).expect(201);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

// ---- answers that no name server should give

/// The question section of a query, and where it ends.
fn question(query: &[u8]) -> &[u8] {
    let labels = query.get(12..).unwrap_or_default();
    let mut at = 0;
    while let Some(length) = labels.get(at).copied().filter(|length| *length > 0) {
        at += usize::from(length) + 1;
    }
    labels.get(..at + 5).unwrap_or_default()
}

/// An answer with these records, each `(type, time to live, data)`, of the name asked for.
fn answer(query: &[u8], records: &[(u16, u32, Vec<u8>)]) -> Vec<u8> {
    let question = question(query);
    let mut bytes = query[..2].to_vec();
    bytes.extend([0x81, 0x80, 0, 1]);
    bytes.extend((records.len() as u16).to_be_bytes());
    bytes.extend([0, 0, 0, 0]);
    bytes.extend(question);
    for (kind, ttl, data) in records {
        bytes.extend([0xC0, 12]);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1]);
        bytes.extend(ttl.to_be_bytes());
        bytes.extend((data.len() as u16).to_be_bytes());
        bytes.extend(data);
    }
    bytes
}

/// The same answer for a question that nobody asked.
fn other_name(answer: &[u8]) -> Vec<u8> {
    let mut answer = answer.to_vec();
    if let Some(letter) = answer.get_mut(13) {
        *letter = b'x';
    }
    answer
}

fn server_number() -> usize {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    NUMBER.fetch_add(1, Ordering::SeqCst)
}

fn asks_for_a(query: &[u8]) -> bool {
    question(query).ends_with(&[0, 1, 0, 1])
}

#[test]
fn an_answer_of_hundreds_of_addresses() {
    let addresses = (1..=400).map(|n| format!("127.0.{}.{} db.test\n", n / 200, n % 200 + 1));
    let Some(records) = Records::start(&addresses.collect::<String>(), &[]) else { return };
    let port = Port::take();
    // On all of 127.0.0.0/8.
    let _node = TcpPeer::named_at(([0, 0, 0, 0], port.number()).into(), "all");
    let gateway = gateway(records.server.addr(), "");
    gateway.put("stream_routes/1", &to("db.test", &port)).expect(201);
    wait::until_true("resolved", SOON, || names(&gateway, 1) == set(["all"]));
    for _ in 0..400 {
        assert_eq!(names(&gateway, 1), set(["all"]));
    }
    wait::until_true("every address gets its session", SOON, || {
        let lines = gateway.access();
        let upstreams = lines.iter().filter_map(|line| line.split("upstream=").nth(1));
        upstreams.collect::<BTreeSet<_>>().len() >= 400
    });
}

#[test]
fn nonsense_from_a_name_server_harms_nobody() {
    let port = Port::take();
    let _nodes = nodes(&port, [2]);
    // Which kind of answer comes is in the first letter of the name.
    let server = UdpPeer::new(|query, _| {
        let name = question(query);
        let a = |last: u8, ttl| (1_u16, ttl, vec![127, 0, 0, last]);
        let records = match name.get(1) {
            _ if !asks_for_a(query) => Vec::new(),
            Some(b'z') => vec![a(2, 0)],
            Some(b'e') => Vec::new(),
            // An alias of itself, which never ends.
            Some(b'l') => vec![(5, 1, vec![0xC0, 12])],
            // Two aliases of each other: `ping.test` and `qing.test`.
            Some(b'p') if name.get(2) == Some(&b'i') => {
                vec![(5, 1, b"\x04qing\x04test\0".to_vec())]
            }
            Some(b'q') => vec![(5, 1, b"\x04ping\x04test\0".to_vec())],
            // A chain of aliases without end, each of a name not heard before.
            Some(b'c') => {
                let label = format!("c{}", server_number());
                let mut alias = vec![label.len() as u8];
                alias.extend(label.bytes());
                alias.extend(b"\x04test\0");
                vec![(5, 1, alias)]
            }
            // The address of somebody else, unasked for.
            Some(b'o') => return vec![other_name(&answer(query, &[a(2, 60)]))],
            // As many as fit, all the same server.
            Some(b'm') => (0..60).map(|_| a(2, 1)).collect(),
            Some(b'g') => return vec![b"garbage".to_vec(), vec![0; 3], Vec::new()],
            _ => vec![a(2, 60)],
        };
        vec![answer(query, &records)]
    });
    let gateway = gateway(server.addr(), "");
    let node = |host: &str| json!({"host": host, "port": port.number(), "weight": 1});
    for (index, name) in ["zero.test", "many.test", "plain.test"].iter().enumerate() {
        let began = Instant::now();
        gateway.put("stream_routes/1", &to(name, &port)).expect(if index == 0 { 201 } else { 200 });
        wait::until_true(name, SOON, || names(&gateway, 1) == set(["b2"]));
        assert!(began.elapsed() < SOON);
    }
    for name in ["empty.test", "loop.test", "ping.test", "chain.test", "other.test", "garbage.test"]
    {
        let both = json!({"upstream": {"nodes": [node(name), node("plain.test")]}});
        gateway.put("stream_routes/1", &both).expect(200);
        assert_eq!(names(&gateway, 4), set(["b2"]), "{name}");
        gateway.wait_for_log(&format!("dns resolver domain: {name} error: "), SOON);
    }
    // A time to live of 0 is not a reason to ask all the time.
    gateway.put("stream_routes/1", &to("zero.test", &port)).expect(200);
    wait::until_true("resolved", SOON, || names(&gateway, 1) == set(["b2"]));
    let before = server.received();
    std::thread::sleep(Duration::from_secs(3));
    let queries = server.received() - before;
    assert!((1..=8).contains(&queries), "{queries} queries in 3 seconds");
}
