//! Which plugins the configuration enables.

use headgate_model::settings::Settings;
use headgate_stream::plugin::{PluginDef, Registry};

/// The plugins of `stream_plugins` by descending priority; a name that this build does not have
/// is reported.
pub(crate) fn enabled(settings: &Settings, registry: &Registry) -> Vec<&'static PluginDef> {
    for name in &settings.stream_plugins {
        if registry.find(name).is_none() {
            let known: Vec<_> = registry.all().iter().map(|def| def.meta.name).collect();
            tracing::warn!(
                plugin = %name,
                known = known.join(", "),
                "stream_plugins names a plugin that does not exist"
            );
        }
    }
    let names = &settings.stream_plugins;
    let is_enabled = |def: &&&PluginDef| names.iter().any(|name| name == def.meta.name);
    registry.all().iter().filter(is_enabled).copied().collect()
}
