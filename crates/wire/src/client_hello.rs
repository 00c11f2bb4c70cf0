//! The first message of a TLS client, read without answering it (RFC 8446, section 4.1.2).
//!
//! A gateway that passes TLS through has to know the server name before it knows where the
//! connection goes. The hello may come byte by byte, in many TCP segments, and split over several
//! TLS records (section 5.1); post-quantum key shares make it 2 KiB and more.
//!
//! ```
//! # use headgate_wire::client_hello::HelloReader;
//! let mut reader = HelloReader::default();
//! assert!(reader.push(b"\x16\x03\x01").unwrap().is_none(), "not complete");
//! assert!(HelloReader::default().push(b"GET / HTTP/1.1").is_err(), "not TLS");
//! ```

use std::fmt;

/// The longest hello accepted, with its record headers, in bytes. rustls has the same bound.
pub const MOST: usize = 64 * 1024;

/// Bytes of a record header: type, version, length.
const RECORD_HEADER: usize = 5;
/// Bytes of a handshake message's header: type, length.
const MESSAGE_HEADER: usize = 4;
/// The longest plaintext record (section 5.1).
const LONGEST_RECORD: usize = 16 * 1024;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
/// The longest name (RFC 1035, section 2.3.4), with a dot at its end.
const LONGEST_NAME: usize = 254;
/// Bytes that a message about other bytes quotes.
const QUOTED: usize = 24;

/// What a client asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// Server name (RFC 6066, section 3), in lower case and without a dot at its end.
    pub sni: Option<String>,
    /// Offered application protocols (RFC 7301), in the order of the client.
    pub alpn: Vec<Vec<u8>>,
}

/// The bytes are not the beginning of a TLS connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotHello {
    /// Something else speaks.
    #[error("{0}")]
    Plain(Plain),
    /// It is TLS, and against the specification.
    #[error("malformed ClientHello: {0}")]
    Malformed(&'static str),
    /// It is longer than [`MOST`].
    #[error("ClientHello longer than {MOST} bytes")]
    TooLong,
}

/// First bytes of something that is not TLS, named where it is well known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plain {
    start: Vec<u8>,
}

impl Plain {
    fn of(bytes: &[u8]) -> Self {
        Self { start: bytes.iter().take(QUOTED).copied().collect() }
    }

    /// The protocol, if its first bytes tell.
    #[must_use]
    pub fn protocol(&self) -> Option<&'static str> {
        const KNOWN: &[(&[u8], &str)] = &[
            (b"GET ", "HTTP"),
            (b"POST ", "HTTP"),
            (b"PUT ", "HTTP"),
            (b"HEAD ", "HTTP"),
            (b"DELETE ", "HTTP"),
            (b"OPTIONS ", "HTTP"),
            (b"CONNECT ", "HTTP"),
            (b"PRI * HTTP/2", "HTTP/2"),
            (b"SSH-", "SSH"),
            (b"PROXY ", "a PROXY protocol header"),
            (b"\r\n\r\n\0\r\nQUIT\n", "a PROXY protocol header"),
            (b"EHLO ", "SMTP"),
            (b"*1\r\n", "Redis"),
            (b"*2\r\n", "Redis"),
        ];
        if let [first, _, 1, ..] = self.start.as_slice()
            && first & 0x80 != 0
        {
            return Some("SSL 2.0");
        }
        let known = KNOWN.iter().find(|(start, _)| self.start.starts_with(start));
        known.map(|(_, name)| *name)
    }
}

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol() {
            Some(name) => write!(f, "{name}, not TLS: \"{}\"", self.start.escape_ascii()),
            None => write!(f, "not TLS: \"{}\"", self.start.escape_ascii()),
        }
    }
}

/// Whether bytes look like the beginning of a TLS connection: a handshake record of any version.
/// Three bytes are enough.
#[must_use]
pub const fn looks_like_tls(bytes: &[u8]) -> bool {
    matches!(bytes, [HANDSHAKE, 3, 0..=4, ..])
}

/// Collects a ClientHello. Each byte is looked at once, however small the pieces are.
#[derive(Debug, Default)]
pub struct HelloReader {
    received: Vec<u8>,
    /// Where the next record begins.
    next: usize,
    /// The handshake message so far.
    message: Vec<u8>,
}

impl HelloReader {
    /// Takes the next bytes; the hello, once it is complete. Bytes behind it are kept too.
    ///
    /// # Errors
    /// See [`NotHello`]. What was received stays available.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<ClientHello>, NotHello> {
        self.received.extend_from_slice(bytes);
        let hello = self.advance()?;
        if hello.is_none() && self.received.len() >= MOST {
            return Err(NotHello::TooLong);
        }
        Ok(hello)
    }

    /// Whether nothing has been received.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.received.is_empty()
    }

    /// Everything received, for whoever answers the hello.
    #[must_use]
    pub fn into_received(self) -> Vec<u8> {
        self.received
    }

    fn advance(&mut self) -> Result<Option<ClientHello>, NotHello> {
        loop {
            // What lies beyond the bound is not looked at, so that it does not matter in how many
            // pieces it came.
            let within = self.received.get(..MOST).unwrap_or(&self.received);
            let rest = within.get(self.next..).unwrap_or_default();
            check_start(rest, self.next == 0)?;
            let Some(([_, _, _, high, low], payload)) = rest.split_first_chunk::<RECORD_HEADER>()
            else {
                return Ok(None);
            };
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            if length == 0 || length > LONGEST_RECORD {
                return Err(NotHello::Malformed("record of an illegal length"));
            }
            let Some(fragment) = payload.get(..length) else { return Ok(None) };
            self.message.extend_from_slice(fragment);
            self.next += RECORD_HEADER + length;
            if let Some(hello) = whole_message(&self.message)? {
                return parse(hello).map(Some);
            }
        }
    }
}

