//! Tools that people test an L4 proxy with, through the gateway: iperf3, socat, `nc -N`,
//! redis-benchmark, dnsperf.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use headgate_testkit::pattern::Pattern;
use headgate_testkit::process::{Process, need, run};
use headgate_testkit::server::{Dnsmasq, Redis};
use headgate_testkit::{Gateway, Port, SOON, wait};
use serde_json::{Value, json};

const BIN: &str = env!("CARGO_BIN_EXE_headgate");

/// Longer than any of these runs takes.
const LIMIT: Duration = Duration::from_secs(60);

/// A gateway with a listener of each kind, both of which lead to `node`.
fn gateway_to(node: &str) -> Gateway {
    let gateway = Gateway::builder(BIN).tcp(1).udp(1).start();
    let route = json!({"upstream": {"nodes": {node: 1}}});
    gateway.put("stream_routes/1", &route).expect(201);
    gateway
}

/// A file of `size` bytes that a shift or a loss would change.
fn write_pattern(path: &Path, size: usize) -> Vec<u8> {
    let bytes = Pattern::new(7).take(size);
    fs::write(path, &bytes).expect("a file in a temporary folder");
    bytes
}

#[test]
fn iperf3_in_both_directions() {
    let Some(program) = need("iperf3", "iperf3") else { return };
    let port = Port::take();
    let number = port.number().to_string();
    let server = Process::spawn(Command::new(&program).args(["-s", "--forceflush", "-p", &number]));
    wait::until_true("iperf3 listens", SOON, || server.stdout.text().contains("Server listening"));
    let gateway = gateway_to(&port.local().to_string());
    for direction in [None, Some("--reverse"), Some("--bidir")] {
        let to = gateway.tcp_port(0).to_string();
        let mut client = Command::new(&program);
        client.args(["-c", "127.0.0.1", "-p", &to, "-P", "4", "-n", "128M", "-J"]).args(direction);
        let report: Value = serde_json::from_str(&run(&mut client, LIMIT).success().stdout)
            .expect("a report of iperf3");
        // It ends when all is sent, and does not count what is still on the way then.
        let bytes = |side: &str| report["end"][side]["bytes"].as_f64();
        let (sent, received) = (bytes("sum_sent"), bytes("sum_received"));
        assert!(sent > Some(1e8) && received > Some(1e7), "{direction:?}: {sent:?} {received:?}");
    }
}

#[test]
fn files_through_socat() {
    let Some(program) = need("socat", "socat") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (sent, received) = (folder.path().join("sent"), folder.path().join("received"));
    let bytes = write_pattern(&sent, 32 << 20);
    let port = Port::take();
    let listen = format!("TCP-LISTEN:{},bind=127.0.0.1,reuseaddr", port.number());
    let create = format!("CREATE:{}", received.display());
    let mut server = Process::spawn(Command::new(&program).args(["-dd", "-u", &listen, &create]));
    wait::until_true("socat listens", SOON, || server.stderr.text().contains("listening on"));
    let gateway = gateway_to(&port.local().to_string());
    let open = format!("OPEN:{}", sent.display());
    let to = format!("TCP:{}", gateway.tcp(0));
    let _ = run(Command::new(&program).args(["-u", &open, &to]), LIMIT).success();
    assert!(server.wait(SOON).is_some_and(|status| status.success()), "{}", server.stderr.text());
    assert!(fs::read(&received).expect("what socat wrote") == bytes, "the files differ");
}

/// The server answers when its client has ended: whoever does not pass on half-close loses it.
#[test]
fn nc_sends_a_file_and_reads_the_answer() {
    let Some(client) = need("nc", "netcat-openbsd") else { return };
    let Some(server) = need("socat", "socat") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("sent");
    write_pattern(&file, 3 << 20);
    let sum = run(Command::new("sha256sum").arg(&file), SOON).success().stdout;
    let port = Port::take();
    let listen = format!("TCP-LISTEN:{},bind=127.0.0.1,reuseaddr,fork", port.number());
    let server =
        Process::spawn(Command::new(server).args(["-dd", "-t30", &listen, "EXEC:sha256sum"]));
    wait::until_true("socat listens", SOON, || server.stderr.text().contains("listening on"));
    let gateway = gateway_to(&port.local().to_string());
    for _ in 0..3 {
        let line = format!("{} -N 127.0.0.1 {} < \"$1\"", client.display(), gateway.tcp_port(0));
        let answer = run(Command::new("sh").args(["-c", &line, "sh"]).arg(&file), LIMIT).success();
        assert_eq!(answer.stdout.split(' ').next(), sum.split(' ').next(), "{answer:?}");
    }
}

#[test]
fn redis_benchmark_counts_every_answer() {
    let Some(redis) = Redis::start() else { return };
    let Some(program) = need("redis-benchmark", "redis-tools") else { return };
    let gateway = gateway_to(&redis.addr().to_string());
    let to = gateway.tcp_port(0).to_string();
    let mut benchmark = Command::new(program);
    benchmark.args(["-h", "127.0.0.1", "-p", &to, "-c", "50", "-P", "16", "-d", "100"]);
    benchmark.args(["-n", "20000", "-t", "set,get", "--csv"]);
    let report = run(&mut benchmark, LIMIT).success();
    assert!(report.stdout.contains("\"SET\"") && report.stdout.contains("\"GET\""), "{report:?}");
    let stats = run(redis.cli(redis.addr()).args(["INFO", "commandstats"]), SOON).success().stdout;
    for command in ["cmdstat_set:calls=20000,", "cmdstat_get:calls=20000,"] {
        assert!(stats.contains(command), "{stats}");
    }
}

#[test]
fn dnsperf_loses_no_answer() {
    let Some(dns) = Dnsmasq::start() else { return };
    let Some(program) = need("dnsperf", "dnsperf") else { return };
    let gateway = gateway_to(&dns.addr().to_string());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let queries = folder.path().join("queries");
    fs::write(&queries, format!("{} A\n", Dnsmasq::NAME)).expect("a file in a temporary folder");
    let to = gateway.udp_port(0).to_string();
    let mut command = Command::new(program);
    command.args(["-s", "127.0.0.1", "-p", &to, "-c", "20", "-l", "2", "-Q", "2000"]);
    let report = run(command.arg("-d").arg(&queries), LIMIT).success();
    let line = |title: &str| {
        let line = report.stdout.lines().find_map(|line| line.trim().strip_prefix(title));
        line.unwrap_or_else(|| panic!("no {title} in {report:?}")).trim().to_owned()
    };
    assert!(line("Queries lost:").starts_with("0 "), "{report:?}");
    let completed = line("Queries completed:");
    let count = completed.split(' ').next().and_then(|count| count.parse::<u32>().ok());
    assert!(count > Some(500), "{completed}");
    assert!(line("Response codes:").starts_with("NOERROR"), "{report:?}");
}
