//! The PROXY protocol: the header a load balancer puts in front of a connection to say whose it is.
//!
//! Follows <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>: the text form (version 1,
//! section 2.1) and the binary form (version 2, section 2.2) are both read and written. Where that document leaves a choice, this does as nginx does:
//!
//! * Version 2 addresses count only for stream transport; `UNSPEC`, `UNIX` and datagram blocks are
//!   valid and say nothing.
//! * TLVs are kept up to the first that does not fit into the header. Checksums are not verified.
//!
//! A wrong byte is told as soon as it is there, so that a client without a header (a browser, a TLS
//! handshake) is not left waiting for a deadline. Two things are told a little later, because only
//! their end shows what they are: an address at the space behind it, a line that is too long at its
//! 107th byte.

use std::fmt;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header accepted, in bytes. Version 2 could announce 65,551; nobody needs them, and
/// a stranger should not make us hold them. nginx has the same bound.
pub const MOST: usize = 4096;

/// The longest line of version 1 with its CRLF (section 2.1). It also bounds what
/// [`BrokenHeader`] quotes.
const LONGEST_LINE: usize = 107;

/// The first bytes of version 2. No other protocol begins like this.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family and transport, length.
const FIXED: usize = 16;

/// What a header said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Who opened the connection to the sender. `None` when the header does not say: `UNKNOWN`,
    /// `LOCAL`, `UNSPEC`, Unix sockets. An IPv4-mapped address is given as IPv4.
    pub source: Option<SocketAddr>,
    /// Where that connection went. Present exactly when `source` is.
    pub destination: Option<SocketAddr>,
    /// Type and value of each extension (version 2, section 2.2), in the order sent.
    pub tlvs: Vec<(u8, Vec<u8>)>,
}

impl Header {
    const SILENT: Self = Self { source: None, destination: None, tlvs: Vec::new() };
}

/// What the bytes received so far amount to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// Nothing is wrong yet, but the header goes on.
    NeedMore,
    /// The header is complete.
    Done {
        /// What it said.
        header: Header,
        /// How many of the bytes it took; what follows belongs to the client.
        length: usize,
    },
}

/// The bytes do not begin with a PROXY protocol header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct BrokenHeader {
    start: Vec<u8>,
}

impl BrokenHeader {
    /// Quotes text up to the end of its line, as nginx does, and anything else up to the bound.
    fn quote(bytes: &[u8]) -> Self {
        let is_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
        let line = bytes.iter().position(is_end).filter(|end| *end > 0).unwrap_or(bytes.len());
        Self { start: bytes.iter().take(line.min(LONGEST_LINE)).copied().collect() }
    }
}

impl fmt::Display for BrokenHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken header: \"{}\"", self.start.escape_ascii())
    }
}

/// Reads a header of either version from the first bytes of a connection.
///
/// Called again with more bytes after [`Decoded::NeedMore`]; how they were split does not matter.
/// At most [`MOST`] bytes are ever asked for.
///
/// # Errors
///
/// The bytes are no header and no beginning of one.
pub fn decode(bytes: &[u8]) -> Result<Decoded, BrokenHeader> {
    let mut cursor = Cursor { bytes, at: 0 };
    let read = match bytes.first() {
        None => return Ok(Decoded::NeedMore),
        Some(b'P') => text(&mut cursor),
        Some(_) => binary(&mut cursor),
    };
    match read {
        Ok(header) => Ok(Decoded::Done { header, length: cursor.at }),
        Err(Stop::NeedMore) => Ok(Decoded::NeedMore),
        Err(Stop::Broken) => Err(BrokenHeader::quote(bytes)),
    }
}

