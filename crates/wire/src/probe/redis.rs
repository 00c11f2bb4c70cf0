//! `PING` to Redis. A server that asks for a password is well; one that loads its data is not.

use super::Unwell;

/// The question.
pub const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// Judges the first line of the answer.
///
/// # Errors
/// The server does not serve, or is none.
pub fn judge(answer: &[u8]) -> Result<(), Unwell> {
    if [&b"+PONG"[..], b"-NOAUTH", b"-NOPERM"].iter().any(|good| answer.starts_with(good)) {
        return Ok(());
    }
    Err(Unwell(format!("redis answered {}", String::from_utf8_lossy(answer).trim_end())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_redis() {
        assert_eq!(judge(b"+PONG\r\n"), Ok(()));
        assert_eq!(judge(b"-NOAUTH Authentication required.\r\n"), Ok(()));
        for answer in ["-LOADING Redis is loading the dataset in memory", "-ERR max number of", ""]
        {
            assert!(judge(answer.as_bytes()).is_err(), "{answer}");
        }
    }
}
