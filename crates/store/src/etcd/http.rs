//! HTTP/1.1 towards one member of the cluster.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::tls;

type Sender = SendRequest<Full<Bytes>>;

/// Connections kept open to one member.
const IDLE: usize = 4;
/// Limit for connecting, with TLS.
const CONNECT: Duration = Duration::from_secs(3);

/// One member: where it is and the idle connections to it.
pub(super) struct Member {
    /// As configured, for messages.
    pub(super) url: String,
    /// `name:port`, as in the header `Host` and for connecting.
    authority: String,
    /// Name without brackets.
    name: String,
    port: u16,
    tls: Option<TlsConnector>,
    sni: Option<String>,
    idle: Mutex<Vec<Sender>>,
}

/// A request that failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: String,
    /// The member cannot have seen the request.
    pub(super) was_not_sent: bool,
}

impl Member {
    /// Reads `scheme://name[:port]`.
    pub(super) fn new(url: &str, tls: &TlsConnector, sni: Option<&str>) -> Self {
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        let is_secure = scheme == "https";
        let (name, port) = match rest.strip_prefix('[').and_then(|six| six.split_once(']')) {
            Some((name, port)) => (name, port.strip_prefix(':')),
            None => match rest.split_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (rest, None),
            },
        };
        let port = port.and_then(|port| port.parse().ok()).unwrap_or(2379);
        let authority =
            if name.contains(':') { format!("[{name}]:{port}") } else { format!("{name}:{port}") };
        Self {
            url: url.to_owned(),
            authority,
            name: name.to_owned(),
            port,
            tls: is_secure.then(|| tls.clone()),
            sni: sni.map(str::to_owned),
            idle: Mutex::new(Vec::new()),
        }
    }

    /// Sends a request and returns the answer when its head is there.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: &[u8],
        token: Option<&str>,
    ) -> Result<(Response<Incoming>, Sender), Failed> {
        let mut request = self.request(method, path, body, token)?;
        // A connection that was closed while it was idle has not taken the request.
        while let Some(mut sender) = self.take_idle() {
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, sender)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(failed(error.error(), false)),
                },
            }
        }
        let mut sender = tokio::time::timeout(CONNECT, self.connect())
            .await
            .unwrap_or_else(|_| Err(io::Error::other("timeout")))
            .map_err(|error| failed(&error, true))?;
        match sender.send_request(request).await {
            Ok(response) => Ok((response, sender)),
            Err(error) => Err(failed(&error, error.is_canceled())),
        }
    }

    /// Keeps a connection whose answer was read to its end.
    pub(super) fn keep(&self, sender: Sender) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if !sender.is_closed() && idle.len() < IDLE {
            idle.push(sender);
        }
    }

    fn take_idle(&self) -> Option<Sender> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: &[u8],
        token: Option<&str>,
    ) -> Result<Request<Full<Bytes>>, Failed> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json");
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token);
        }
        let body = Full::new(Bytes::copy_from_slice(body));
        request.body(body).map_err(|error| failed(&error, true))
    }

    async fn connect(&self) -> io::Result<Sender> {
        let socket = TcpStream::connect((self.name.as_str(), self.port)).await?;
        socket.set_nodelay(true)?;
        match &self.tls {
            None => handshake(TokioIo::new(socket)).await,
            Some(connector) => {
                let name = tls::server_name(self.sni.as_deref().unwrap_or(&self.name))?;
                handshake(TokioIo::new(connector.connect(name, socket).await?)).await
            }
        }
    }
}

async fn handshake<T>(stream: TokioIo<T>) -> io::Result<Sender>
where
    TokioIo<T>: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let (sender, connection) = http1::handshake(stream).await.map_err(io::Error::other)?;
    // Ends when the sender is dropped or the member closes; errors show in the request.
    tokio::spawn(connection);
    Ok(sender)
}

fn failed(error: &dyn std::error::Error, was_not_sent: bool) -> Failed {
    let mut text = error.to_string();
    if let Some(cause) = error.source() {
        text = format!("{text}: {cause}");
    }
    Failed { error: text, was_not_sent }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let tls = tls::connector(&tls::Files::default()).unwrap();
        for (url, authority, secure) in [
            ("http://127.0.0.1:2379", "127.0.0.1:2379", false),
            ("https://etcd.test", "etcd.test:2379", true),
            ("http://[::1]:4001", "[::1]:4001", false),
            ("http://[fd00::2]", "[fd00::2]:2379", false),
        ] {
            let member = Member::new(url, &tls, None);
            assert_eq!((member.authority.as_str(), member.tls.is_some()), (authority, secure));
        }
    }
}
