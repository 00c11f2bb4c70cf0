//! Why nothing matched: the nearest route and the predicate that failed.

use super::{Facts, Name, Predicates, name_of};

const MOST: usize = 1_000;

/// The route with the fewest failing predicates, earliest first, and a sentence on what failed.
pub(super) fn nearest<'a, R: 'a>(
    routes: impl Iterator<Item = &'a (Predicates, Option<String>, R)>,
    facts: &Facts<'_>,
) -> Option<(&'a R, String)> {
    let judged = routes
        .take(MOST)
        .map(|(predicates, sni, route)| (failures(predicates, sni.as_deref(), facts), route));
    let (failures, route) = judged.min_by_key(|(failures, _)| failures.len())?;
    Some((route, failures.join(" and ")))
}

fn failures(predicates: &Predicates, sni: Option<&str>, facts: &Facts<'_>) -> Vec<String> {
    let mut failures = Vec::new();
    if let Some(wanted) = sni {
        let matches = facts.sni.is_some_and(|sni| match name_of(wanted) {
            Name::Exact(name) => name == sni,
            Name::Suffix(suffix) => sni.ends_with(&suffix),
        });
        if !matches {
            failures.push(differs("sni", wanted, facts.sni.unwrap_or("no SNI")));
        }
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
