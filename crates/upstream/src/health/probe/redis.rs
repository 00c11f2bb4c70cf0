//! `redis`: `PING`. A server that asks for a password is well; one that loads its data is not.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::{Answer, bad, read_more, within};

const LONGEST_LINE: usize = 512;

pub(super) async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    limit: Duration,
) -> io::Result<Answer> {
    within(limit, stream.write_all(b"*1\r\n$4\r\nPING\r\n")).await?;
    let line = async {
        let mut answer = Vec::new();
        while !answer.contains(&b'\n') {
            read_more(stream, &mut answer, LONGEST_LINE).await?;
        }
        Ok(answer)
    };
    judge(&within(limit, line).await?)
}

fn judge(answer: &[u8]) -> io::Result<Answer> {
    if [&b"+PONG"[..], b"-NOAUTH", b"-NOPERM"].iter().any(|good| answer.starts_with(good)) {
        return Ok(Answer::Good);
    }
    Err(bad(format!("redis answered {}", String::from_utf8_lossy(answer).trim_end())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_redis() {
        assert_eq!(judge(b"+PONG\r\n").unwrap(), Answer::Good);
        assert_eq!(judge(b"-NOAUTH Authentication required.\r\n").unwrap(), Answer::Good);
        for answer in ["-LOADING Redis is loading the dataset in memory", "-ERR max number of", ""]
        {
            assert!(judge(answer.as_bytes()).is_err(), "{answer}");
        }
    }
}
