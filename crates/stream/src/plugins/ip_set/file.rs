//! A file of networks.
//!
//! A line is a network, with an optional moment (Unix seconds) after which it no longer counts;
//! `#` begins a comment. The file must end with a line break, so that one whose last line is cut
//! off is not taken for whole.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use headgate_model::check::parse_network;

use crate::ip_set::IpSet;
use crate::plugins::followed::{Content, checked_size};

/// Largest file, bytes: a million networks and more.
const LARGEST: u64 = 64 * 1024 * 1024;

/// The networks of a file.
#[derive(Debug)]
pub(super) struct Networks {
    set: IpSet,
    lines: usize,
}

impl Networks {
    /// Whether the address is in the set at that time, in Unix seconds.
    pub(super) fn contains(&self, ip: IpAddr, now: impl FnOnce() -> u64) -> bool {
        self.set.contains_at(ip, now)
    }
}

impl Content for Networks {
    const WHAT: &'static str = "an ip-set";

    fn read(path: &Path) -> Result<Self, String> {
        checked_size(path, LARGEST)?;
        let shown = path.display();
        let text = fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
        let networks = parse(&text).map_err(|error| format!("{shown}: {error}"))?;
        let (lines, ranges) = (networks.lines, networks.set.len());
        tracing::debug!(path = %shown, lines, ranges, "a list of networks was read");
        Ok(networks)
    }
}

fn parse(text: &str) -> Result<Networks, String> {
    if !text.is_empty() && !text.ends_with('\n') {
        return Err("the last line has no line break, so the file may be incomplete".to_owned());
    }
    let mut networks = Vec::new();
    let mut lines = 0;
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(network) = words.next() else { continue };
        let wrong = |what: &str| format!("line {}: {what}", number + 1);
        let network = parse_network(network)
            .ok_or_else(|| wrong(&format!("invalid ip address: {network}")))?;
        let until = words.next().map(str::parse::<u64>);
        let until = until.transpose().map_err(|_| wrong("the time is not in Unix seconds"))?;
        if words.next().is_some() {
            return Err(wrong("more than a network and a time"));
        }
        lines += 1;
        networks.push((network, until));
    }
    Ok(Networks { set: IpSet::timed(networks), lines })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_comments_and_ends() {
        let text = "# banned\n10.0.0.0/8\n\n192.0.2.1 100 # until then\n192.0.2.2 200\n::1 300\n";
        let content = parse(text).unwrap_or_else(|error| panic!("{error}"));
        let has = |ip: &str| content.set.contains_at(ip.parse().unwrap(), || 100);
        assert_eq!(content.lines, 4);
        assert!(has("10.1.1.1") && has("192.0.2.2") && has("::1"));
        assert!(!has("192.0.2.1"), "its time is over");
        assert!(parse("").is_ok_and(|content| content.set.is_empty()));
    }

    #[test]
    fn what_is_not_right_is_named() {
        for (text, part) in [
            ("10.0.0.0/8\n10.0.0", "no line break"),
            ("10.0.0.0/8\nlocalhost\n", "line 2: invalid ip address: localhost"),
            ("10.0.0.0/8 soon\n", "line 1: the time is not in Unix seconds"),
            ("10.0.0.0/8 1 2\n", "line 1: more than a network and a time"),
        ] {
            let error = parse(text).err().unwrap();
            assert!(error.contains(part), "{error}");
        }
    }
}
