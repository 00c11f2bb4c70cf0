//! `redis`: `PING`.

use std::io;
use std::time::Duration;

use headgate_wire::probe::redis::{PING, judge};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::{Answer, bad, read_more, within};

const LONGEST_LINE: usize = 512;

pub(super) async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    limit: Duration,
) -> io::Result<Answer> {
    within(limit, stream.write_all(PING)).await?;
    let line = async {
        let mut answer = Vec::new();
        while !answer.contains(&b'\n') {
            read_more(stream, &mut answer, LONGEST_LINE).await?;
        }
        Ok(answer)
    };
    judge(&within(limit, line).await?).map(|()| Answer::Good).map_err(bad)
}
