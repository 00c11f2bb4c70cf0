//! A gateway of one's own: this program with more plugins.

use std::process::ExitCode;

use clap::Parser as _;
use headgate_stream::plugin::{PluginDef, Registry};

use crate::cli::Cli;

/// The gateway as a library.
///
/// ```no_run
/// use headgate::Headgate;
/// # use headgate::plugin::{Build, Phases, Plugin, PluginDef, PluginMeta};
/// # #[derive(Debug)]
/// # struct Mine;
/// # impl Plugin for Mine {
/// #     type Config = serde_json::Value;
/// #     fn new(_: Self::Config, _: &mut Build<'_>) -> Result<Self, String> { Ok(Self) }
/// # }
/// # static MINE: PluginDef = PluginDef::of::<Mine>(PluginMeta::new("mine", 10, "{}", Phases::Log));
///
/// fn main() -> std::process::ExitCode {
///     Headgate::builder().plugin(&MINE).run()
/// }
/// ```
#[derive(Debug)]
pub struct Headgate;

impl Headgate {
    /// Begins with the built-in plugins.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }
}

/// See [`Headgate::builder`].
#[derive(Debug, Default)]
pub struct Builder {
    registry: Registry,
}

impl Builder {
    /// Adds a plugin. It runs where a route uses it, once `stream_plugins` of `config.yaml` names
    /// it. One with the name of another replaces it.
    #[must_use]
    pub fn plugin(mut self, def: &'static PluginDef) -> Self {
        self.registry.add(def);
        self
    }

    /// Does what the command line says, and returns the exit code.
    pub fn run(self) -> ExitCode {
        Cli::parse().run(&self.registry)
    }
}
