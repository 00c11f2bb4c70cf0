//! Replies of Redis: a prefix is incomplete or wrong, never another reply.

use headgate_wire::redis_reply::decode;

/// All of `bytes` is what a server sends.
pub(crate) fn check(bytes: &[u8]) {
    let whole = decode(bytes);
    if let Ok(Some((_, length))) = &whole {
        assert!(*length <= bytes.len());
        assert_eq!(decode(&bytes[..*length]), whole, "what follows does not matter");
        for end in [0, length / 3, length / 2, length - 1] {
            assert_eq!(decode(&bytes[..end]), Ok(None), "{end} of {length}");
        }
    }
}
