//! `apisix.ssl`: what TLS listeners offer.

use std::time::Duration;

use super::SslSettings;
use super::reading::Reading;
use super::store::duration_of;

const PROTOCOLS: &str = "apisix.ssl.ssl_protocols";
const CIPHERS: &str = "apisix.ssl.ssl_ciphers";
const HANDSHAKE: &str = "apisix.ssl.ssl_handshake_timeout";

/// TLS 1.2 suites that are built in, by OpenSSL's names.
pub const BUILT_IN: &[&str] = &[
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
];

/// Names of groups that contain all of them.
const EVERYTHING: &[&str] = &["ALL", "DEFAULT", "HIGH", "EECDH", "ECDHE", "kEECDH", "kECDHE"];

/// Reads the section.
pub(super) fn read(reading: &mut Reading<'_>) -> SslSettings {
    let name = reading.text("apisix.ssl.fallback_sni").map(|name| name.trim_end_matches('.'));
    SslSettings {
        fallback_sni: name.filter(|name| !name.is_empty()).map(str::to_ascii_lowercase),
        protocols: protocols(reading),
        ciphers: ciphers(reading),
        session_tickets: !reading.wrote("apisix.ssl.ssl_session_tickets")
            || reading.is_on("apisix.ssl.ssl_session_tickets"),
        default_certificate: reading.scalar("apisix.ssl.default_certificate"),
        handshake_timeout: handshake_timeout(reading),
    }
}

fn handshake_timeout(reading: &mut Reading<'_>) -> Duration {
    let default = SslSettings::default().handshake_timeout;
    let limit = duration_of(reading, HANDSHAKE, default);
    if limit.is_zero() {
        let note = reading.error("config/value", HANDSHAKE, "ssl_handshake_timeout is 0");
        note.label("no handshake could succeed").help("write a time, e.g. 60s");
        return default;
    }
    limit
}

fn protocols(reading: &mut Reading<'_>) -> Vec<String> {
    let text = reading.text(PROTOCOLS).unwrap_or_default().to_owned();
    let (known, unknown): (Vec<_>, Vec<_>) =
        text.split_whitespace().partition(|name| matches!(*name, "TLSv1.2" | "TLSv1.3"));
    if known.is_empty() {
        let message = format!("ssl_protocols \"{text}\" leaves no version that is built in");
        let note = reading.error("ssl/protocol", PROTOCOLS, message);
        note.label("neither TLSv1.2 nor TLSv1.3").help("write ssl_protocols: TLSv1.2 TLSv1.3");
    } else if !unknown.is_empty() {
        let message = format!("not built in and not offered: {}", unknown.join(", "));
        let note = reading.warning("ssl/protocol", PROTOCOLS, message);
        let help = format!("write ssl_protocols: {}", known.join(" "));
        note.label("only TLSv1.2 and TLSv1.3 exist here").help(help);
    }
    known.into_iter().map(str::to_owned).collect()
}

fn ciphers(reading: &mut Reading<'_>) -> Option<Vec<String>> {
    let text = reading.text(CIPHERS)?.to_owned();
    let names = || text.split([':', ' ', ',']).filter(|name| !name.is_empty());
    // What is excluded with `!` is not built in, unless it is named exactly.
    let excluded: Vec<_> = names().filter_map(|name| name.strip_prefix(['!', '-'])).collect();
    let included = || names().filter(|name| !name.starts_with(['!', '-', '@']));
    let everything = included().any(|name| EVERYTHING.contains(&name));
    let chosen: Vec<String> = match everything {
        true => BUILT_IN.iter().map(|name| (*name).to_owned()).collect(),
        false => included().filter(|it| BUILT_IN.contains(it)).map(str::to_owned).collect(),
    };
    let chosen: Vec<_> =
        chosen.into_iter().filter(|name| !excluded.contains(&name.as_str())).collect();
    let is_known = |name: &&str| {
        BUILT_IN.contains(name) || EVERYTHING.contains(name) || name.starts_with("TLS_")
    };
    let unknown: Vec<_> = included().filter(|name| !is_known(name)).collect();
    let refused = if chosen.is_empty() { "TLS 1.2 finds no suite" } else { "left out" };
    if !unknown.is_empty() || chosen.is_empty() {
        let message = match unknown.is_empty() {
            true => "ssl_ciphers names no suite that is built in".to_owned(),
            false => format!("ssl_ciphers: not built in and not offered: {}", unknown.join(", ")),
        };
        let help = format!("use names of {}", BUILT_IN.join(":"));
        reading.warning("ssl/cipher", CIPHERS, message).label(refused).help(help);
    }
    Some(chosen)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use crate::settings::{Settings, SslSettings};

    fn read(section: &str) -> (Option<SslSettings>, Vec<&'static str>) {
        let text = format!("apisix: {{ssl: {{{section}}}}}");
        let loaded = Settings::parse(&text, Path::new("config.yaml"), &|_| None);
        let codes = loaded.problems.iter().map(|problem| problem.code).collect();
        (loaded.settings.map(|settings| settings.ssl), codes)
    }

    #[test]
    fn defaults() {
        let (ssl, codes) = read("");
        let ssl = ssl.unwrap();
        assert!(codes.is_empty(), "{codes:?}");
        assert_eq!(ssl.protocols, ["TLSv1.2", "TLSv1.3"]);
        assert_eq!((ssl.fallback_sni, ssl.ciphers, ssl.session_tickets), (None, None, true));
    }

    #[test]
    fn what_is_asked_for() {
        let (ssl, codes) = read(
            "fallback_sni: A.Test., ssl_protocols: TLSv1.1 TLSv1.3, ssl_session_tickets: false, \
             ssl_ciphers: 'ECDHE-RSA-AES256-GCM-SHA384:DHE-RSA-AES128-GCM-SHA256'",
        );
        let ssl = ssl.unwrap();
        assert_eq!(codes, ["ssl/protocol", "ssl/cipher"]);
        assert_eq!(ssl.fallback_sni.as_deref(), Some("a.test"));
        assert_eq!(ssl.protocols, ["TLSv1.3"]);
        assert_eq!(ssl.ciphers.unwrap(), ["ECDHE-RSA-AES256-GCM-SHA384"]);
        assert!(!ssl.session_tickets);
    }

    #[test]
    fn time_for_handshakes_and_the_default_certificate() {
        let (ssl, codes) = read("ssl_handshake_timeout: 500ms, default_certificate: 7");
        let ssl = ssl.unwrap();
        assert!(codes.is_empty(), "{codes:?}");
        assert_eq!(ssl.handshake_timeout, Duration::from_millis(500));
        assert_eq!(ssl.default_certificate.as_deref(), Some("7"));
        assert_eq!(read("").0.unwrap().handshake_timeout, Duration::from_secs(60));
        assert_eq!(read("ssl_handshake_timeout: 0").1, ["config/value"]);
        assert_eq!(read("ssl_handshake_timeout: soon").1, ["config/duration"]);
    }

    #[test]
    fn groups_and_exclusions() {
        let (ssl, codes) = read("ssl_ciphers: 'HIGH:!aNULL:!MD5:!ECDHE-RSA-CHACHA20-POLY1305'");
        assert!(codes.is_empty(), "{codes:?}");
        assert_eq!(ssl.unwrap().ciphers.unwrap().len(), 5);
        assert_eq!(read("ssl_ciphers: RC4").1, ["ssl/cipher"]);
        assert!(read("ssl_protocols: TLSv1").0.is_none());
    }
}
