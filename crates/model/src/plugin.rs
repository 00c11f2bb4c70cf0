//! What the Admin API needs to know of plugins: names, priorities and schemas.

use serde_json::Value;

/// A check of a plugin's configuration; the error is the reference's message.
pub type SemanticCheck = fn(&Value) -> Result<(), String>;

/// Description of one plugin of the stream plane. The plane registers these; see
/// `headgate_stream::plugins::BUILTIN`.
#[derive(Debug)]
pub struct PluginMeta {
    /// Name in `plugins` objects, e.g. `ip-restriction`.
    pub name: &'static str,
    /// Higher runs earlier.
    pub priority: i32,
    /// Version string of the reference's plugin.
    pub version: &'static str,
    /// Enabled when `stream_plugins` is absent from config.yaml.
    pub default_enabled: bool,
    /// Whether this build runs it. A route whose plugin is not executed says so.
    pub executed: bool,
    /// JSON schema of the configuration.
    pub schema: &'static str,
    /// JSON schema of the plugin's metadata, if it has any.
    pub metadata_schema: Option<&'static str>,
    /// Checks that a schema cannot express; the text is the reference's message.
    pub check: Option<SemanticCheck>,
    /// Configurations that must be accepted (tests, documentation).
    pub good: &'static [&'static str],
    /// Configurations that must be refused.
    pub bad: &'static [&'static str],
}

impl PluginMeta {
    /// Whether it decides over traffic, as opposed to plugins that only record it. A route whose
    /// policy cannot be run must not serve.
    #[must_use]
    pub fn is_policy(&self) -> bool {
        !matches!(self.name, "prometheus" | "syslog")
    }
}

/// The plugins that the current configuration enables.
#[derive(Debug, Clone, Default)]
pub struct PluginCatalog {
    /// Stream plugins by descending priority.
    pub stream: Vec<&'static PluginMeta>,
    /// Names of enabled HTTP plugins: known so that whole configurations can be stored.
    pub http: Vec<String>,
}

impl PluginCatalog {
    /// The enabled stream plugin of that name.
    #[must_use]
    pub fn stream(&self, name: &str) -> Option<&'static PluginMeta> {
        self.stream.iter().copied().find(|meta| meta.name == name)
    }

    /// Whether an HTTP plugin of that name is enabled.
    #[must_use]
    pub fn has_http(&self, name: &str) -> bool {
        self.http.iter().any(|known| known == name)
    }
}
