//! Certificates and the names that they serve.

use super::{Context, Warning, chain};
use crate::listen::Transport;
use crate::resource::Ssl;

/// Adds a warning if no certificate serves a name that the route's `sni` matches: the handshake
/// would fail before any route is looked for.
pub(super) fn covered(context: Context<'_>, sni: &str, out: &mut Vec<Warning>) {
    let wanted = sni.trim_end_matches('.').to_ascii_lowercase();
    let mut served = context.set.ssls.iter().filter(|ssl| ssl.value.is_served());
    if !served.any(|ssl| ssl.value.names().any(|name| overlap(&wanted, &name))) {
        out.push(Warning::new(
            "sni/certificate",
            format!("no enabled certificate serves `{sni}`, so TLS handshakes for it fail"),
            format!("create an ssl object whose `sni` or `snis` contains `{sni}`"),
        ));
    }
}

/// Adds what keeps a certificate from being served.
pub(super) fn certificate(context: Context<'_>, ssl: &Ssl, out: &mut Vec<Warning>) {
    if ssl.status != 1 {
        out.push(Warning::new(
            "ssl/disabled",
            "`status` is 0, so this certificate is not served",
            "set `status` to 1",
        ));
    }
    let certs = ssl.pairs().map(|(cert, _)| cert).enumerate();
    for (index, cert) in certs.filter(|(_, cert)| !is_reference(cert)) {
        let field = if index == 0 { "cert".to_owned() } else { format!("certs[{}]", index - 1) };
        chain::chain(&field, cert, out);
    }
    let is_tls = |one: &crate::listen::ListenerSpec| one.tls && one.transport == Transport::Tcp;
    if ssl.purpose == "server" && !context.listeners.iter().any(is_tls) {
        out.push(Warning::new(
            "listener/tls",
            "no listener terminates TLS, so this certificate is not used",
            "set `tls: true` on an entry of `apisix.stream_proxy.tcp` in config.yaml",
        ));
    }
}

fn is_reference(text: &str) -> bool {
    starts_with_ignoring_case(text, "$secret://") || starts_with_ignoring_case(text, "$env://")
}

fn starts_with_ignoring_case(text: &str, start: &str) -> bool {
    text.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start))
}

/// Whether some name matches both a route's `sni` and a certificate's name. A route's `*.x.org`
/// stands for any number of labels, a certificate's for exactly one.
fn overlap(route: &str, certificate: &str) -> bool {
    if certificate == "*" {
        return true;
    }
    match (route.strip_prefix('*'), certificate.strip_prefix('*')) {
        (None, None) => route == certificate,
        (Some(suffix), None) => certificate.ends_with(suffix),
        (None, Some(suffix)) => {
            route.strip_suffix(suffix).is_some_and(|label| !label.is_empty() && is_label(label))
        }
        (Some(suffix), Some(one_label)) => {
            one_label.ends_with(suffix) || suffix.strip_suffix(one_label).is_some_and(is_label)
        }
    }
}

fn is_label(text: &str) -> bool {
    !text.contains('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_overlap() {
        for (route, certificate) in [
            ("a.org", "a.org"),
            ("a.org", "*"),
            ("b.a.org", "*.a.org"),
            ("*.a.org", "b.a.org"),
            ("*.a.org", "*.a.org"),
            ("*.a.org", "*.b.a.org"),
            ("*", "a.org"),
            ("*", "*.a.org"),
            ("*a.org", "*.org"),
        ] {
            assert!(overlap(route, certificate), "{route} {certificate}");
        }
        for (route, certificate) in [
            ("a.org", "b.org"),
            ("a.org", "*.a.org"),
            ("c.b.a.org", "*.a.org"),
            ("*.a.org", "a.org"),
            ("*.a.org", "*.org"),
            ("*.a.org", "*.b.org"),
        ] {
            assert!(!overlap(route, certificate), "{route} {certificate}");
        }
    }
}
