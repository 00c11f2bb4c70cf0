use std::time::Duration;

use super::*;
use crate::EventLoop;
use crate::udp::Run;

struct Pair {
    owner: EventLoop,
    listener: UdpListener,
    address: SocketAddr,
}

fn listener(at: &str) -> Pair {
    let owner = EventLoop::new().unwrap();
    let fd = crate::listener::bind_udp(at.parse().unwrap(), true).unwrap();
    let address = crate::socket::local_addr(&fd).unwrap();
    let listener = UdpListener::new(&owner, fd, 1).unwrap();
    Pair { owner, listener, address }
}

fn turn(owner: &EventLoop) {
    let (mut ready, mut expired) = (Vec::new(), Vec::new());
    owner.turn(|| Some(Duration::from_secs(5)), &mut ready, &mut expired).unwrap();
}

/// Sizes that arrive at `client`, each checked to hold the byte that it was filled with.
fn arrived(client: &std::net::UdpSocket, count: usize) -> Vec<(u8, usize)> {
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut buffer = vec![0; 70_000];
    (0..count)
        .map(|_| {
            let length = client.recv(&mut buffer).unwrap();
            let fill = buffer[..length].first().copied().unwrap_or_default();
            assert!(buffer[..length].iter().all(|byte| *byte == fill));
            (fill, length)
        })
        .collect()
}

#[test]
fn runs_are_cut_back_into_the_datagrams_that_they_were() {
    for at in ["127.0.0.1:0", "[::1]:0"] {
        let Pair { owner, listener, address } = listener(at);
        let server = std::net::UdpSocket::bind(at).unwrap();
        let socket = UdpSocket::connect(&owner, server.local_addr().unwrap(), 2).unwrap();
        let clients: Vec<_> = (0..2).map(|_| std::net::UdpSocket::bind(at).unwrap()).collect();
        clients.iter().for_each(|client| client.connect(address).unwrap());
        let flow = crate::socket::local_addr(&socket).unwrap();
        // Runs with a short end, of one, of nothing, too large to be cut, and of another client.
        let sizes = [100, 100, 40, 100, 0, 0, 1452, 1452, 9_000, 9_000, 65_000, 7, 7, 7, 7, 7];
        let mut replies = Replies::default();
        let mut expected: [Vec<(u8, usize)>; 2] = Default::default();
        for (number, size) in sizes.into_iter().enumerate() {
            let (fill, client) = (number as u8 + 1, usize::from(number > 12));
            server.send_to(&vec![fill; size], flow).unwrap();
            expected[client].push((if size == 0 { 0 } else { fill }, size));
            let to = clients[client].local_addr().unwrap();
            let from = Some(address.ip());
            let recipient = Recipient { to, from, owner: client as u64 };
            loop {
                let taken = replies.take(&socket, &recipient).unwrap();
                if taken.datagrams > 0 {
                    assert_eq!(taken, Taken { datagrams: 1, bytes: size });
                    break;
                }
                turn(&owner);
            }
        }
        let mut told = [0, 0];
        replies.send(&listener, |owner, sent| {
            told[owner as usize] += 1;
            assert!(sent.is_some());
        });
        assert!(replies.is_empty());
        assert_eq!(told, [13, 3]);
        for (client, expected) in clients.iter().zip(expected) {
            assert_eq!(arrived(client, expected.len()), expected);
        }
    }
}

#[test]
fn a_full_house_takes_nothing_and_loses_nothing() {
    let Pair { owner, listener, address } = listener("127.0.0.1:0");
    let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let socket = UdpSocket::connect(&owner, server.local_addr().unwrap(), 2).unwrap();
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = client.local_addr().unwrap();
    let flow = crate::socket::local_addr(&socket).unwrap();
    for _ in 0..100 {
        server.send_to(b"x", flow).unwrap();
    }
    turn(&owner);
    let recipient = Recipient { to, from: Some(address.ip()), owner: 9 };
    let mut replies = Replies::default();
    let (mut taken, mut sent) = (0, 0);
    while taken < 100 {
        match replies.take(&socket, &recipient).unwrap().datagrams {
            0 => {
                assert!(replies.is_full());
                replies.send(&listener, |_, size| sent += size.unwrap_or_default());
            }
            count => taken += count,
        }
    }
    replies.send(&listener, |_, size| sent += size.unwrap_or_default());
    assert_eq!((taken, sent), (100, 100));
    assert_eq!(arrived(&client, 100).len(), 100);
}

#[test]
fn an_unreachable_client_costs_only_its_own_datagrams() {
    let Pair { owner, listener, address } = listener("127.0.0.1:0");
    let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let socket = UdpSocket::connect(&owner, server.local_addr().unwrap(), 2).unwrap();
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let good = client.local_addr().unwrap();
    let flow = crate::socket::local_addr(&socket).unwrap();
    let mut replies = Replies::default();
    // Nobody can be reached at port 0.
    for (owner_of, to) in [(0, good), (1, SocketAddr::new(good.ip(), 0)), (2, good)] {
        server.send_to(b"x", flow).unwrap();
        let recipient = Recipient { to, from: Some(address.ip()), owner: owner_of };
        while replies.take(&socket, &recipient).unwrap().datagrams == 0 {
            turn(&owner);
        }
    }
    let mut told = Vec::new();
    replies.send(&listener, |owner, sent| told.push((owner, sent)));
    assert_eq!(told, [(0, Some(1)), (1, None), (2, Some(1))]);
    assert_eq!(arrived(&client, 2).len(), 2);
}

#[test]
fn a_run_to_a_server_arrives_as_it_was() {
    let owner = EventLoop::new().unwrap();
    let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let socket = UdpSocket::connect(&owner, server.local_addr().unwrap(), 2).unwrap();
    let datagrams: Vec<Vec<u8>> =
        [512, 512, 512, 100].into_iter().enumerate().map(|(n, size)| vec![n as u8; size]).collect();
    let mut run = Run::default();
    assert!(datagrams.iter().all(|datagram| run.accepts(datagram)));
    assert!(!run.accepts(&datagrams[0]), "nothing follows a shorter one");
    assert_eq!(socket.send(run.datagrams()).unwrap(), 1_636);
    assert_eq!(arrived(&server, 4), [(0, 512), (1, 512), (2, 512), (3, 100)]);
    run.clear();
    assert!(run.accepts(&[]) && !run.accepts(&[1]), "an empty datagram travels alone");
    assert_eq!(socket.send(run.datagrams()).unwrap(), 0);
    assert_eq!(arrived(&server, 1), [(0, 0)]);
}
