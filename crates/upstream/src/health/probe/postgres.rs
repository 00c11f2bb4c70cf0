//! `postgres`: the start of a session, as `pg_isready` does it. Whatever a server that takes
//! connections answers is good, also that it wants a password or does not know the user.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::{Answer, bad, read_more, within};

/// Protocol 3.0, user `headgate`, database `postgres`.
const STARTUP: &[u8] = b"\0\0\0\x29\0\x03\0\0user\0headgate\0database\0postgres\0\0";
const LONGEST: usize = 8 * 1024;
/// Codes of a server that is there but takes no sessions: starting or stopping, and full.
const REFUSING: [&[u8]; 4] = [b"57P03", b"57P01", b"57P02", b"53300"];

pub(super) async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    limit: Duration,
) -> io::Result<Answer> {
    within(limit, stream.write_all(STARTUP)).await?;
    let message = async {
        let mut answer = Vec::new();
        loop {
            read_more(stream, &mut answer, LONGEST).await?;
            if let Some(answer) = judge(&answer) {
                return answer;
            }
        }
    };
    within(limit, message).await
}

/// Judges the first message; `None` while it is not complete.
fn judge(answer: &[u8]) -> Option<io::Result<Answer>> {
    match answer.first()? {
        b'R' | b'v' => Some(Ok(Answer::Good)),
        b'E' => {
            let (head, fields) = answer.split_at_checked(5)?;
            let length = u32::from_be_bytes(head.get(1..)?.try_into().ok()?) as usize;
            let fields = fields.get(..length.checked_sub(4)?)?;
            let code = fields.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(b"C"));
            let code = code.unwrap_or_default();
            Some(if REFUSING.contains(&code) {
                Err(bad(format!("postgres answered {}", String::from_utf8_lossy(code))))
            } else {
                Ok(Answer::Good)
            })
        }
        _ => Some(Err(bad("this is not a PostgreSQL server"))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn error(code: &str) -> Vec<u8> {
        let fields = format!("SFATAL\0C{code}\0Msorry\0\0");
        [&b"E"[..], &(fields.len() as u32 + 4).to_be_bytes(), fields.as_bytes()].concat()
    }

    #[test]
    fn the_startup_message_knows_its_length() {
        assert_eq!(STARTUP.len(), usize::from(STARTUP[3]));
    }

    #[test]
    fn answers_of_postgres() {
        assert!(judge(b"R\0\0\0\x08\0\0\0\x0a").unwrap().is_ok());
        assert!(judge(&error("28000")).unwrap().is_ok(), "no such user: it serves");
        assert!(judge(&error("57P03")).unwrap().is_err(), "starting up");
        assert!(judge(&error("53300")).unwrap().is_err(), "full");
        assert!(judge(b"HTTP/1.1 400").unwrap().is_err());
        assert!(judge(&error("57P03")[..9]).is_none());
        assert!(judge(b"").is_none());
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = judge(&bytes);
        }
    }
}
