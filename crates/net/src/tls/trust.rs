//! Certificate authorities that are trusted when headgate is the client.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;

use super::material::certificates;

/// Where distributions keep the bundle, in the order of the reference (`spec/config.md`).
const SYSTEM: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Trusted authorities.
#[derive(Debug, Clone)]
pub struct Trust(pub(super) Arc<RootCertStore>);

impl Trust {
    /// Those of a bundle in PEM.
    ///
    /// # Errors
    /// Nothing usable is in it.
    pub fn from_pem(text: &str) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(certificates(text)?);
        match added {
            0 => Err("there is no usable certificate in it".to_owned()),
            _ => Ok(Self(Arc::new(roots))),
        }
    }

    /// Those of a file, or of the system: the bundle that `SSL_CERT_FILE` names, as for OpenSSL, or the
    /// distribution's.
    ///
    /// # Errors
    /// Which file cannot be read, and why.
    pub fn load(file: Option<&Path>) -> Result<Self, String> {
        let named = || std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
        let system = || SYSTEM.iter().map(PathBuf::from).find(|path| path.exists());
        let Some(path) = file.map(Path::to_path_buf).or_else(named).or_else(system) else {
            return Err("no bundle of the system was found; install ca-certificates, or name a \
                        file in apisix.ssl.ssl_trusted_certificate"
                .to_owned());
        };
        let text = std::fs::read_to_string(&path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Self::from_pem(&text).map_err(|error| format!("{}: {error}", path.display()))
    }
}
