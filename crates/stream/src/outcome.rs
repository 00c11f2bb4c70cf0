//! How sessions end: one vocabulary for the access log, counters and documentation.

use std::cell::RefCell;
use std::time::{Duration, SystemTime};

use headgate_telemetry::time_text::TimeText;

use crate::session::Session;

/// The end of a session: what is only known in the log phase.
pub struct End<'a> {
    /// Why it ended.
    pub reason: CloseReason,
    /// Unix time.
    pub at: Duration,
    /// What the record is about. Of [`Event::End`] wherever a plugin sees it.
    pub(crate) event: Event,
    times: &'a RefCell<TimeText>,
}

/// What a line of the access log is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A session was connected to its upstream.
    Start,
    /// It has lasted for another while.
    Progress,
    /// It has ended.
    End,
}

impl Event {
    /// What `$log_event` prints.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Progress => "progress",
            Self::End => "end",
        }
    }
}

impl<'a> End<'a> {
    pub(crate) fn now(reason: CloseReason, times: &'a RefCell<TimeText>) -> Self {
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { reason, at, event: Event::End, times }
    }

    /// The same moment of a session that goes on: there is no reason yet.
    pub(crate) fn not_yet(event: Event, times: &'a RefCell<TimeText>) -> Self {
        Self { event, ..Self::now(CloseReason::Done, times) }
    }

    /// Whether the session has ended.
    pub(crate) fn has_come(&self) -> bool {
        self.event == Event::End
    }

    /// What `$status` prints: the code of the plugin that rejected the session, if one did, else
    /// that of the close reason.
    #[must_use]
    pub fn status(&self, session: &Session) -> u16 {
        session.rejection.as_ref().map_or(self.reason.status(), |rejection| rejection.code)
    }

    /// Appends the time as `$time_local`.
    pub(crate) fn local(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.times.borrow_mut().local(self.at).as_bytes());
    }

    /// Appends the time as `$time_iso8601`.
    pub(crate) fn iso8601(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.times.borrow_mut().iso8601(self.at).as_bytes());
    }
}

/// Why a session ended. The code is stable; `docs/reference/access-log.md` explains each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CloseReason {
    /// Both sides finished in order.
    Done,
    /// No route matched.
    NoRoute,
    /// The route names no usable upstream, or the upstream has no usable endpoint.
    NoUpstream,
    /// No endpoint could be connected to.
    ConnectFailed,
    /// Connecting took longer than `timeout.connect` or `retry_timeout`.
    ConnectTimeout,
    /// Nothing was sent in either direction for the idle limit.
    Idle,
    /// The client reset the connection.
    ClientReset,
    /// The upstream reset the connection.
    UpstreamReset,
    /// headgate stopped or drained the listener.
    Drain,
    /// A UDP flow made room for a newer one.
    Evicted,
    /// The node is down or gone, and the upstream says to leave it (`on_unhealthy`,
    /// `on_node_down`).
    NodeDown,
    /// The route uses a plugin that cannot be run here; it fails closed.
    PluginNotBuilt,
    /// A plugin refused the session.
    Rejected,
    /// The client finished, or was silent for too long, while a plugin waited for its bytes.
    Preread,
    /// The PROXY protocol header was broken, missing or late.
    ProxyHeader,
    /// The upstream ended the connection without a byte, and the client had begun with a PROXY
    /// protocol header that the listener does not expect.
    UnexpectedHeader,
    /// No certificate is served for the server name, or the one there is cannot be used.
    NoCertificate,
    /// The TLS handshake with the client failed or took too long.
    TlsFailed,
    /// The client showed no certificate, or one that is not accepted.
    ClientCertificate,
    /// A client of a TLS listener does not speak TLS.
    NotTls,
    /// A client speaks TLS to a listener without TLS, and no route takes it.
    UnexpectedTls,
    /// A TLS stream ended without a `close_notify`: it may have been cut.
    Truncated,
    /// The route relays TLS as it is and the listener does not.
    NotPassedThrough,
    /// A fault of headgate itself (descriptors, memory, a panic).
    Internal,
    /// The listener has `max_connections` sessions.
    ListenerFull,
    /// No local port is left for a connection to the node.
    SourcePorts,
    /// Too many connections were being set up, and this was the oldest one.
    HandshakeBudget,
    /// Memory was over its budget.
    OutOfMemory,
    /// All connections that there may be were there.
    AllTaken,
}

