//! The plugins of one route, in the order in which they run.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use headgate_model::plugin::PluginMeta;
use headgate_telemetry::LogLimit;

use super::{AnyPlugin, Client, Condition, Flow, Phase};
use crate::outcome::{CloseReason, End};
use crate::session::{Rejection, Session};

static REJECTED: LogLimit = LogLimit::per_second(20);
static BROKEN_FILTER: LogLimit = LogLimit::per_second(10);
static PANICKED: LogLimit = LogLimit::per_second(10);

/// A plugin in its place.
pub(super) struct Link {
    pub(super) meta: &'static PluginMeta,
    pub(super) plugin: Box<dyn AnyPlugin>,
    /// `_meta.filter`; the error is why it cannot be evaluated, and then the plugin runs.
    pub(super) filter: Option<Result<Condition, String>>,
    /// `_meta.error_response`: sent to the client of a refused connection.
    pub(super) error_response: Option<Box<[u8]>>,
}

/// The plugins of a route. Without any, a session costs nothing more.
#[derive(Default)]
pub struct Chain {
    pub(super) links: Vec<Link>,
}

/// What the filters of a chain said for one session, a bit for each plugin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Filtered {
    asked: u64,
    skipped: u64,
}

/// How far a session got through its chain.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Step {
    /// All plugins let it pass.
    Passed,
    /// It ends.
    Ended(CloseReason),
    /// It goes on with the plugin `next` after this time.
    Delayed { next: usize, time: Duration },
    /// The plugin at `index` waits for something.
    Waits { index: usize },
}

impl Chain {
    /// Whether there are no plugins.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Names of the plugins, first the one that runs first.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.links.iter().map(|link| link.meta.name)
    }

    /// Runs the preread phases from the plugin `from` on, until all have passed or one does not let
    /// the session go on now.
    pub(crate) fn run(&self, from: usize, session: &mut Session) -> Step {
        for (index, link) in self.links.iter().enumerate().skip(from) {
            if !link.meta.phases.has_preread() || self.skips(index, link, session) {
                continue;
            }
            // A panic of a plugin ends this session, and nothing else.
            let phase = catch_unwind(AssertUnwindSafe(|| link.plugin.preread(session)));
            let phase = phase.unwrap_or_else(|_| panicked(link));
            let flow = match phase {
                Phase::Now(flow) => flow,
                Phase::Delay(time) => return Step::Delayed { next: index + 1, time },
                Phase::Wait => return Step::Waits { index },
            };
            if let Some(reason) = link.judge(flow, session) {
                return Step::Ended(reason);
            }
        }
        Step::Passed
    }

    /// Goes on from where [`Chain::run`] stopped, and waits for what there is to wait for.
    pub(crate) async fn finish(
        &self,
        mut step: Step,
        session: &mut Session,
        client: &mut Client<'_>,
    ) -> Result<(), CloseReason> {
        loop {
            step = match step {
                Step::Passed => return Ok(()),
                Step::Ended(reason) => return Err(reason),
                Step::Delayed { next, time } => {
                    client.sleep(time).await;
                    self.run(next, session)
                }
                Step::Waits { index } => {
                    let Some(link) = self.links.get(index) else { return Ok(()) };
                    let flow = link.plugin.wait(session, client).await;
                    match link.judge(flow, session) {
                        Some(reason) => Step::Ended(reason),
                        None => self.run(index + 1, session),
                    }
                }
            };
        }
    }

    /// Runs the log phases.
    pub(crate) fn log(&self, session: &Session, end: &End<'_>) {
        for (index, link) in self.links.iter().enumerate() {
            if link.meta.phases.has_log() && !self.skips_log(index, link, session, end) {
                // This runs in destructors too, where a panic would abort the process.
                let log = AssertUnwindSafe(|| link.plugin.log(session, end));
                if catch_unwind(log).is_err() {
                    panicked(link);
                }
            }
        }
    }

    /// What the plugin that refused the session wants its client to be sent.
    pub(crate) fn error_response(&self, session: &Session) -> Option<&[u8]> {
        let plugin = session.rejection?.plugin;
        self.links.iter().find(|link| link.meta.name == plugin)?.error_response.as_deref()
    }

    /// Asks the filter; its answer stays for the rest of the session.
    fn skips(&self, index: usize, link: &Link, session: &mut Session) -> bool {
        if link.filter.is_none() {
            return false;
        }
        let skips = !link.is_wanted(session, None);
        if let Some(bit) = bit(index) {
            session.filters.asked |= bit;
            session.filters.skipped |= if skips { bit } else { 0 };
        }
        skips
    }

    fn skips_log(&self, index: usize, link: &Link, session: &Session, end: &End<'_>) -> bool {
        match bit(index) {
            Some(bit) if session.filters.asked & bit != 0 => session.filters.skipped & bit != 0,
            _ => link.filter.is_some() && !link.is_wanted(session, Some(end)),
        }
    }
}

fn bit(index: usize) -> Option<u64> {
    1_u64.checked_shl(u32::try_from(index).ok()?)
}

impl Link {
    fn is_wanted(&self, session: &Session, end: Option<&End<'_>>) -> bool {
        match &self.filter {
            None => true,
            Some(Ok(condition)) => condition.holds_at(session, end),
            Some(Err(error)) => {
                if let Some(suppressed) = BROKEN_FILTER.check(Instant::now()) {
                    tracing::warn!(
                        conn = session.number,
                        suppressed,
                        "failed to get the 'vars' expression: {error} plugin_name: {}",
                        self.meta.name
                    );
                }
                true
            }
        }
    }

    /// Records a refusal. `None`: the session goes on.
    fn judge(&self, flow: Flow, session: &mut Session) -> Option<CloseReason> {
        match flow {
            Flow::Next => None,
            Flow::Close(reason) => Some(reason),
            Flow::Reject(code) => {
                session.rejection = Some(Rejection { plugin: self.meta.name, code });
                if let Some(suppressed) = REJECTED.check(Instant::now()) {
                    tracing::warn!(
                        conn = session.number,
                        client = %session.client_text(),
                        route = session.route.as_ref().map(|route| route.id.as_str()),
                        suppressed,
                        "{} exits with status code {code}",
                        self.meta.name
                    );
                }
                Some(CloseReason::Rejected)
            }
        }
    }
}

fn panicked(link: &Link) -> Phase {
    if let Some(suppressed) = PANICKED.check(Instant::now()) {
        tracing::error!(
            plugin = link.meta.name,
            suppressed,
            "a plugin panicked; only its session ends"
        );
    }
    Phase::Now(Flow::Close(CloseReason::Internal))
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}
