//! As much HTTP/1.1 as one request to the Admin API needs.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(5);

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Sends one request and reads the answer to the end of the connection.
pub(crate) fn call(
    server: SocketAddr,
    method: &str,
    path: &str,
    key: &str,
    body: &str,
) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&server, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {server}\r\nX-API-KEY: {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse(&answer).map_err(|what| io::Error::new(io::ErrorKind::InvalidData, what))
}

/// Reads an answer whose body has a `Content-Length` or ends with the connection.
fn parse(bytes: &[u8]) -> Result<Answer, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "the answer is not UTF-8")?;
    let (head, rest) = text.split_once("\r\n\r\n").ok_or("the answer has no complete header")?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1."))
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|code| code.parse().ok())
        .ok_or("the answer has no status line")?;
    let mut body = rest;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            let length = value.trim().parse().map_err(|_| "the Content-Length is no number")?;
            body = rest.get(..length).ok_or("the answer was cut short")?;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err("the answer has a transfer encoding");
        }
    }
    Ok(Answer { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Result<Answer, &'static str> {
        Ok(Answer { status, body: body.to_owned() })
    }

    #[test]
    fn answers_are_read() {
        let full = b"HTTP/1.1 201 Created\r\nServer: APISIX\r\ncontent-length: 3\r\n\r\n{}\n";
        assert_eq!(parse(full), answer(201, "{}\n"));
        assert_eq!(parse(b"HTTP/1.1 200\r\n\r\nrest"), answer(200, "rest"));
        assert_eq!(parse(b"HTTP/1.0 204 No Content\r\n\r\n"), answer(204, ""));
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab"), answer(200, "a"));
    }

    #[test]
    fn broken_answers_are_refused() {
        for (bytes, what) in [
            (&b""[..], "header"),
            (b"HTTP/1.1 200 OK\r\n", "header"),
            (b"SSH-2.0\r\n\r\n", "status line"),
            (b"HTTP/1.1 abc OK\r\n\r\n", "status line"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", "cut short"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nab", "no number"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "encoding"),
            (b"HTTP/1.1 200 OK\r\n\r\n\xff", "UTF-8"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nü".as_bytes(), "cut short"),
        ] {
            let error = parse(bytes).unwrap_err();
            assert!(error.contains(what), "{error}");
        }
    }
}
