//! The connection to a syslog server, on the control side.

use std::io;
use std::time::Duration;

use headgate_upstream::client_tls::{Connection, Connector};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
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
    open: Option<Open>,
    tls: Connector,
}

enum Open {
    Stream(Box<dyn Connection>),
    Datagrams(UdpSocket),
}

impl Sender {
    pub(super) fn new(host: String, port: u16, transport: Transport, limit: Duration) -> Self {
        Self { host, port, transport, limit, open: None, tls: Connector::new(None) }
    }

    /// Writes the lines, and counts those that are on their way.
    async fn send(&mut self, lines: &[Vec<u8>], sent: &mut usize) -> io::Result<()> {
        let mut open = match self.open.take() {
            Some(open) => open.unless_closed().await,
            None => None,
        };
        let mut open = match open.take() {
            Some(open) => open,
            None => self.connect().await?,
        };
        match &mut open {
            Open::Stream(stream) => {
                stream.write_all(&lines.concat()).await?;
                stream.flush().await?;
            }
            Open::Datagrams(socket) => {
                for line in lines {
                    socket.send(line.strip_suffix(b"\n").unwrap_or(line)).await?;
                    *sent += 1;
                }
            }
        }
        self.open = Some(open); // not after an error: the next batch gets a new one
        Ok(())
    }

    async fn connect(&mut self) -> io::Result<Open> {
        let (host, port) = (self.host.as_str(), self.port);
        if self.transport == Transport::Udp {
            let mut last = io::Error::from(io::ErrorKind::NotFound);
            for address in lookup_host((host, port)).await? {
                let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).await?;
                match socket.connect(address).await {
                    Ok(()) => return Ok(Open::Datagrams(socket)),
                    Err(error) => last = error,
                }
            }
            return Err(last);
        }
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Connection> = Box::new(stream);
        Ok(Open::Stream(match self.transport {
            // The reference does not look at the server's certificate either.
            Transport::Tls => self.tls.connect(stream, host, false).await?,
            _ => stream,
        }))
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

impl Open {
    /// A server that closed the connection would take the next batch without anybody noticing.
    /// Servers of this protocol say nothing; whatever can be read is the end.
    async fn unless_closed(self) -> Option<Self> {
        let Self::Stream(mut stream) = self else { return Some(self) };
        let mut byte = [0];
        let silent = tokio::time::timeout(Duration::ZERO, stream.read(&mut byte)).await.is_err();
        silent.then_some(Self::Stream(stream))
    }
}
