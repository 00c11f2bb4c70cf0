#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a failed step panics in a test")]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use proptest::prelude::*;

use super::*;

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn silent(length: usize) -> Decoded {
    Decoded::Done { header: Header::SILENT, length }
}

fn done(source: &str, destination: &str, length: usize) -> Decoded {
    let (source, destination) = (Some(addr(source)), Some(addr(destination)));
    Decoded::Done { header: Header { source, destination, tlvs: Vec::new() }, length }
}

#[track_caller]
fn read(bytes: &[u8]) -> Decoded {
    decode(bytes).unwrap_or_else(|error| panic!("{error}"))
}

/// The whole is accepted to its last byte, and each of its beginnings asks for more.
#[track_caller]
fn complete(bytes: &[u8]) -> Decoded {
    for length in 0..bytes.len() {
        assert_eq!(read(&bytes[..length]), Decoded::NeedMore, "the first {length} bytes");
    }
    read(bytes)
}

/// Refused at the last byte and not before.
#[track_caller]
fn broken_at_last(bytes: &[u8]) {
    let (_, start) = bytes.split_last().expect("at least one byte");
    assert_eq!(decode(start), Ok(Decoded::NeedMore), "before {:?}", bytes.escape_ascii());
    assert!(decode(bytes).is_err(), "{} is accepted", bytes.escape_ascii());
}

// ---- version 1

#[test]
fn a_line_of_each_family() {
    let four = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n";
    assert_eq!(complete(four), done("192.0.2.1:56324", "198.51.100.2:443", four.len()));
    let six = b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n";
    assert_eq!(complete(six), done("[2001:db8::1]:1", "[::1]:65535", six.len()));
    let upper = b"PROXY TCP6 2001:0DB8:0000:0000:0000:0000:0000:000A ::1 0 0\r\n";
    assert_eq!(complete(upper), done("[2001:db8::a]:0", "[::1]:0", upper.len()));
}

#[test]
fn the_longest_lines_of_the_specification() {
    let six = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let line = format!("PROXY TCP6 {six} {six} 65535 65535\r\n");
    let both = format!("[{six}]:65535");
    assert_eq!(complete(line.as_bytes()), done(&both, &both, 104));
    let line = format!("PROXY UNKNOWN {six} {six} 65535 65535\r\n");
    assert_eq!((line.len(), complete(line.as_bytes())), (107, silent(107)));
    let line = b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n";
    assert_eq!(complete(line), done("255.255.255.255:65535", "255.255.255.255:65535", 56));
}

#[test]
fn unknown_ignores_the_rest_of_its_line() {
    assert_eq!(complete(b"PROXY UNKNOWN\r\n"), silent(15));
    assert_eq!(complete(b"PROXY UNKNOWN anything \r at \n all\r\r\n"), silent(36));
    broken_at_last(b"PROXY UNKNOWNX");
    broken_at_last(b"PROXY UNKNOWN\n");
    broken_at_last(b"PROXY unknown".split_at(7).0);
}

#[test]
fn a_line_ends_within_107_bytes() {
    let mut line = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 93]].concat();
    assert_eq!(line.len(), LONGEST_LINE);
    broken_at_last(&line);
    // A line that would end one byte later is too long as well.
    line[106] = b'\r';
    line.push(b'\n');
    assert!(decode(&line).is_err());
    let zeros = [b"PROXY TCP4 ".as_slice(), &[b'1'; 96]].concat();
    broken_at_last(&zeros);
}

#[test]
fn each_byte_of_the_line_counts() {
    for line in [
        "G",
        "p",
        "PR0",
        "PROXY\t",
        "PROXY  ",
        "PROXY\r",
        "PROXY t",
        "PROXY TCP5",
        "PROXY TCP\r",
        "PROXY TCP4\r",
        "PROXY TCP4  ",
        "PROXY TCP4 192.0.2.1  ",
        "PROXY TCP4 192.0.2.1\t",
        "PROXY TCP4 192.0.2.1\r",
        "PROXY TCP4 192.0.2.1 192.0.2.2  ",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1  ",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1\r",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 \r",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 ",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\rx",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\r",
    ] {
        broken_at_last(line.as_bytes());
    }
}

