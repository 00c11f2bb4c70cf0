//! System calls per unit of work: free of noise, so a regression shows at once
//! (`docs/internals/testing.md`). Counted with strace on the running gateway.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use headgate_testkit::client::{ask, connect, udp};
use headgate_testkit::process::{need, report};
use headgate_testkit::{Gateway, SOON, TcpPeer, UdpPeer, wait};
use serde_json::json;

const BIN: &str = env!("CARGO_BIN_EXE_headgate");

/// Counts the system calls of the data core while `work` runs.
fn count(gateway: &Gateway, strace: &str, work: impl FnOnce()) -> f64 {
    let core = data_core(gateway.id());
    let file = tempfile::NamedTempFile::new().expect("a file");
    let mut tracer = Tracer(
        Command::new(strace)
            .args(["-q", "-o"])
            .arg(file.path())
            .args(["-p", &core.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace"),
    );
    wait::until_true("strace is attached", SOON, || {
        let status = std::fs::read_to_string(format!("/proc/{core}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
    });
    work();
    tracer.stop();
    let calls = std::fs::read_to_string(file.path()).expect("strace's output");
    // One line a call; a call that was interrupted by the attachment or detachment has none.
    if std::env::var_os("HEADGATE_SHOW_CALLS").is_some() {
        report(&calls);
    }
    calls.lines().filter(|line| line.contains('(')).count() as f64
}

struct Tracer(Child);

impl Tracer {
    fn stop(&mut self) {
        let _ = Command::new("kill").args(["-INT", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The thread id of the only data core.
fn data_core(process: u32) -> u32 {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("the gateway runs");
    tasks
        .filter_map(|task| {
            let path = task.ok()?.path();
            let name = std::fs::read_to_string(path.join("comm")).ok()?;
            (name.trim() == "core-0").then_some(path)
        })
        .find_map(|path| path.file_name()?.to_str()?.parse().ok())
        .expect("a data core")
}

fn gateway(tcp: &TcpPeer, udp: &UdpPeer) -> Gateway {
    let gateway =
        Gateway::builder(BIN).tcp(1).udp(1).workers(1).log_level("warn").no_access_log().start();
    for (id, port, node) in
        [("tcp", gateway.tcp_port(0), tcp.node()), ("udp", gateway.udp_port(0), udp.node())]
    {
        let body = json!({"server_port": port, "upstream": {"nodes": {node: 1}}});
        gateway.put(&format!("stream_routes/{id}"), &body).expect(201);
    }
    gateway
}

fn round_trip(stream: &mut TcpStream) {
    let mut answer = [0; 64];
    stream.write_all(&[7; 64]).expect("sent");
    stream.read_exact(&mut answer).expect("answered");
}

#[test]
fn a_unit_of_work_costs_no_more_system_calls_than_it_did() {
    let Some(strace) = need("strace", "strace") else { return };
    let strace = strace.to_string_lossy().into_owned();
    let (tcp, dns) = (TcpPeer::echo(), UdpPeer::echo());
    let gateway = gateway(&tcp, &dns);
    const UNITS: usize = 200;

    // read, write, read, write, and one wait for each of the two.
    let mut stream = connect(gateway.tcp(0));
    round_trip(&mut stream);
    let calls = count(&gateway, &strace, || (0..UNITS).for_each(|_| round_trip(&mut stream)));
    let trip = calls / UNITS as f64;

    // accept twice (once in vain), socket, nodelay, connect, two registrations, the round trip,
    // two ends, a shutdown, two closes, and a wait for each of six events. A debug build of std
    // asks for the flags of a descriptor before it closes it.
    let calls = count(&gateway, &strace, || {
        for _ in 0..UNITS {
            let mut stream = connect(gateway.tcp(0));
            round_trip(&mut stream);
            stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
            assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
        }
    });
    let connection = calls / UNITS as f64;

    // One by one nothing can be batched: receive, send, receive, send, two waits.
    let socket = udp(gateway.udp(0));
    let _ = ask(&socket, b"x");
    let calls = count(&gateway, &strace, || {
        (0..UNITS).for_each(|_| drop(ask(&socket, &[7; 64])));
    });
    let datagram = calls / UNITS as f64;

    report(&format!(
        "system calls: TCP round trip {trip:.2}, connection {connection:.2}, UDP round trip {datagram:.2}"
    ));
    assert!(trip <= 6.1, "a TCP round trip takes {trip:.2} system calls");
    assert!(connection <= 24.0, "a connection takes {connection:.2} system calls");
    assert!(datagram <= 6.1, "a UDP round trip takes {datagram:.2} system calls");
}
