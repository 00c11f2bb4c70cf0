//! Port numbers that no other test uses, in this process or another.
//!
//! A number is held by a lock on a file, which the kernel releases when the process ends however it
//! ends. Numbers are below the ephemeral range, so no outgoing connection takes one by chance. While
//! nothing is bound to it, a held port refuses connections: a dead node for tests.

use std::fs::{self, File, OpenOptions};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u16 = 10_000;
const LAST: u16 = 31_999;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A port number held until this value is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Takes a free port number, free on every address for TCP and UDP.
    #[must_use]
    pub fn take() -> Self {
        Self::take_range(1).pop().expect("a range of one")
    }

    /// Takes `count` consecutive port numbers.
    #[must_use]
    pub fn take_range(count: u16) -> Vec<Self> {
        let span = u32::from(LAST - FIRST + 1 - count);
        // Spread processes over the range, then walk on.
        let start = std::process::id().wrapping_mul(2_654_435_761) % span;
        for _ in 0..span * 2 {
            let step = NEXT.fetch_add(u32::from(count), Ordering::Relaxed);
            let first = FIRST + u16::try_from((start + step) % span).expect("within the range");
            let range: Option<Vec<Self>> = (first..first + count).map(Self::try_take).collect();
            if let Some(range) = range {
                return range;
            }
        }
        panic!("no free port between {FIRST} and {LAST}");
    }

    /// The number.
    #[must_use]
    pub const fn number(&self) -> u16 {
        self.number
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.number).into()
    }

    fn try_take(number: u16) -> Option<Self> {
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(lock_directory().join(number.to_string()))
            .ok()?;
        lock.try_lock().ok()?;
        let free = TcpListener::bind(("0.0.0.0", number)).is_ok()
            && UdpSocket::bind(("0.0.0.0", number)).is_ok()
            && TcpListener::bind(("127.0.0.1", number)).is_ok();
        free.then_some(Self { number, _lock: lock })
    }
}

/// Something on this machine that only one test at a time may use, in this process or another;
/// held until dropped.
#[derive(Debug)]
pub struct Alone {
    _lock: File,
}

impl Alone {
    /// Waits until nobody else holds the lock called `name`.
    #[must_use]
    pub fn hold(name: &str) -> Self {
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(lock_directory().join(name))
            .expect("a lock file");
        lock.lock().expect("a lock");
        Self { _lock: lock }
    }
}

fn lock_directory() -> PathBuf {
    let user = fs::metadata("/proc/self").map_or(0, |own| own.uid());
    let directory = std::env::temp_dir().join(format!("headgate-testkit-ports-{user}"));
    fs::create_dir_all(&directory).expect("a directory for port locks");
    directory
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn no_number_is_given_twice() {
        let threads: Vec<_> = (0..4)
            .map(|_| std::thread::spawn(|| (0..20).map(|_| Port::take()).collect::<Vec<_>>()))
            .collect();
        let all: Vec<Port> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
        let numbers: HashSet<u16> = all.iter().map(Port::number).collect();
        assert_eq!(numbers.len(), 80);
    }

    #[test]
    fn a_range_is_consecutive() {
        let range = Port::take_range(5);
        let first = range[0].number();
        assert!(range.iter().zip(first..).all(|(port, expected)| port.number() == expected));
    }

    #[test]
    fn a_held_port_refuses_connections() {
        let port = Port::take();
        let error = TcpStream::connect(port.local()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    }
}