#[test]
fn addresses_belong_to_the_family_and_are_written_out() {
    for address in [
        "192.0.2 ",
        "192.0.2.1.1 ",
        "192.0.2.256 ",
        "192.0.2.01 ",
        "192.0.2. ",
        "3221225985 ",
        "a",
        "2001:",
        "/",
    ] {
        broken_at_last(format!("PROXY TCP4 {address}").as_bytes());
        broken_at_last(format!("PROXY TCP4 192.0.2.1 {address}").replace("2001:", ":").as_bytes());
    }
    for address in
        ["192.0.2.1 ", ": ", "1::2::3 ", "1:2:3:4:5:6:7 ", "1:2:3:4:5:6:7:8:9 ", "12345:: ", "["]
    {
        broken_at_last(format!("PROXY TCP6 {address}").as_bytes());
    }
    broken_at_last(b"PROXY TCP6 fe80::1%");
}

#[test]
fn ports_are_plain_numbers_up_to_65535() {
    for port in ["65536", "65540", "70000", "999999", "00", "01", "080", "+", "-", "x", " "] {
        // The first byte that no port can have is where reading ends.
        let wrong = match port {
            "999999" => "99999",
            "080" => "08",
            other => other,
        };
        broken_at_last(format!("PROXY TCP4 192.0.2.1 192.0.2.2 {wrong}").as_bytes());
        broken_at_last(format!("PROXY TCP4 192.0.2.1 192.0.2.2 1 {wrong}").as_bytes());
    }
    for port in [0, 9, 10, 65535] {
        let line = format!("PROXY TCP4 192.0.2.1 192.0.2.2 {port} {port}\r\n");
        let (source, destination) = (format!("192.0.2.1:{port}"), format!("192.0.2.2:{port}"));
        assert_eq!(complete(line.as_bytes()), done(&source, &destination, line.len()));
    }
}

#[test]
fn what_follows_the_header_is_left() {
    let line = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nPROXY TCP4 a second one\r\n";
    assert_eq!(read(line), done("192.0.2.1:1", "192.0.2.2:2", 36));
    let binary = [header(0x21, 0x11, &v4_block()), b"\r\n\r\n\0\r\nQUIT\nbye".to_vec()].concat();
    assert_eq!(read(&binary), done("192.0.2.1:258", "192.0.2.2:772", 28));
}

// ---- version 2

fn header(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).expect("a length");
    [SIGNATURE.as_slice(), &[command, family], &length.to_be_bytes(), block].concat()
}

fn v4_block() -> Vec<u8> {
    vec![192, 0, 2, 1, 192, 0, 2, 2, 1, 2, 3, 4]
}

fn v6_block(source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
    [source.octets().as_slice(), &destination.octets(), &[0, 80, 1, 187]].concat()
}

#[test]
fn a_block_of_each_family() {
    let bytes = header(0x21, 0x11, &v4_block());
    assert_eq!(complete(&bytes), done("192.0.2.1:258", "192.0.2.2:772", 28));
    let block = v6_block("2001:db8::1".parse().expect("an address"), Ipv6Addr::LOCALHOST);
    assert_eq!(complete(&header(0x21, 0x21, &block)), done("[2001:db8::1]:80", "[::1]:443", 52));
}

#[test]
fn what_names_no_tcp_client_says_nothing() {
    for (family, length) in
        [(0x00, 0), (0x00, 40), (0x12, 12), (0x22, 36), (0x31, 216), (0x32, 300), (0x10, 0)]
    {
        let bytes = header(0x21, family, &vec![7; length]);
        assert_eq!(complete(&bytes), silent(FIXED + length), "family {family:#x}");
    }
}

#[test]
fn local_ignores_its_family_and_block() {
    assert_eq!(complete(&header(0x20, 0x00, b"")), silent(16));
    assert_eq!(complete(&header(0x20, 0x11, &v4_block())), silent(28));
    assert_eq!(complete(&header(0x20, 0xff, b"xyz")), silent(19));
    assert_eq!(complete(&header(0x20, 0x21, b"")), silent(16));
}

#[test]
fn signature_version_command_and_family_count() {
    for at in 0..SIGNATURE.len() {
        let mut start = SIGNATURE[..=at].to_vec();
        start[at] ^= 0x20;
        if start != b"-" {
            broken_at_last(&start);
        }
    }
    for command in [0x00, 0x01, 0x11, 0x22, 0x2f, 0x31, 0xff] {
        broken_at_last(&[SIGNATURE.as_slice(), &[command]].concat());
    }
    for family in [0x03, 0x13, 0x23, 0x33, 0x41, 0xff] {
        broken_at_last(&[SIGNATURE.as_slice(), &[0x21, family]].concat());
    }
}

