//! One POST for each batch, on the control side.

use std::io::{self, Write as _};
use std::time::Duration;

use headgate_upstream::client_tls::{Connection, Connector};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::batch::{Failed, Target};

/// Most bytes of an answer that are looked at.
const ANSWER: usize = 4096;

/// How records become a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// A JSON object.
    One,
    /// A JSON array.
    Array,
    /// An object on each line.
    Lines,
}

/// Where to send to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Uri {
    secure: bool,
    /// Host and port as written, for the header.
    authority: String,
    host: String,
    port: u16,
    path: String,
}

impl Uri {
    /// Parses `http://host[:port][/path]` and `https://`.
    ///
    /// # Errors
    /// It is something else.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let bad = |why: &str| Err(format!("invalid uri {text}: {why}"));
        let (secure, rest) = match text.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => return bad("it must begin with http:// or https://"),
        };
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return bad("blanks and other bytes must be percent-encoded");
        }
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let slash = if path.starts_with('/') { "" } else { "/" };
        let path = format!("{slash}{path}");
        if authority.contains('@') {
            return bad("use auth_header instead of a user");
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return bad("it has no host");
        }
        let port = match port.map(str::parse::<u16>) {
            None => {
                if secure {
                    443
                } else {
                    80
                }
            }
            Some(Ok(port)) if port > 0 => port,
            Some(_) => return bad("the port is not one"),
        };
        Ok(Self { secure, authority: authority.to_owned(), host: host.to_owned(), port, path })
    }
}

/// Sends batches to one server.
pub(super) struct Poster {
    uri: Uri,
    auth_header: Option<String>,
    limit: Duration,
    body: Body,
    verify: bool,
    tls: Connector,
    headers: Vec<(String, String)>,
    around: Option<(Vec<u8>, &'static [u8])>,
}

impl Poster {
    pub(super) fn new(
        uri: Uri,
        auth_header: Option<String>,
        limit: Duration,
        body: Body,
        verify: bool,
    ) -> Self {
        let tls = Connector::new(None);
        Self { uri, auth_header, limit, body, verify, tls, headers: Vec::new(), around: None }
    }

    /// Adds headers, whose names and values were checked.
    pub(super) fn with_headers(self, headers: Vec<(String, String)>) -> Self {
        Self { headers, ..self }
    }

    /// Puts the records, with commas between them, between these instead of brackets.
    pub(super) fn around(self, before: Vec<u8>, after: &'static [u8]) -> Self {
        Self { around: Some((before, after)), ..self }
    }

    fn request(&self, records: &[Vec<u8>]) -> Vec<u8> {
        let body = match self.body {
            Body::One => records.concat(),
            Body::Lines => records.join(&b'\n'),
            Body::Array => {
                let (before, after) = match &self.around {
                    Some((before, after)) => (before.as_slice(), *after),
                    None => (&b"["[..], &b"]"[..]),
                };
                [before, records.join(&b',').as_slice(), after].concat()
            }
        };
        let kind = if self.body == Body::Lines { "text/plain" } else { "application/json" };
        let Uri { authority, path, .. } = &self.uri;
        let mut request = Vec::with_capacity(body.len() + 256);
        // Writing to a Vec does not fail.
        let _ = write!(
            request,
            "POST {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: headgate/{}\r\n\
             Content-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n",
            env!("CARGO_PKG_VERSION"),
            body.len()
        );
        if let Some(auth) = &self.auth_header {
            let _ = write!(request, "Authorization: {auth}\r\n");
        }
        for (name, value) in &self.headers {
            let _ = write!(request, "{name}: {value}\r\n");
        }
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(&body);
        request
    }

    async fn post(&self, records: &[Vec<u8>]) -> io::Result<u16> {
        let Uri { secure, host, port, .. } = &self.uri;
        let stream = TcpStream::connect((host.as_str(), *port)).await?;
        stream.set_nodelay(true)?;
        let mut stream: Box<dyn Connection> = Box::new(stream);
        if *secure {
            stream = self.tls.connect(stream, host, self.verify).await?;
        }
        // A server may answer, and close, before it has read everything.
        let sent = stream.write_all(&self.request(records)).await;
        let mut answer = Vec::new();
        let read = stream.take(ANSWER as u64).read_to_end(&mut answer).await;
        match status(&answer) {
            Some(status) => Ok(status),
            None => Err(sent.and(read.map(drop)).err().unwrap_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP")
            })),
        }
    }
}

/// The status of an answer.
fn status(answer: &[u8]) -> Option<u16> {
    let rest = answer.strip_prefix(b"HTTP/1.")?;
    std::str::from_utf8(rest.get(2..5)?).ok()?.parse().ok()
}

impl Target for Poster {
    async fn deliver(&mut self, records: &[Vec<u8>]) -> Result<(), Failed> {
        let limit = self.limit;
        let Uri { host, port, .. } = &self.uri;
        let at = format!("host[{host}] port[{port}]");
        let error = match tokio::time::timeout(limit, self.post(records)).await {
            Ok(Ok(status)) if status < 400 => return Ok(()),
            Ok(Ok(status)) => format!("server returned status code[{status}] {at}"),
            Ok(Err(error)) => format!("failed to send to {at}: {error}"),
            Err(_) => format!("failed to send to {at}: no answer within {limit:?}"),
        };
        Err(Failed { error, delivered: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris() {
        let parts = |text: &str| {
            let uri = Uri::parse(text).unwrap();
            (uri.secure, uri.authority, uri.host, uri.port, uri.path)
        };
        let own = |secure, authority: &str, host: &str, port, path: &str| {
            (secure, authority.to_owned(), host.to_owned(), port, path.to_owned())
        };
        assert_eq!(parts("http://a"), own(false, "a", "a", 80, "/"));
        assert_eq!(parts("https://a:8443/b?c#d"), own(true, "a:8443", "a", 8443, "/b?c"));
        assert_eq!(parts("http://[::1]:81?x"), own(false, "[::1]:81", "::1", 81, "/?x"));
        assert_eq!(parts("https://[::1]/"), own(true, "[::1]", "::1", 443, "/"));
        for text in ["", "a", "http://", "http://a:0", "http://a:b", "http://u@a", "http://a/\r\n"]
        {
            assert!(Uri::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bodies() {
        let records = [b"{1}".to_vec(), b"{2}".to_vec()];
        let request = |body, auth: Option<&str>| {
            let uri = Uri::parse("http://a:1/b").unwrap();
            let auth = auth.map(str::to_owned);
            let poster = Poster::new(uri, auth, Duration::ZERO, body, false);
            String::from_utf8(poster.request(&records)).unwrap()
        };
        let text = request(Body::Array, Some("Bearer x"));
        assert!(text.starts_with("POST /b HTTP/1.1\r\nHost: a:1\r\n"), "{text}");
        assert!(text.contains("\r\nAuthorization: Bearer x\r\n"), "{text}");
        assert!(text.ends_with("\r\nContent-Length: 9\r\nConnection: close\r\nAuthorization: Bearer x\r\n\r\n[{1},{2}]"), "{text}");
        let text = request(Body::Lines, None);
        assert!(text.contains("text/plain") && text.ends_with("\r\n\r\n{1}\n{2}"), "{text}");
    }

    #[test]
    fn statuses() {
        assert_eq!(status(b"HTTP/1.1 204 No Content\r\n"), Some(204));
        assert_eq!(status(b"HTTP/1.0 503 x"), Some(503));
        for text in ["", "HTTP/1.1", "HTTP/2 200", "SSH-2.0"] {
            assert_eq!(status(text.as_bytes()), None, "{text}");
        }
    }
}
