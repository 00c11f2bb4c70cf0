//! `http` and `https`: one request, of whose answer only the status counts.

use std::io;
use std::time::Duration;

use headgate_model::resource::checks::Active;
use tokio::io::AsyncRead;

use super::{Answer, read_more, within};
use crate::{Address, Endpoint};

/// Most bytes up to the status, informational answers included.
const LONGEST_HEAD: usize = 64 * 1024;

/// The name that the request is for: what the upstream rewrites it to, the node's name, the
/// configured one, or its address.
pub(super) fn host(active: &Active, endpoint: &Endpoint, rewritten: Option<&str>) -> String {
    let name = rewritten.or(endpoint.host.as_deref()).or(active.host.as_deref());
    match (name, &endpoint.address) {
        (Some(name), _) => name.to_owned(),
        (None, Address::Ip(address)) if address.is_ipv6() => format!("[{}]", address.ip()),
        (None, Address::Ip(address)) => address.ip().to_string(),
        (None, Address::Unix(_)) => "localhost".to_owned(),
    }
}

/// The request. Whatever could break its form is left out or escaped.
pub(super) fn request(active: &Active, host: &str) -> Vec<u8> {
    let mut text =
        format!("{} {} HTTP/1.1\r\nConnection: close\r\n", active.method, target(active));
    let lines = active.headers.iter().filter(|line| !line.contains(['\r', '\n', '\0']));
    let mut has_host = false;
    for line in lines {
        let name = line.split(':').next().unwrap_or_default().trim();
        has_host |= name.eq_ignore_ascii_case("host");
        if !name.eq_ignore_ascii_case("content-length") {
            text.push_str(line.trim());
            text.push_str("\r\n");
        }
    }
    if !has_host {
        text.push_str(&format!("Host: {host}\r\n"));
    }
    if !active.body.is_empty() {
        text.push_str(&format!("Content-Length: {}\r\n", active.body.len()));
    }
    text.push_str("\r\n");
    text.push_str(&active.body);
    text.into_bytes()
}

fn target(active: &Active) -> String {
    let escape = |c: char| match c {
        '\0'..=' ' | '\x7f' => format!("%{:02X}", c as u32),
        c => c.to_string(),
    };
    let path: String = active.path.chars().map(escape).collect();
    if path.is_empty() { "/".to_owned() } else { path }
}

/// Reads the status. An answer without one is status 0, a failure.
pub(super) async fn answer(
    active: &Active,
    stream: &mut (impl AsyncRead + Unpin),
    limit: Duration,
) -> io::Result<Answer> {
    let status = async {
        let mut head = Vec::new();
        loop {
            match status_of(&head) {
                Status::Is(status) => return Ok(status),
                Status::Nonsense => return Ok(0),
                Status::NotYet => match read_more(stream, &mut head, LONGEST_HEAD).await {
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(0),
                    result => result?,
                },
            }
        }
    };
    Ok(judge(active, within(limit, status).await?))
}

fn judge(active: &Active, status: u16) -> Answer {
    if active.healthy.statuses.contains(&status) {
        Answer::Good
    } else if status == 0 || active.unhealthy.statuses.contains(&status) {
        Answer::BadStatus
    } else {
        Answer::Neutral
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Status {
    NotYet,
    Is(u16),
    Nonsense,
}

/// The status of the first answer that is not informational (RFC 9110, section 15.2).
fn status_of(mut bytes: &[u8]) -> Status {
    loop {
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            return if bytes.len() > 512 { Status::Nonsense } else { Status::NotYet };
        };
        let line = bytes.get(..end).unwrap_or_default();
        let Some(status) = parse(line) else { return Status::Nonsense };
        if !(100..200).contains(&status) || status == 101 {
            return Status::Is(status);
        }
        let Some(behind) = after_head(bytes) else { return Status::NotYet };
        bytes = behind;
    }
}

/// `HTTP/1.1 200 OK`.
fn parse(line: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(line).ok()?.trim_end();
    let (version, rest) = line.strip_prefix("HTTP/")?.split_once(' ')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (major, minor) = version.split_once('.')?;
    let code = rest.trim_start().split(' ').next()?;
    (digits(major) && digits(minor) && code.len() == 3 && digits(code))
        .then(|| code.parse().ok())?
}

fn after_head(bytes: &[u8]) -> Option<&[u8]> {
    let ends = [&b"\r\n\r\n"[..], b"\n\n"];
    let end =
        |end: &[u8]| Some(bytes.windows(end.len()).position(|window| window == end)? + end.len());
    bytes.get(ends.into_iter().filter_map(end).min()?..)
}

#[cfg(test)]
mod tests {
    use headgate_model::resource::checks::Checks;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn active(active: Value) -> Active {
        Checks::read(&json!({"active": active})).unwrap().active
    }

    fn text(active: &Active) -> String {
        String::from_utf8(request(active, "a.test")).unwrap()
    }

    #[test]
    fn requests() {
        assert_eq!(
            text(&active(json!({}))),
            "GET / HTTP/1.1\r\nConnection: close\r\nHost: a.test\r\n\r\n"
        );
        assert_eq!(
            text(&active(json!({
                "http_method": "POST", "http_path": "/a b\r\nX: y", "http_req_body": "{}",
                "req_headers": ["User-Agent: check", "host: b.test", "Evil: 1\r\nX: y",
                                "Content-Length: 99"]
            }))),
            "POST /a%20b%0D%0AX:%20y HTTP/1.1\r\nConnection: close\r\nUser-Agent: check\r\n\
             host: b.test\r\nContent-Length: 2\r\n\r\n{}"
        );
    }

    #[test]
    fn statuses() {
        for (bytes, expected) in [
            ("", Status::NotYet),
            ("HTTP/1.1 20", Status::NotYet),
            ("HTTP/1.1 200 OK\r\n", Status::Is(200)),
            ("HTTP/1.0 404\n", Status::Is(404)),
            ("HTTP/1.1 103 Early Hints\r\nLink: x\r\n", Status::NotYet),
            ("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 503 No\r\n", Status::Is(503)),
            ("HTTP/1.1 101 Switching\r\n", Status::Is(101)),
            ("SSH-2.0-OpenSSH\r\n", Status::Nonsense),
            ("HTTP/1.1 20x OK\r\n", Status::Nonsense),
            ("HTTP/1.1 2000 OK\r\n", Status::Nonsense),
        ] {
            assert_eq!(status_of(bytes.as_bytes()), expected, "{bytes:?}");
        }
        assert_eq!(status_of(&[b'x'; 600]), Status::Nonsense);
    }

    #[test]
    fn lists_decide() {
        let active = active(json!({"healthy": {}, "unhealthy": {}}));
        for (status, expected) in [
            (200, Answer::Good),
            (302, Answer::Good),
            (500, Answer::BadStatus),
            (404, Answer::BadStatus),
            (0, Answer::BadStatus),
            (204, Answer::Neutral),
        ] {
            assert_eq!(judge(&active, status), expected, "{status}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = status_of(&bytes);
        }

        #[test]
        fn requests_keep_their_form(path in ".{0,20}", header in ".{0,20}") {
            let active = active(json!({"http_path": path, "req_headers": [header]}));
            let text = text(&active);
            let lines: Vec<_> = text.split("\r\n").collect();
            prop_assert!(lines[0].starts_with("GET ") && lines[0].ends_with(" HTTP/1.1"));
            prop_assert_eq!(lines[0].split(' ').filter(|part| !part.is_empty()).count(), 3);
            prop_assert!(text.ends_with("\r\n\r\n"));
        }
    }
}