#[test]
fn a_block_shorter_than_its_addresses_is_refused_at_its_length() {
    for (family, least) in [(0x11, 12), (0x12, 12), (0x21, 36), (0x22, 36), (0x31, 216)] {
        broken_at_last(&header(0x21, family, &vec![0; least - 1])[..FIXED]);
        assert!(decode(&header(0x21, family, &vec![0; least])).is_ok());
    }
}

#[test]
fn a_header_is_at_most_so_long() {
    for command in [0x20, 0x21] {
        let bytes = header(command, 0x11, &vec![0; MOST - FIXED]);
        assert_eq!(bytes.len(), MOST);
        assert_eq!(read(&bytes[..MOST - 1]), Decoded::NeedMore);
        assert!(matches!(read(&bytes), Decoded::Done { length: MOST, .. }));
        broken_at_last(&header(command, 0x11, &vec![0; MOST - FIXED + 1])[..FIXED]);
    }
}

#[test]
fn extensions_are_kept_in_order() {
    let tlvs = [0x01, 0, 2, b'h', b'2', 0x04, 0, 0, 0xea, 0, 3, 1, 2, 3, 0x01, 0, 1, b'x'];
    let bytes = header(0x21, 0x11, &[v4_block(), tlvs.to_vec()].concat());
    let Decoded::Done { header: found, length } = complete(&bytes) else { panic!("incomplete") };
    assert_eq!(length, bytes.len());
    assert_eq!(
        found.tlvs,
        [(0x01, b"h2".to_vec()), (0x04, Vec::new()), (0xea, vec![1, 2, 3]), (0x01, b"x".to_vec())]
    );
}

#[test]
fn an_extension_that_does_not_fit_ends_them() {
    for rest in [[0xea].as_slice(), &[0xea, 0], &[0xea, 0, 1], &[0xea, 0xff, 0xff, 1, 2]] {
        let block = [v4_block(), vec![0x01, 0, 1, b'a'], rest.to_vec()].concat();
        let bytes = header(0x21, 0x11, &block);
        let Decoded::Done { header, length } = complete(&bytes) else { panic!("incomplete") };
        assert_eq!((header.tlvs, length), (vec![(0x01, b"a".to_vec())], bytes.len()));
    }
}

#[test]
fn mapped_addresses_are_read_as_ipv4() {
    let line = b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:c000:202 1 2\r\n";
    assert_eq!(complete(line), done("192.0.2.1:1", "192.0.2.2:2", line.len()));
    let mapped = |last| Ipv4Addr::new(192, 0, 2, last).to_ipv6_mapped();
    let bytes = header(0x21, 0x21, &v6_block(mapped(1), mapped(2)));
    assert_eq!(complete(&bytes), done("192.0.2.1:80", "192.0.2.2:443", 52));
}

// ---- the message

