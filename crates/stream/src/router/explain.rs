//! Why nothing matched: the nearest route and the predicate that failed.

use super::{Facts, Name, Predicates, name_of};

const MOST: usize = 1_000;

/// The route with the fewest failing predicates, earliest first, and a sentence on what failed.
pub(super) fn nearest<'a, R: 'a>(
    routes: impl Iterator<Item = &'a (Predicates, Vec<String>, R)>,
    facts: &Facts<'_>,
) -> Option<(&'a R, String)> {
    let judged = routes
        .take(MOST)
        .map(|(predicates, names, route)| (failures(predicates, names, facts), route));
    let (failures, route) = judged.min_by_key(|(failures, _)| failures.len())?;
    Some((route, failures.join(" and ")))
}

fn failures(predicates: &Predicates, names: &[String], facts: &Facts<'_>) -> Vec<String> {
    let mut failures = Vec::new();
    let is_named = |wanted: &String| {
        facts.sni.is_some_and(|sni| match name_of(wanted) {
            Name::Exact(name) => name == sni,
            Name::Suffix(suffix) => sni.ends_with(&suffix),
        })
    };
    if !names.is_empty() && !names.iter().any(is_named) {
        failures.push(differs("sni", &names.join(" or "), facts.sni.unwrap_or("no SNI")));
    }
    let is_offered =
        |wanted: &String| facts.alpn.iter().any(|offered| offered == wanted.as_bytes());
    if !predicates.alpn.is_empty() && !predicates.alpn.iter().any(is_offered) {
        let offered: Vec<_> =
            facts.alpn.iter().map(|name| name.escape_ascii().to_string()).collect();
        let got = if offered.is_empty() { "no ALPN".to_owned() } else { offered.join(", ") };
        failures.push(differs("alpn", &predicates.alpn.join(" or "), &got));
    }
    let server = facts.server;
    if let Some(port) = predicates.port
        && server.is_none_or(|server| server.port() != port)
    {
        let got = server.map_or_else(|| "no port".to_owned(), |server| server.port().to_string());
        failures.push(differs("server_port", &port.to_string(), &got));
    }
    let address = |ip: Option<std::net::IpAddr>| {
        ip.map_or_else(|| "no IP address".to_owned(), |ip| ip.to_string())
    };
    let server = server.map(|server| server.ip());
    if let Some(net) = predicates.server
        && server.is_none_or(|ip| !net.contains(&ip))
    {
        failures.push(differs("server_addr", &net.to_string(), &address(server)));
    }
    if let Some(net) = predicates.remote
        && facts.client.is_none_or(|ip| !net.contains(&ip))
    {
        failures.push(differs("remote_addr", &net.to_string(), &address(facts.client)));
    }
    failures
}

fn differs(field: &str, wanted: &str, got: &str) -> String {
    format!("{field} wants {wanted} but the session has {got}")
}
