//! How sessions end: one vocabulary for the access log, counters and documentation.

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
    /// The route uses a plugin that this version does not run; it fails closed.
    PluginNotBuilt,
    /// The PROXY protocol header was broken, missing or late.
    ProxyHeader,
    /// A fault of headgate itself (descriptors, memory, a panic).
    Internal,
}

impl CloseReason {
    /// Every reason.
    pub const ALL: [Self; 13] = [
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
        Self::PluginNotBuilt,
        Self::ProxyHeader,
        Self::Internal,
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
            Self::PluginNotBuilt => "PN",
            Self::ProxyHeader => "PH",
            Self::Internal => "IE",
        }
    }

    /// The number that `$status` prints: 200 once an upstream was connected, as the reference
    /// does (`spec/routing.md`, section 7).
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Done
            | Self::Idle
            | Self::ClientReset
            | Self::UpstreamReset
            | Self::Drain
            | Self::Evicted => 200,
            Self::NoRoute => 404,
            Self::NoUpstream | Self::PluginNotBuilt => 503,
            Self::ConnectFailed | Self::ConnectTimeout => 502,
            Self::ProxyHeader => 400,
            Self::Internal => 500,
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
