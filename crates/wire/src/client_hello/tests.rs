use super::*;
use proptest::prelude::*;

fn vector(wide: bool, content: &[u8]) -> Vec<u8> {
    let length = content.len() as u16;
    let mut out = if wide { length.to_be_bytes().to_vec() } else { vec![length as u8] };
    out.extend_from_slice(content);
    out
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [kind.to_be_bytes().to_vec(), vector(true, content)].concat()
}

fn name_extension(name: &[u8]) -> Vec<u8> {
    extension(SERVER_NAME, &vector(true, &[vec![0], vector(true, name)].concat()))
}

fn alpn_extension(names: &[&[u8]]) -> Vec<u8> {
    let list: Vec<u8> = names.iter().flat_map(|name| vector(false, name)).collect();
    extension(ALPN, &vector(true, &list))
}

/// The handshake message of a hello with these extensions.
fn message(extensions: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend(vector(false, &[1; 32]));
    body.extend(vector(true, &[0x13, 1, 0x13, 2]));
    body.extend(vector(false, &[0]));
    body.extend(vector(true, &extensions.concat()));
    let length = (body.len() as u32).to_be_bytes();
    [vec![CLIENT_HELLO, length[1], length[2], length[3]], body].concat()
}

/// Cut into records of at most `size` bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|part| [vec![22, 3, 1], vector(true, part)].concat()).collect()
}

fn read(bytes: &[u8]) -> Result<Option<ClientHello>, NotHello> {
    HelloReader::default().push(bytes)
}

fn hello_with(extensions: &[Vec<u8>]) -> Result<Option<ClientHello>, NotHello> {
    read(&records(&message(extensions), LONGEST_RECORD))
}

fn sni_of(name: &[u8]) -> Result<Option<String>, NotHello> {
    hello_with(&[name_extension(name)]).map(|hello| hello.unwrap().sni)
}

#[test]
fn name_and_protocols() {
    let hello = hello_with(&[
        extension(43, &[2, 3, 4]),
        name_extension(b"A.Example.COM."),
        alpn_extension(&[b"h2", b"acme-tls/1"]),
    ]);
    let hello = hello.unwrap().unwrap();
    assert_eq!(hello.sni.as_deref(), Some("a.example.com"));
    assert_eq!(hello.alpn, [b"h2".to_vec(), b"acme-tls/1".to_vec()]);
    assert_eq!(hello_with(&[]).unwrap().unwrap(), ClientHello::default());
}

#[test]
fn without_extensions_at_all() {
    let mut message = message(&[]);
    message.truncate(message.len() - 2);
    if let Some(low) = message.get_mut(3) {
        *low -= 2;
    }
    assert_eq!(read(&records(&message, 512)).unwrap(), Some(ClientHello::default()));
}

#[test]
fn a_hello_of_post_quantum_size_in_one_byte_records() {
    let message = message(&[extension(51, &[9; 1250]), name_extension(b"pq.test")]);
    let mut reader = HelloReader::default();
    let bytes = records(&message, 1);
    let (last, most) = bytes.split_last().unwrap();
    for byte in most {
        assert_eq!(reader.push(&[*byte]).unwrap(), None);
    }
    assert_eq!(reader.push(&[*last]).unwrap().unwrap().sni.as_deref(), Some("pq.test"));
    assert_eq!(reader.into_received(), bytes);
}

#[test]
fn names_that_are_refused() {
    assert_eq!(sni_of(b"10.0.0.1").unwrap().as_deref(), Some("10.0.0.1"));
    assert_eq!(sni_of(b"under_score.test").unwrap().as_deref(), Some("under_score.test"));
    for name in [&b""[..], b"a b", b"a\0b", b"\xff\xfe", "ä.test".as_bytes(), &[b'a'; 255]] {
        assert!(matches!(sni_of(name), Err(NotHello::Malformed(_))), "{name:?}");
    }
    let twice = hello_with(&[name_extension(b"a"), name_extension(b"b")]);
    assert_eq!(twice, Err(NotHello::Malformed("an extension appears twice")));
    assert!(matches!(hello_with(&[alpn_extension(&[b""])]), Err(NotHello::Malformed(_))));
}

