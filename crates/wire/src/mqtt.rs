//! MQTT CONNECT, the packet with which every MQTT client begins: protocol, level and client id.
//!
//! Reads versions 3.1, 3.1.1 and 5 (OASIS MQTT 3.1.1, section 3.1; MQTT 5.0, section 3.1). What
//! stands behind the client id (will, user name, password) is not looked at. Like the reference, it
//! takes any packet whose first byte is between 16 and 32, and leaves it to the server to refuse
//! wrong flags.

/// Bytes without which nothing can be said: type, longest remaining length.
const HEADER: usize = 5;

/// What the bytes received so far amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// Nothing is wrong yet; the packet has at least this many bytes in all.
    Need(usize),
    /// The packet is complete.
    Done(Connect<'a>),
}

/// What a CONNECT said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connect<'a> {
    /// `MQTT`, or `MQIsdp` for version 3.1.
    pub protocol_name: &'a [u8],
    /// 3 for version 3.1, 4 for 3.1.1, 5 for 5.
    pub protocol_level: u8,
    /// Empty when the server is to choose one.
    pub client_id: &'a [u8],
    /// Bytes of the whole packet.
    pub length: usize,
}

/// Why the bytes are no CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoConnect {
    /// Another packet, or another protocol.
    #[error("Received unexpected MQTT packet type+flags: {0}")]
    Type(u8),
    /// The remaining length has more than four bytes (section 2.2.3 of 3.1.1).
    #[error("the remaining length has more than 4 bytes")]
    Length,
    /// Something reaches beyond the end of the packet.
    #[error("failed to parse mqtt request, expect len: {expected} but got {length}")]
    Short {
        /// Bytes that the packet would need.
        expected: usize,
        /// Bytes that it has.
        length: usize,
    },
}

impl NoConnect {
    /// Whether already the fixed header is wrong.
    #[must_use]
    pub const fn is_in_header(self) -> bool {
        matches!(self, Self::Type(_) | Self::Length)
    }
}

/// Reads a CONNECT from the beginning of `bytes`.
///
/// # Errors
/// See [`NoConnect`]. A wrong first byte is told as soon as it is there.
pub fn decode(bytes: &[u8]) -> Result<Decoded<'_>, NoConnect> {
    if let Some(first) = bytes.first().filter(|first| !(16..=32).contains(*first)) {
        return Err(NoConnect::Type(*first));
    }
    if bytes.len() < HEADER {
        return Ok(Decoded::Need(HEADER));
    }
    let mut cursor = Cursor { bytes, at: 1, end: bytes.len() };
    let remaining = cursor.varint().ok_or(NoConnect::Length)?;
    cursor.end = cursor.at.saturating_add(remaining);
    if bytes.len() < cursor.end {
        return Ok(Decoded::Need(cursor.end));
    }
    cursor.connect().map(Decoded::Done)
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where the packet ends.
    end: usize,
}

