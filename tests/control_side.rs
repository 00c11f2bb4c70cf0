//! The data path does not wait for the control side: with every other thread of the process stopped,
//! connections and datagrams are still served.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use headgate_testkit::client::{ask, assert_alive, connect, udp};
use headgate_testkit::process::need;
use headgate_testkit::{Gateway, TcpPeer, UdpPeer};
use serde_json::json;

const BIN: &str = env!("CARGO_BIN_EXE_headgate");

/// Stops threads one by one, as a debugger does, says so, and lets them go when its input ends.
const STOP_THREADS: &str = r"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
ATTACH, DETACH, WALL = 16, 17, 0x40000000
threads = [int(thread) for thread in sys.argv[1:]]
for thread in threads:
    if libc.ptrace(ATTACH, thread, None, None) != 0:
        sys.exit(os.strerror(ctypes.get_errno()))
    os.waitpid(thread, WALL)
print('stopped', flush=True)
sys.stdin.read()
for thread in threads:
    libc.ptrace(DETACH, thread, None, None)
";

struct Stopped(Child);

impl Stopped {
    fn threads(python: &std::path::Path, threads: &[String]) -> Self {
        let mut child = Command::new(python)
            .args(["-c", STOP_THREADS])
            .args(threads)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let mut line = String::new();
        let output = child.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("a line");
        assert_eq!(line.trim(), "stopped");
        Self(child)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// The threads of the gateway that are no data cores.
fn control_threads(gateway: &Gateway) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", gateway.id())).expect("its threads");
    tasks
        .flatten()
        .filter(|task| {
            std::fs::read_to_string(task.path().join("comm"))
                .is_ok_and(|name| !name.starts_with("core-"))
        })
        .filter_map(|task| task.file_name().into_string().ok())
        .collect()
}

#[test]
fn traffic_flows_while_every_other_thread_is_stopped() {
    let Some(python) = need("python3", "python3-minimal") else { return };
    let (node, datagrams) = (TcpPeer::echo(), UdpPeer::echo());
    let gateway = Gateway::builder(BIN).tcp(1).udp(1).start();
    for (id, port, node) in
        [("tcp", gateway.tcp_port(0), node.node()), ("udp", gateway.udp_port(0), datagrams.node())]
    {
        let body = json!({"server_port": port, "upstream": {"nodes": {node: 1}}});
        gateway.put(&format!("stream_routes/{id}"), &body).expect(201);
    }
    let mut before = connect(gateway.tcp(0));
    assert_alive(&mut before);
    let threads = control_threads(&gateway);
    assert!(threads.len() >= 3, "main, the control runtime, the logs: {threads:?}");
    let stopped = Stopped::threads(&python, &threads);

    assert!(std::net::TcpStream::connect_timeout(&gateway.admin(), Duration::from_secs(1)).is_ok());
    for round in 0..300_u32 {
        assert_alive(&mut before);
        assert_alive(&mut connect(gateway.tcp(0)));
        assert_eq!(ask(&udp(gateway.udp(0)), &round.to_be_bytes()), round.to_be_bytes());
    }

    drop(stopped);
    gateway.get("stream_routes/tcp").expect(200);
    assert_alive(&mut before);
}
