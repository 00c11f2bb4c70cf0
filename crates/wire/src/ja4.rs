//! JA4: a fingerprint of TLS clients, made of what a ClientHello offers and not of what changes from
//! one connection to the next.
//!
//! After its description, <https://github.com/FoxIO-LLC/ja4/blob/main/technical_details/JA4.md>
//! (JA4 itself is under the BSD 3-clause license). A fingerprint is `a_b_c`: `a` is readable, `b` and `c` are
//! the first twelve hexadecimal digits of SHA-256 of lists, which the caller hashes: nothing here
//! depends on a library for that.

use crate::client_hello::{MOST, looks_like_tls};

const SERVER_NAME: u16 = 0x0000;
const SIGNATURE_ALGORITHMS: u16 = 0x000d;
const ALPN: u16 = 0x0010;
const SUPPORTED_VERSIONS: u16 = 0x002b;

/// The parts of a fingerprint before they are hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// Transport, version, server name or not, counts, first application protocol.
    pub a: String,
    /// Cipher suites, sorted; empty: `b` is [`NOTHING`].
    pub ciphers: String,
    /// Extensions, sorted, and signature algorithms as sent; empty: `c` is [`NOTHING`].
    pub extensions: String,
}

/// What stands for the hash of nothing.
pub const NOTHING: &str = "000000000000";

/// The parts of the fingerprint of a client over TCP, from the records that its hello came in.
/// `None` unless they hold a whole one.
#[must_use]
pub fn parts(records: &[u8]) -> Option<Parts> {
    let message = message(records)?;
    let mut hello = Reader(message.get(4..)?);
    let version = hello.u16()?;
    hello.take(32)?;
    hello.short()?;
    let ciphers = numbers(hello.long()?);
    hello.short()?;
    let mut extensions = Reader(if hello.0.is_empty() { &[] } else { hello.long()? });
    let (mut kinds, mut versions, mut algorithms, mut alpn) =
        (Vec::new(), Vec::new(), Vec::new(), None);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let mut content = Reader(extensions.long()?);
        match kind {
            SUPPORTED_VERSIONS => versions = numbers(content.short()?),
            SIGNATURE_ALGORITHMS => algorithms = numbers(content.long()?),
            ALPN => alpn = Reader(content.long()?).short(),
            _ => {}
        }
        kinds.push(kind);
    }
    kinds.retain(|kind| !is_grease(*kind));
    let version = versions.into_iter().max().unwrap_or(version);
    let name = if kinds.contains(&SERVER_NAME) { 'd' } else { 'i' };
    let a = format!(
        "t{}{name}{:02}{:02}{}",
        version_text(version),
        ciphers.len().min(99),
        kinds.len().min(99),
        protocol(alpn.unwrap_or_default())
    );
    let ciphers = list(sorted(ciphers));
    kinds.retain(|kind| !matches!(*kind, SERVER_NAME | ALPN));
    let mut extensions = list(sorted(kinds));
    if !extensions.is_empty() && !algorithms.is_empty() {
        extensions.push('_');
        extensions.push_str(&list(algorithms));
    }
    Some(Parts { a, ciphers, extensions })
}

/// The first handshake message, put together from its records.
fn message(records: &[u8]) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    let mut rest = records;
    while looks_like_tls(rest) && message.len() < MOST {
        let mut record = Reader(rest.get(3..)?);
        message.extend_from_slice(record.long()?);
        rest = record.0;
        if let [1, a, b, c, body @ ..] = message.as_slice() {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if body.len() >= length {
                message.truncate(4 + length);
                return Some(message);
            }
        }
    }
    None
}

/// Values that clients make up so that servers stay tolerant (RFC 8701): both bytes are the same,
/// and end in `a`.
const fn is_grease(value: u16) -> bool {
    value & 0x0f0f == 0x0a0a && value >> 8 == value & 0xff
}

fn version_text(version: u16) -> &'static str {
    match version {
        0x0304 => "13",
        0x0303 => "12",
        0x0302 => "11",
        0x0301 => "10",
        0x0300 => "s3",
        0x0002 => "s2",
        _ => "00",
    }
}

/// First and last character of the first protocol; of its hexadecimal form, if one of them is
/// neither letter nor digit.
fn protocol(name: &[u8]) -> String {
    let (Some(first), Some(last)) = (name.first(), name.last()) else { return "00".to_owned() };
    if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
        return [char::from(*first), char::from(*last)].iter().collect();
    }
    let (first, last) = (format!("{first:02x}"), format!("{last:02x}"));
    first.chars().take(1).chain(last.chars().skip(1)).collect()
}

fn numbers(bytes: &[u8]) -> Vec<u16> {
    let (pairs, _) = bytes.as_chunks::<2>();
    let numbers = pairs.iter().map(|pair| u16::from_be_bytes(*pair));
    numbers.filter(|number| !is_grease(*number)).collect()
}

