//! The start of a session with PostgreSQL.

use super::Unwell;

/// The message that begins a session: protocol 3.0, user `headgate`, database `postgres`.
pub const STARTUP: &[u8] = b"\0\0\0\x29\0\x03\0\0user\0headgate\0database\0postgres\0\0";
/// Codes of a server that is there but takes no sessions: starting or stopping, and full.
const REFUSING: [&[u8]; 4] = [b"57P03", b"57P01", b"57P02", b"53300"];
/// The longest error message that is waited for, bytes.
const LONGEST: usize = 8 * 1024;

/// Judges the answer to [`STARTUP`]; `None` while its first message is not complete. Whatever a
/// server that takes connections answers is good, also that it wants a password or does not know
/// the user. `Some(Err(_))`: it takes no sessions, or is no PostgreSQL server.
#[must_use]
pub fn judge(answer: &[u8]) -> Option<Result<(), Unwell>> {
    match answer.first()? {
        b'R' | b'v' => Some(Ok(())),
        b'E' => {
            let (head, fields) = answer.split_at_checked(5)?;
            let length = u32::from_be_bytes(head.get(1..)?.try_into().ok()?) as usize;
            let Some(length) = length.checked_sub(4).filter(|length| *length <= LONGEST) else {
                return Some(Err(stranger()));
            };
            let fields = fields.get(..length)?;
            let code = fields.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(b"C"));
            let code = code.unwrap_or_default();
            Some(if REFUSING.contains(&code) {
                Err(Unwell(format!("postgres answered {}", String::from_utf8_lossy(code))))
            } else {
                Ok(())
            })
        }
        _ => Some(Err(stranger())),
    }
}

fn stranger() -> Unwell {
    Unwell("this is not a PostgreSQL server".to_owned())
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
        assert_eq!(STARTUP.get(3).copied().map(usize::from), Some(STARTUP.len()));
    }

    #[test]
    fn answers_of_postgres() {
        assert_eq!(judge(b"R\0\0\0\x08\0\0\0\x0a"), Some(Ok(())));
        assert_eq!(judge(&error("28000")), Some(Ok(())), "no such user: it serves");
        assert!(judge(&error("57P03")).unwrap().is_err(), "starting up");
        assert!(judge(&error("53300")).unwrap().is_err(), "full");
        assert!(judge(b"HTTP/1.1 400").unwrap().is_err());
        assert!(judge(error("57P03").get(..9).unwrap()).is_none());
        assert!(judge(b"").is_none());
        assert!(judge(b"E\0\0\0\x03").unwrap().is_err(), "shorter than its own length");
        assert!(judge(b"E\xff\0\0\0").unwrap().is_err(), "nobody waits for so much");
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = judge(&bytes);
        }
    }
}
