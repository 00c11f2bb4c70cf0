//! TLS towards an upstream (`spec/tls.md`, section 8).

use headgate_model::ResourceSet;
use headgate_model::resource::Upstream as Resource;
use headgate_net::tls::{KeyPair, client, trust::Trust};
use headgate_upstream::UpstreamTls;

use super::material::Material;

/// Revision of the ssl object whose certificate the upstream shows, if it names one.
pub(super) fn revision(upstream: &Resource, set: &ResourceSet) -> Option<u64> {
    let id = upstream.tls.as_ref()?.client_cert_id.as_ref()?;
    set.ssls.get(id).map(|entry| entry.modified)
}

/// What `scheme: tls` and `tls` ask for.
///
/// # Errors
/// In the reference's wording where it has one.
pub(super) fn compile(
    upstream: &Resource,
    set: &ResourceSet,
    material: &Material,
    trusted: Option<&std::path::Path>,
) -> Result<Option<UpstreamTls>, String> {
    if upstream.scheme.as_deref() != Some("tls") {
        return Ok(None);
    }
    let tls = upstream.tls.clone().unwrap_or_default();
    let own = own_certificate(&tls, set, material)?;
    let trust = match (tls.verify, &tls.ca_certs) {
        (false, _) => None,
        (true, Some(certs)) => Some(Trust::from_pem(&certs.join("\n"))),
        (true, None) => Some(Trust::load(trusted)),
    };
    let trust = trust
        .transpose()
        .map_err(|error| format!("failed to load the certificates to verify upstreams: {error}"))?;
    let config = client::config(trust.as_ref(), own)
        .map_err(|error| format!("failed to set up TLS to the upstream: {error}"))?;
    Ok(Some(UpstreamTls { config, sni: tls.sni }))
}

fn own_certificate(
    tls: &headgate_model::resource::upstream::UpstreamTls,
    set: &ResourceSet,
    material: &Material,
) -> Result<Option<KeyPair>, String> {
    if let Some(id) = &tls.client_cert_id {
        let Some(entry) = set.ssls.get(id) else {
            return Err(format!("failed to get ssl cert: ssl id [{id}] not exits"));
        };
        if entry.value.purpose != "client" {
            return Err("failed to get ssl cert: ssl type should be 'client'".to_owned());
        }
        let ssl = &entry.value;
        return material
            .pair(&ssl.cert, &ssl.key.0)
            .map(Some)
            .map_err(|error| format!("failed to get ssl cert: {error}"));
    }
    match (&tls.client_cert, &tls.client_key) {
        (Some(cert), Some(key)) => material.pair(cert, &key.0).map(Some),
        (None, None) => Ok(None),
        _ => Err("missing client certificate or key for upstream mTLS".to_owned()),
    }
}