impl<'a> Cursor<'a> {
    fn connect(&mut self) -> Result<Connect<'a>, NoConnect> {
        let protocol_name = self.text()?;
        let protocol_level = self.take(1)?.first().copied().unwrap_or_default();
        self.take(3)?; // flags and keep alive
        if protocol_level == 5 {
            let properties = self.varint().ok_or_else(|| self.short(1))?;
            self.take(properties)?;
        }
        let client_id = self.text()?;
        Ok(Connect { protocol_name, protocol_level, client_id, length: self.end })
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], NoConnect> {
        let end = self.at.saturating_add(count);
        if end > self.end {
            return Err(self.short(count));
        }
        let taken = self.bytes.get(self.at..end).ok_or_else(|| self.short(count))?;
        self.at = end;
        Ok(taken)
    }

    const fn short(&self, count: usize) -> NoConnect {
        NoConnect::Short { expected: self.at.saturating_add(count), length: self.end }
    }

    /// Two bytes of length, and the text.
    fn text(&mut self) -> Result<&'a [u8], NoConnect> {
        let length = match self.take(2)? {
            [high, low] => u16::from_be_bytes([*high, *low]),
            _ => 0,
        };
        self.take(usize::from(length))
    }

    /// A variable byte integer of at most four bytes; `None` if it is longer or cut off.
    fn varint(&mut self) -> Option<usize> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = *self.bytes.get(self.at).filter(|_| self.at < self.end)?;
            self.at += 1;
            value |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn varint(mut value: usize, out: &mut Vec<u8>) {
        loop {
            let byte = (value & 0x7f) as u8;
            value >>= 7;
            out.push(if value > 0 { byte | 0x80 } else { byte });
            if value == 0 {
                return;
            }
        }
    }

    fn text(text: &[u8], out: &mut Vec<u8>) {
        out.extend((text.len() as u16).to_be_bytes());
        out.extend(text);
    }

    fn packet(name: &[u8], level: u8, properties: &[u8], id: &[u8], rest: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        text(name, &mut body);
        body.extend([level, 2, 0, 60]);
        if level == 5 {
            varint(properties.len(), &mut body);
            body.extend(properties);
        }
        text(id, &mut body);
        body.extend(rest);
        let mut packet = vec![16];
        varint(body.len(), &mut packet);
        packet.extend(body);
        packet
    }

    #[test]
    fn the_three_versions() {
        // MQTT 5.0, figures 3-2 to 3-6: a CONNECT with a session expiry of 10 seconds.
        let five = packet(b"MQTT", 5, &[0x11, 0, 0, 0, 10], b"dev-1", b"");
        let (three, old) =
            (packet(b"MQTT", 4, b"", b"a", b""), packet(b"MQIsdp", 3, b"", b"", b""));
        for (bytes, name, level, id) in
            [(&five, "MQTT", 5, "dev-1"), (&three, "MQTT", 4, "a"), (&old, "MQIsdp", 3, "")]
        {
            let Ok(Decoded::Done(connect)) = decode(bytes) else { panic!("{bytes:?}") };
            assert_eq!(connect.protocol_name, name.as_bytes());
            assert_eq!((connect.protocol_level, connect.client_id), (level, id.as_bytes()));
            assert_eq!(connect.length, bytes.len());
        }
    }

    #[test]
    fn what_is_no_connect() {
        assert_eq!(decode(b"G"), Err(NoConnect::Type(71)));
        assert_eq!(decode(&[33]), Err(NoConnect::Type(33)));
        assert_eq!(decode(&[16, 0xff, 0xff, 0xff, 0xff]), Err(NoConnect::Length));
        assert_eq!(decode(&[16, 0, 0, 0, 0]), Err(NoConnect::Short { expected: 4, length: 2 }));
        let mut bytes = packet(b"MQTT", 4, b"", b"id", b"");
        let at = bytes.len() - 3;
        bytes.splice(at..=at, [9]); // the id reaches beyond the packet
        let error = decode(&bytes).unwrap_err();
        assert_eq!(error, NoConnect::Short { expected: 23, length: 16 });
        let text = "failed to parse mqtt request, expect len: 23 but got 16";
        assert_eq!((error.to_string().as_str(), error.is_in_header()), (text, false));
    }

    #[test]
    fn a_huge_packet_is_announced() {
        assert_eq!(decode(&[16, 0xff, 0xff, 0xff, 0x7f]), Ok(Decoded::Need(268_435_460)));
    }

    proptest! {
        #[test]
        fn every_split_needs_more_and_the_whole_is_read(
            level in 3_u8..=6,
            properties in prop::collection::vec(any::<u8>(), 0..300),
            id in prop::collection::vec(any::<u8>(), 0..300),
            rest in prop::collection::vec(any::<u8>(), 0..50),
            behind in prop::collection::vec(any::<u8>(), 0..9),
        ) {
            let mut bytes = packet(b"MQTT", level, &properties, &id, &rest);
            for end in 0..bytes.len() {
                match decode(bytes.get(..end).unwrap()) {
                    Ok(Decoded::Need(count)) => prop_assert!(count > end && count <= bytes.len()),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            let length = bytes.len();
            bytes.extend(behind);
            let expected =
                Connect { protocol_name: b"MQTT", protocol_level: level, client_id: &id, length };
            prop_assert_eq!(decode(&bytes), Ok(Decoded::Done(expected)));
        }

        #[test]
        fn garbage_is_survived(mut bytes in prop::collection::vec(any::<u8>(), 0..80), first in 14_u8..34) {
            if let Some(byte) = bytes.first_mut() {
                *byte = first;
            }
            if let Ok(Decoded::Need(count)) = decode(&bytes) {
                prop_assert!(count > bytes.len());
            }
        }
    }
}
