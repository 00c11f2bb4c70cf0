//! Keys that are checked but that this version does not act on. Whoever sets one to something
//! hears of it; each row goes away with the change that builds what it is for.

use super::reading::Reading;

/// Key, the value that asks for nothing, why it has no effect, what to do.
const KEYS: &[(&str, &str, &str, &str)] = &[
    (
        "apisix.dns_resolver",
        "",
        "this version asks the resolver of the system",
        "set name servers in /etc/resolv.conf",
    ),
    (
        "apisix.enable_resolv_search_opt",
        "true",
        "this version asks the resolver of the system",
        "set search domains in /etc/resolv.conf",
    ),
];

/// Warns of each key that the file sets.
pub(super) fn warn(reading: &mut Reading<'_>) {
    for (at, neutral, reason, help) in KEYS {
        let is_neutral = match reading.get(at) {
            None | Some(serde_json::Value::Null) => true,
            Some(value) => {
                value.as_str().map_or_else(|| value.to_string(), str::to_owned) == *neutral
            }
        };
        if !is_neutral && reading.wrote(at) {
            let message = format!("{at} is known, has no effect in headgate, because {reason}");
            let note = reading.warning("config/no-effect", at, message).label("no effect");
            note.help(*help);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::settings::Settings;

    fn no_effect(text: &str) -> Vec<String> {
        let loaded = Settings::parse(text, Path::new("config.yaml"), &|_| None);
        let found = loaded.problems.into_iter().filter(|it| it.code == "config/no-effect");
        found.map(|problem| problem.subject).collect()
    }

    #[test]
    fn whoever_sets_one_hears_of_it() {
        let text = "apisix: {id: a, dns_resolver: [10.0.0.2], enable_resolv_search_opt: false}";
        assert_eq!(no_effect(text), ["apisix.dns_resolver", "apisix.enable_resolv_search_opt"]);
        let neutral = "apisix: {enable_resolv_search_opt: true}";
        assert!(no_effect(neutral).is_empty());
    }
}
