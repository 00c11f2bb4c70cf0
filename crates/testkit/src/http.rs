//! A small HTTP/1.1 client for the Admin API, which can also send what no proper client sends.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

/// An HTTP answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Headers in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Response {
    /// The first header called `name` (in lower case).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; panics if it is not.
    #[track_caller]
    #[must_use]
    pub fn json(&self) -> Value {
        match serde_json::from_str(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("not JSON ({error}), status {}: {}", self.status, self.body),
        }
    }

    /// Panics unless the status is `status`.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "unexpected status; body: {}", self.body);
        self
    }

    /// Panics unless the status is 200 or 201.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(matches!(self.status, 200 | 201), "status {}: {}", self.status, self.body);
        self
    }

    /// Panics unless this is an error with exactly this status and `error_msg`.
    #[track_caller]
    pub fn refused(self, status: u16, error_msg: &str) -> Self {
        assert_eq!(self.status, status, "unexpected status; body: {}", self.body);
        assert_eq!(self.error_msg(), error_msg, "status {status}");
        self
    }

    /// Member `error_msg` of the body.
    #[track_caller]
    #[must_use]
    pub fn error_msg(&self) -> String {
        let json = self.json();
        match json.get("error_msg").and_then(Value::as_str) {
            Some(text) => text.to_owned(),
            None => panic!("no error_msg; status {}: {}", self.status, self.body),
        }
    }

    /// The warnings beside `key` and `value`; empty when there are none.
    #[track_caller]
    #[must_use]
    pub fn warnings(&self) -> Vec<Value> {
        match self.json().get("warnings") {
            None => Vec::new(),
            Some(Value::Array(list)) => list.clone(),
            Some(other) => panic!("warnings is not a list: {other}"),
        }
    }
}

/// Sends one request on a connection of its own and reads the answer.
///
/// # Errors
/// When the server cannot be reached, or answers nothing or not HTTP within `limit`.
pub fn request(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
    limit: Duration,
) -> io::Result<Response> {
    let close = [&[("Connection", "close")], headers].concat();
    let answer = raw(to, &message(to, method, path, &close, body), limit)?;
    parse(&answer, method == "HEAD")
}

/// A request as bytes.
fn message(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {to}\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(body) = body {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body.unwrap_or_default());
    bytes
}

/// A connection for many requests, one after the other.
#[derive(Debug)]
pub struct Client {
    to: SocketAddr,
    stream: TcpStream,
    limit: Duration,
}

impl Client {
    /// Connects; every answer has to come within `limit`.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub fn connect(to: SocketAddr, limit: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, limit)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(limit))?;
        Ok(Self { to, stream, limit })
    }

    /// Sends a request and reads the answer, which must have a `Content-Length`.
    ///
    /// # Errors
    /// When the connection ends or no complete answer comes in time.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> io::Result<Response> {
        self.stream.write_all(&message(self.to, method, path, headers, body))?;
        parse(&read_message(&mut self.stream, self.limit), method == "HEAD")
    }
}

/// Sends `bytes` as they are and returns everything that comes back until the server closes the
/// connection, or an HTTP answer is complete, or `limit` passes.
///
/// # Errors
/// When the server cannot be reached.
pub fn raw(to: SocketAddr, bytes: &[u8], limit: Duration) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&to, limit)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(limit))?;
    // A server may answer and close before it has read everything: its answer counts.
    let _ = stream.write_all(bytes);
    Ok(read_answer(&mut stream, limit))
}

/// Reads from `stream` until it ends, a complete HTTP answer is there, or `limit` passes.
pub fn read_answer(stream: &mut TcpStream, limit: Duration) -> Vec<u8> {
    let answer = read_message(stream, limit);
    let _ = stream.shutdown(Shutdown::Both);
    answer
}

/// As [`read_answer`]; the connection stays open.
fn read_message(stream: &mut TcpStream, limit: Duration) -> Vec<u8> {
    let deadline = Instant::now() + limit;
    let mut answer = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            break;
        }
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
        if is_complete(&answer) {
            break;
        }
    }
    answer
}

/// Whether `answer` is a whole message by its `Content-Length`.
fn is_complete(answer: &[u8]) -> bool {
    parse_head(answer).is_some_and(|(_, headers, body)| {
        find(&headers, "content-length")
            .and_then(|length| length.parse::<usize>().ok())
            .is_some_and(|length| answer.len() - body >= length)
    })
}

type Head = (u16, Vec<(String, String)>, usize);

/// Status, headers and where the body begins.
fn parse_head(answer: &[u8]) -> Option<Head> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    first.next().filter(|version| version.starts_with("HTTP/1."))?;
    let status = first.next()?.parse().ok()?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Some((status, headers, end + 4))
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// Parses an answer.
///
/// # Errors
/// When it is not an HTTP answer.
pub fn parse(answer: &[u8], without_body: bool) -> io::Result<Response> {
    let bad = |what: &str| {
        let shown = String::from_utf8_lossy(&answer[..answer.len().min(200)]).into_owned();
        io::Error::new(io::ErrorKind::InvalidData, format!("{what}: {shown:?}"))
    };
    let (status, headers, start) = parse_head(answer).ok_or_else(|| bad("not an HTTP answer"))?;
    let rest = &answer[start..];
    let body = if without_body {
        Vec::new()
    } else if find(&headers, "transfer-encoding").is_some_and(|value| value.contains("chunked")) {
        dechunk(rest).ok_or_else(|| bad("broken chunked body"))?
    } else if let Some(length) = find(&headers, "content-length") {
        let length: usize = length.parse().map_err(|_| bad("bad content-length"))?;
        rest.get(..length).ok_or_else(|| bad("body cut short"))?.to_vec()
    } else {
        rest.to_vec()
    };
    Ok(Response { status, headers, body: String::from_utf8_lossy(&body).into_owned() })
}

fn dechunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_parsed() {
        let plain = parse(b"HTTP/1.1 201 Created\r\nX-A: b\r\nContent-Length: 2\r\n\r\n{}", false);
        let plain = plain.unwrap();
        assert_eq!((plain.status, plain.header("x-a"), &*plain.body), (201, Some("b"), "{}"));
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
        assert_eq!(parse(chunked, false).unwrap().body, "abcde");
        assert!(parse(b"hello", false).is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", false).is_err());
    }

    #[test]
    fn a_client_keeps_its_connection() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client =
            Client::connect(listener.local_addr().unwrap(), Duration::from_secs(5)).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let server = std::thread::spawn(move || {
            for n in 0..3 {
                let count = stream.read(&mut [0; 4096]).unwrap();
                assert!(count > 0);
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{n}");
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        for n in 0..3 {
            assert_eq!(client.request("GET", "/", &[], None).unwrap().body, n.to_string());
        }
        server.join().unwrap();
        assert!(client.request("GET", "/", &[], None).is_err());
    }

    #[test]
    fn an_answer_with_a_length_ends_the_reading() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut got = [0; 4096];
            let count = stream.read(&mut got).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine").unwrap();
            // Kept open on purpose until the client leaves.
            let _ = stream.read(&mut [0; 16]);
            String::from_utf8_lossy(&got[..count]).into_owned()
        });
        let answer =
            request(to, "PUT", "/x", &[("A", "b")], Some(b"{}"), Duration::from_secs(5)).unwrap();
        assert_eq!(answer.body, "fine");
        let seen = server.join().unwrap();
        assert!(seen.starts_with("PUT /x HTTP/1.1\r\n"), "{seen}");
        assert!(seen.contains("A: b\r\n") && seen.ends_with("\r\n\r\n{}"), "{seen}");
    }
}
