//! Certificates made for one test: authorities, servers, clients, with every fault one may want.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    PKCS_RSA_SHA256, RsaKeySize, date_time_ymd,
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
