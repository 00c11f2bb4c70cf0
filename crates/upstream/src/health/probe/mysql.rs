//! `mysql`: takes the greeting of a MySQL or MariaDB server and logs in as a user that need not
//! exist. A refused login shows that the server works. Leaving after the greeting would look like
//! an attack to the server, which then blocks this host (`max_connect_errors`).

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::{Answer, bad, read_more, within};

const LONGEST: usize = 64 * 1024;
/// Protocol 4.1, secure connection, plugin authentication.
const CAPABILITIES: u32 = 0x0000_0200 | 0x0000_8000 | 0x0008_0000;
const LOGIN_USER: &[u8] = b"headgate_check";
/// `ER_ACCESS_DENIED_ERROR`, `ER_ACCESS_DENIED_NO_PASSWORD_ERROR`, `ER_DBACCESS_DENIED_ERROR`, and
/// what else is said of a login that does not exist.
const LOGIN_REFUSED: [u16; 5] = [1045, 1698, 1044, 1251, 3118];

pub(super) async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    limit: Duration,
) -> io::Result<Answer> {
    let mut buffer = Vec::new();
    let greeting = within(limit, packet(stream, &mut buffer)).await?;
    judge_greeting(&greeting)?;
    within(limit, stream.write_all(&login())).await?;
    let mut answer = within(limit, packet(stream, &mut buffer)).await?;
    if answer.first() == Some(&0xFE) {
        // Another way to authenticate: nothing to say, and the login is refused.
        within(limit, stream.write_all(&[0, 0, 0, 3])).await?;
        answer = within(limit, packet(stream, &mut buffer)).await?;
    }
    let verdict = judge_login(&answer);
    if verdict.is_ok() {
        let _ = within(limit, stream.write_all(&[1, 0, 0, 0, 1])).await; // COM_QUIT
    }
    verdict
}

/// Reads a packet: three bytes of length, a number, the payload.
async fn packet(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> io::Result<Vec<u8>> {
    loop {
        if let Some((payload, rest)) = split(buffer) {
            let payload = payload.to_vec();
            *buffer = rest.to_vec();
            return Ok(payload);
        }
        read_more(stream, buffer, LONGEST).await?;
    }
}

fn split(buffer: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, rest) = buffer.split_first_chunk::<4>()?;
    let length = usize::from(head[0]) | usize::from(head[1]) << 8 | usize::from(head[2]) << 16;
    rest.split_at_checked(length)
}

fn judge_greeting(greeting: &[u8]) -> io::Result<()> {
    match greeting.first() {
        Some(10) => Ok(()),
        Some(0xFF) => Err(refusal(greeting)),
        _ => Err(bad("this is not a MySQL server")),
    }
}

fn login() -> Vec<u8> {
    let mut payload = CAPABILITIES.to_le_bytes().to_vec();
    payload.extend(0x0100_0000_u32.to_le_bytes());
    payload.push(33); // utf8
    payload.extend([0; 23]);
    payload.extend(LOGIN_USER);
    payload.extend([0, 0]); // end of the name, empty answer to the challenge
    payload.extend(b"mysql_native_password\0");
    let length = (payload.len() as u32).to_le_bytes();
    let mut packet = length.iter().take(3).copied().collect::<Vec<_>>();
    packet.push(1);
    packet.extend(payload);
    packet
}

fn judge_login(answer: &[u8]) -> io::Result<Answer> {
    match answer.first() {
        Some(0 | 1 | 0xFE) => Ok(Answer::Good),
        Some(0xFF) if error_code(answer).is_some_and(|code| LOGIN_REFUSED.contains(&code)) => {
            Ok(Answer::Good)
        }
        Some(0xFF) => Err(refusal(answer)),
        _ => Err(bad("this is not a MySQL server")),
    }
}

fn error_code(packet: &[u8]) -> Option<u16> {
    Some(u16::from_le_bytes(packet.get(1..3)?.try_into().ok()?))
}

fn refusal(packet: &[u8]) -> io::Error {
    bad(format!("mysql answered with error {}", error_code(packet).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn answers_of_mysql() {
        assert!(judge_greeting(b"\x0a11.4.2-MariaDB\0").is_ok());
        let too_many = b"\xff\x10\x04Too many connections";
        assert!(judge_greeting(too_many).unwrap_err().to_string().ends_with("1040"));
        assert!(judge_greeting(b"SSH-2.0").is_err());
        let denied = b"\xff\x15\x04#28000Access denied";
        assert_eq!(judge_login(denied).unwrap(), Answer::Good);
        assert_eq!(judge_login(&[0, 0, 0]).unwrap(), Answer::Good);
        assert!(judge_login(too_many).is_err());
        assert!(judge_login(b"").is_err());
    }

    #[test]
    fn packets_are_split() {
        assert_eq!(split(b"\x02\0\0\0abc"), Some((&b"ab"[..], &b"c"[..])));
        assert_eq!(split(b"\x02\0\0\0a"), None);
        assert_eq!(split(b"\x02\0\0"), None);
        let login = login();
        let (payload, rest) = split(&login).unwrap();
        assert!(rest.is_empty() && payload.len() == login.len() - 4);
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = (judge_greeting(&bytes), judge_login(&bytes), split(&bytes));
        }
    }
}