impl CloseReason {
    /// Every reason.
    pub const ALL: [Self; 29] = [
        Self::Done,
        Self::NoRoute,
        Self::NoUpstream,
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::Idle,
        Self::ClientReset,
        Self::UpstreamReset,
        Self::Drain,
        Self::Evicted,
        Self::NodeDown,
        Self::PluginNotBuilt,
        Self::Rejected,
        Self::Preread,
        Self::ProxyHeader,
        Self::UnexpectedHeader,
        Self::NoCertificate,
        Self::TlsFailed,
        Self::ClientCertificate,
        Self::NotTls,
        Self::UnexpectedTls,
        Self::Truncated,
        Self::NotPassedThrough,
        Self::Internal,
        Self::ListenerFull,
        Self::SourcePorts,
        Self::HandshakeBudget,
        Self::OutOfMemory,
        Self::AllTaken,
    ];

    /// The code that `$close_reason` prints.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Done => "OK",
            Self::NoRoute => "NR",
            Self::NoUpstream => "NU",
            Self::ConnectFailed => "UF",
            Self::ConnectTimeout => "UT",
            Self::Idle => "IT",
            Self::ClientReset => "CR",
            Self::UpstreamReset => "UR",
            Self::Drain => "DR",
            Self::Evicted => "EV",
            Self::NodeDown => "ND",
            Self::PluginNotBuilt => "PN",
            Self::Rejected => "RJ",
            Self::Preread => "PT",
            Self::ProxyHeader => "PH",
            Self::UnexpectedHeader => "XP",
            Self::NoCertificate => "NC",
            Self::TlsFailed => "TF",
            Self::ClientCertificate => "CC",
            Self::NotTls => "NT",
            Self::UnexpectedTls => "XT",
            Self::Truncated => "TR",
            Self::NotPassedThrough => "NP",
            Self::Internal => "IE",
            Self::ListenerFull => "LC",
            Self::SourcePorts => "SP",
            Self::HandshakeBudget => "HB",
            Self::OutOfMemory => "OM",
            Self::AllTaken => "GL",
        }
    }

    /// The number that `$status` prints: 200 once an upstream was connected, as the reference
    /// does (`spec/routing.md`, section 7). A rejected session has the code of its plugin instead.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Done
            | Self::Idle
            | Self::ClientReset
            | Self::UpstreamReset
            | Self::Drain
            | Self::Evicted
            | Self::NodeDown
            | Self::UnexpectedHeader
            | Self::Truncated
            | Self::Preread => 200,
            Self::NoRoute | Self::UnexpectedTls => 404,
            Self::NoUpstream
            | Self::PluginNotBuilt
            | Self::Rejected
            | Self::NotPassedThrough
            | Self::ListenerFull
            | Self::HandshakeBudget
            | Self::OutOfMemory
            | Self::AllTaken => 503,
            Self::ConnectFailed | Self::ConnectTimeout | Self::SourcePorts => 502,
            Self::ProxyHeader | Self::NotTls => 400,
            Self::NoCertificate | Self::TlsFailed | Self::ClientCertificate | Self::Internal => 500,
        }
    }

    /// What `$stream_session_reason` prints, if the reference has a word for it
    /// (`spec/plugins.md`, section 5).
    #[must_use]
    pub const fn session_reason(self) -> Option<&'static str> {
        match self {
            Self::Done | Self::UnexpectedHeader => Some("closed"),
            Self::Drain => Some("shutdown"),
            Self::ClientReset => Some("client_rst"),
            Self::UpstreamReset => Some("upstream_rst"),
            Self::ConnectFailed => Some("connect_failed"),
            Self::ConnectTimeout => Some("connect_timeout"),
            Self::Idle => Some("recv_timeout"),
            _ => None,
        }
    }

    /// Position in [`CloseReason::ALL`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_indices_fit() {
        for (index, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
            let same = CloseReason::ALL.iter().filter(|other| other.code() == reason.code());
            assert_eq!(same.count(), 1, "{reason:?}");
        }
    }
}
