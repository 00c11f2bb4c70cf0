//! The connection to a syslog server, on the control side.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UdpSocket, lookup_host};

use crate::batch::{Failed, Target};

/// How lines travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    /// One after the other, each with a line feed at its end (RFC 6587, section 3.4.2).
    Tcp,
    /// The same inside TLS (RFC 5425 with that framing).
    Tls,
    /// A datagram for each line (RFC 5426).
    Udp,
}

/// Sends batches to one server.
pub(super) struct Sender {
    host: String,
    port: u16,
    transport: Transport,
    limit: Duration,
    open: Option<Connection>,
}

enum Connection {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Sender {
    pub(super) fn new(
        host: String,
        port: u16,
        transport: Transport,
        limit: Duration,
    ) -> Result<Self, String> {
        if transport == Transport::Tls {
            return Err("tls is not built into this version".to_owned());
        }
        Ok(Self { host, port, transport, limit, open: None })
    }

    /// Writes the lines, and counts those that are on their way.
    async fn send(&mut self, lines: &[Vec<u8>], sent: &mut usize) -> io::Result<()> {
        let mut connection = match self.open.take().filter(Connection::is_alive) {
            Some(open) => open,
            None => Connection::open(&self.host, self.port, self.transport).await?,
        };
        match &mut connection {
            Connection::Tcp(stream) => write(stream, lines).await?,
            Connection::Udp(socket) => {
                for line in lines {
                    socket.send(line.strip_suffix(b"\n").unwrap_or(line)).await?;
                    *sent += 1;
                }
            }
        }
        self.open = Some(connection); // not after an error: the next batch gets a new one
        Ok(())
    }
}

impl Target for Sender {
    async fn deliver(&mut self, lines: &[Vec<u8>]) -> Result<(), Failed> {
        let (host, port, limit) = (self.host.clone(), self.port, self.limit);
        tracing::info!("sending a batch logs to {host}:{port}");
        let mut delivered = 0;
        let error = match tokio::time::timeout(limit, self.send(lines, &mut delivered)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {limit:?}"),
        };
        let error = format!("failed to log message: {host}:{port}: {error}");
        Err(Failed { error, delivered })
    }
}

impl Connection {
    async fn open(host: &str, port: u16, transport: Transport) -> io::Result<Self> {
        if transport == Transport::Udp {
            let mut last = io::Error::from(io::ErrorKind::NotFound);
            for address in lookup_host((host, port)).await? {
                let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).await?;
                match socket.connect(address).await {
                    Ok(()) => return Ok(Self::Udp(socket)),
                    Err(error) => last = error,
                }
            }
            return Err(last);
        }
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }

    /// A server that closed the connection would take the next batch without anybody noticing.
    fn is_alive(&self) -> bool {
        let mut byte = [0];
        match self {
            Self::Udp(_) => true,
            Self::Tcp(stream) => {
                matches!(stream.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
        }
    }
}

/// All lines in few writes.
async fn write<W: tokio::io::AsyncWrite + Unpin>(
    stream: &mut W,
    lines: &[Vec<u8>],
) -> io::Result<()> {
    stream.write_all(&lines.concat()).await?;
    stream.flush().await
}
