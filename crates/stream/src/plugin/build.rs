//! What a plugin may use while it is built, and nothing else.

use std::any::Any;
use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;

use headgate_model::expr::Expr;
use headgate_model::template;
use headgate_upstream::Upstream;
use serde_json::Value;

use super::awaited::Seen;
use super::factory::{Background, PluginFactory};
use crate::ip_sets::LiveSet;
use crate::session::Session;
use crate::vars::{self, Var};

thread_local! {
    /// Where expressions put the values that they compare.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Upstreams and IP sets for plugins; the compiler provides them.
pub(crate) trait Upstreams {
    /// The upstream object of that id; `None` if there is none.
    fn by_id(&mut self, id: &str) -> Result<Option<Arc<Upstream>>, String>;
    /// The IP set of that id, if there is one.
    fn ip_set(&mut self, id: &str) -> Option<Arc<LiveSet>>;
    /// An upstream written into a plugin's configuration. `key` tells where; the counts of its
    /// endpoints survive as long as that stays.
    fn inline(&mut self, key: &str, conf: &Value) -> Result<Arc<Upstream>, String>;
}

/// Where a plugin's configuration is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// The resource, e.g. `stream_routes/1`.
    pub(crate) resource: &'a str,
    /// Name of the plugin.
    pub(crate) plugin: &'static str,
}

/// What a plugin may use while it is built.
pub struct Build<'a> {
    pub(super) place: Place<'a>,
    pub(super) version: u32,
    pub(super) factory: &'a PluginFactory,
    pub(super) metadata: Option<&'a Value>,
    pub(super) upstreams: &'a mut dyn Upstreams,
    pub(super) wants_server: bool,
}

impl Build<'_> {
    /// Where the configuration is written: a stream route or a service, e.g. `stream_routes/1`.
    #[must_use]
    pub const fn resource(&self) -> &str {
        self.place.resource
    }

    /// A checksum of the configuration as it is written (CRC-32 of its canonical JSON): it changes
    /// when the configuration does.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// The plugin's metadata (`plugin_metadata/<name>`) with defaults filled in, if any is stored.
    /// A change of it builds the plugin anew.
    #[must_use]
    pub const fn metadata(&self) -> Option<&Value> {
        self.metadata
    }

    /// State that outlives this plugin: the same value for whoever asks with the same type and
    /// key, in whatever route, for as long as somebody holds it.
    pub fn shared<T: Any + Send + Sync>(&self, key: &str, make: impl FnOnce() -> T) -> Arc<T> {
        self.factory.shared.get(key, make)
    }

    /// The control side, for work that waits.
    #[must_use]
    pub fn background(&self) -> Arc<dyn Background> {
        Arc::clone(&self.factory.background)
    }

    /// Notes that the plugin cannot be built because of a file that was in that state: once the
    /// file has changed and been left alone for a second, it is built anew.
    pub(crate) fn await_file(&self, path: PathBuf, failed: Seen) {
        self.factory.awaited.add(path, failed);
    }

    /// The variable of that name, without its `$`; `None` if there is none. Only variables that
    /// were looked up here are sure to have their value.
    pub fn variable(&mut self, name: &str) -> Option<Var> {
        let found = vars::find(name);
        self.wants_server |= found.is_some_and(|var| var.needs_server());
        found
    }

    /// A text with `$name` and `${name ?? default}` in it (`spec/plugins.md`, section 10).
    pub fn template(&mut self, text: &str) -> Template {
        Template(template::Template::compile(text, &mut |name| self.variable(name)))
    }

    /// An expression over variables (`spec/plugins.md`, section 9).
    ///
    /// # Errors
    /// The reference's message.
    pub fn condition(&mut self, rule: &Value) -> Result<Condition, String> {
        Expr::compile(rule, &mut |name| self.variable(name)).map(Condition)
    }

    /// The upstream object of that id; `None` if there is none. Once there is, the plugin is built
    /// anew.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn upstream(&mut self, id: &str) -> Result<Option<Arc<Upstream>>, String> {
        self.upstreams.by_id(id)
    }

    /// The IP set of that id (`ip_sets/<id>`); `None` if there is none. It follows what is written
    /// into it; once it comes or goes, the plugin is built anew.
    pub fn ip_set(&mut self, id: &str) -> Option<Arc<LiveSet>> {
        self.upstreams.ip_set(id)
    }

    /// An upstream that is written into the configuration; `name` tells it from others there, and
    /// should stay the same when the configuration changes elsewhere.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn inline_upstream(&mut self, name: &str, conf: &Value) -> Result<Arc<Upstream>, String> {
        let key = format!("{}#{}/{name}", self.place.resource, self.place.plugin);
        self.upstreams.inline(&key, conf)
    }
}

/// A text with variables in it.
#[derive(Debug, Clone)]
pub struct Template(template::Template<Var>);

impl Template {
    /// Appends the text for a session, and returns how many variables had a value.
    pub fn write(&self, session: &Session, out: &mut Vec<u8>) -> usize {
        self.0.write(|var, out| var.write(session, None, out), out)
    }
}

/// A compiled expression.
#[derive(Debug, Clone)]
pub struct Condition(Expr<Var>);

impl Condition {
    /// Whether it holds for a session.
    #[must_use]
    pub fn holds(&self, session: &Session) -> bool {
        self.holds_at(session, None)
    }

    /// The same in the log phase, when the end is known.
    pub(super) fn holds_at(
        &self,
        session: &Session,
        end: Option<&crate::outcome::End<'_>>,
    ) -> bool {
        // Taken, not borrowed: a value is never computed by another expression, but if it ever
        // is, that one gets a buffer of its own.
        let mut scratch = SCRATCH.take();
        let holds = self.0.holds(&mut scratch, &mut |var, out| var.write(session, end, out));
        SCRATCH.set(scratch);
        holds
    }
}