/// Looks at what there is of a record header, so that nobody waits for the rest of a wrong one.
fn check_start(rest: &[u8], is_first: bool) -> Result<(), NotHello> {
    let is_handshake = rest.first().is_none_or(|first| *first == HANDSHAKE);
    let is_version = rest.get(1).is_none_or(|major| *major == 3);
    match (is_handshake && is_version, is_first) {
        (true, _) => Ok(()),
        (false, true) => Err(NotHello::Plain(Plain::of(rest))),
        (false, false) => Err(NotHello::Malformed("another record inside it")),
    }
}

/// The body of the handshake message, once it is complete.
fn whole_message(message: &[u8]) -> Result<Option<&[u8]>, NotHello> {
    if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Err(NotHello::Malformed("the first message is not a ClientHello"));
    }
    let Some(([_, a, b, c], body)) = message.split_first_chunk::<MESSAGE_HEADER>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
    if length > MOST {
        return Err(NotHello::TooLong);
    }
    Ok(body.get(..length))
}

/// A place in a message.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], NotHello> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(NotHello::Malformed(what))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self, what: &'static str) -> Result<u8, NotHello> {
        let (first, rest) = self.0.split_first().ok_or(NotHello::Malformed(what))?;
        self.0 = rest;
        Ok(*first)
    }

    fn u16(&mut self, what: &'static str) -> Result<u16, NotHello> {
        let (first, rest) = self.0.split_first_chunk().ok_or(NotHello::Malformed(what))?;
        self.0 = rest;
        Ok(u16::from_be_bytes(*first))
    }

    /// A vector with a length of one byte.
    fn short(&mut self, what: &'static str) -> Result<&'a [u8], NotHello> {
        let length = self.u8(what)?;
        self.take(usize::from(length), what)
    }

    /// A vector with a length of two bytes.
    fn long(&mut self, what: &'static str) -> Result<&'a [u8], NotHello> {
        let length = self.u16(what)?;
        self.take(usize::from(length), what)
    }

    const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn parse(body: &[u8]) -> Result<ClientHello, NotHello> {
    let mut hello = Cursor(body);
    hello.take(2 + 32, "no version or random")?;
    let session = hello.short("session id")?;
    let suites = hello.long("cipher suites")?;
    let compression = hello.short("compression methods")?;
    if session.len() > 32 || suites.is_empty() || suites.len() % 2 != 0 || compression.is_empty() {
        return Err(NotHello::Malformed("session id, cipher suites or compression methods"));
    }
    let (mut sni, mut alpn) = (None, None);
    if hello.is_empty() {
        return Ok(ClientHello::default()); // extensions are optional before TLS 1.3
    }
    let mut extensions = Cursor(hello.long("extensions")?);
    if !hello.is_empty() {
        return Err(NotHello::Malformed("bytes behind the extensions"));
    }
    while !extensions.is_empty() {
        let kind = extensions.u16("extension type")?;
        let content = extensions.long("extension")?;
        let is_repeated = match kind {
            SERVER_NAME => sni.replace(server_name(content)?).is_some(),
            ALPN => alpn.replace(protocols(content)?).is_some(),
            _ => false,
        };
        if is_repeated {
            return Err(NotHello::Malformed("an extension appears twice"));
        }
    }
    Ok(ClientHello { sni: sni.flatten(), alpn: alpn.unwrap_or_default() })
}

/// RFC 6066, section 3.
fn server_name(content: &[u8]) -> Result<Option<String>, NotHello> {
    let mut outer = Cursor(content);
    let mut names = Cursor(outer.long("server name list")?);
    if !outer.is_empty() {
        return Err(NotHello::Malformed("bytes behind the server name list"));
    }
    let mut found = None;
    while !names.is_empty() {
        let kind = names.u8("server name type")?;
        let name = names.long("server name")?;
        if kind == 0 && found.replace(name).is_some() {
            return Err(NotHello::Malformed("two server names"));
        }
    }
    let Some(name) = found else { return Ok(None) };
    if name.is_empty() || name.len() > LONGEST_NAME {
        return Err(NotHello::Malformed("server name of an illegal length"));
    }
    let name = match std::str::from_utf8(name) {
        Ok(name) if name.bytes().all(|byte| byte.is_ascii_graphic()) => name,
        _ => return Err(NotHello::Malformed("illegal characters in the server name")),
    };
    Ok(Some(name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()))
}

/// RFC 7301, section 3.1.
fn protocols(content: &[u8]) -> Result<Vec<Vec<u8>>, NotHello> {
    let mut outer = Cursor(content);
    let mut list = Cursor(outer.long("protocol list")?);
    if !outer.is_empty() {
        return Err(NotHello::Malformed("bytes behind the protocol list"));
    }
    let mut all = Vec::new();
    while !list.is_empty() {
        match list.short("protocol name")? {
            [] => return Err(NotHello::Malformed("empty protocol name")),
            name => all.push(name.to_vec()),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
