//! What a Redis client writes and reads (RESP2): commands, and the replies to them.
//!
//! For small replies only: what is longer than the bounds below is refused, because it is none of
//! the replies that somebody here waits for.

/// Longest line or string, bytes.
const LONGEST: usize = 64 * 1024;
/// Most elements of an array.
const MOST: usize = 1024;
/// Deepest nesting of arrays.
const DEEPEST: usize = 4;

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`.
    Text(String),
    /// `-ERR ...`, without the minus.
    Error(String),
    /// `:1`.
    Integer(i64),
    /// A string; `None` is the null string.
    Bulk(Option<Vec<u8>>),
    /// An array; the null array is empty.
    Array(Vec<Self>),
}

/// The bytes are no reply, or one beyond the bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a reply of Redis")]
pub struct NoReply;

/// Appends a command.
pub fn encode(words: &[&[u8]], out: &mut Vec<u8>) {
    use std::io::Write as _;
    // A Vec takes everything.
    let _ = write!(out, "*{}\r\n", words.len());
    for word in words {
        let _ = write!(out, "${}\r\n", word.len());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// The first reply in `bytes` and how many of them it takes; `None` while it is not complete.
///
/// # Errors
/// The bytes are no reply.
pub fn decode(bytes: &[u8]) -> Result<Option<(Reply, usize)>, NoReply> {
    reply(bytes, 0, DEEPEST)
}

fn reply(bytes: &[u8], at: usize, depth: usize) -> Result<Option<(Reply, usize)>, NoReply> {
    let Some((line, at)) = line(bytes, at)? else { return Ok(None) };
    let (kind, rest) = line.split_first().ok_or(NoReply)?;
    let rest = std::str::from_utf8(rest).map_err(|_| NoReply)?;
    let number = || rest.parse::<i64>().map_err(|_| NoReply);
    let reply = match kind {
        b'+' => Reply::Text(rest.to_owned()),
        b'-' => Reply::Error(rest.to_owned()),
        b':' => Reply::Integer(number()?),
        b'$' => return bulk(bytes, at, number()?),
        b'*' => return array(bytes, at, number()?, depth),
        _ => return Err(NoReply),
    };
    Ok(Some((reply, at)))
}

/// The line at `at` without its end, and where the next begins.
fn line(bytes: &[u8], at: usize) -> Result<Option<(&[u8], usize)>, NoReply> {
    let rest = bytes.get(at..).unwrap_or_default();
    match rest.windows(2).position(|pair| pair == b"\r\n") {
        Some(end) if end <= LONGEST => Ok(rest.get(..end).map(|line| (line, at + end + 2))),
        None if rest.len() <= LONGEST => Ok(None),
        _ => Err(NoReply),
    }
}

fn bulk(bytes: &[u8], at: usize, length: i64) -> Result<Option<(Reply, usize)>, NoReply> {
    if length == -1 {
        return Ok(Some((Reply::Bulk(None), at)));
    }
    let length = usize::try_from(length).ok().filter(|length| *length <= LONGEST).ok_or(NoReply)?;
    let end = at + length;
    match (bytes.get(at..end), bytes.get(end..end + 2)) {
        (Some(text), Some(b"\r\n")) => Ok(Some((Reply::Bulk(Some(text.to_vec())), end + 2))),
        (_, Some(_)) => Err(NoReply),
        _ => Ok(None),
    }
}

fn array(
    bytes: &[u8],
    mut at: usize,
    length: i64,
    depth: usize,
) -> Result<Option<(Reply, usize)>, NoReply> {
    let depth = depth.checked_sub(1).ok_or(NoReply)?;
    let length = usize::try_from(length.max(0)).map_err(|_| NoReply)?;
    if length > MOST {
        return Err(NoReply);
    }
    let mut items = Vec::new();
    for _ in 0..length {
        let Some((item, end)) = reply(bytes, at, depth)? else { return Ok(None) };
        items.push(item);
        at = end;
    }
    Ok(Some((Reply::Array(items), at)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_kind() {
        let text = |text: &str| Reply::Text(text.into());
        for (bytes, expected) in [
            (b"+OK\r\n".as_slice(), text("OK")),
            (b"-MOVED 1 a:1\r\n", Reply::Error("MOVED 1 a:1".into())),
            (b":-12\r\n", Reply::Integer(-12)),
            (b"$3\r\na\r\n\r\n", Reply::Bulk(Some(b"a\r\n".to_vec()))),
            (b"$-1\r\n", Reply::Bulk(None)),
            (b"*-1\r\n", Reply::Array(Vec::new())),
            (
                b"*2\r\n:1\r\n*1\r\n+x\r\n",
                Reply::Array(vec![Reply::Integer(1), Reply::Array(vec![text("x")])]),
            ),
        ] {
            assert_eq!(decode(bytes), Ok(Some((expected, bytes.len()))));
            for end in 0..bytes.len() {
                assert_eq!(decode(bytes.get(..end).unwrap()), Ok(None));
            }
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        for bytes in [
            b"HTTP/1.1 200 OK\r\n".as_slice(),
            b"\r\n",
            b":x\r\n",
            b"$3\r\nabcd\r\n",
            b"$99999999\r\n",
            b"*99999999\r\n",
            b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n",
        ] {
            assert_eq!(decode(bytes), Err(NoReply), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn a_command_is_an_array_of_its_words(
            words in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..8),
        ) {
            let mut bytes = Vec::new();
            encode(&words.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut bytes);
            let items = words.into_iter().map(|word| Reply::Bulk(Some(word))).collect();
            prop_assert_eq!(decode(&bytes), Ok(Some((Reply::Array(items), bytes.len()))));
        }

        #[test]
        fn garbage_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = decode(&bytes);
        }
    }
}
