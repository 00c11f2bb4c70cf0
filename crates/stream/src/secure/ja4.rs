//! The JA4 fingerprint of a client, for `$ja4`.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use headgate_net::tls::sha256;
use headgate_wire::ja4::{NOTHING, parts};

/// Set when a configuration names the variable, and for the rest of the process.
static WANTED: AtomicBool = AtomicBool::new(false);

/// From now on fingerprints are made.
pub(crate) fn want() {
    WANTED.store(true, Relaxed);
}

/// The fingerprint of the hello in `records`, if anybody wants it.
pub(crate) fn of(records: &[u8]) -> Option<Box<str>> {
    if WANTED.load(Relaxed) { fingerprint(records) } else { None }
}

fn fingerprint(records: &[u8]) -> Option<Box<str>> {
    let parts = parts(records)?;
    let (b, c) = (short_hash(&parts.ciphers), short_hash(&parts.extensions));
    Some(format!("{}_{b}_{c}", parts.a).into())
}

/// The first twelve hexadecimal digits of SHA-256.
fn short_hash(text: &str) -> String {
    if text.is_empty() {
        return NOTHING.to_owned();
    }
    let digest = sha256(text.as_bytes());
    digest.as_ref().iter().take(NOTHING.len() / 2).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lists of the example in the description, and what it says their hashes are.
    #[test]
    fn hashes_of_the_description() {
        let ciphers = "002f,0035,009c,009d,1301,1302,1303,c013,c014,c02b,c02c,c02f,c030,cca8,cca9";
        let extensions = "0005,000a,000b,000d,0012,0015,0017,001b,0023,002b,002d,0033,4469,ff01_\
            0403,0804,0401,0503,0805,0501,0806,0601";
        assert_eq!(short_hash(ciphers), "8daaf6152771");
        assert_eq!(short_hash(extensions), "e5627efa2ab1");
        assert_eq!(short_hash(""), "000000000000");
    }
}
