//! What clients that verify will object to in a certificate chain.

use x509_parser::time::ASN1Time;

use super::Warning;
use crate::certificate_chain::{self, Chain, Missing};

/// Adds what is wrong with the chain in `field`.
pub(super) fn chain(field: &str, pem: &str, out: &mut Vec<Warning>) {
    let Some(chain) = certificate_chain::read(pem) else { return };
    validity(field, &chain, out);
    if chain.was_out_of_order {
        out.push(Warning::new(
            "ssl/chain-order",
            format!(
                "the certificates in `{field}` are not in order; headgate puts them in order \
                 itself, other programs do not"
            ),
            "write the leaf first, then the certificate that signed it, and so on",
        ));
    }
    if let Some(Missing { issuer, url }) = &chain.missing {
        let url = url.as_ref().map(|url| format!(" ({url})")).unwrap_or_default();
        out.push(Warning::new(
            "ssl/chain-incomplete",
            format!(
                "`{field}` does not hold the certificate of `{issuer}`, so clients that trust only \
                 the root refuse it"
            ),
            format!("append the certificate of `{issuer}`{url} to `{field}`"),
        ));
    }
    if chain.strangers > 0 {
        out.push(Warning::new(
            "ssl/chain-stranger",
            format!(
                "{} certificate(s) in `{field}` signed none of the others; they are sent for nothing",
                chain.strangers
            ),
            format!("remove them from `{field}`"),
        ));
    }
}

/// The leaf is named first; with an expired one nothing else matters.
fn validity(field: &str, chain: &Chain, out: &mut Vec<Warning>) {
    let now = ASN1Time::now();
    for (index, der) in chain.certificates.iter().enumerate() {
        let Ok((_, cert)) = x509_parser::parse_x509_certificate(der) else { return };
        let what = match index {
            0 if field == "cert" => "the certificate".to_owned(),
            0 => format!("the certificate in `{field}`"),
            _ => format!("the certificate of `{}` in `{field}`", cert.subject()),
        };
        if cert.validity.not_after < now {
            out.push(Warning::new(
                "ssl/expired",
                format!("{what} expired at {}", cert.validity.not_after),
                match index {
                    0 => "write a new certificate and its key",
                    _ => "write the chain that the authority gives out today",
                },
            ));
            return;
        }
        if cert.validity.not_before > now {
            out.push(Warning::new(
                "ssl/not-yet-valid",
                format!("{what} is valid only from {} on", cert.validity.not_before),
                "check the clock of this machine and of the one that issued it",
            ));
            return;
        }
    }
}
