//! HAProxy, the reference implementation of the PROXY protocol, as a balancer that sends headers
//! or as a server that reads them.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::port::Port;
use crate::process::{Process, need};
use crate::{SOON, proc, wait};

/// A HAProxy in TCP mode with one listener.
#[derive(Debug)]
pub struct HaProxy {
    addr: SocketAddr,
    _process: Process,
    _folder: TempDir,
    _port: Port,
}

impl HaProxy {
    /// Passes connections on to `server`. `accept` are options of its listener (`accept-proxy`),
    /// `send` those of its server (`send-proxy-v2`).
    ///
    /// `None` when HAProxy is missing and `HEADGATE_SKIP_MISSING=1`; otherwise that is a panic.
    #[track_caller]
    #[must_use]
    pub fn start(accept: &str, server: SocketAddr, send: &str) -> Option<Self> {
        let program = need("haproxy", "haproxy")?;
        let folder = TempDir::with_prefix("headgate-haproxy-").expect("a temporary folder");
        let port = Port::take();
        let addr = port.local();
        let path = folder.path().join("haproxy.cfg");
        write_config(&path, &format!("bind {addr} {accept}"), &format!("server s {server} {send}"));
        let mut process = Process::spawn(Command::new(program).arg("-db").arg("-f").arg(&path));
        let listens = wait::try_until(SOON, || {
            (proc::tcp_listens(addr.port()) || process.ended().is_some()).then_some(())
        });
        assert!(
            listens.is_some() && process.ended().is_none(),
            "haproxy does not start; it printed:\n{}",
            process.stderr.text()
        );
        Some(Self { addr, _process: process, _folder: folder, _port: port })
    }

    /// Where it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }
}

fn write_config(path: &Path, bind: &str, server: &str) {
    let text = format!(
        "defaults\n  mode tcp\n  timeout connect 10s\n  timeout client 20s\n  timeout server 20s\n\
         listen l\n  {bind}\n  unique-id-format headgate-test-%pid\n  {server}\n"
    );
    fs::write(path, text).expect("a configuration file");
}
