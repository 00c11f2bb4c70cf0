//! What a tag of the event loop means: a kind and the key of what it concerns.

use crate::slots::Key;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tag {
    /// Connections may be waiting.
    Accept(Key),
    /// Accepting was paused; try again.
    AcceptAgain(Key),
    /// One of a relay's sockets is ready.
    Relay(Key),
    /// A relay may have been idle too long.
    RelayIdle(Key),
    /// A relay that was held up by a bandwidth limit may go on.
    RelayResume(Key),
    /// The socket of a mirrored session's copy is ready.
    Mirror(Key),
    /// Such a copy has lingered long enough.
    MirrorTimer(Key),
    /// A mirror answered a datagram, which nobody reads.
    MirroredFlow(Key),
    /// Datagrams may be waiting.
    UdpListener(Key),
    /// The server of a UDP flow sent something.
    Flow(Key),
    /// A UDP flow may have been idle too long.
    FlowIdle(Key),
    /// Memory of sessions that have ended may go back to the system.
    GiveBack,
}

impl Tag {
    pub(crate) const fn to_bits(self) -> u64 {
        let (kind, key) = match self {
            Self::Accept(key) => (1, key),
            Self::AcceptAgain(key) => (2, key),
            Self::Relay(key) => (3, key),
            Self::RelayIdle(key) => (4, key),
            Self::UdpListener(key) => (5, key),
            Self::Flow(key) => (6, key),
            Self::FlowIdle(key) => (7, key),
            Self::RelayResume(key) => (8, key),
            Self::Mirror(key) => (9, key),
            Self::MirrorTimer(key) => (10, key),
            Self::MirroredFlow(key) => (11, key),
            Self::GiveBack => (12, Key::from_bits(0)),
        };
        kind << 56 | key.to_bits()
    }

    pub(crate) const fn from_bits(bits: u64) -> Option<Self> {
        let key = Key::from_bits(bits);
        Some(match bits >> 56 {
            1 => Self::Accept(key),
            2 => Self::AcceptAgain(key),
            3 => Self::Relay(key),
            4 => Self::RelayIdle(key),
            5 => Self::UdpListener(key),
            6 => Self::Flow(key),
            7 => Self::FlowIdle(key),
            8 => Self::RelayResume(key),
            9 => Self::Mirror(key),
            10 => Self::MirrorTimer(key),
            11 => Self::MirroredFlow(key),
            12 => Self::GiveBack,
            _ => return None,
        })
    }
}

/// What a core does when its [`Pulse`](headgate_net::Pulse) shows a tag.
#[must_use]
pub const fn doing(bits: u64) -> &'static str {
    match Tag::from_bits(bits) {
        None => "setting sessions up, or carrying out orders",
        Some(Tag::Accept(_) | Tag::AcceptAgain(_)) => "accepting connections",
        Some(Tag::Relay(_) | Tag::RelayResume(_)) => "relaying a connection",
        Some(Tag::Mirror(_) | Tag::MirrorTimer(_) | Tag::MirroredFlow(_)) => "copying to a mirror",
        Some(Tag::RelayIdle(_)) => "looking at an idle connection",
        Some(Tag::UdpListener(_)) => "receiving datagrams of clients",
        Some(Tag::Flow(_)) => "receiving datagrams of a server",
        Some(Tag::FlowIdle(_)) => "looking at an idle flow",
        Some(Tag::GiveBack) => "giving memory back",
    }
}
