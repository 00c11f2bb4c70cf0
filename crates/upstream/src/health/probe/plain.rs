//! `tcp` and `udp`: connecting, and what was sent and expected.

use std::io;
use std::net::IpAddr;

use headgate_model::resource::checks::Active;
use headgate_net::origin::NotHere;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UdpSocket;

use super::{Answer, bad, read_more, within};
use crate::{Address, Sources};

/// Bytes of an answer that are searched.
const SEARCHED: usize = 64 * 1024;

/// The connection stands; sends and expects what is configured.
pub(super) async fn tcp(
    active: &Active,
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> io::Result<Answer> {
    if let Some(send) = &active.send {
        within(active.timeout, stream.write_all(send.as_bytes())).await?;
    }
    let Some(expect) = &active.expect else { return Ok(Answer::Good) };
    let search = async {
        let mut answer = Vec::new();
        loop {
            read_more(stream, &mut answer, SEARCHED).await?;
            if contains(&answer, expect.as_bytes()) {
                return Ok(Answer::Good);
            }
        }
    };
    within(active.timeout, search).await
}

/// Sends a datagram. Without `expect` silence is good enough, and only a refusal (ICMP) is bad.
pub(super) async fn udp(
    active: &Active,
    address: &Address,
    sources: Option<&Sources>,
) -> io::Result<Answer> {
    let Address::Ip(address) = address else {
        return Err(bad("a Unix socket takes no datagrams"));
    };
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = match sources {
        Some(sources) => UdpSocket::from_std(sources.open(address.ip(), bind)?)?,
        None => UdpSocket::bind(any).await?,
    };
    socket.connect(address).await?;
    socket.send(active.send.as_deref().unwrap_or_default().as_bytes()).await?;
    let answered = async {
        let mut answer = vec![0; SEARCHED];
        loop {
            let count = socket.recv(&mut answer).await?;
            let answer = answer.get(..count).unwrap_or_default();
            if active.expect.as_ref().is_none_or(|expect| contains(answer, expect.as_bytes())) {
                return Ok(Answer::Good);
            }
        }
    };
    match within(active.timeout, answered).await {
        Err(error) if error.kind() == io::ErrorKind::TimedOut && active.expect.is_none() => {
            Ok(Answer::Good)
        }
        result => result,
    }
}

fn bind(from: IpAddr) -> io::Result<std::net::UdpSocket> {
    let socket = std::net::UdpSocket::bind((from, 0)).map_err(|error| match error.kind() {
        io::ErrorKind::AddrNotAvailable => io::Error::new(error.kind(), NotHere(from)),
        _ => error,
    })?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    part.is_empty() || text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found_anywhere() {
        for (text, part, found) in [
            ("220 mail", "220", true),
            ("220 mail", "mail", true),
            ("220 mail", "", true),
            ("", "x", false),
            ("22", "220", false),
        ] {
            assert_eq!(contains(text.as_bytes(), part.as_bytes()), found, "{text} {part}");
        }
    }
}
