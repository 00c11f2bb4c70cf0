//! The certificate of a client, as variables show it.

use std::fmt::Write as _;
use std::net::IpAddr;

use headgate_net::tls::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Name;

/// A verified certificate; fields are read from it when somebody asks.
#[derive(Debug)]
pub struct ClientCertificate {
    der: CertificateDer<'static>,
}

impl ClientCertificate {
    pub(super) fn new(der: &CertificateDer<'_>) -> Self {
        Self { der: der.clone().into_owned() }
    }

    fn parsed<T>(&self, read: impl FnOnce(&X509Certificate<'_>) -> T) -> Option<T> {
        let (_, certificate) = x509_parser::parse_x509_certificate(&self.der).ok()?;
        Some(read(&certificate))
    }

    /// The first common name of its subject.
    #[must_use]
    pub fn common_name(&self) -> Option<String> {
        self.parsed(|it| {
            let mut names = it.subject().iter_common_name();
            names.next().and_then(|name| name.as_str().ok()).map(str::to_owned)
        })
        .flatten()
    }

    /// Subject (RFC 2253).
    #[must_use]
    pub fn subject(&self) -> Option<String> {
        self.parsed(|it| distinguished_name(it.subject()))
    }

    /// Issuer (RFC 2253).
    #[must_use]
    pub fn issuer(&self) -> Option<String> {
        self.parsed(|it| distinguished_name(it.issuer()))
    }

    /// Subject alternative names as OpenSSL prints them, separated by commas; `None` without any.
    #[must_use]
    pub fn alternative_names(&self) -> Option<String> {
        let names = self.parsed(|it| {
            let extension = it.subject_alternative_name().ok()??;
            let names = extension.value.general_names.iter().filter_map(alternative_name);
            Some(names.collect::<Vec<_>>().join(","))
        });
        names.flatten().filter(|names| !names.is_empty())
    }

    /// Serial number, hexadecimal.
    #[must_use]
    pub fn serial(&self) -> Option<String> {
        self.parsed(|it| hex(it.raw_serial(), true))
    }

    /// SHA-1 of the certificate, hexadecimal.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex(headgate_net::tls::sha1(&self.der).as_ref(), false)
    }

    /// Beginning of validity.
    #[must_use]
    pub fn valid_from(&self) -> Option<String> {
        self.parsed(|it| time(it.validity.not_before))
    }

    /// End of validity.
    #[must_use]
    pub fn valid_to(&self) -> Option<String> {
        self.parsed(|it| time(it.validity.not_after))
    }

    /// Whole days until it expires.
    #[must_use]
    pub fn days_left(&self) -> Option<i64> {
        let seconds = self.parsed(|it| it.validity.not_after.timestamp())?;
        Some((seconds - ASN1Time::now().timestamp()).max(0) / 86_400)
    }

    /// The certificate in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        let text = base64(&self.der);
        let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
        for line in text.as_bytes().chunks(64) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
        pem
    }

    /// [`ClientCertificate::pem`] with every character escaped that has a meaning in URLs.
    #[must_use]
    pub fn escaped_pem(&self) -> String {
        let mut out = String::new();
        for byte in self.pem().bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    out.push(char::from(byte));
                }
                other => drop(write!(out, "%{other:02X}")),
            }
        }
        out
    }
}

fn alternative_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(format!("DNS:{name}")),
        GeneralName::RFC822Name(name) => Some(format!("email:{name}")),
        GeneralName::URI(uri) => Some(format!("URI:{uri}")),
        GeneralName::IPAddress(bytes) => {
            let address = match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
                (Ok(four), _) => IpAddr::from(four),
                (_, Ok(sixteen)) => IpAddr::from(sixteen),
                _ => return None,
            };
            Some(format!("IP:{address}"))
        }
        _ => None,
    }
}

fn hex(bytes: &[u8], upper: bool) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = if upper { write!(out, "{byte:02X}") } else { write!(out, "{byte:02x}") };
    }
    out
}

/// `Nov 25 15:04:05 2026 GMT`, as OpenSSL prints it.
fn time(time: ASN1Time) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let at = time.to_datetime();
    let month = MONTHS.get(usize::from(u8::from(at.month())) - 1).copied().unwrap_or_default();
    format!(
        "{month} {:>2} {:02}:{:02}:{:02} {} GMT",
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.year()
    )
}

/// The last part first, as RFC 2253 (section 2.1) wants it.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let parts: Vec<String> = name
        .iter()
        .map(|part| {
            let attributes: Vec<String> = part
                .iter()
                .map(|attribute| {
                    let oid = attribute.attr_type();
                    let kind =
                        x509_parser::objects::oid2abbrev(oid, x509_parser::objects::oid_registry())
                            .map_or_else(|_| oid.to_id_string(), str::to_owned);
                    let value = attribute
                        .as_str()
                        .map_or_else(|_| format!("#{}", hex(attribute.as_slice(), false)), escape);
                    format!("{kind}={value}")
                })
                .collect();
            attributes.join("+")
        })
        .collect();
    parts.into_iter().rev().collect::<Vec<_>>().join(",")
}

/// RFC 2253, section 2.4.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let last = text.chars().count().saturating_sub(1);
    for (index, character) in text.chars().enumerate() {
        let is_special = matches!(character, ',' | '+' | '"' | '\\' | '<' | '>' | ';');
        let is_edge =
            (character == ' ' && (index == 0 || index == last)) || (character == '#' && index == 0);
        if is_special || is_edge {
            out.push('\\');
        }
        out.push(character);
    }
    out
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for index in 0..4 {
            let digit = DIGITS.get((group >> (18 - 6 * index)) as usize & 63);
            let is_padding = index > chunk.len();
            out.push(if is_padding { '=' } else { char::from(digit.copied().unwrap_or(b'=')) });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_every_length() {
        let expected = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"];
        for (length, text) in expected.iter().enumerate() {
            assert_eq!(base64(&b"foobar"[..length]), *text);
        }
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(escape(" a,b\\c "), "\\ a\\,b\\\\c\\ ");
        assert_eq!(escape("#x#"), "\\#x#");
    }
}
