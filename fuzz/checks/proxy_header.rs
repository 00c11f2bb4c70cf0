//! PROXY protocol headers: what a prefix says is never taken back, and what is read can be written.

use headgate_wire::proxy_header::{Carrier, Decoded, MOST, decode, encode_v1, encode_v2, tlv};

/// All of `bytes` is what a client sends.
pub(crate) fn check(bytes: &[u8]) {
    let whole = decode(bytes);
    match &whole {
        Ok(Decoded::Done { header, length }) => {
            assert!(*length <= bytes.len() && *length <= MOST, "{length}");
            for end in [0, 1, length / 2, length.saturating_sub(1)] {
                let part = decode(&bytes[..end.min(length - 1)]);
                assert_eq!(part, Ok(Decoded::NeedMore), "{end} of {length}");
            }
            assert_eq!(decode(&bytes[..*length]), whole, "what follows does not matter");
            assert_eq!(header.source.is_some(), header.destination.is_some());
            let (from, to) = (header.source, header.destination);
            let mut tlvs = Vec::new();
            header.tlvs.iter().for_each(|(kind, value)| tlv::push(*kind, value, &mut tlvs));
            let mut written = Vec::new();
            encode_v1(from, to, &mut written);
            assert!(matches!(decode(&written), Ok(Decoded::Done { .. })), "{written:?}");
            written.clear();
            encode_v2(Carrier::Stream, from, to, &tlvs, &mut written);
            assert!(matches!(decode(&written), Ok(Decoded::Done { .. })), "{written:?}");
        }
        Ok(Decoded::NeedMore) => assert!(bytes.len() < MOST, "more than the bound is asked for"),
        Err(broken) => assert!(broken.to_string().len() < 600, "a bounded quote"),
    }
}