/// Writes a header of version 1 to the end of `out`.
///
/// IPv4-mapped addresses are written as the IPv4 addresses they stand for. When one is IPv4 and
/// the other IPv6, both are written as IPv6; when one is missing, `UNKNOWN` is written.
pub fn encode_v1(source: Option<SocketAddr>, destination: Option<SocketAddr>, out: &mut Vec<u8>) {
    let (source, destination) = (source.map(canonical), destination.map(canonical));
    let (from, to, family) = match (source, destination) {
        (Some(from @ SocketAddr::V4(_)), Some(to @ SocketAddr::V4(_))) => (from, to, "TCP4"),
        // A client of the other family, behind a trusted balancer: IPv4 as an IPv6 address.
        (Some(from), Some(to)) => (as_v6(from), as_v6(to), "TCP6"),
        _ => return out.extend_from_slice(b"PROXY UNKNOWN\r\n"),
    };
    // The addresses alone: a SocketAddrV6 prints brackets and its zone, which the line has no
    // room for. Writing to a Vec cannot fail.
    let (from_ip, to_ip) = (from.ip(), to.ip());
    let _ = write!(out, "PROXY {family} {from_ip} {to_ip} {} {}\r\n", from.port(), to.port());
}

/// Types of TLVs (section 2.2.1 and following).
pub mod tlv {
    /// The application protocol that TLS agreed on.
    pub const ALPN: u8 = 0x01;
    /// The server name that the client asked for.
    pub const AUTHORITY: u8 = 0x02;
    /// Up to 128 bytes that name this connection.
    pub const UNIQUE_ID: u8 = 0x05;
    /// What TLS the client spoke: flags, a verdict, and TLVs of the following types.
    pub const SSL: u8 = 0x20;
    /// Within [`SSL`]: the TLS version as text.
    pub const SSL_VERSION: u8 = 0x21;
    /// Within [`SSL`]: the common name of the client's certificate.
    pub const SSL_CN: u8 = 0x22;
    /// Within [`SSL`]: the cipher.
    pub const SSL_CIPHER: u8 = 0x23;
    /// First byte of [`SSL`]: the client came over TLS.
    pub const CLIENT_SSL: u8 = 0x01;
    /// First byte of [`SSL`]: it showed a certificate on this connection.
    pub const CLIENT_CERT_CONN: u8 = 0x02;
    /// First byte of [`SSL`]: it showed one when the TLS session began.
    pub const CLIENT_CERT_SESS: u8 = 0x04;

    /// Adds a TLV; a value longer than its length field can say is cut.
    pub fn push(kind: u8, value: &[u8], out: &mut Vec<u8>) {
        let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
        out.push(kind);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(value.get(..usize::from(length)).unwrap_or_default());
    }
}

/// What a header of version 2 goes in front of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// A connection.
    Stream,
    /// A datagram.
    Datagram,
}

/// Writes a header of version 2 to the end of `out`, with `tlvs` as [`tlv::push`] made them.
///
/// Addresses are treated as by [`encode_v1`]; a missing one makes the family `UNSPEC`. TLVs that
/// do not fit into [`MOST`] bytes altogether are left out, all of them.
pub fn encode_v2(
    carrier: Carrier,
    source: Option<SocketAddr>,
    destination: Option<SocketAddr>,
    tlvs: &[u8],
    out: &mut Vec<u8>,
) {
    let transport = match carrier {
        Carrier::Stream => 0x01,
        Carrier::Datagram => 0x02,
    };
    let (source, destination) = (source.map(canonical), destination.map(canonical));
    let mut addresses = Vec::with_capacity(2 * 16 + 4);
    let family = match (source, destination) {
        (Some(SocketAddr::V4(from)), Some(SocketAddr::V4(to))) => {
            addresses.extend_from_slice(&from.ip().octets());
            addresses.extend_from_slice(&to.ip().octets());
            0x10 | transport
        }
        (Some(from), Some(to)) => {
            for address in [as_v6(from), as_v6(to)] {
                if let IpAddr::V6(ip) = address.ip() {
                    addresses.extend_from_slice(&ip.octets());
                }
            }
            0x20 | transport
        }
        _ => 0x00,
    };
    if family != 0 {
        for port in [source, destination].into_iter().flatten().map(|address| address.port()) {
            addresses.extend_from_slice(&port.to_be_bytes());
        }
    }
    let fits = FIXED + addresses.len() + tlvs.len() <= MOST;
    let tlvs = if fits { tlvs } else { &[] };
    let length = (addresses.len() + tlvs.len()) as u16; // at most MOST
    out.extend_from_slice(SIGNATURE);
    out.extend_from_slice(&[0x21, family]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&addresses);
    out.extend_from_slice(tlvs);
}

