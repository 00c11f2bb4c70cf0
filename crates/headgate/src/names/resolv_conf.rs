//! `/etc/resolv.conf`, understood as glibc does (resolv.conf(5)).

use std::fs;
use std::io;
use std::net::IpAddr;

use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::system_conf::parse_resolv_conf;

pub(super) const PATH: &str = "/etc/resolv.conf";

/// What the file says. What cannot be used of it is left out with a warning.
pub(super) fn read() -> (ResolverConfig, ResolverOpts) {
    match fs::read(PATH) {
        Ok(bytes) => parse(&String::from_utf8_lossy(&bytes)),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(file = PATH, %error, "the file cannot be read; names are asked for at 127.0.0.1");
            }
            parse("")
        }
    }
}

fn parse(text: &str) -> (ResolverConfig, ResolverOpts) {
    let is = |line: &str, words: &[&str]| {
        line.split_whitespace().next().is_some_and(|word| words.contains(&word))
    };
    let mut text = text.to_owned();
    if !text.lines().any(|line| is(line, &["nameserver"])) {
        text.push_str("\nnameserver 127.0.0.1\n");
    }
    let (config, options) = parse_resolv_conf(&text).unwrap_or_else(|error| {
        tracing::warn!(file = PATH, %error, "the search list cannot be used");
        let lines = text.lines().filter(|line| !is(line, &["search", "domain"]));
        let lines: String = lines.flat_map(|line| [line, "\n"]).collect();
        parse_resolv_conf(lines).unwrap_or_else(|error| {
            tracing::warn!(file = PATH, %error, "the file names no server; names are asked for at 127.0.0.1");
            let local = NameServerConfig::udp_and_tcp(IpAddr::from([127, 0, 0, 1]));
            (ResolverConfig::from_name_servers(vec![local]), ResolverOpts::default())
        })
    });
    let (domain, search, servers) = config.into_parts();
    // The domain of this host stands in for a search list, and is not tried beside one.
    let domain = domain.filter(|_| search.is_empty());
    (ResolverConfig::from_parts(domain, search, servers), options)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Servers and search list, and whether the domain of the host is tried.
    fn parsed(text: &str) -> (Vec<String>, Vec<String>, bool) {
        let (config, _) = parse(text);
        let servers = config.name_servers().iter().map(|server| server.ip.to_string()).collect();
        let search = config.search().iter().map(ToString::to_string).collect();
        (servers, search, config.domain().is_some())
    }

    #[test]
    fn the_search_list_needs_no_server_and_no_domain() {
        let local = vec!["127.0.0.1".to_owned()];
        let (servers, search, domain) = parsed("search a.test b.test\n");
        assert_eq!((servers, domain), (local.clone(), false));
        assert_eq!(search, ["a.test", "b.test"]);
        let (servers, search, domain) = parsed("nameserver 10.0.0.1\ndomain c.test\n");
        assert_eq!((servers, domain), (vec!["10.0.0.1".to_owned()], false));
        assert_eq!(search, ["c.test"]);
        for empty in ["", "# nothing\n", "nameserver nonsense\n"] {
            assert_eq!(parsed(empty).0, local, "{empty:?}");
        }
    }

    #[test]
    fn a_bad_search_list_costs_no_server() {
        let long = "x".repeat(64);
        let (servers, search, _) = parsed(&format!("nameserver 10.0.0.1\nsearch {long}.test\n"));
        assert_eq!((servers, search), (vec!["10.0.0.1".to_owned()], Vec::new()));
    }

    #[test]
    fn dots_decide_what_is_tried_first() {
        let (_, options) = parse("nameserver 10.0.0.1\noptions ndots:5\n");
        assert_eq!(options.ndots, 5);
    }
}
