//! `postgres`: the start of a session, as `pg_isready` does it.

use std::io;
use std::time::Duration;

use headgate_wire::probe::postgres::{STARTUP, judge};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::{Answer, bad, read_more, within};

const LONGEST: usize = 9 * 1024;

pub(super) async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    limit: Duration,
) -> io::Result<Answer> {
    within(limit, stream.write_all(STARTUP)).await?;
    let message = async {
        let mut answer = Vec::new();
        loop {
            read_more(stream, &mut answer, LONGEST).await?;
            if let Some(verdict) = judge(&answer) {
                return verdict.map(|()| Answer::Good).map_err(bad);
            }
        }
    };
    within(limit, message).await
}