fn sorted(mut numbers: Vec<u16>) -> Vec<u16> {
    numbers.sort_unstable();
    numbers
}

fn list(numbers: Vec<u16>) -> String {
    let texts: Vec<_> = numbers.into_iter().map(|number| format!("{number:04x}")).collect();
    texts.join(",")
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        let (pair, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*pair))
    }

    /// A vector with a length of one byte.
    fn short(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first()?;
        self.0 = rest;
        self.take(usize::from(*length))
    }

    /// A vector with a length of two bytes.
    fn long(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vector(wide: bool, content: &[u8]) -> Vec<u8> {
        let length = content.len() as u16;
        let mut out = if wide { length.to_be_bytes().to_vec() } else { vec![length as u8] };
        out.extend_from_slice(content);
        out
    }

    fn pairs(numbers: &[u16]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
    }

    fn hello(ciphers: &[u16], extensions: &[(u16, Vec<u8>)], record: usize) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend(vector(false, &[1; 32]));
        body.extend(vector(true, &pairs(ciphers)));
        body.extend(vector(false, &[0]));
        let extensions: Vec<u8> = extensions
            .iter()
            .flat_map(|(kind, content)| [pairs(&[*kind]), vector(true, content)].concat())
            .collect();
        body.extend(vector(true, &extensions));
        let length = (body.len() as u32).to_be_bytes();
        let message = [vec![1, length[1], length[2], length[3]], body].concat();
        message
            .chunks(record)
            .flat_map(|part| [vec![22, 3, 1], vector(true, part)].concat())
            .collect()
    }

    fn alpn(name: &[u8]) -> (u16, Vec<u8>) {
        (ALPN, vector(true, &[vector(false, name), vector(false, b"http/1.1")].concat()))
    }

    /// The example of the description, with the made-up values that its client adds.
    #[test]
    fn the_example_of_the_description() {
        let ciphers = [
            0x2a2a, 0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013,
            0xc014, 0x009c, 0x009d, 0x002f, 0x0035,
        ];
        let algorithms = [0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601];
        let empty = |kind: u16| (kind, Vec::new());
        let mut extensions: Vec<_> = [
            0x5a5a, 0x001b, 0x0000, 0x0033, 0x4469, 0x0017, 0x002d, 0x000a, 0x0005, 0x0023, 0x0012,
            0xff01, 0x000b, 0xaaaa, 0x0015,
        ]
        .into_iter()
        .map(empty)
        .collect();
        extensions.push(alpn(b"h2"));
        extensions.push((0x000d, vector(true, &pairs(&algorithms))));
        extensions.push((0x002b, vector(false, &pairs(&[0x3a3a, 0x0304, 0x0303]))));
        for record in [usize::MAX, 100, 1] {
            let parts = parts(&hello(&ciphers, &extensions, record)).unwrap();
            assert_eq!(parts.a, "t13d1516h2");
            assert_eq!(
                parts.ciphers,
                "002f,0035,009c,009d,1301,1302,1303,c013,c014,c02b,c02c,c02f,c030,cca8,cca9"
            );
            assert_eq!(
                parts.extensions,
                "0005,000a,000b,000d,0012,0015,0017,001b,0023,002b,002d,0033,4469,ff01_\
                 0403,0804,0401,0503,0805,0501,0806,0601"
            );
        }
    }

    #[test]
    fn little_is_offered() {
        let parts = parts(&hello(&[0x0a0a], &[], usize::MAX)).unwrap();
        assert_eq!(
            parts,
            Parts { a: "t12i000000".into(), ciphers: String::new(), extensions: String::new() }
        );
    }

    #[test]
    fn odd_protocols() {
        let of = |name: &[u8]| protocol(name);
        assert_eq!((of(b""), of(b"h2"), of(b"h")), ("00".into(), "h2".into(), "hh".into()));
        assert_eq!(
            (of(b"\xab"), of(b"\xab\xcd"), of(b"\x30\xab")),
            ("ab".into(), "ad".into(), "3b".into())
        );
        assert_eq!((of(b"\x30\x31\xab\xcd"), of(b"\x30\xab\xcd\x31")), ("3d".into(), "01".into()));
    }

    #[test]
    fn what_is_not_whole_has_none() {
        let whole = hello(&[0x1301], &[alpn(b"h2")], 50);
        assert!(parts(&whole).is_some());
        assert!((0..whole.len()).all(|end| parts(whole.get(..end).unwrap()).is_none()));
        assert_eq!(parts(b"GET / HTTP/1.1\r\n"), None);
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parts(&bytes);
            let _ = parts(&[b"\x16\x03\x01".as_slice(), &bytes].concat());
        }
    }
}
