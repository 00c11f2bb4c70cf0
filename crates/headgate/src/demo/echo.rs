//! The upstream of the demo: answers what it is sent, over TCP and UDP.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

/// Starts the server on a free port of 127.0.0.1; it ends with the process.
pub(super) fn start() -> io::Result<SocketAddr> {
    let (listener, socket) = bind()?;
    let address = listener.local_addr()?;
    thread::Builder::new().name("echo-tcp".to_owned()).spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = thread::Builder::new().spawn(move || echo(&stream));
        }
    })?;
    thread::Builder::new().name("echo-udp".to_owned()).spawn(move || {
        let mut datagram = vec![0; 65_536];
        loop {
            if let Ok((length, from)) = socket.recv_from(&mut datagram) {
                let _ = socket.send_to(datagram.get(..length).unwrap_or_default(), from);
            }
        }
    })?;
    Ok(address)
}

/// One port that is free for both.
fn bind() -> io::Result<(TcpListener, UdpSocket)> {
    let mut tries = 0;
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        match UdpSocket::bind(listener.local_addr()?) {
            Ok(socket) => return Ok((listener, socket)),
            Err(error) if tries == 20 => return Err(error),
            Err(_) => tries += 1,
        }
    }
}

fn echo(stream: &TcpStream) {
    let (mut from, mut to) = (stream, stream);
    let _ = io::copy(&mut from, &mut to);
    let _ = stream.shutdown(Shutdown::Write);
}
