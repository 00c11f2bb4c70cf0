//! An MQTT broker and its clients.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::SOON;
use crate::port::Port;
use crate::process::{Finished, Process, need, run};

/// A mosquitto broker that takes anybody; killed when dropped.
#[derive(Debug)]
pub struct Mosquitto {
    addr: SocketAddr,
    publisher: PathBuf,
    subscriber: PathBuf,
    process: Process,
    _folder: TempDir,
    _port: Port,
}

impl Mosquitto {
    /// Starts a broker; `None` when it is missing and may be.
    #[track_caller]
    #[must_use]
    pub fn start() -> Option<Self> {
        let server = need("mosquitto", "mosquitto")?;
        let publisher = need("mosquitto_pub", "mosquitto-clients")?;
        let subscriber = need("mosquitto_sub", "mosquitto-clients")?;
        let folder = TempDir::with_prefix("headgate-mosquitto-").expect("a temporary folder");
        let port = Port::take();
        let addr = port.local();
        let config = folder.path().join("mosquitto.conf");
        let text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\npersistence false\nlog_dest stderr\n\
             log_type all\nconnection_messages true\n",
            addr.port()
        );
        fs::write(&config, text).expect("a file");
        let mut process = Process::spawn(Command::new(server).arg("-c").arg(&config));
        crate::server::wait_ready("mosquitto", &mut process, || {
            crate::proc::tcp_listens(addr.port())
        });
        Some(Self { addr, publisher, subscriber, process, _folder: folder, _port: port })
    }

    /// Where the broker listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Runs `mosquitto_pub` against `to`.
    #[track_caller]
    #[must_use]
    pub fn publish(&self, to: SocketAddr, arguments: &[&str]) -> Finished {
        Self::client(&self.publisher, to, arguments)
    }

    /// Runs `mosquitto_sub` against `to`; give it a number of messages to end by (`-C`).
    #[track_caller]
    #[must_use]
    pub fn subscribe(&self, to: SocketAddr, arguments: &[&str]) -> Finished {
        Self::client(&self.subscriber, to, arguments)
    }

    #[track_caller]
    fn client(program: &PathBuf, to: SocketAddr, arguments: &[&str]) -> Finished {
        let (host, port) = (to.ip().to_string(), to.port().to_string());
        run(Command::new(program).args(["-h", &host, "-p", &port]).args(arguments), SOON)
    }

    /// How often a client of that id has connected.
    #[must_use]
    pub fn connects_of(&self, id: &str) -> usize {
        let part = format!(" as {id} (");
        let text = self.process.stderr.text();
        text.lines()
            .filter(|line| line.contains("New client connected") && line.contains(&part))
            .count()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::client;

    #[test]
    fn a_broker_counts_its_clients() {
        let Some(broker) = Mosquitto::start() else { return };
        let _ = broker.publish(broker.addr(), &["-i", "one", "-t", "t", "-m", "m"]).success();
        crate::wait::until_true("the connect", SOON, || broker.connects_of("one") == 1);
        let mut stream = client::connect(broker.addr());
        stream.write_all(b"no MQTT").expect("sending");
        assert_eq!(client::read_to_end(&mut stream), client::Seen::Closed);
    }
}
