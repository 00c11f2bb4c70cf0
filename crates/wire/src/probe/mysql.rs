//! Packets of MySQL and MariaDB while a client logs in.

use super::Unwell;

/// Protocol 4.1, secure connection, plugin authentication.
const CAPABILITIES: u32 = 0x0000_0200 | 0x0000_8000 | 0x0008_0000;
const LOGIN_USER: &[u8] = b"headgate_check";
/// `ER_ACCESS_DENIED_ERROR`, `ER_ACCESS_DENIED_NO_PASSWORD_ERROR`, `ER_DBACCESS_DENIED_ERROR`, and
/// what else is said of a login that does not exist.
const LOGIN_REFUSED: [u16; 5] = [1045, 1698, 1044, 1251, 3118];

/// The payload of the first packet (three bytes of length, a number, the payload) and what
/// follows it; `None` while it is not complete.
#[must_use]
pub fn split(buffer: &[u8]) -> Option<(&[u8], &[u8])> {
    let ([a, b, c, _], rest) = buffer.split_first_chunk::<4>()?;
    let length = usize::from(*a) | usize::from(*b) << 8 | usize::from(*c) << 16;
    rest.split_at_checked(length)
}

/// Judges the payload of a server's first packet.
///
/// # Errors
/// It refuses connections, or is no MySQL server.
pub fn judge_greeting(greeting: &[u8]) -> Result<(), Unwell> {
    match greeting.first() {
        Some(10) => Ok(()),
        Some(0xFF) => Err(refusal(greeting)),
        _ => Err(stranger()),
    }
}

/// The packet that logs in as a user that need not exist.
#[must_use]
pub fn login() -> Vec<u8> {
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

/// Judges the payload of the answer to [`login`]. A refused login shows that the server works.
///
/// # Errors
/// It cannot serve, or is no MySQL server.
pub fn judge_login(answer: &[u8]) -> Result<(), Unwell> {
    match answer.first() {
        Some(0 | 1 | 0xFE) => Ok(()),
        Some(0xFF) if error_code(answer).is_some_and(|code| LOGIN_REFUSED.contains(&code)) => {
            Ok(())
        }
        Some(0xFF) => Err(refusal(answer)),
        _ => Err(stranger()),
    }
}

fn error_code(packet: &[u8]) -> Option<u16> {
    Some(u16::from_le_bytes(packet.get(1..3)?.try_into().ok()?))
}

fn refusal(packet: &[u8]) -> Unwell {
    Unwell(format!("mysql answered with error {}", error_code(packet).unwrap_or_default()))
}

fn stranger() -> Unwell {
    Unwell("this is not a MySQL server".to_owned())
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
        assert_eq!(judge_login(denied), Ok(()));
        assert_eq!(judge_login(&[0, 0, 0]), Ok(()));
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
