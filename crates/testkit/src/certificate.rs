//! Certificates made for one test: authorities, servers, clients, with every fault one may want.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, PKCS_RSA_SHA256, RsaKeySize, date_time_ymd,
};

/// A certificate chain and its key, PEM.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// Leaf first.
    pub cert: String,
    /// Private key.
    pub key: String,
}

impl Certificate {
    /// The certificates of the chain, each PEM, in the order of `cert`.
    #[must_use]
    pub fn blocks(&self) -> Vec<String> {
        let end = "-----END CERTIFICATE-----\n";
        self.cert.split_inclusive(end).map(str::to_owned).collect()
    }

    /// Writes `<name>.crt` and `<name>.key` for programs that read files.
    #[must_use]
    pub fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let place = |end: &str| folder.join(format!("{name}.{end}"));
        let (cert, key) = (place("crt"), place("key"));
        fs::write(&cert, &self.cert).expect("a certificate file");
        fs::write(&key, &self.key).expect("a key file");
        (cert, key)
    }
}

/// A certificate authority.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, PEM.
    pub cert: String,
    /// Certificates between its own leaves and the root.
    between: String,
}

impl Authority {
    /// A root.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let (params, key) = (authority(name), key(false));
        let cert = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), cert, between: String::new() }
    }

    /// An authority below this one; its leaves come with its certificate.
    #[must_use]
    pub fn intermediate(&self, name: &str) -> Self {
        let (params, key) = (authority(name), key(false));
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        let between = format!("{cert}{}", self.between);
        Self { issuer: Issuer::new(params, key), cert, between }
    }

    /// A server certificate with an elliptic-curve key (P-256).
    #[must_use]
    pub fn server(&self, names: &[&str]) -> Certificate {
        self.sign(leaf(names, names.first().copied().unwrap_or("server")), key(false))
    }

    /// A server certificate with an RSA key of 2048 bits.
    #[must_use]
    pub fn rsa_server(&self, names: &[&str]) -> Certificate {
        self.sign(leaf(names, "rsa"), key(true))
    }

    /// A client certificate.
    #[must_use]
    pub fn client(&self, name: &str) -> Certificate {
        self.sign(leaf(&[], name), key(false))
    }

    /// A server certificate that says where its issuer's certificate is found (RFC 5280, section
    /// 4.2.2.1), as those of public authorities do.
    #[must_use]
    pub fn server_with_issuer_at(&self, names: &[&str], url: &str) -> Certificate {
        let wrap = |tag: u8, parts: &[&[u8]]| {
            let body = parts.concat();
            [&[tag, u8::try_from(body.len()).expect("a short URL")], &body[..]].concat()
        };
        let method = wrap(6, &[&[0x2b, 6, 1, 5, 5, 7, 0x30, 2]]);
        let location = wrap(0x86, &[url.as_bytes()]);
        let content = wrap(0x30, &[&wrap(0x30, &[&method, &location])]);
        let mut params = leaf(names, names.first().copied().unwrap_or("server"));
        let oid = &[1, 3, 6, 1, 5, 5, 7, 1, 1];
        params.custom_extensions.push(CustomExtension::from_oid_content(oid, content));
        self.sign(params, key(false))
    }

    /// A client certificate with alternative names.
    #[must_use]
    pub fn client_of(&self, name: &str, names: &[&str]) -> Certificate {
        self.sign(leaf(names, name), key(false))
    }

    /// A certificate that was valid in 2020.
    #[must_use]
    pub fn expired(&self, names: &[&str]) -> Certificate {
        let mut params = leaf(names, "expired");
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2020, 12, 31);
        self.sign(params, key(false))
    }

    fn sign(&self, params: CertificateParams, key: KeyPair) -> Certificate {
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Certificate { cert: format!("{cert}{}", self.between), key: key.serialize_pem() }
    }
}

fn key(is_rsa: bool) -> KeyPair {
    if is_rsa {
        KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("a key")
    } else {
        KeyPair::generate().expect("a key")
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn leaf(names: &[&str], common: &str) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("parameters");
    params.distinguished_name.push(DnType::OrganizationName, "headgate tests");
    params.distinguished_name.push(DnType::CommonName, common);
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}
