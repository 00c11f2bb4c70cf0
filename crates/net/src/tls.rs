//! TLS over sockets of a core, on rustls: the state of a connection is a [`Connection`] beside its
//! [`Socket`](crate::Socket), and this module moves bytes between the two.
//!
//! [`handshake`] runs while a connection is set up, [`transfer`] afterwards, without a task.
//! [`server`] and [`client`] make configurations, on the control side.

pub mod client;
mod client_auth;
pub mod handshake;
pub mod material;
pub mod policy;
pub mod server;
pub mod tickets;
pub mod transfer;
pub mod trust;

pub use rustls::{ClientConfig, Connection, HandshakeKind, ProtocolVersion, ServerConfig};
pub use rustls_pki_types::CertificateDer;

pub use material::{KeyPair, MaterialError};
pub use policy::Policy;
pub use tickets::TicketKeys;

/// The SHA-1 fingerprint of a certificate; for display, not for trust.
#[must_use]
pub fn sha1(der: &[u8]) -> aws_lc_rs::digest::Digest {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, der)
}

/// SHA-256 of some bytes.
#[must_use]
pub fn sha256(bytes: &[u8]) -> aws_lc_rs::digest::Digest {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes)
}
