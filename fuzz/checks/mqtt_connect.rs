//! MQTT CONNECT: a prefix asks for more or says what the whole says.

use headgate_wire::mqtt::{Decoded, decode};

/// All of `bytes` is what a client sends.
pub(crate) fn check(bytes: &[u8]) {
    let whole = decode(bytes);
    match whole {
        Ok(Decoded::Done(connect)) => {
            assert!(connect.length <= bytes.len());
            assert_eq!(decode(&bytes[..connect.length]), whole, "what follows does not matter");
            for end in [0, 1, 4, connect.length / 2, connect.length - 1] {
                let part = decode(&bytes[..end.min(connect.length - 1)]);
                assert!(matches!(part, Ok(Decoded::Need(_))), "{end}: {part:?}");
            }
        }
        Ok(Decoded::Need(count)) => assert!(count > bytes.len(), "{count}"),
        Err(error) => drop(error.to_string()),
    }
}
