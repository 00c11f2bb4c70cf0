//! CRC-32 (IEEE 802.3, reflected polynomial 0xEDB88320): the hash of consistent hashing.

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { 0xEDB8_8320 ^ (value >> 1) } else { value >> 1 };
            bit += 1;
        }
        table[byte] = value;
        byte += 1;
    }
    table
}

/// The state before the first byte.
pub(crate) const START: u32 = u32::MAX;

/// Continues `state` with `bytes`. The checksum is the final state with all bits inverted.
pub(crate) fn update(state: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(state, |state, byte| TABLE[usize::from(state as u8 ^ byte)] ^ (state >> 8))
}

/// The checksum of `bytes`.
#[must_use]
pub fn of(bytes: &[u8]) -> u32 {
    !update(START, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_checksums() {
        assert_eq!(of(b""), 0);
        assert_eq!(of(b"123456789"), 0xCBF4_3926);
        assert_eq!(of(b"203.0.113.9"), 0xBB0E_5871);
        assert_eq!(!update(update(START, b"1234"), b"56789"), 0xCBF4_3926);
    }
}