/// Whether bytes look like the beginning of a header of either version: enough of it to tell it
/// from anything else that clients say first.
#[must_use]
pub fn begins_like_one(bytes: &[u8]) -> bool {
    bytes.starts_with(SIGNATURE)
        || bytes.starts_with(b"PROXY TCP")
        || bytes.starts_with(b"PROXY UNKNOWN")
}

fn as_v6(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), addr.port()),
        IpAddr::V6(_) => addr,
    }
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// Why reading ended before the header did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    NeedMore,
    Broken,
}

/// The bytes and how far they were read.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn byte(&mut self) -> Result<u8, Stop> {
        let byte = *self.bytes.get(self.at).ok_or(Stop::NeedMore)?;
        self.at += 1;
        Ok(byte)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Stop> {
        let end = self.at.saturating_add(count);
        let taken = self.bytes.get(self.at..end).ok_or(Stop::NeedMore)?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        self.take(N)?.try_into().map_err(|_| Stop::Broken)
    }

    /// Exactly these bytes; the first other one is wrong, even if more are missing.
    fn expect(&mut self, text: &[u8]) -> Result<(), Stop> {
        text.iter().try_for_each(|wanted| accept(self.byte()? == *wanted))
    }
}

fn accept(is_right: bool) -> Result<(), Stop> {
    if is_right { Ok(()) } else { Err(Stop::Broken) }
}

/// Version 1: `PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n`.
fn text(cursor: &mut Cursor<'_>) -> Result<Header, Stop> {
    let all = cursor.bytes;
    cursor.bytes = all.get(..LONGEST_LINE).unwrap_or(all);
    match line(cursor) {
        // The longest line is here and has not ended.
        Err(Stop::NeedMore) if cursor.bytes.len() == LONGEST_LINE => Err(Stop::Broken),
        read => read,
    }
}

fn line(cursor: &mut Cursor<'_>) -> Result<Header, Stop> {
    cursor.expect(b"PROXY ")?;
    match cursor.byte()? {
        b'T' => addresses(cursor),
        b'U' => unknown(cursor),
        _ => Err(Stop::Broken),
    }
}

/// `UNKNOWN`: whatever stands before the CRLF is ignored.
fn unknown(cursor: &mut Cursor<'_>) -> Result<Header, Stop> {
    cursor.expect(b"NKNOWN")?;
    let mut last = cursor.byte()?;
    accept(matches!(last, b' ' | b'\r'))?;
    loop {
        let byte = cursor.byte()?;
        if (last, byte) == (b'\r', b'\n') {
            return Ok(Header::SILENT);
        }
        last = byte;
    }
}

fn addresses(cursor: &mut Cursor<'_>) -> Result<Header, Stop> {
    cursor.expect(b"CP")?;
    let family = cursor.byte()?;
    accept(matches!(family, b'4' | b'6'))?;
    cursor.expect(b" ")?;
    let source = address(cursor, family)?;
    let destination = address(cursor, family)?;
    let source_port = port(cursor, b' ')?;
    let destination_port = port(cursor, b'\r')?;
    cursor.expect(b"\n")?;
    Ok(Header {
        source: Some(canonical(SocketAddr::new(source, source_port))),
        destination: Some(canonical(SocketAddr::new(destination, destination_port))),
        tlvs: Vec::new(),
    })
}