#[test]
fn what_is_not_tls_is_told_at_its_first_bytes() {
    for (bytes, protocol) in [
        (&b"GET / HTTP/1.1\r\n"[..], Some("HTTP")),
        (b"SSH-2.0-x", Some("SSH")),
        (b"PROXY TCP4 1", Some("a PROXY protocol header")),
        (b"\x80\x2e\x01\x00\x02", Some("SSL 2.0")),
        (b"\x15\x03", None),
        (b"\x16\x02", None),
        (b"x", None),
    ] {
        match read(bytes) {
            Err(NotHello::Plain(plain)) => assert_eq!(plain.protocol(), protocol, "{bytes:?}"),
            other => panic!("{bytes:?}: {other:?}"),
        }
    }
    let text = read(b"GET /\x01").unwrap_err().to_string();
    assert_eq!(text, r#"HTTP, not TLS: "GET /\x01""#);
    assert!(looks_like_tls(b"\x16\x03\x01") && !looks_like_tls(b"\x16\x03"));
}

#[test]
fn bounds() {
    let huge = [22, 3, 1, 0, 4, CLIENT_HELLO, 0xff, 0xff, 0xff];
    assert_eq!(read(&huge), Err(NotHello::TooLong));
    let long = records(&message(&[extension(21, &[0; 60_000])]), LONGEST_RECORD);
    assert!(read(&long).unwrap().is_some(), "60 KB of padding fit");
    let mut reader = HelloReader::default();
    let endless = records(&[vec![CLIENT_HELLO, 0, 0xff, 0xff], vec![0; 70_000]].concat(), 100);
    let refused = endless.chunks(997).find_map(|part| reader.push(part).err());
    assert_eq!(refused, Some(NotHello::TooLong));
    assert!(reader.into_received().len() < MOST + 997);
    for length in [[0, 0], [0x40, 1]] {
        let record = [22, 3, 1, length[0], length[1], CLIENT_HELLO];
        assert_eq!(read(&record), Err(NotHello::Malformed("record of an illegal length")));
    }
    assert!(matches!(read(&[22, 3, 1, 0, 1, 2]), Err(NotHello::Malformed(_))));
}

proptest! {
    #[test]
    fn any_split_gives_the_same(
        size in 1_usize..200,
        step in 1_usize..50,
        padding in 0_usize..400,
        behind in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let extensions = [extension(21, &vec![0; padding]), name_extension(b"a.test")];
        let mut bytes = records(&message(&extensions), size);
        let whole = read(&bytes).unwrap().unwrap();
        bytes.extend(&behind);
        let mut reader = HelloReader::default();
        let found = bytes.chunks(step).find_map(|part| reader.push(part).unwrap());
        prop_assert_eq!(found, Some(whole));
        prop_assert!(bytes.starts_with(&reader.into_received()));
    }

    #[test]
    fn strangers_cannot_break_it(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&bytes);
        let _ = read(&records(&[vec![CLIENT_HELLO, 0, 0, bytes.len() as u8], bytes].concat(), 99));
    }

    #[test]
    fn a_changed_byte_or_a_cut_never_panics(at in 0_usize..200, byte: u8, cut in 0_usize..200) {
        let extensions = [name_extension(b"a.test"), alpn_extension(&[b"h2"])];
        let mut bytes = records(&message(&extensions), 64);
        let at = at % bytes.len();
        if let Some(place) = bytes.get_mut(at) {
            *place = byte;
        }
        let _ = read(&bytes);
        bytes.truncate(cut);
        let _ = read(&bytes);
    }
}

#[test]
fn what_lies_beyond_the_bound_is_not_looked_at() {
    // Records of one byte make a hello of 15 KiB longer than the bound.
    let message = message(&[extension(21, &[0; 15_000])]);
    let bytes = records(&message, 1);
    assert!(bytes.len() > MOST);
    assert_eq!(read(&bytes), Err(NotHello::TooLong), "in one piece");
    let mut reader = HelloReader::default();
    let mut pieces = bytes.chunks(4096).map(|piece| reader.push(piece));
    assert_eq!(pieces.find(|read| *read != Ok(None)), Some(Err(NotHello::TooLong)));
    assert!(read(&records(&message, 100)).unwrap().is_some());
}
