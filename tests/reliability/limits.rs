//! The machine gives less than is asked for.

use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;

use headgate_testkit::client::{self, assert_alive, connect};
use headgate_testkit::process::report;
use headgate_testkit::proof::{Scenario, scale};
use headgate_testkit::tls::TlsClient;
use headgate_testkit::{SOON, proc, wait};

use crate::crowd::descriptors_up_to;
use crate::load::Site;

/// A memory cgroup of one process (v1 or v2).
struct Cgroup {
    folder: PathBuf,
    is_v2: bool,
}

impl Cgroup {
    /// `None` where this process may not make one.
    fn with_limit(bytes: u64) -> Option<Self> {
        let name = format!("headgate-test-{}", std::process::id());
        let (v1, v2) = ("/sys/fs/cgroup/memory", "/sys/fs/cgroup");
        let is_v2 = !PathBuf::from(v1).join("cgroup.procs").exists();
        let folder = PathBuf::from(if is_v2 { v2 } else { v1 }).join(name);
        fs::create_dir(&folder).ok()?;
        let cgroup = Self { folder, is_v2 };
        let limit = if is_v2 { "memory.max" } else { "memory.limit_in_bytes" };
        fs::write(cgroup.folder.join(limit), bytes.to_string()).ok()?;
        Some(cgroup)
    }

    fn take(&self, id: u32) -> bool {
        fs::write(self.folder.join("cgroup.procs"), id.to_string()).is_ok()
    }

    /// Most memory that was in use at once; 0 where the kernel does not tell.
    fn peak(&self) -> u64 {
        let file = if self.is_v2 { "memory.peak" } else { "memory.max_usage_in_bytes" };
        let text = fs::read_to_string(self.folder.join(file)).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = wait::try_until(SOON, || fs::remove_dir(&self.folder).ok());
    }
}

#[test]
fn little_memory_under_flood() {
    const LIMIT: u64 = 128 << 20;
    let (talkers, hellos, flows) = scale((1_000, 500, 1_000), (3_000, 2_000, 4_000));
    Scenario {
        name: "little_memory_under_flood",
        fault: "a memory cgroup of 128 MiB, flooded with busy connections, half handshakes and UDP \
                flows",
        promise: "not killed, others are served",
    }
    .prove(|| {
        let Some(cgroup) = Cgroup::with_limit(LIMIT) else {
            report("SKIPPED: this process may not make a memory cgroup");
            return "not measured: no memory cgroup here".to_owned();
        };
        let limit = descriptors_up_to(20_000);
        let mut site = Site::with(|builder| {
            builder
                .nginx("worker_rlimit_nofile: 20000\nevent:\n  worker_connections: 20000")
                .descriptor_limit(limit)
        });
        if !cgroup.take(site.gateway.id()) {
            report("SKIPPED: a process cannot be moved into the memory cgroup");
            return "not measured: no memory cgroup here".to_owned();
        }
        let (_, hello) = TlsClient::default().hello("a.test");
        let mut held: Vec<TcpStream> = Vec::new();
        for n in 0..talkers {
            let mut stream = connect(site.gateway.tcp(0));
            assert_eq!(client::echo(&mut stream, &[7; 4_000]), [7; 4_000], "talker {n}");
            held.push(stream);
        }
        for _ in 0..hellos {
            let mut stream = connect(site.gateway.tcp(1));
            client::send(&mut stream, &hello[..hello.len() / 2]);
            held.push(stream);
        }
        let sockets: Vec<_> = (0..flows).map(|_| client::udp(site.gateway.udp(0))).collect();
        for socket in &sockets {
            let _ = socket.send(&[7; 1_000]);
        }
        for socket in sockets.iter().rev().take(50) {
            let answer = wait::try_until(SOON, || {
                socket.send(b"again").ok()?;
                client::try_receive(socket, std::time::Duration::from_millis(500))
            });
            assert!(answer.is_some(), "a flow is not answered");
        }
        for _ in 0..20 {
            assert_alive(&mut connect(site.gateway.tcp(0)));
        }
        site.gateway.put("upstreams/spare", &serde_json::json!({"nodes": {}})).expect(201);
        let (peak, resident) = (cgroup.peak() >> 20, proc::private(site.gateway.id()) >> 20);
        drop((held, sockets));
        wait::until_true("the sessions have ended", SOON * 2, || site.node.live() == 0);
        let _ = site.gateway.stop();
        format!(
            "{talkers} connections, {hellos} half handshakes, {flows} flows: {resident} MiB private, \
             {peak} MiB at most in the cgroup"
        )
    });
}
