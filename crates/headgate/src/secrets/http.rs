//! One request to a secret manager, over HTTP/1.1 on a connection of its own.

use std::time::Duration;

use headgate_upstream::client_tls::{Connection, Connector};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Longest time that a manager gets when its document does not say.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// Largest answer, bytes.
const LARGEST: usize = 1024 * 1024;

/// A request, ready to be sent.
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) uri: Uri,
    /// Beside `Host`.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Vec<u8>,
    pub(super) limit: Duration,
    /// Check the certificate of an `https` server.
    pub(super) verify: bool,
}

impl Call {
    /// Sends it, and answers with status and body.
    ///
    /// # Errors
    /// The manager cannot be reached, or does not answer in time. Nothing of the request is shown
    /// but its URI.
    pub(super) async fn send(self, connector: &Connector) -> Result<(u16, Bytes), String> {
        let (limit, uri) = (self.limit, self.uri.clone());
        match tokio::time::timeout(limit, self.exchange(connector)).await {
            Ok(answer) => answer.map_err(|error| format!("{uri}: {error}")),
            Err(_) => Err(format!("{uri} did not answer within {limit:?}")),
        }
    }

    async fn exchange(self, connector: &Connector) -> Result<(u16, Bytes), String> {
        let is_secure = self.uri.scheme_str() == Some("https");
        let host = self.uri.host().unwrap_or_default();
        let port = self.uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((bare, port)).await.map_err(|error| error.to_string())?;
        let mut stream: Box<dyn Connection> = Box::new(stream);
        if is_secure {
            let secured = connector.connect(stream, host, self.verify).await;
            stream = secured.map_err(|error| error.to_string())?;
        }
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        // Ends when the sender is dropped, or the connection is.
        tokio::spawn(connection);
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request =
            Request::builder().method(self.method).uri(path).header(HOST, authority(&self.uri));
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        let request =
            request.body(Full::new(Bytes::from(self.body))).map_err(|error| error.to_string())?;
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), LARGEST).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        Ok((status, body))
    }
}

/// Host and port as written, for the header.
pub(super) fn authority(uri: &Uri) -> &str {
    uri.authority().map_or("", |authority| authority.as_str())
}

/// A URI that can be asked.
///
/// # Errors
/// It is something else.
pub(super) fn uri(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|error| format!("{text} is not a URI: {error}"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
        return Err(format!("{text} does not begin with http:// or https:// and a host"));
    }
    Ok(uri)
}

/// A member of a manager's document, which may be a reference to the environment.
///
/// # Errors
/// The variable is not set; its value is not shown.
pub(super) fn text(
    document: &serde_json::Value,
    name: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<String, String> {
    let text = document.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
    match text.get(..7).filter(|head| head.eq_ignore_ascii_case("$env://")) {
        Some(_) => {
            let variable = text.get(7..).unwrap_or_default();
            env(variable).ok_or_else(|| {
                format!("the variable {variable} of {name} is not set in the environment")
            })
        }
        None => Ok(text.to_owned()),
    }
}
