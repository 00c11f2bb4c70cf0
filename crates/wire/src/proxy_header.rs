//! PROXY protocol: the header a balancer puts in front of a connection.
use std::fmt;
use std::net::SocketAddr;

/// Longest header accepted, in bytes.
pub const MOST: usize = 4096;

/// What a PROXY header said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Source.
    pub source: Option<SocketAddr>,
    /// Destination.
    pub destination: Option<SocketAddr>,
    /// TLVs.
    pub tlvs: Vec<(u8, Vec<u8>)>,
}

/// Outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// More.
    NeedMore,
    /// Done.
    Done {
        /// Header.
        header: Header,
        /// Used.
        length: usize,
    },
}

/// Broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct BrokenHeader {
    start: Vec<u8>,
}

impl fmt::Display for BrokenHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken header: \"{}\"", self.start.escape_ascii())
    }
}

/// Decode.
///
/// # Errors
/// Not a header.
pub fn decode(bytes: &[u8]) -> Result<Decoded, BrokenHeader> {
    Err(BrokenHeader { start: bytes.to_vec() })
}

/// Encode.
pub fn encode_v1(
    source: Option<SocketAddr>,
    destination: Option<SocketAddr>,
    out: &mut Vec<u8>,
) {
    let _ = (source, destination, out);
}
