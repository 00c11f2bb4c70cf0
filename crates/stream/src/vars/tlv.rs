//! `$proxy_protocol_tlv_*`: the extensions of a PROXY header of version 2, by the names and numbers
//! that nginx gives them (proxy-protocol.txt, section 2.2.1 and following).

use std::io::Write as _;

use crate::session::Session;

const SSL: u8 = 0x20;
/// Client bits and verification result in front of the extensions inside `SSL`.
const SSL_FIXED: usize = 5;

/// One extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tlv {
    /// By its type.
    Kind(u8),
    /// Inside the extension `SSL`.
    Ssl(u8),
    /// The verification result in it: 0 when a certificate was shown and verified.
    SslVerify,
}

impl Tlv {
    /// The extension that a name behind `proxy_protocol_tlv_` means: `alpn`, `0x01`, `ssl_cn`,
    /// `ssl_0x22`.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let number = |text: &str| u8::from_str_radix(text.strip_prefix("0x")?, 16).ok();
        let kind = match name {
            "alpn" => 0x01,
            "authority" => 0x02,
            "unique_id" => 0x05,
            "ssl" => SSL,
            "netns" => 0x30,
            "ssl_verify" => return Some(Self::SslVerify),
            "ssl_version" => return Some(Self::Ssl(0x21)),
            "ssl_cn" => return Some(Self::Ssl(0x22)),
            "ssl_cipher" => return Some(Self::Ssl(0x23)),
            "ssl_sig_alg" => return Some(Self::Ssl(0x24)),
            "ssl_key_alg" => return Some(Self::Ssl(0x25)),
            other => match other.strip_prefix("ssl_") {
                Some(inner) => return number(inner).map(Self::Ssl),
                None => number(other)?,
            },
        };
        Some(Self::Kind(kind))
    }

    /// Appends the value; `false` when the header does not have it.
    pub(super) fn write(self, session: &Session, out: &mut Vec<u8>) -> bool {
        let tlvs = session.proxied.as_ref().map_or(&[][..], |proxied| &proxied.tlvs);
        match self {
            Self::Kind(kind) => put(find(tlvs, kind), out),
            Self::Ssl(kind) => {
                let inner = find(tlvs, SSL).and_then(|ssl| ssl.get(SSL_FIXED..));
                put(inner.and_then(|inner| find_inside(inner, kind)), out)
            }
            Self::SslVerify => {
                let Some([_, verify @ ..]) =
                    find(tlvs, SSL).and_then(<[u8]>::first_chunk::<SSL_FIXED>)
                else {
                    return false;
                };
                let _ = write!(out, "{}", u32::from_be_bytes(*verify)); // a Vec takes everything
                true
            }
        }
    }

    /// A number for it, below 0x8000.
    pub(super) const fn number(self) -> u16 {
        match self {
            Self::Kind(kind) => kind as u16,
            Self::Ssl(kind) => 0x100 | kind as u16,
            Self::SslVerify => 0x200,
        }
    }

    /// The extension of such a number.
    pub(super) const fn from_number(number: u16) -> Self {
        match number >> 8 {
            0 => Self::Kind(number as u8),
            1 => Self::Ssl(number as u8),
            _ => Self::SslVerify,
        }
    }
}

fn find(tlvs: &[(u8, Vec<u8>)], kind: u8) -> Option<&[u8]> {
    tlvs.iter().find(|(known, _)| *known == kind).map(|(_, value)| value.as_slice())
}

fn find_inside(mut bytes: &[u8], wanted: u8) -> Option<&[u8]> {
    while let [kind, high, low, rest @ ..] = bytes {
        let (value, behind) =
            rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])))?;
        if *kind == wanted {
            return Some(value);
        }
        bytes = behind;
    }
    None
}

fn put(value: Option<&[u8]>, out: &mut Vec<u8>) -> bool {
    value.map(|value| out.extend_from_slice(value)).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Proxied;

    #[test]
    fn names_and_numbers() {
        for (name, tlv) in [
            ("alpn", Some(Tlv::Kind(1))),
            ("0x01", Some(Tlv::Kind(1))),
            ("0xEA", Some(Tlv::Kind(0xea))),
            ("ssl", Some(Tlv::Kind(0x20))),
            ("ssl_verify", Some(Tlv::SslVerify)),
            ("ssl_cn", Some(Tlv::Ssl(0x22))),
            ("ssl_0x22", Some(Tlv::Ssl(0x22))),
            ("vpce", None),
            ("0x100", None),
            ("1", None),
        ] {
            assert_eq!(Tlv::parse(name), tlv, "{name}");
            if let Some(tlv) = tlv {
                assert_eq!(Tlv::from_number(tlv.number()), tlv);
            }
        }
    }

    #[test]
    fn values() {
        let ssl = [&[7, 0, 0, 0, 0][..], &[0x21, 0, 7], b"TLSv1.3", &[0x22, 0, 3], b"bob"].concat();
        let address = "192.0.2.1:1".parse().unwrap();
        let tlvs = vec![(0x02, b"a.test".to_vec()), (0x20, ssl), (0x05, Vec::new())];
        let mut session = Session::of("198.51.100.7:1");
        session.proxied = Some(Box::new(Proxied { source: address, destination: address, tlvs }));
        let value = |name: &str| {
            let mut out = Vec::new();
            let has = Tlv::parse(name).unwrap().write(&session, &mut out);
            has.then(|| String::from_utf8(out).unwrap())
        };
        assert_eq!(value("authority").as_deref(), Some("a.test"));
        assert_eq!(value("ssl_version").as_deref(), Some("TLSv1.3"));
        assert_eq!(value("ssl_cn").as_deref(), Some("bob"));
        assert_eq!(value("ssl_verify").as_deref(), Some("0"));
        assert_eq!(value("unique_id").as_deref(), Some(""));
        assert_eq!((value("ssl_cipher"), value("alpn")), (None, None));
        // A broken one says nothing.
        let broken = vec![(0x20, vec![1, 0, 0])];
        session.proxied =
            Some(Box::new(Proxied { source: address, destination: address, tlvs: broken }));
        let mut out = Vec::new();
        assert!(
            !Tlv::SslVerify.write(&session, &mut out) && !Tlv::Ssl(0x21).write(&session, &mut out)
        );
    }
}
