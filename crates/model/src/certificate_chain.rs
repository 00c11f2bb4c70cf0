//! The order of a certificate chain (RFC 8446, section 4.4.2: the sender's certificate first, each
//! next one should certify the one before).
//!
//! Chains come in any order from people's hands. Like the better clients, headgate puts them in
//! order itself, by the names of subject and issuer; whoever wrote the chain is warned, because
//! other programs refuse it or send it as it is.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_PKIX_ACCESS_DESCRIPTOR_CA_ISSUERS, OID_PKIX_AUTHORITY_INFO_ACCESS,
};

/// A chain in order, and what is wrong with it.
#[derive(Debug)]
pub struct Chain {
    /// The leaf, then its issuers. What belongs to none of them comes last.
    pub certificates: Vec<CertificateDer<'static>>,
    /// It was written in another order.
    pub was_out_of_order: bool,
    /// The issuer of the last certificate is not in it, and clients most likely need it.
    pub missing: Option<Missing>,
    /// Certificates that issued none of the others and are not the leaf.
    pub strangers: usize,
}

/// An issuer whose certificate is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Its name.
    pub issuer: String,
    /// Where the certificate itself says that it can be fetched (RFC 5280, section 4.2.2.1).
    pub url: Option<String>,
}

/// Reads all certificates of a PEM text and puts them in order. `None` when one cannot be read:
/// then nothing is known of their order.
#[must_use]
pub fn read(pem: &str) -> Option<Chain> {
    let written: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    order(written.ok()?)
}

fn order(written: Vec<CertificateDer<'static>>) -> Option<Chain> {
    let parsed: Option<Vec<_>> = written
        .iter()
        .map(|der| x509_parser::parse_x509_certificate(der).ok().map(|(_, parsed)| parsed))
        .collect();
    let parsed = parsed?;
    let mut path = vec![leaf(&parsed)?];
    while let Some(last) = path.last().and_then(|index| parsed.get(*index)) {
        let is_next = |(index, it): &(usize, &X509Certificate<'_>)| {
            !path.contains(index) && it.subject().as_raw() == last.issuer().as_raw()
        };
        match parsed.iter().enumerate().find(is_next) {
            Some((index, _)) => path.push(index),
            None => break,
        }
    }
    let end = path.last().and_then(|index| parsed.get(*index))?;
    let strangers = parsed.len() - path.len();
    let url = fetched_from(end);
    // A leaf right below an authority that clients trust needs nothing else, and there is no way to
    // tell such a one. Public authorities never sign leaves with their root, and say where the
    // certificate in between is found; and whoever adds certificates means to complete the chain.
    let is_missing = !is_self_issued(end) && (strangers > 0 || (path.len() == 1 && url.is_some()));
    let missing = is_missing.then(|| Missing { issuer: end.issuer().to_string(), url });
    let rest = (0..parsed.len()).filter(|index| !path.contains(index));
    let places: Vec<usize> = path.iter().copied().chain(rest).collect();
    let was_out_of_order = !places.is_sorted();
    drop(parsed);
    let certificates = places.iter().filter_map(|index| written.get(*index).cloned()).collect();
    Some(Chain { certificates, was_out_of_order, missing, strangers })
}

