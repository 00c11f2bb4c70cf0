//! What the Admin API needs to know of plugins: names, priorities and schemas.

use serde_json::Value;

/// A check of a plugin's configuration; the error is the reference's message.
pub type SemanticCheck = fn(&Value) -> Result<(), String>;

/// When a plugin runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phases {
    /// When a session begins.
    Preread,
    /// When it has ended.
    Log,
    /// Both.
    Both,
}

impl Phases {
    /// Whether it runs when a session begins, and so decides over traffic.
    #[must_use]
    pub const fn has_preread(self) -> bool {
        matches!(self, Self::Preread | Self::Both)
    }

    /// Whether it runs when a session has ended.
    #[must_use]
    pub const fn has_log(self) -> bool {
        matches!(self, Self::Log | Self::Both)
    }
}

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
    /// When it runs.
    pub phases: Phases,
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
    /// A plugin that is enabled by name only, without metadata, further checks and examples.
    #[must_use]
    pub const fn new(
        name: &'static str,
        priority: i32,
        schema: &'static str,
        phases: Phases,
    ) -> Self {
        Self {
            name,
            priority,
            version: "0.1",
            default_enabled: false,
            phases,
            executed: true,
            schema,
            metadata_schema: None,
            check: None,
            good: &[],
            bad: &[],
        }
    }

    /// Whether it decides over traffic, as opposed to plugins that only record it. A route whose
    /// policy cannot be run must not serve.
    #[must_use]
    pub const fn is_policy(&self) -> bool {
        self.phases.has_preread()
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
