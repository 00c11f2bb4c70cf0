//! What the two processes of an upgrade say to each other. They may be of different versions: a
//! field that is new must have a default, and what a message means never changes.

use headgate_stream::stats::Handed;
use serde::{Deserialize, Serialize};

/// From the process that hands over.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub(super) enum FromOld {
    /// One listening socket comes with this message; for UDP also the channel for datagrams.
    Socket {
        /// `tcp` or `udp`.
        transport: String,
        /// Address and port, or `unix:` and a path.
        address: String,
    },
    /// Those were all; the store is closed here.
    Yours,
    /// The other management servers are closed: serve.
    Go {
        /// Everything counted so far.
        counts: Box<Handed>,
    },
    /// You are the one from now on.
    Commit,
    /// What was counted, while sessions last here.
    Counts {
        /// Everything, not only what is new.
        counts: Box<Handed>,
    },
}

/// From the process that takes over.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub(super) enum FromNew {
    /// The configuration is read: give me sockets and store.
    Want {
        /// Version of the program.
        version: String,
    },
    /// Everything is loaded and bound; nothing is accepted yet.
    Prepared,
    /// Everything is accepted.
    Serving,
    /// The pid file names this process.
    Committed,
    /// This will not work.
    Failed {
        /// Why.
        reason: String,
    },
}
