//! UDP nodes behind the gateway.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use socket2::Socket;

/// A UDP node; answers each datagram with any number of datagrams.
#[derive(Debug)]
pub struct UdpPeer {
    addr: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    received: AtomicUsize,
    sources: Mutex<Vec<SocketAddr>>,
}

impl UdpPeer {
    /// A node on 127.0.0.1 that sends what `answer` returns for each datagram.
    #[must_use]
    pub fn new(answer: impl Fn(&[u8], SocketAddr) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        Self::at((Ipv4Addr::LOCALHOST, 0).into(), answer)
    }

    /// As [`UdpPeer::new`], on an address of one's choice.
    #[must_use]
    pub fn at(
        addr: SocketAddr,
        answer: impl Fn(&[u8], SocketAddr) -> Vec<Vec<u8>> + Send + 'static,
    ) -> Self {
        let socket = UdpSocket::bind(addr).expect("a UDP socket");
        let socket = Socket::from(socket);
        let _ = socket.set_recv_buffer_size(4 << 20);
        let socket = UdpSocket::from(socket);
        // So that it ends even if nothing reaches it any more.
        let _ = socket.set_read_timeout(Some(std::time::Duration::from_millis(500)));
        let addr = socket.local_addr().expect("a bound socket");
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            loop {
                // An ICMP error of an earlier answer shows up here and concerns nobody.
                let received = socket.recv_from(&mut buffer);
                if own.stop.load(Ordering::SeqCst) {
                    break;
                }
                let Ok((count, from)) = received else { continue };
                own.received.fetch_add(1, Ordering::SeqCst);
                {
                    let mut sources = own.sources.lock().unwrap_or_else(PoisonError::into_inner);
                    if !sources.contains(&from) {
                        sources.push(from);
                    }
                }
                for reply in answer(&buffer[..count], from) {
                    let _ = socket.send_to(&reply, from);
                }
            }
        });
        Self { addr, shared, thread: Some(thread) }
    }

    /// Sends every datagram back.
    #[must_use]
    pub fn echo() -> Self {
        Self::new(|payload, _| vec![payload.to_vec()])
    }

    /// Answers `name:` and the datagram: which node was reached?
    #[must_use]
    pub fn named(name: &str) -> Self {
        let name = name.to_owned();
        Self::new(move |payload, _| vec![[name.as_bytes(), b":", payload].concat()])
    }

    /// Answers each datagram with `count` numbered ones, `0:<payload>` and so on.
    #[must_use]
    pub fn multi(count: usize) -> Self {
        Self::new(move |payload, _| {
            (0..count).map(|n| [n.to_string().as_bytes(), b":", payload].concat()).collect()
        })
    }

    /// Answers the address that a datagram came from: which flow was used?
    #[must_use]
    pub fn source_teller() -> Self {
        Self::new(|_, from| vec![from.to_string().into_bytes()])
    }

    /// An echo node on a given address and port.
    #[must_use]
    pub fn echo_at(addr: SocketAddr) -> Self {
        Self::at(addr, |payload, _| vec![payload.to_vec()])
    }

    /// Receives and counts, never answers.
    #[must_use]
    pub fn sink() -> Self {
        Self::new(|_, _| Vec::new())
    }

    /// Address of the node.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The node as Admin API node key.
    #[must_use]
    pub fn node(&self) -> String {
        self.addr.to_string()
    }

    /// Number of datagrams so far.
    #[must_use]
    pub fn received(&self) -> usize {
        self.shared.received.load(Ordering::SeqCst)
    }

    /// Different addresses that datagrams came from, in order of appearance: one for each flow.
    #[must_use]
    pub fn sources(&self) -> Vec<SocketAddr> {
        self.shared.sources.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for UdpPeer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let local = if self.addr.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
        if let Ok(socket) = UdpSocket::bind(local) {
            // Wakes the thread in `recv_from`.
            let _ = socket.send_to(b"", self.addr);
            if let Some(thread) = self.thread.take() {
                let _ = thread.join();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::client::{ask, receive, try_receive, udp};
    use crate::pattern::Pattern;

    #[test]
    fn echo_keeps_boundaries_up_to_the_largest_datagram() {
        let peer = UdpPeer::echo();
        let socket = udp(peer.addr());
        for size in [0, 1, 1_472, 9_000, 65_507] {
            let payload = Pattern::new(size as u64).take(size);
            assert_eq!(ask(&socket, &payload), payload, "size {size}");
        }
        assert_eq!((peer.received(), peer.sources().len()), (5, 1));
    }

    #[test]
    fn many_answers_and_none() {
        let multi = UdpPeer::multi(3);
        let socket = udp(multi.addr());
        assert_eq!(ask(&socket, b"q"), b"0:q");
        assert_eq!((receive(&socket), receive(&socket)), (b"1:q".to_vec(), b"2:q".to_vec()));
        let sink = UdpPeer::sink();
        let socket = udp(sink.addr());
        socket.send(b"q").unwrap();
        assert_eq!(try_receive(&socket, Duration::from_millis(50)), None);
        assert_eq!(sink.received(), 1);
    }
}
