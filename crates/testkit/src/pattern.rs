//! Reproducible bytes: a sender fills buffers from a seed, a receiver with the same seed knows every
//! byte, so a lost, doubled or swapped one is found with its offset.

use std::io::{self, Read, Write};

/// A position in the endless byte sequence of one seed.
#[derive(Debug, Clone)]
pub struct Pattern {
    seed: u64,
    offset: u64,
}

impl Pattern {
    /// The sequence of `seed`, from its beginning.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { seed, offset: 0 }
    }

    /// How many bytes were produced or checked.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    const fn word(&self, index: u64) -> [u8; 8] {
        let mut z = (self.seed ^ index).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(index);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (z ^ (z >> 31)).to_le_bytes()
    }

    /// Fills `buffer` with the next bytes.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        let mut rest = buffer;
        while !rest.is_empty() {
            let word = self.word(self.offset / 8);
            let skip = usize::try_from(self.offset % 8).unwrap_or(0);
            let take = rest.len().min(8 - skip);
            let (now, later) = rest.split_at_mut(take);
            now.copy_from_slice(&word[skip..skip + take]);
            self.offset += take as u64;
            rest = later;
        }
    }

    /// Checks that `bytes` are the next ones.
    ///
    /// # Errors
    /// The offset in the sequence of the first wrong byte.
    pub fn check(&mut self, bytes: &[u8]) -> Result<(), u64> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let word = self.word(self.offset / 8);
            let skip = usize::try_from(self.offset % 8).unwrap_or(0);
            let take = rest.len().min(8 - skip);
            if skip == 0 && take == 8 && rest[..8] == word {
                self.offset += 8;
                rest = &rest[8..];
                continue;
            }
            let expected = &word[skip..skip + take];
            if let Some(at) = rest.iter().zip(expected).position(|(got, wanted)| got != wanted) {
                return Err(self.offset + at as u64);
            }
            self.offset += take as u64;
            rest = &rest[take..];
        }
        Ok(())
    }

    /// The next `count` bytes.
    #[must_use]
    pub fn take(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.fill(&mut bytes);
        bytes
    }

    /// Writes the next `count` bytes.
    ///
    /// # Errors
    /// As the writer's.
    pub fn send(&mut self, to: &mut impl Write, count: u64) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        let mut left = count;
        while left > 0 {
            let now = left.min(buffer.len() as u64);
            let part = &mut buffer[..usize::try_from(now).expect("fits a buffer")];
            self.fill(part);
            to.write_all(part)?;
            left -= now;
        }
        Ok(())
    }

    /// Reads until the end of `from` or `count` bytes, and checks each byte; returns how many came.
    ///
    /// # Errors
    /// The reader's, or `InvalidData` naming the offset of a wrong byte.
    pub fn receive(&mut self, from: &mut impl Read, count: u64) -> io::Result<u64> {
        let mut buffer = vec![0; 64 * 1024];
        let mut got = 0;
        while got < count {
            let room = (count - got).min(buffer.len() as u64);
            let room = usize::try_from(room).expect("fits a buffer");
            let now = match from.read(&mut buffer[..room]) {
                Ok(0) => break,
                Ok(now) => now,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.check(&buffer[..now]).map_err(|offset| {
                io::Error::new(io::ErrorKind::InvalidData, format!("wrong byte at {offset}"))
            })?;
            got += now as u64;
        }
        Ok(got)
    }
}

/// FNV-1a of some bytes, to compare what two sides saw.
#[must_use]
pub fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_make_the_same_sequence() {
        let whole = Pattern::new(7).take(1000);
        let mut pieces = Pattern::new(7);
        let mut joined = Vec::new();
        for size in [1, 7, 8, 9, 0, 64, 911] {
            joined.extend(pieces.take(size));
        }
        assert_eq!(whole, joined);
        assert_ne!(whole, Pattern::new(8).take(1000));
    }

    #[test]
    fn a_wrong_byte_is_found() {
        let mut bytes = Pattern::new(1).take(500);
        assert_eq!(Pattern::new(1).check(&bytes), Ok(()));
        bytes[300] ^= 1;
        assert_eq!(Pattern::new(1).check(&bytes), Err(300));
        let lost = [&bytes[..100], &bytes[101..200]].concat();
        assert!(Pattern::new(1).check(&lost).is_err());
    }
}
