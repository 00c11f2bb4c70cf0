//! The `ssl_*` variables.

use crate::session::Session;

/// A variable about the TLS of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table of variables explains each")]
pub enum SslVar {
    Alpn,
    Cipher,
    ClientAlternativeNames,
    ClientCert,
    ClientEscapedCert,
    ClientFingerprint,
    ClientIssuer,
    ClientRawCert,
    ClientSerial,
    ClientSubject,
    ClientValidFrom,
    ClientDaysLeft,
    ClientValidTo,
    ClientVerify,
    Curve,
    Protocol,
    ServerName,
    SessionReused,
}

/// Appends the value; `false` when there is none.
pub(crate) fn write(var: SslVar, session: &Session, out: &mut Vec<u8>) -> bool {
    let Some(text) = text(var, session) else { return false };
    out.extend(text.as_bytes());
    true
}

fn text(var: SslVar, session: &Session) -> Option<String> {
    let tls = session.tls.as_ref()?;
    if var == SslVar::ServerName {
        return tls.sni.as_deref().map(str::to_owned);
    }
    let agreed = tls.agreed.as_ref()?;
    let client = agreed.client.as_deref();
    match var {
        SslVar::Alpn => agreed.alpn.as_ref().map(|name| name.escape_ascii().to_string()),
        SslVar::ClientAlternativeNames => client?.alternative_names(),
        SslVar::Cipher => Some(agreed.cipher.to_owned()),
        SslVar::Curve => Some(agreed.curve.to_owned()),
        SslVar::Protocol => Some(agreed.protocol.to_owned()),
        SslVar::SessionReused => Some(if agreed.is_resumed { "r" } else { "." }.to_owned()),
        SslVar::ClientVerify => Some(if client.is_some() { "SUCCESS" } else { "NONE" }.to_owned()),
        SslVar::ClientRawCert => client.map(|it| it.pem()),
        // As nginx has it: every line but the first begins with a tab.
        SslVar::ClientCert => client.map(|it| it.pem().trim_end().replace('\n', "\n\t")),
        SslVar::ClientEscapedCert => client.map(|it| it.escaped_pem()),
        SslVar::ClientFingerprint => client.map(|it| it.fingerprint()),
        SslVar::ClientIssuer => client?.issuer(),
        SslVar::ClientSubject => client?.subject(),
        SslVar::ClientSerial => client?.serial(),
        SslVar::ClientValidFrom => client?.valid_from(),
        SslVar::ClientValidTo => client?.valid_to(),
        SslVar::ClientDaysLeft => client?.days_left().map(|days| days.to_string()),
        SslVar::ServerName => None,
    }
}
