//! What is recorded of a session: counters, the log phase of its plugins, lines of the access log.

use std::time::Duration;

use super::Core;
use crate::access::AccessFormat;
use crate::outcome::{CloseReason, End, Event};
use crate::session::Session;

/// Access-log lines wait at most this long in a core's buffer.
const FLUSH_AFTER: Duration = Duration::from_millis(200);

impl Core {
    /// The last stage of every session: counters, the log phase of its plugins, and its log line.
    pub(crate) fn finish(&self, session: &Session, reason: CloseReason) {
        self.stats().finished(session, reason);
        let retries = session.upstream.tried.len().saturating_sub(1) as u64;
        let by_route = session.route.as_ref().map_or(&self.shared.stats.unrouted, |it| &it.stats);
        by_route.closed(self.number, reason, retries);
        session.note_end(reason);
        if let Some(copy) = session.copy {
            self.mirrors.finish(self, copy);
        }
        tracing::debug!(
            conn = session.number,
            client = %session.client_text(),
            listener = %session.listener,
            reason = reason.code(),
            "session ended"
        );
        let plugins = session.route.as_ref().map(|route| &route.plugins);
        let plugins = plugins.filter(|plugins| !plugins.is_empty());
        if self.access.is_none() && plugins.is_none() {
            return; // nobody asks for the time
        }
        let end = End::now(reason, &self.times);
        if let Some(plugins) = plugins {
            plugins.log(session, &end);
        }
        self.write_line(session, &end);
    }

    /// A line of the access log when a session's upstream is connected, if it is asked for.
    pub(crate) fn note_start(&self, session: &Session) {
        if self.writes_lines(|format| format.at_start) {
            self.write_line(session, &End::not_yet(Event::Start, &self.times));
        }
    }

    /// A line of the access log about a session that lasts.
    pub(crate) fn note_progress(&self, session: &Session) {
        if self.writes_lines(|format| format.every.is_some()) {
            self.write_line(session, &End::not_yet(Event::Progress, &self.times));
        }
    }

    /// Milliseconds after which a session that lasts writes a line; the maximum when it does not.
    pub(crate) fn line_every(&self) -> u64 {
        let format = self.access.as_ref().map(|_| self.shared.access_format.load());
        let every = format.and_then(|format| format.as_ref().and_then(|it| it.every));
        every.map_or(u64::MAX, |every| every.as_millis().try_into().unwrap_or(u64::MAX))
    }

    /// Whether the access log is on and has lines of that kind.
    pub(super) fn writes_lines(&self, of_a_kind: impl FnOnce(&AccessFormat) -> bool) -> bool {
        self.access.is_some()
            && self.shared.access_format.load().as_ref().is_some_and(|format| of_a_kind(format))
    }

    fn write_line(&self, session: &Session, moment: &End<'_>) {
        let Some(access) = &self.access else { return };
        if let Some(format) = self.shared.access_format.load().as_ref() {
            access.record(format, session, moment);
            if self.flush_at.get().is_none() {
                let at = self.events.now_ms() + FLUSH_AFTER.as_millis() as u64;
                self.flush_at.set(Some(at));
            }
        }
    }

    pub(super) fn flush_when_due(&self) {
        if self.flush_at.get().is_some_and(|at| self.events.now_ms() >= at) {
            self.flush_at.set(None);
            if let Some(access) = &self.access {
                access.flush();
            }
        }
    }
}
