//! A ClientHello means the same however TCP and the record layer cut it, and nobody makes the
//! reader hold more than its bound.

use headgate_wire::client_hello::{ClientHello, HelloReader, MOST, NotHello};

/// What the reader made of the bytes; of plain bytes only that they are none of TLS, because the
/// error quotes what had come by then.
type Read = Result<Option<ClientHello>, &'static str>;

/// The first eight bytes choose the cuts, the rest is what a client sends.
pub(crate) fn check(data: &[u8]) {
    let Some((seed, bytes)) = data.split_first_chunk::<8>() else { return };
    let mut cuts = Cuts(u64::from_le_bytes(*seed) | 1);
    as_a_stream(bytes, &mut cuts);
    as_a_message(bytes, &mut cuts);
    if seed[7] == 0xff && !bytes.is_empty() {
        let endless: Vec<u8> = bytes.iter().copied().cycle().take(MOST + 9000).collect();
        as_a_stream(&endless, &mut cuts);
    }
}

/// The bytes themselves, in one piece and in many.
fn as_a_stream(bytes: &[u8], cuts: &mut Cuts) {
    assert_eq!(read(&cuts.pieces(bytes)), read(&[bytes]), "TCP segments");
}

/// The bytes as the body of a ClientHello, in one record and in many.
fn as_a_message(body: &[u8], cuts: &mut Cuts) {
    let length = (body.len() as u32).to_be_bytes();
    let message = [&[1], &length[1..], body].concat();
    if message.len() > 16 * 1024 {
        return;
    }
    let (one, many) = (records(&[&message]), records(&cuts.pieces(&message)));
    let whole = read(&[&one]);
    assert_ne!(whole, Ok(None), "a complete message is read or refused");
    if many.len() <= MOST {
        assert_eq!(read(&[&many]), whole, "records");
        assert_eq!(read(&cuts.pieces(&many)), whole, "records and TCP segments");
    }
}

fn records(fragments: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for fragment in fragments.iter().filter(|fragment| !fragment.is_empty()) {
        out.extend([22, 3, 1]);
        out.extend((fragment.len() as u16).to_be_bytes());
        out.extend_from_slice(fragment);
    }
    out
}

fn read(pieces: &[&[u8]]) -> Read {
    let mut reader = HelloReader::default();
    let mut pushed = 0;
    for piece in pieces {
        let result = reader.push(piece);
        pushed += piece.len();
        match result {
            Ok(Some(hello)) => {
                let sni = hello.sni.as_deref().unwrap_or("a");
                assert!(!sni.is_empty() && sni.len() <= 254 && sni.is_ascii(), "{sni:?}");
                assert_eq!(reader.into_received().len(), pushed, "nothing is lost");
                return Ok(Some(hello));
            }
            Ok(None) => assert!(pushed < MOST, "{pushed} bytes are held"),
            Err(NotHello::Plain(plain)) => {
                let _ = plain.to_string();
                return Err("plain");
            }
            Err(NotHello::Malformed(what)) => return Err(what),
            Err(NotHello::TooLong) => return Err("too long"),
        }
    }
    Ok(None)
}

/// Places to cut, from a seed (xorshift).
struct Cuts(u64);

impl Cuts {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 as usize
    }

    fn pieces<'a>(&mut self, mut bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let longest = [1, 3, 40, 700, 5000][self.next() % 5];
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at((1 + self.next() % longest).min(bytes.len()));
            pieces.push(piece);
            bytes = rest;
        }
        pieces
    }
}
