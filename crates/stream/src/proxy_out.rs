//! PROXY protocol headers towards upstreams: who the client of a session is.

use std::net::SocketAddr;

use headgate_model::listen::ProxyVersion;
use headgate_wire::proxy_header::{Carrier, encode_v1, encode_v2, tlv};

use crate::session::Session;

/// The header of a connection that came to `local`, if its listener sends one.
pub(crate) fn header(session: &Session, local: impl Fn() -> Option<SocketAddr>) -> Vec<u8> {
    let mut out = Vec::new();
    match session.listener.proxy_protocol_to_upstream {
        None => {}
        Some(ProxyVersion::V1) => encode_v1(session.client, local(), &mut out),
        Some(ProxyVersion::V2) => {
            encode_v2(Carrier::Stream, session.client, local(), &facts(session), &mut out);
        }
    }
    out
}

/// The header in front of each datagram of a flow, if its listener sends one.
pub(crate) fn datagram_header(session: &Session) -> Vec<u8> {
    let mut out = Vec::new();
    if session.listener.proxy_protocol_to_upstream.is_some() {
        let local = session.server.get().copied().flatten();
        encode_v2(Carrier::Datagram, session.client, local, &facts(session), &mut out);
    }
    out
}

/// The TLVs of a session.
fn facts(session: &Session) -> Vec<u8> {
    let mut out = Vec::new();
    tlv::push(tlv::UNIQUE_ID, session.unique_id().as_bytes(), &mut out);
    let Some(tls) = &session.tls else { return out };
    if let Some(sni) = &tls.sni {
        tlv::push(tlv::AUTHORITY, sni.as_bytes(), &mut out);
    }
    let Some(agreed) = &tls.agreed else { return out };
    let mut flags = tlv::CLIENT_SSL;
    if agreed.client.is_some() {
        flags |= tlv::CLIENT_CERT_SESS;
        if !agreed.is_resumed {
            flags |= tlv::CLIENT_CERT_CONN;
        }
    }
    let mut ssl = vec![flags];
    // 0: a certificate was shown and verified. An unverified one ends the handshake.
    ssl.extend_from_slice(&u32::from(agreed.client.is_none()).to_be_bytes());
    tlv::push(tlv::SSL_VERSION, agreed.protocol.as_bytes(), &mut ssl);
    tlv::push(tlv::SSL_CIPHER, agreed.cipher.as_bytes(), &mut ssl);
    if let Some(name) = agreed.client.as_ref().and_then(|client| client.common_name()) {
        tlv::push(tlv::SSL_CN, name.as_bytes(), &mut ssl);
    }
    tlv::push(tlv::SSL, &ssl, &mut out);
    out
}
