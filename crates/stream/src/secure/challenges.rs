//! Answers to the challenge TLS-ALPN-01 of ACME (RFC 8737): an authority that is to certify a name
//! connects to it, offers nothing but the protocol `acme-tls/1`, and wants to see a certificate
//! that only whoever ordered can make.
//!
//! This is the place where such certificates are held; whoever orders them (an ACME client, which
//! is not part of headgate yet) puts them here and takes them away. `docs/adr/0011-acme-seam.md`
//! says why it is here.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use headgate_net::tls::server::{ServerError, config, offering};
use headgate_net::tls::{KeyPair, Policy, ServerConfig};

/// The protocol that authorities offer (RFC 8737, section 6.2).
const PROTOCOL: &str = "acme-tls/1";

/// Certificates for challenges, by name. Written rarely, looked at only by handshakes that offer
/// [`PROTOCOL`] and nothing else.
#[derive(Debug, Default)]
pub struct Challenges(ArcSwap<HashMap<String, Arc<ServerConfig>>>);

impl Challenges {
    /// Answers challenges for `name` with a certificate from now on.
    ///
    /// # Errors
    /// rustls refuses the certificate.
    pub fn open(&self, name: &str, certificate: KeyPair) -> Result<(), ServerError> {
        let config = config(vec![certificate], None, &Policy::default(), None)?;
        let config = offering(&config, &[PROTOCOL.to_owned()]);
        self.0.rcu(|known| {
            let mut known = HashMap::clone(known);
            known.insert(key(name), Arc::clone(&config));
            known
        });
        Ok(())
    }

    /// Answers none for `name` any more.
    pub fn close(&self, name: &str) {
        self.0.rcu(|known| {
            let mut known = HashMap::clone(known);
            known.remove(&key(name));
            known
        });
    }

    /// What to answer a client with that sent this name (lower case, no dot at its end) and
    /// offered these protocols; `None` for everybody but an authority with an open challenge.
    pub(crate) fn answer(&self, sni: Option<&str>, alpn: &[Vec<u8>]) -> Option<Arc<ServerConfig>> {
        match alpn {
            [only] if only == PROTOCOL.as_bytes() => self.0.load().get(sni?).cloned(),
            _ => None,
        }
    }
}

fn key(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CERT: &str = include_str!("../../../model/src/check/testdata/cert.pem");
    const KEY: &str = include_str!("../../../model/src/check/testdata/key.pem");

    #[test]
    fn only_authorities_with_an_open_challenge_are_answered() {
        let challenges = Challenges::default();
        let acme = vec![PROTOCOL.as_bytes().to_vec()];
        assert!(challenges.answer(Some("a.test"), &acme).is_none());
        challenges.open("A.test.", KeyPair::read(CERT, KEY).unwrap()).unwrap();
        let config = challenges.answer(Some("a.test"), &acme).unwrap();
        assert_eq!(config.alpn_protocols, acme);
        let both = [acme.clone(), vec![b"h2".to_vec()]].concat();
        for (sni, alpn) in [
            (Some("b.test"), &acme),
            (None, &acme),
            (Some("a.test"), &both),
            (Some("a.test"), &Vec::new()),
            (Some("a.test"), &vec![b"h2".to_vec()]),
        ] {
            assert!(challenges.answer(sni, alpn).is_none(), "{sni:?} {alpn:?}");
        }
        challenges.close("a.test");
        assert!(challenges.answer(Some("a.test"), &acme).is_none());
    }
}
