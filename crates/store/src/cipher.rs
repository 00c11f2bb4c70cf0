//! Encryption of secrets at rest, compatible with APISIX (`apisix.data_encryption`).
//!
//! AES in CBC mode with PKCS#7 padding. The key is an entry of the keyring as it stands (16 or 32
//! characters), the initialization vector is its first 16 bytes, the result is base64. The same
//! text always gives the same result and nothing proves who wrote it: this keeps keys out of
//! casual sight in backups and listings, no more.

use std::fmt;

use aws_lc_rs::cipher::{
    AES_128, AES_256, DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey,
    PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The keys of `keyring`: the first encrypts, all decrypt. Without keys, text passes as it is.
#[derive(Default)]
pub struct Keyring {
    keys: Vec<Key>,
}

struct Key {
    encrypting: PaddedBlockEncryptingKey,
    decrypting: PaddedBlockDecryptingKey,
    iv: [u8; 16],
}

/// An entry of the keyring that is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("keyring entry {index} has {length} bytes; a key has 16 or 32")]
pub struct KeyError {
    /// Position in the keyring, from 0.
    pub index: usize,
    /// Its length in bytes.
    pub length: usize,
}

/// Why a text cannot be decrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecryptError {
    /// It is not base64.
    #[error("not base64")]
    Base64,
    /// No key of the ring fits.
    #[error("no key of the keyring fits")]
    NoKeyFits,
}

impl Keyring {
    /// Takes the entries of `keyring` in order.
    pub fn new(keys: &[impl AsRef<str>]) -> Result<Self, KeyError> {
        let keys = keys.iter().enumerate().map(|(index, key)| {
            let bytes = key.as_ref().as_bytes();
            Key::new(bytes).ok_or(KeyError { index, length: bytes.len() })
        });
        Ok(Self { keys: keys.collect::<Result<_, _>>()? })
    }

    /// Encrypts with the first key; without keys the text itself is the result.
    #[must_use]
    pub fn encrypt(&self, text: &str) -> String {
        self.keys.first().map_or_else(|| text.to_owned(), |key| key.encrypt(text))
    }

    /// Decrypts with the first key that fits.
    #[must_use]
    pub fn decrypt(&self, text: &str) -> Option<String> {
        self.try_decrypt(text).ok()
    }

    /// As [`Keyring::decrypt`], and says why not.
    pub fn try_decrypt(&self, text: &str) -> Result<String, DecryptError> {
        if self.keys.is_empty() {
            return Ok(text.to_owned());
        }
        let secret = STANDARD.decode(text).map_err(|_| DecryptError::Base64)?;
        self.keys.iter().find_map(|key| key.decrypt(&secret)).ok_or(DecryptError::NoKeyFits)
    }
}

impl Key {
    fn new(bytes: &[u8]) -> Option<Self> {
        let algorithm = match bytes.len() {
            16 => &AES_128,
            32 => &AES_256,
            _ => return None,
        };
        let unbound = || UnboundCipherKey::new(algorithm, bytes).ok();
        Some(Self {
            encrypting: PaddedBlockEncryptingKey::cbc_pkcs7(unbound()?).ok()?,
            decrypting: PaddedBlockDecryptingKey::cbc_pkcs7(unbound()?).ok()?,
            iv: *bytes.first_chunk()?,
        })
    }

    fn encrypt(&self, text: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        let context = EncryptionContext::Iv128(FixedLength::from(&self.iv));
        #[expect(clippy::expect_used, reason = "fails only for a context of another mode")]
        self.encrypting.less_safe_encrypt(&mut bytes, context).expect("context is for CBC");
        STANDARD.encode(bytes)
    }

    /// A wrong key can leave valid padding by chance; that the result is text rules most of it out.
    fn decrypt(&self, secret: &[u8]) -> Option<String> {
        let mut bytes = secret.to_vec();
        let context = DecryptionContext::Iv128(FixedLength::from(&self.iv));
        let text = self.decrypting.decrypt(&mut bytes, context).ok()?;
        std::str::from_utf8(text).ok().map(str::to_owned)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring of {} keys", self.keys.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "qeddd145sfvddff3";
    const SECOND: &str = "edd1c9f0985e76a2";
    const LONG: &str = "0123456789abcdef0123456789ABCDEF";

    fn ring(keys: &[&str]) -> Keyring {
        Keyring::new(keys).unwrap()
    }

    #[test]
    fn known_vectors() {
        for (key, text, secret) in [
            (FIRST, "hello", "RdO7hElVO+FhS5u1spmKUQ=="),
            (SECOND, "bar", "77+NmbYqNfN+oLm0aX5akg=="),
            (LONG, "hello", "yYn9S5Twas8InQvvVVZCGA=="),
        ] {
            assert_eq!(ring(&[key]).encrypt(text), secret);
            assert_eq!(ring(&[key]).decrypt(secret).as_deref(), Some(text));
        }
    }

    #[test]
    fn first_key_encrypts_and_any_key_decrypts() {
        let both = ring(&[FIRST, SECOND]);
        assert_eq!(both.encrypt("hello"), "RdO7hElVO+FhS5u1spmKUQ==");
        assert_eq!(both.decrypt("77+NmbYqNfN+oLm0aX5akg==").as_deref(), Some("bar"));
    }

    #[test]
    fn round_trip_of_every_length() {
        let ring = ring(&[LONG]);
        for length in 0..100 {
            let text = "ä".repeat(length);
            assert_eq!(ring.decrypt(&ring.encrypt(&text)), Some(text));
        }
    }

    #[test]
    fn what_cannot_be_decrypted() {
        let ring = ring(&[FIRST]);
        assert_eq!(ring.try_decrypt("not base64!"), Err(DecryptError::Base64));
        assert_eq!(ring.try_decrypt(""), Err(DecryptError::NoKeyFits));
        assert_eq!(ring.try_decrypt("AAAA"), Err(DecryptError::NoKeyFits));
        assert_eq!(ring.decrypt("yYn9S5Twas8InQvvVVZCGA=="), None);
    }

    #[test]
    fn empty_ring_changes_nothing() {
        let ring = Keyring::default();
        assert_eq!(ring.encrypt("hello"), "hello");
        assert_eq!(ring.decrypt("hello").as_deref(), Some("hello"));
    }

    #[test]
    fn keys_of_other_lengths_are_refused() {
        let error = Keyring::new(&[FIRST, "short"]).unwrap_err();
        assert_eq!(error, KeyError { index: 1, length: 5 });
        assert!(!format!("{:?}", ring(&[FIRST])).contains(FIRST));
    }
}
