//! Which route takes a session (`spec/routing.md`, section 3).
//!
//! A session with an SNI is looked up by name first: exact, then the longest wildcard, then
//! shorter ones. Whoever is not found there, and every session without SNI, goes to the routes
//! without SNI. Among the routes of one class the first configured whose address predicates all
//! hold wins. Nothing scans: a lookup costs a few hash probes however many routes there are.

mod explain;
mod predicates;
mod rules;

use std::net::{IpAddr, SocketAddr};

use foldhash::HashMap;
pub use predicates::{InvalidAddress, Predicates};
use rules::{Protocols, Rules};

/// What is known of a session when it is routed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts<'a> {
    /// The client's address.
    pub client: Option<IpAddr>,
    /// The address and port that the client connected to.
    pub server: Option<SocketAddr>,
    /// Server name of the TLS ClientHello, in lower case and without a trailing dot.
    pub sni: Option<&'a str>,
    /// Application protocols that the ClientHello offers.
    pub alpn: &'a [Vec<u8>],
}

/// Finds routes. `R` is what a match yields; tests use plain numbers.
#[derive(Debug)]
pub struct Router<R> {
    routes: Vec<(Predicates, Vec<String>, R)>,
    plain: Rules,
    exact: HashMap<String, Rules>,
    wildcards: HashMap<String, Rules>,
    /// Lengths of the wildcard suffixes, longest first.
    suffix_lengths: Vec<usize>,
    /// Numbers of the application protocols that routes ask for.
    protocols: Protocols,
    needs_server: bool,
}

impl<R> Default for Router<R> {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl<R> Router<R> {
    /// Builds the index. The order of `routes` is the order in which they were configured; each
    /// has its predicates and the names it asks for, none meaning any session.
    #[must_use]
    pub fn new(routes: Vec<(Predicates, Vec<String>, R)>) -> Self {
        let mut plain = Rules::default();
        let mut exact: HashMap<String, Rules> = HashMap::default();
        let mut wildcards: HashMap<String, Rules> = HashMap::default();
        let mut protocols = Protocols::default();
        let mut needs_server = false;
        for (number, (predicates, names, _)) in (0_u32..).zip(&routes) {
            needs_server |= predicates.needs_server();
            if names.is_empty() {
                plain.add(number, predicates, &mut protocols);
            }
            for name in names {
                let rules = match name_of(name) {
                    Name::Exact(name) => exact.entry(name).or_default(),
                    Name::Suffix(suffix) => wildcards.entry(suffix).or_default(),
                };
                rules.add(number, predicates, &mut protocols);
            }
        }
        let mut suffix_lengths: Vec<usize> = wildcards.keys().map(String::len).collect();
        suffix_lengths.sort_unstable_by(|a, b| b.cmp(a));
        suffix_lengths.dedup();
        Self { routes, plain, exact, wildcards, suffix_lengths, protocols, needs_server }
    }

    /// How many routes there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Whether any route looks at the server address, which costs a system call on wildcard
    /// listeners.
    #[must_use]
    pub const fn needs_server(&self) -> bool {
        self.needs_server
    }

    /// The route that takes the session.
    #[must_use]
    pub fn find(&self, facts: &Facts<'_>) -> Option<&R> {
        let number = self.find_number(facts)?;
        self.routes.get(number as usize).map(|(_, _, route)| route)
    }

    fn find_number(&self, facts: &Facts<'_>) -> Option<u32> {
        let offered = self.protocols.among(facts.alpn);
        let find = |rules: &Rules| rules.find(facts, &offered);
        if let Some(sni) = facts.sni {
            if let Some(number) = self.exact.get(sni).and_then(find) {
                return Some(number);
            }
            for length in &self.suffix_lengths {
                let start = sni.len().checked_sub(*length);
                let suffix = start.and_then(|start| sni.get(start..));
                let rules = suffix.and_then(|suffix| self.wildcards.get(suffix));
                if let Some(number) = rules.and_then(find) {
                    return Some(number);
                }
            }
        }
        find(&self.plain)
    }

    /// Whether any route goes by what a ClientHello says.
    #[must_use]
    pub fn asks_for_tls(&self) -> bool {
        !(self.exact.is_empty() && self.wildcards.is_empty() && self.protocols.is_empty())
    }

    /// For people: the route that came nearest and what kept it from matching. Scans at most
    /// 1,000 routes; for log lines, not for the data path.
    #[must_use]
    pub fn explain(&self, facts: &Facts<'_>) -> Option<(&R, String)> {
        explain::nearest(self.routes.iter(), facts)
    }
}

enum Name {
    Exact(String),
    Suffix(String),
}

/// Route names are compared in lower case (the reference compares them verbatim: difference).
fn name_of(sni: &str) -> Name {
    let name = sni.trim_end_matches('.').to_ascii_lowercase();
    match name.strip_prefix('*') {
        Some(suffix) => Name::Suffix(suffix.to_owned()),
        None => Name::Exact(name),
    }
}

#[cfg(test)]
mod tests;
