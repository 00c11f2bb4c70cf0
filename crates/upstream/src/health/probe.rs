//! Probes: one question to an endpoint and what its answer means. Every step has a time limit and
//! reads no more than it needs.

mod http;
mod mysql;
mod plain;
mod postgres;
mod redis;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use headgate_model::resource::checks::{Active, ProbeKind};
use headgate_net::origin;
use headgate_telemetry::LogLimit;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use super::Event;
use crate::client_tls::{Connection, Connector};
use crate::sources::Attempts;
use crate::{Address, Endpoint, Sources};

static UNSENT: LogLimit = LogLimit::per_second(1);

/// What an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Good,
    BadStatus,
    /// A status in neither list.
    Neutral,
}

/// What it means whether a server could be reached. `None`: nothing is learned about it.
pub(super) fn meaning(result: io::Result<()>, endpoint: &Endpoint) -> Option<Event> {
    match result {
        Ok(()) => Some(Event::Success),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Some(Event::Timeout),
        Err(error) if is_ours(&error) => {
            if let Some(suppressed) = UNSENT.check(Instant::now()) {
                tracing::error!(%error, suppressed, "no probe could be sent");
            }
            None
        }
        Err(error) => {
            tracing::debug!(target = endpoint.target(), %error, "a probe failed");
            Some(Event::TcpFailure)
        }
    }
}

/// Where a probe goes to that only has to connect.
pub(super) fn to_knock_at(active: &Active, endpoint: &Endpoint) -> Option<SocketAddr> {
    let only_connects =
        active.kind == ProbeKind::Tcp && active.send.is_none() && active.expect.is_none();
    match address(active, endpoint) {
        Address::Ip(address) if only_connects => Some(address),
        _ => None,
    }
}

fn address(active: &Active, endpoint: &Endpoint) -> Address {
    match (&endpoint.address, active.port) {
        (Address::Ip(address), Some(port)) => Address::Ip(SocketAddr::new(address.ip(), port)),
        (address, _) => address.clone(),
    }
}

/// What of an upstream its probes need.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way<'a> {
    /// What they name the server, whatever its node is called.
    pub(super) host: Option<&'a str>,
    /// Where they leave from.
    pub(super) sources: Option<&'a Sources>,
}

/// Sends probes.
#[derive(Debug)]
pub(super) struct Prober {
    tls: Connector,
}

impl Prober {
    pub(super) fn new(trusted: Option<&Path>) -> Self {
        Self { tls: Connector::new(trusted) }
    }

    /// Probes an endpoint. `None`: nothing was learned about it.
    pub(super) async fn probe(
        &self,
        active: &Active,
        endpoint: &Endpoint,
        way: Way<'_>,
    ) -> Option<Event> {
        match self.ask(active, endpoint, way).await {
            Ok(Answer::Good) => meaning(Ok(()), endpoint),
            Ok(Answer::BadStatus) => Some(Event::HttpFailure),
            Ok(Answer::Neutral) => None,
            Err(error) => meaning(Err(error), endpoint),
        }
    }

    async fn ask(
        &self,
        active: &Active,
        endpoint: &Endpoint,
        Way { host, sources }: Way<'_>,
    ) -> io::Result<Answer> {
        let limit = active.timeout;
        let address = address(active, endpoint);
        if active.kind == ProbeKind::Udp {
            return plain::udp(active, &address, sources).await;
        }
        let mut stream = within(limit, connect(&address, sources)).await?;
        if active.kind.is_http() {
            let host = http::host(active, endpoint, host);
            let request = http::request(active, &host);
            let mut stream = match active.kind {
                ProbeKind::Https => {
                    within(limit, self.tls.connect(stream, &host, active.verify)).await?
                }
                _ => stream,
            };
            within(limit, stream.write_all(&request)).await?;
            return http::answer(active, &mut stream, limit).await;
        }
        match active.kind {
            ProbeKind::Redis => redis::ask(&mut stream, limit).await,
            ProbeKind::Mysql => mysql::ask(&mut stream, limit).await,
            ProbeKind::Postgres => postgres::ask(&mut stream, limit).await,
            _ => plain::tcp(active, &mut stream).await,
        }
    }
}

async fn connect(address: &Address, sources: Option<&Sources>) -> io::Result<Box<dyn Connection>> {
    Ok(match (address, sources) {
        (Address::Ip(address), Some(sources)) => {
            Box::new(connect_from_one(sources.attempts(address.ip()), *address).await?)
        }
        (Address::Ip(address), None) => Box::new(TcpStream::connect(address).await?),
        (Address::Unix(path), _) => Box::new(UnixStream::connect(path).await?),
    })
}

async fn connect_from_one(mut attempts: Attempts<'_>, to: SocketAddr) -> io::Result<TcpStream> {
    while let Some(from) = attempts.next_source() {
        if let Some(result) = attempts.judge(connect_from(from, to).await) {
            return result;
        }
    }
    Err(attempts.failed())
}

async fn connect_from(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    origin::bind_without_port(&socket, from)?;
    socket.connect(to).await
}

/// The result of `step`, or a timeout.
async fn within<T>(limit: Duration, step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| Err(io::ErrorKind::TimedOut.into());
    tokio::time::timeout(limit, step).await.unwrap_or_else(late)
}

/// Appends what comes next to `buffer`, up to `most` bytes in all; an end is an error.
async fn read_more(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
    most: usize,
) -> io::Result<()> {
    let mut part = [0; 1024];
    let free = most.saturating_sub(buffer.len()).min(part.len());
    let Some(part) = part.get_mut(..free).filter(|part| !part.is_empty()) else {
        return Err(bad("the answer is too long"));
    };
    let count = stream.read(part).await?;
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    buffer.extend(part.iter().take(count));
    Ok(())
}

fn bad(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Whether an error says something about this machine, not about the endpoint.
fn is_ours(error: &io::Error) -> bool {
    crate::connector::is_local(error)
}