#[test]
fn the_message_quotes_the_line() {
    let message = |bytes: &[u8]| decode(bytes).expect_err("broken").to_string();
    assert_eq!(message(b"GET / HTTP/1.1\r\nHost: x"), r#"broken header: "GET / HTTP/1.1""#);
    assert_eq!(message(b"\x16\x03\x01\"\\\xff"), r#"broken header: "\x16\x03\x01\"\\\xff""#);
    assert_eq!(message(b"\r\n\r\nHello"), r#"broken header: "\r\n\r\nHello""#);
    let long = message(&[b'x'; 500]);
    assert_eq!(long, format!("broken header: \"{}\"", "x".repeat(107)));
}

// ---- writing

fn written(source: Option<&str>, destination: Option<&str>) -> String {
    let mut out = b"before|".to_vec();
    encode_v1(source.map(addr), destination.map(addr), &mut out);
    String::from_utf8(out).expect("text").strip_prefix("before|").expect("appended").to_owned()
}

#[test]
fn written_lines() {
    for (source, destination, line) in [
        ("192.0.2.1:1", "192.0.2.2:2", "TCP4 192.0.2.1 192.0.2.2 1 2"),
        ("[2001:db8::1]:1", "[::1]:65535", "TCP6 2001:db8::1 ::1 1 65535"),
        ("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2", "TCP4 192.0.2.1 192.0.2.2 1 2"),
        ("[::ffff:192.0.2.1]:1", "192.0.2.2:2", "TCP4 192.0.2.1 192.0.2.2 1 2"),
        ("192.0.2.1:1", "[::1]:2", "TCP6 ::ffff:192.0.2.1 ::1 1 2"),
        ("[::1]:1", "192.0.2.1:2", "TCP6 ::1 ::ffff:192.0.2.1 1 2"),
    ] {
        assert_eq!(written(Some(source), Some(destination)), format!("PROXY {line}\r\n"));
    }
    for missing in [(None, None), (Some("192.0.2.1:1"), None), (None, Some("192.0.2.1:1"))] {
        assert_eq!(written(missing.0, missing.1), "PROXY UNKNOWN\r\n");
    }
}

#[test]
fn a_written_line_has_no_zone() {
    let local = "fe80::1".parse().expect("an address");
    let zoned = SocketAddr::V6(SocketAddrV6::new(local, 7, 3, 4));
    let mut out = Vec::new();
    encode_v1(Some(zoned), Some(zoned), &mut out);
    assert_eq!(out, b"PROXY TCP6 fe80::1 fe80::1 7 7\r\n");
}

// ---- properties

#[test]
fn the_binary_form_of_missing_and_mixed_addresses() {
    let mut out = Vec::new();
    encode_v2(Carrier::Stream, None, Some(addr("192.0.2.1:1")), &[], &mut out);
    assert_eq!(complete(&out), silent(FIXED));
    out.clear();
    let (v4, v6) = (addr("192.0.2.1:5"), addr("[2001:db8::1]:6"));
    encode_v2(Carrier::Datagram, Some(v4), Some(v6), &[], &mut out);
    assert_eq!(out.get(12..16), Some(&[0x21, 0x22, 0, 36][..]));
    // The IPv4 side travels as a mapped address.
    assert_eq!(out.get(16..32), Some(&Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().octets()[..]));
}

#[test]
fn extensions_that_do_not_fit_are_left_out() {
    let (from, to) = (Some(addr("192.0.2.1:5")), Some(addr("192.0.2.2:6")));
    for (size, kept) in [(MOST - FIXED - 12 - 3, 1), (MOST - FIXED - 12 - 2, 0)] {
        let (mut tlvs, mut out) = (Vec::new(), Vec::new());
        tlv::push(tlv::UNIQUE_ID, &vec![7; size], &mut tlvs);
        encode_v2(Carrier::Stream, from, to, &tlvs, &mut out);
        let Decoded::Done { header, length } = read(&out) else { panic!("not complete") };
        assert_eq!((header.tlvs.len(), length), (kept, out.len()));
    }
}

#[test]
fn beginnings_that_nothing_else_has() {
    for (bytes, is_one) in [
        (&b"PROXY TCP4 192.0.2.1"[..], true),
        (b"PROXY UNKNOWN\r\n", true),
        (b"\r\n\r\n\0\r\nQUIT\n\x21", true),
        (b"PROXY", false),
        (b"GET / HTTP/1.1\r\n", false),
        (b"", false),
    ] {
        assert_eq!(begins_like_one(bytes), is_one, "{}", bytes.escape_ascii());
    }
}

fn any_addr() -> impl Strategy<Value = SocketAddr> {
    any::<(std::net::IpAddr, u16)>().prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

/// Bytes that are a valid header, of any form.
fn valid() -> impl Strategy<Value = Vec<u8>> {
    let line = (any_addr(), any_addr()).prop_map(|(source, destination)| {
        let mut out = Vec::new();
        encode_v1(Some(source), Some(destination), &mut out);
        out
    });
    let block = prop::collection::vec(any::<u8>(), 216..400);
    let binary = (
        prop::sample::select(vec![0x20, 0x21]),
        prop::sample::select(vec![0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32]),
        block,
    );
    prop_oneof![line, binary.prop_map(|(command, family, block)| header(command, family, &block))]
}

/// Bytes that get past the first checks more often than random ones.
fn nearly_valid() -> impl Strategy<Value = Vec<u8>> {
    let garbage = || prop::collection::vec(any::<u8>(), 0..300);
    let changed =
        (valid(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut bytes, at, byte)| {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes
        });
    let after_start = (
        prop::sample::select(vec![
            b"PROXY TCP4 ".as_slice(),
            b"PROXY TCP6 ",
            b"PROXY UNKNOWN",
            SIGNATURE,
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11",
        ]),
        prop_oneof![garbage(), "[0-9a-f:. \r\n]{0,120}".prop_map(String::into_bytes)],
    )
        .prop_map(|(start, rest)| [start, &rest].concat());
    prop_oneof![garbage(), changed, after_start]
}

proptest! {
    /// What is written in the binary form is read as it was, and no beginning of it is enough.
    #[test]
    fn the_binary_form_there_and_back(
        from in any_addr(),
        to in any_addr(),
        values in prop::collection::vec(
            (any::<u8>(), prop::collection::vec(any::<u8>(), 0..60)),
            0..6,
        ),
    ) {
        let (mut tlvs, mut out) = (Vec::new(), Vec::new());
        values.iter().for_each(|(kind, value)| tlv::push(*kind, value, &mut tlvs));
        encode_v2(Carrier::Stream, Some(from), Some(to), &tlvs, &mut out);
        let read = complete(&out);
        let (source, destination) = (Some(canonical(from)), Some(canonical(to)));
        let header = Header { source, destination, tlvs: values };
        prop_assert_eq!(read, Decoded::Done { header, length: out.len() });
    }

    #[test]
    fn what_is_written_is_read(source in any_addr(), destination in any_addr()) {
        let mut out = Vec::new();
        encode_v1(Some(source), Some(destination), &mut out);
        let (source, destination) = (canonical(source), canonical(destination));
        // What was written as IPv6 for the other one's sake is read as IPv4 again.
        let expected = done(&source.to_string(), &destination.to_string(), out.len());
        prop_assert_eq!(decode(&out), Ok(expected));
    }

    #[test]
    fn binary_addresses_are_read(
        (four, six) in any::<((Ipv4Addr, Ipv4Addr), (Ipv6Addr, Ipv6Addr))>(),
        (from, to) in any::<(u16, u16)>(),
        tlvs in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..50)), 0..9),
    ) {
        let ports = [from.to_be_bytes(), to.to_be_bytes()].concat();
        let tail: Vec<u8> = tlvs.iter().flat_map(|(kind, value)| {
            let length = u16::try_from(value.len()).expect("a length").to_be_bytes();
            [&[*kind], length.as_slice(), value].concat()
        }).collect();
        for (family, source, destination, addresses) in [
            (0x11, four.0.into(), four.1.into(), [four.0.octets(), four.1.octets()].concat()),
            (0x21, six.0.into(), six.1.into(), [six.0.octets(), six.1.octets()].concat()),
        ] {
            let bytes = header(0x21, family, &[addresses, ports.clone(), tail.clone()].concat());
            let header = Header {
                source: Some(canonical(SocketAddr::new(source, from))),
                destination: Some(canonical(SocketAddr::new(destination, to))),
                tlvs: tlvs.clone(),
            };
            prop_assert_eq!(decode(&bytes), Ok(Decoded::Done { header, length: bytes.len() }));
        }
    }

    #[test]
    fn every_beginning_of_a_valid_header_asks_for_more(
        bytes in valid(),
        rest in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let whole = complete(&bytes);
        let ends_there = matches!(whole, Decoded::Done { length, .. } if length == bytes.len());
        prop_assert!(ends_there);
        prop_assert_eq!(read(&[bytes, rest].concat()), whole);
    }

    /// More bytes never change an answer that was given, and no split gives another one.
    #[test]
    fn an_answer_stands_however_the_bytes_are_split(bytes in nearly_valid()) {
        let mut answer = None;
        for length in 0..=bytes.len() {
            let now = decode(&bytes[..length]);
            if let Ok(Decoded::Done { length: used, .. }) = &now {
                prop_assert!(*used <= length && *used <= MOST);
            }
            match (&answer, now) {
                (None, Ok(Decoded::NeedMore)) => {}
                (None, now) => answer = Some(now),
                (Some(Ok(earlier)), now) => prop_assert_eq!(Ok(earlier), now.as_ref()),
                (Some(Err(_)), now) => prop_assert!(now.is_err()),
            }
        }
    }

    #[test]
    fn the_message_is_short_and_printable(bytes in nearly_valid()) {
        if let Err(error) = decode(&bytes) {
            let text = error.to_string();
            prop_assert!(text.len() <= 4 * LONGEST_LINE + 20);
            prop_assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{}", text);
        }
    }
}