/// The certificate that issued none of the others: the first one if it is such a one, else the
/// first that is no authority, else the first.
fn leaf(all: &[X509Certificate<'_>]) -> Option<usize> {
    let issued_none = |index: &usize| {
        all.get(*index).is_some_and(|it| {
            let others = all.iter().enumerate().filter(|(other, _)| other != index);
            others
                .map(|(_, other)| other)
                .all(|other| other.issuer().as_raw() != it.subject().as_raw())
        })
    };
    if all.is_empty() {
        return None;
    }
    let candidates: Vec<_> = (0..all.len()).filter(issued_none).collect();
    if candidates.contains(&0) {
        return Some(0);
    }
    let is_no_authority = |index: &&usize| all.get(**index).is_some_and(|it| !it.is_ca());
    Some(candidates.iter().find(is_no_authority).or(candidates.first()).copied().unwrap_or(0))
}

fn is_self_issued(certificate: &X509Certificate<'_>) -> bool {
    certificate.issuer().as_raw() == certificate.subject().as_raw()
}

fn fetched_from(certificate: &X509Certificate<'_>) -> Option<String> {
    let extension = certificate.get_extension_unique(&OID_PKIX_AUTHORITY_INFO_ACCESS).ok()??;
    let ParsedExtension::AuthorityInfoAccess(access) = extension.parsed_extension() else {
        return None;
    };
    access.accessdescs.iter().find_map(|description| match &description.access_location {
        GeneralName::URI(url)
            if description.access_method == OID_PKIX_ACCESS_DESCRIPTOR_CA_ISSUERS =>
        {
            Some((*url).to_owned())
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair,
    };

    fn params(name: &str, is_ca: bool) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        if is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        params
    }

    /// `authorityInfoAccess` with one `caIssuers`, DER.
    fn access(url: &str) -> CustomExtension {
        let wrap = |tag: u8, parts: &[&[u8]]| {
            let body = parts.concat();
            [&[tag, body.len() as u8], &body[..]].concat()
        };
        let method = wrap(6, &[&[0x2b, 6, 1, 5, 5, 7, 0x30, 2]]);
        let location = wrap(0x86, &[url.as_bytes()]);
        let content = wrap(0x30, &[&wrap(0x30, &[&method, &location])]);
        CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], content)
    }

    /// Root, two intermediates, leaf; each PEM.
    fn certificates(leaf: CertificateParams) -> [String; 4] {
        let (root_params, key) = (params("root", true), KeyPair::generate().unwrap());
        let root = root_params.self_signed(&key).unwrap().pem();
        let mut issuer = Issuer::new(root_params, key);
        let mut below = |params: CertificateParams| {
            let key = KeyPair::generate().unwrap();
            let pem = params.signed_by(&key, &issuer).unwrap().pem();
            issuer = Issuer::new(params, key);
            pem
        };
        let (first, second) = (below(params("first", true)), below(params("second", true)));
        [root, first, second, below(leaf)]
    }

    fn names(chain: &Chain) -> Vec<String> {
        let name = |der: &CertificateDer<'_>| {
            let (_, parsed) = x509_parser::parse_x509_certificate(der).unwrap();
            parsed.subject().to_string().trim_start_matches("CN=").to_owned()
        };
        chain.certificates.iter().map(name).collect()
    }

    #[test]
    fn any_order_becomes_the_right_one() {
        let [root, first, second, leaf] = certificates(params("leaf", false));
        let whole = ["leaf", "second", "first"];
        for (written, expected, out_of_order) in [
            (vec![&leaf, &second, &first], &whole[..], false),
            (vec![&first, &second, &leaf], &whole, true),
            (vec![&second, &leaf, &first], &whole, true),
            (vec![&leaf, &first, &second], &whole, true),
            (vec![&leaf], &["leaf"], false),
            (vec![&root, &leaf, &second, &first], &["leaf", "second", "first", "root"], true),
        ] {
            let text: String = written.into_iter().map(String::as_str).collect();
            let chain = read(&text).unwrap();
            assert_eq!(names(&chain), expected);
            assert_eq!(
                (chain.was_out_of_order, chain.missing, chain.strangers),
                (out_of_order, None, 0)
            );
        }
        assert!(read("no certificate").is_none());
        assert!(read(&leaf.replace("MI", "NI")).is_none());
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut leaf = params("leaf", false);
        leaf.custom_extensions.push(access("http://ca.test/second.crt"));
        let [_, first, second, leaf] = certificates(leaf);
        let missing = Missing {
            issuer: "CN=second".to_owned(),
            url: Some("http://ca.test/second.crt".to_owned()),
        };
        assert_eq!(read(&leaf).unwrap().missing, Some(missing.clone()));
        let chain = read(&format!("{leaf}{first}")).unwrap();
        assert_eq!((chain.missing, chain.strangers), (Some(missing), 1));
        assert_eq!(read(&format!("{leaf}{second}")).unwrap().missing, None);
    }

    #[test]
    fn a_leaf_below_an_authority_of_ones_own_is_complete() {
        let [root, .., leaf] = certificates(params("leaf", false));
        assert_eq!(read(&leaf).unwrap().missing, None);
        assert_eq!(read(&root).unwrap().missing, None);
        // Two certificates that issued each other.
        assert!(read(&format!("{root}{root}")).is_some());
    }
}
