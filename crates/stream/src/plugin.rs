//! The door for plugins: what a plugin is, how it is described, built, and run.
//!
//! A plugin has two phases. *preread* runs once for every session of a route, after routing and
//! before the upstream is chosen; it may refuse the session, hold it up, read what the client
//! sends first, or choose another upstream. *log* runs when the session has ended, also for refused
//! ones. Both run on the session's core, so neither may block: work that waits is handed to
//! [`Build::background`].
//!
//! A plugin is one file with a [`PluginDef`], a configuration, an implementation and tests; see
//! `plugins/ip_restriction.rs`. The built-in ones are listed in [`crate::plugins::BUILTIN`]; a
//! program of its own adds more with `headgate::Headgate::builder().plugin(&DEF)`.

mod awaited;
mod build;
mod chain;
mod client;
mod factory;
mod reference;
mod shared;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use headgate_model::plugin::PluginMeta;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::outcome::{CloseReason, End};
use crate::session::Session;

pub use awaited::Awaited;
pub(crate) use awaited::{Seen, seen};
pub use build::{Build, Condition, Template};
pub(crate) use build::{Place, Upstreams};
pub use chain::Chain;
pub(crate) use chain::{Filtered, Step};
pub use client::{Client, PeekError};
pub(crate) use factory::Written;
pub use factory::{Background, PluginFactory, Registry};

/// A future of one core.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// A plugin with its configuration: built when a route is compiled, shared by all its sessions on
/// all cores, dropped when no session uses it any more.
pub trait Plugin: fmt::Debug + Send + Sync + 'static {
    /// The configuration, with the defaults of the schema filled in, references to the environment
    /// resolved, and whole numbers as integers.
    type Config: DeserializeOwned
    where
        Self: Sized;

    /// Builds it.
    ///
    /// # Errors
    /// Why it cannot run with this configuration. Its routes then close their sessions if it has a
    /// preread phase, and serve without it if not; the reason is in the log and in `/v1/problems`.
    fn new(config: Self::Config, build: &mut Build<'_>) -> Result<Self, String>
    where
        Self: Sized;

    /// The preread phase.
    fn preread(&self, _session: &mut Session) -> Phase {
        Phase::NEXT
    }

    /// Goes on after [`Phase::Wait`]: may await what the client sends and time that passes. For a UDP
    /// flow there is nothing to wait for; only its first datagram can be peeked at.
    fn wait<'a>(
        &'a self,
        _session: &'a mut Session,
        _client: &'a mut Client<'_>,
    ) -> Later<'a, Flow> {
        Box::pin(async { Flow::Next })
    }

    /// The log phase. Must be quick; must not block.
    fn log(&self, _session: &Session, _end: &End<'_>) {}
}

/// What a preread phase says at once, without allocating anything.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Phase {
    /// It has decided.
    Now(Flow),
    /// It lets the session go on after this time. UDP flows go on at once.
    Delay(Duration),
    /// It decides in [`Plugin::wait`].
    Wait,
}

impl Phase {
    /// The session goes on.
    pub const NEXT: Self = Self::Now(Flow::Next);

    /// The session is refused with `code`.
    #[must_use]
    pub const fn reject(code: u16) -> Self {
        Self::Now(Flow::Reject(code))
    }
}

/// What becomes of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// It goes on to the next plugin, or to its upstream.
    Next,
    /// It is closed. The code is logged, counted, and shown by `$status`; it is not sent.
    Reject(u16),
    /// It ends without anybody refusing it, for example because the client has gone.
    Close(CloseReason),
}

type BuildFn = fn(Value, &mut Build<'_>) -> Result<Box<dyn AnyPlugin>, String>;

/// One registered plugin: its description and how to build it.
pub struct PluginDef {
    /// Name, schema, examples.
    pub meta: PluginMeta,
    build: Option<BuildFn>,
}

impl PluginDef {
    /// The definition of `P`.
    #[must_use]
    pub const fn of<P: Plugin>(meta: PluginMeta) -> Self {
        Self { meta: PluginMeta { executed: true, ..meta }, build: Some(build_one::<P>) }
    }

    /// A plugin whose configuration is known and checked, but which this version does not run.
    #[must_use]
    pub const fn described(meta: PluginMeta) -> Self {
        Self { meta: PluginMeta { executed: false, ..meta }, build: None }
    }
}

impl fmt::Debug for PluginDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginDef").field("name", &self.meta.name).finish_non_exhaustive()
    }
}

fn build_one<P: Plugin>(conf: Value, build: &mut Build<'_>) -> Result<Box<dyn AnyPlugin>, String> {
    let config = serde_json::from_value(conf).map_err(|error| error.to_string())?;
    Ok(Box::new(P::new(config, build)?))
}

/// [`Plugin`] without its configuration type.
pub(crate) trait AnyPlugin: fmt::Debug + Send + Sync {
    fn preread(&self, session: &mut Session) -> Phase;
    fn wait<'a>(&'a self, session: &'a mut Session, client: &'a mut Client<'_>) -> Later<'a, Flow>;
    fn log(&self, session: &Session, end: &End<'_>);
}

impl<P: Plugin> AnyPlugin for P {
    fn preread(&self, session: &mut Session) -> Phase {
        Plugin::preread(self, session)
    }

    fn wait<'a>(&'a self, session: &'a mut Session, client: &'a mut Client<'_>) -> Later<'a, Flow> {
        Plugin::wait(self, session, client)
    }

    fn log(&self, session: &Session, end: &End<'_>) {
        Plugin::log(self, session, end);
    }
}

/// Builds a plugin as for the route 1, without other resources.
#[cfg(test)]
pub(crate) fn build_for_test<P: Plugin>(def: &'static PluginDef, conf: Value) -> Result<P, String> {
    struct Nothing;
    impl Upstreams for Nothing {
        fn by_id(
            &mut self,
            _: &str,
        ) -> Result<Option<std::sync::Arc<headgate_upstream::Upstream>>, String> {
            Ok(None)
        }

        fn ip_set(&mut self, _: &str) -> Option<std::sync::Arc<crate::ip_sets::LiveSet>> {
            None
        }

        fn inline(
            &mut self,
            key: &str,
            conf: &Value,
        ) -> Result<std::sync::Arc<headgate_upstream::Upstream>, String> {
            let resource = serde_json::from_value(conf.clone()).map_err(|it| it.to_string())?;
            let find = crate::hash_key::number;
            headgate_upstream::Upstream::new(
                key.into(),
                1,
                &resource,
                &Default::default(),
                find,
                None,
                None,
            )
            .map_err(|error| error.to_string())
        }
    }
    let factory = PluginFactory::default();
    let mut conf = conf;
    headgate_model::schema::Defaults::of_plugin(&def.meta).fill(&mut conf);
    let text = conf.to_string();
    let mut build = Build {
        place: Place { resource: "stream_routes/1", plugin: def.meta.name },
        version: headgate_upstream::crc32::of(text.as_bytes()),
        factory: &factory,
        metadata: None,
        upstreams: &mut Nothing,
        wants_server: false,
    };
    P::new(serde_json::from_value(conf).map_err(|it| it.to_string())?, &mut build)
}

#[cfg(test)]
mod tests;
