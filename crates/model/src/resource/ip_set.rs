//! A set of networks that plugins name by its id, and the entries that are added to it one by one.
//! Not a resource of the reference.

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::check::parse_network;

/// Typed view of an ip_sets object.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct IpSet {
    /// Its networks, each with the moment in Unix seconds at which it ends.
    #[serde(default, deserialize_with = "members")]
    pub entries: Vec<(IpNet, Option<u64>)>,
}

fn members<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<(IpNet, Option<u64>)>, D::Error> {
    let items = Vec::<Value>::deserialize(input)?;
    items.iter().map(|item| member(item).map_err(serde::de::Error::custom)).collect()
}

/// One member of `entries`: a text, or an object with `network` and `until`.
///
/// # Errors
/// The text is neither address nor network.
pub fn member(item: &Value) -> Result<(IpNet, Option<u64>), String> {
    let text = item.as_str().or_else(|| item.get("network")?.as_str()).unwrap_or_default();
    let network = parse_network(text).ok_or_else(|| format!("invalid ip address: {text}"))?;
    Ok((network, item.get("until").and_then(seconds)))
}

/// Set, network and end of an entry of its own, by its id `{set}/entries/{network}`.
///
/// # Errors
/// What stands there is neither address nor network.
pub fn entry<'a>(id: &'a str, value: &Value) -> Result<(&'a str, IpNet, Option<u64>), String> {
    let (set, text) = id.split_once("/entries/").unwrap_or(("", id));
    let network = parse_network(text).ok_or_else(|| format!("invalid ip address: {text}"))?;
    Ok((set, network, value.get("until").and_then(seconds)))
}

/// The one spelling of a network that keys have: `10.1.2.3/8` is `10.0.0.0/8`, and a single address
/// has no length. What is no network stays as it is.
#[must_use]
pub fn canonical(text: &str) -> String {
    match parse_network(text) {
        Some(network) if network.prefix_len() == network.max_prefix_len() => {
            network.addr().to_string()
        }
        Some(network) => network.trunc().to_string(),
        None => text.to_owned(),
    }
}

/// A moment in Unix seconds; JSON may write a whole number as `1.0`.
fn seconds(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_f64().map(|number| number as u64))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn entries_are_texts_or_objects() {
        let set = json!({"entries": ["10.0.0.0/8", {"network": "::1", "until": 7.0}]});
        let set: IpSet = serde_json::from_value(set).unwrap();
        assert_eq!(set.entries[0], ("10.0.0.0/8".parse().unwrap(), None));
        assert_eq!(set.entries[1], ("::1/128".parse().unwrap(), Some(7)));
        assert!(serde_json::from_value::<IpSet>(json!({"entries": ["x"]})).is_err());
    }

    #[test]
    fn entries_of_their_own_are_found_by_their_id() {
        let found = entry("a/entries/10.0.0.0/8", &json!({"until": 5}));
        assert_eq!(found, Ok(("a", "10.0.0.0/8".parse().unwrap(), Some(5))));
        assert_eq!(entry("a/entries/x", &json!({})), Err("invalid ip address: x".to_owned()));
    }

    #[test]
    fn one_spelling() {
        for (text, expected) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.1.2.3/32", "10.1.2.3"),
            ("2001:DB8::0/32", "2001:db8::/32"),
            ("::1/128", "::1"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(canonical(text), expected);
        }
    }
}
