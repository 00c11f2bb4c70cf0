//! The client of the demo: sends a line through the gateway and expects it back.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, ensure};

const LIMIT: Duration = Duration::from_secs(5);
/// UDP promises nothing: a datagram without an answer is sent again.
const TRIES: usize = 5;

/// Sends `line` over TCP, says that nothing more comes, and reads the echo to its end.
pub(super) fn tcp(address: SocketAddr, line: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)
        .with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.write_all(format!("{line}\n").as_bytes()).context("sending")?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("reading the echo")?;
    checked(&answer, line)
}

/// Sends `line` as a datagram and waits for the echo.
pub(super) fn udp(address: SocketAddr, line: &str) -> anyhow::Result<String> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(LIMIT / 5))?;
    let mut answer = [0; 256];
    let mut tries = 0;
    let length = loop {
        tries += 1;
        socket.send(format!("{line}\n").as_bytes()).context("sending")?;
        match socket.recv(&mut answer) {
            Ok(length) => break length,
            Err(error) if tries == TRIES => return Err(error).context("waiting for the echo"),
            Err(_) => {}
        }
    };
    checked(answer.get(..length).unwrap_or_default(), line)
}

fn checked(answer: &[u8], line: &str) -> anyhow::Result<String> {
    let answer = String::from_utf8_lossy(answer).trim_end().to_owned();
    ensure!(answer == line, "sent {line:?}, but {answer:?} came back");
    Ok(answer)
}
