//! `mysql`: takes the greeting of a MySQL or MariaDB server and logs in as a user that need not
//! exist. A refused login shows that the server works. Leaving after the greeting would look like
//! an attack to the server, which then blocks this host (`max_connect_errors`).

use std::io;
use std::time::Duration;

use headgate_wire::probe::mysql::{judge_greeting, judge_login, login, split};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::{Answer, bad, read_more, within};

const LONGEST: usize = 64 * 1024;

pub(super) async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    limit: Duration,
) -> io::Result<Answer> {
    let mut buffer = Vec::new();
    let greeting = within(limit, packet(stream, &mut buffer)).await?;
    judge_greeting(&greeting).map_err(bad)?;
    within(limit, stream.write_all(&login())).await?;
    let mut answer = within(limit, packet(stream, &mut buffer)).await?;
    if answer.first() == Some(&0xFE) {
        // Another way to authenticate: nothing to say, and the login is refused.
        within(limit, stream.write_all(&[0, 0, 0, 3])).await?;
        answer = within(limit, packet(stream, &mut buffer)).await?;
    }
    judge_login(&answer).map_err(bad)?;
    let _ = within(limit, stream.write_all(&[1, 0, 0, 0, 1])).await; // COM_QUIT
    Ok(Answer::Good)
}

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
