//! Clients of the gateway: plain sockets with deadlines.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::SOON;

/// What a client saw of a connection that the other side ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Bytes, then an orderly end.
    Bytes(Vec<u8>),
    /// No byte: an orderly end or a reset at once. What the specification calls "closed".
    Closed,
    /// Some bytes, then a reset.
    BytesThenReset(Vec<u8>),
}

/// Connects, with deadlines for everything done on the connection.
#[track_caller]
#[must_use]
pub fn connect(to: SocketAddr) -> TcpStream {
    match TcpStream::connect_timeout(&to, SOON) {
        Ok(stream) => with_deadlines(stream),
        Err(error) => panic!("cannot connect to {to}: {error}"),
    }
}

/// As [`connect`]; `None` if the connection was reset before this side had even seen it, as that of
/// a gateway whose node resets at once may be.
#[track_caller]
#[must_use]
pub fn try_connect(to: SocketAddr) -> Option<TcpStream> {
    match TcpStream::connect_timeout(&to, SOON) {
        Ok(stream) => Some(with_deadlines(stream)),
        Err(error) if is_reset(&error) => None,
        Err(error) => panic!("cannot connect to {to}: {error}"),
    }
}

/// Connects from a local address of one's choice.
#[track_caller]
#[must_use]
pub fn connect_from(local: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = tcp_socket(to);
    socket.bind(&SocketAddr::new(local, 0).into()).expect("a local address");
    if let Err(error) = socket.connect_timeout(&to.into(), SOON) {
        panic!("cannot connect from {local} to {to}: {error}");
    }
    with_deadlines(socket.into())
}

/// Connects with small socket buffers, so that back-pressure shows early.
#[track_caller]
#[must_use]
pub fn connect_with_buffers(to: SocketAddr, bytes: usize) -> TcpStream {
    let socket = tcp_socket(to);
    socket.set_recv_buffer_size(bytes).expect("a receive buffer");
    socket.set_send_buffer_size(bytes).expect("a send buffer");
    if let Err(error) = socket.connect_timeout(&to.into(), SOON) {
        panic!("cannot connect to {to}: {error}");
    }
    with_deadlines(socket.into())
}

fn tcp_socket(to: SocketAddr) -> Socket {
    Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)).expect("a socket")
}

fn with_deadlines(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(SOON)).expect("a deadline");
    stream.set_write_timeout(Some(SOON)).expect("a deadline");
    stream.set_nodelay(true).expect("no delay");
    stream
}

/// Closes a connection with RST instead of FIN.
pub fn reset(stream: TcpStream) {
    let socket = Socket::from(stream);
    socket.set_linger(Some(Duration::ZERO)).expect("linger");
}

/// Reads until the other side ends the connection; panics if it does not.
#[track_caller]
#[must_use]
pub fn read_to_end(stream: &mut TcpStream) -> Seen {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) if bytes.is_empty() => return Seen::Closed,
            Ok(0) => return Seen::Bytes(bytes),
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_reset(&error) && bytes.is_empty() => return Seen::Closed,
            Err(error) if is_reset(&error) => return Seen::BytesThenReset(bytes),
            Err(error) => panic!("neither bytes nor an end after {} bytes: {error}", bytes.len()),
        }
    }
}

/// Whether the other side reset the connection.
#[must_use]
pub fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// Connects and reads what a node that speaks first and closes says (see
/// [`crate::TcpPeer::named`]); `None` when the connection is closed without a byte.
#[track_caller]
#[must_use]
pub fn reach(to: SocketAddr) -> Option<String> {
    name_on(try_connect(to)?)
}

/// As [`reach`], from a local address of one's choice.
#[track_caller]
#[must_use]
pub fn reach_from(local: IpAddr, to: SocketAddr) -> Option<String> {
    name_on(connect_from(local, to))
}

#[track_caller]
fn name_on(mut stream: TcpStream) -> Option<String> {
    match read_to_end(&mut stream) {
        Seen::Closed => None,
        Seen::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).trim_end().to_owned()),
        Seen::BytesThenReset(bytes) => {
            panic!("reset after {:?}", String::from_utf8_lossy(&bytes))
        }
    }
}

/// Sends `bytes`.
#[track_caller]
pub fn send(stream: &mut TcpStream, bytes: &[u8]) {
    if let Err(error) = stream.write_all(bytes) {
        panic!("{} bytes were not taken: {error}", bytes.len());
    }
}

/// Sends `bytes` and reads as many back.
#[track_caller]
#[must_use]
pub fn echo(stream: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    stream.write_all(bytes).expect("the gateway takes bytes");
    let mut back = vec![0; bytes.len()];
    if let Err(error) = stream.read_exact(&mut back) {
        panic!("no echo of {} bytes: {error}", bytes.len());
    }
    back
}

/// Checks that the connection passes bytes in both directions right now.
#[track_caller]
pub fn assert_alive(stream: &mut TcpStream) {
    assert_eq!(echo(stream, b"are you there"), b"are you there");
}

/// A UDP socket connected to `to`, so that only answers from exactly that address arrive.
#[track_caller]
#[must_use]
pub fn udp(to: SocketAddr) -> UdpSocket {
    let local = if to.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let socket = UdpSocket::bind(local).expect("a UDP socket");
    socket.set_read_timeout(Some(SOON)).expect("a deadline");
    socket.connect(to).expect("connect of a UDP socket");
    socket
}

/// Sends a datagram and waits for one answer.
#[track_caller]
#[must_use]
pub fn ask(socket: &UdpSocket, payload: &[u8]) -> Vec<u8> {
    socket.send(payload).expect("send of a datagram");
    receive(socket)
}

/// Waits for one datagram.
#[track_caller]
#[must_use]
pub fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    match socket.recv(&mut buffer) {
        Ok(count) => {
            buffer.truncate(count);
            buffer
        }
        Err(error) => panic!("no datagram: {error}"),
    }
}

/// Waits for one datagram for `limit`; `None` when nothing comes.
#[must_use]
pub fn try_receive(socket: &UdpSocket, limit: Duration) -> Option<Vec<u8>> {
    socket.set_read_timeout(Some(limit)).expect("a deadline");
    let mut buffer = vec![0; 65_536];
    let answer = socket.recv(&mut buffer);
    socket.set_read_timeout(Some(SOON)).expect("a deadline");
    answer.ok().map(|count| {
        buffer.truncate(count);
        buffer
    })
}
