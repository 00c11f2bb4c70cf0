//! `headgate plugins`.

use std::fmt::Write as _;

use headgate_model::plugin::Phases;
use headgate_stream::plugin::Registry;

/// A table of all plugins, those that run first in front.
pub(super) fn list(registry: &Registry) -> String {
    let mut text = format!("{:<18} {:>8}  {:<12} DEFAULT\n", "NAME", "PRIORITY", "PHASES");
    for def in registry.all() {
        let meta = &def.meta;
        let phases = match meta.phases {
            Phases::Preread => "preread",
            Phases::Log => "log",
            Phases::Both => "preread, log",
        };
        let default = if meta.default_enabled { "enabled" } else { "-" };
        let _ = writeln!(text, "{:<18} {:>8}  {phases:<12} {default}", meta.name, meta.priority);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plugin_has_a_line() {
        let text = list(&Registry::default());
        assert_eq!(text.lines().count(), 1 + Registry::default().all().len());
        let line = "ip-restriction         3000  preread      enabled";
        assert!(text.lines().any(|found| found == line), "{text}");
    }
}
