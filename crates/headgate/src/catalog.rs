//! Which plugins the configuration enables.

use headgate_model::plugin::{PluginCatalog, PluginMeta};
use headgate_model::settings::Settings;
use headgate_stream::plugins::BUILTIN;

/// The enabled plugins; a name in `stream_plugins` that this build does not have is reported.
pub(crate) fn enabled(settings: &Settings) -> PluginCatalog {
    let known = |name: &str| BUILTIN.iter().copied().find(|meta: &&PluginMeta| meta.name == name);
    let mut stream = Vec::new();
    for name in &settings.stream_plugins {
        match known(name) {
            Some(meta) => stream.push(meta),
            None => {
                let names: Vec<_> = BUILTIN.iter().map(|meta| meta.name).collect();
                tracing::warn!(
                    plugin = %name,
                    known = names.join(", "),
                    "stream_plugins names a plugin that does not exist"
                );
            }
        }
    }
    stream.sort_by_key(|meta| std::cmp::Reverse(meta.priority));
    stream.dedup_by_key(|meta| meta.name);
    PluginCatalog { stream, http: settings.http_plugins.clone() }
}