/// An address of the line's family and the space behind it.
fn address(cursor: &mut Cursor<'_>, family: u8) -> Result<IpAddr, Stop> {
    let start = cursor.at;
    loop {
        match cursor.byte()? {
            b' ' => break,
            b'0'..=b'9' | b'.' => {}
            b'a'..=b'f' | b'A'..=b'F' | b':' if family == b'6' => {}
            _ => return Err(Stop::Broken),
        }
    }
    let written = cursor.bytes.get(start..cursor.at - 1).unwrap_or_default();
    let written = str::from_utf8(written).map_err(|_| Stop::Broken)?;
    // The parsers of std are strict: four decimal parts without leading zeros, no zone.
    let address = match family {
        b'4' => written.parse::<Ipv4Addr>().map(IpAddr::V4),
        _ => written.parse::<Ipv6Addr>().map(IpAddr::V6),
    };
    address.map_err(|_| Stop::Broken)
}

/// A port from 0 to 65535 without leading zeros, and the byte that ends it.
fn port(cursor: &mut Cursor<'_>, end: u8) -> Result<u16, Stop> {
    let mut port = digit(cursor.byte()?)?;
    loop {
        let byte = cursor.byte()?;
        if byte == end {
            return Ok(port);
        }
        accept(port != 0)?;
        let digit = digit(byte)?;
        let next = port.checked_mul(10).and_then(|port| port.checked_add(digit));
        port = next.ok_or(Stop::Broken)?;
    }
}

fn digit(byte: u8) -> Result<u16, Stop> {
    accept(byte.is_ascii_digit())?;
    Ok(u16::from(byte - b'0'))
}

/// Version 2: fixed part, addresses of the family, TLVs.
fn binary(cursor: &mut Cursor<'_>) -> Result<Header, Stop> {
    cursor.expect(SIGNATURE)?;
    let is_local = match cursor.byte()? {
        0x20 => true,
        0x21 => false,
        _ => return Err(Stop::Broken),
    };
    let family = cursor.byte()?;
    // LOCAL is a balancer talking for itself; its family and block are ignored, whatever they are.
    let least = if is_local { 0 } else { address_bytes(family).ok_or(Stop::Broken)? };
    let length = usize::from(u16::from_be_bytes(cursor.array()?));
    accept(length >= least && length <= MOST - FIXED)?;
    let block = cursor.take(length)?;
    if is_local {
        return Ok(Header::SILENT);
    }
    let mut block = Cursor { bytes: block, at: 0 };
    match family {
        0x11 => proxied::<4>(&mut block),
        0x21 => proxied::<16>(&mut block),
        _ => Ok(Header::SILENT),
    }
}

/// How many bytes of addresses a family begins with; `None` for what senders must not send.
const fn address_bytes(family: u8) -> Option<usize> {
    match family {
        // AF_UNSPEC, or a transport that is neither stream nor datagram.
        0x00..=0x02 | 0x10 | 0x20 | 0x30 => Some(0),
        0x11 | 0x12 => Some(2 * 4 + 4),
        0x21 | 0x22 => Some(2 * 16 + 4),
        0x31 | 0x32 => Some(2 * 108),
        _ => None,
    }
}

/// Both addresses, both ports, TLVs.
fn proxied<const N: usize>(block: &mut Cursor<'_>) -> Result<Header, Stop>
where
    IpAddr: From<[u8; N]>,
{
    let source = IpAddr::from(block.array::<N>()?);
    let destination = IpAddr::from(block.array::<N>()?);
    let source_port = u16::from_be_bytes(block.array()?);
    let destination_port = u16::from_be_bytes(block.array()?);
    Ok(Header {
        source: Some(canonical(SocketAddr::new(source, source_port))),
        destination: Some(canonical(SocketAddr::new(destination, destination_port))),
        tlvs: std::iter::from_fn(|| next_tlv(block).ok()).collect(),
    })
}

fn next_tlv(block: &mut Cursor<'_>) -> Result<(u8, Vec<u8>), Stop> {
    let kind = block.byte()?;
    let length = usize::from(u16::from_be_bytes(block.array()?));
    Ok((kind, block.take(length)?.to_vec()))
}

#[cfg(test)]
mod tests;
