//! What a core is told from outside.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

use headgate_model::listen::ListenerSpec;
use headgate_net::Pulse;
use headgate_net::executor::Doorbell;

use super::{DrainOrder, Lent, Remaining};

/// An order to a core.
#[derive(Debug)]
pub enum Command {
    /// Serve this bound socket.
    Open {
        /// What it is.
        spec: ListenerSpec,
        /// The socket.
        fd: OwnedFd,
    },
    /// The listener is the same socket with other switches from now on. Its sessions keep what they
    /// began with.
    Change {
        /// As it is.
        from: ListenerSpec,
        /// As it is to be.
        to: ListenerSpec,
    },
    /// Serve this socket of a predecessor.
    Adopt {
        /// What it is.
        spec: ListenerSpec,
        /// The socket.
        fd: OwnedFd,
        /// UDP: where the predecessor passes datagrams on, for as long as it reads the socket.
        predecessor: Option<OwnedFd>,
    },
    /// Send duplicates of all listening sockets, for a successor.
    Lend(Sender<io::Result<Lent>>),
    /// The successor serves: accept nothing more, and pass it the datagrams of flows not known
    /// here.
    PassOn,
    /// The successor failed: everything as before [`Command::PassOn`].
    TakeBack,
    /// The successor stays: close the listeners without another look at them; those of UDP when
    /// the last flow has ended.
    Retire,
    /// Take what waits in the accept queue, then close the listener. Its sessions go on. A UDP
    /// socket takes no new flows and closes with the last one, because replies leave through it.
    Close(ListenerSpec),
    /// Let sessions end.
    Drain(DrainOrder),
    /// Memory is short: end sessions that hold so many bytes together (0: none), and give back
    /// what the allocator keeps.
    Shed(u64),
    /// Say what is left of everything that drains.
    Remaining(Sender<Vec<Remaining>>),
    /// Lower the counter once all earlier orders are carried out.
    Reached(Arc<AtomicUsize>),
    /// End all sessions, write their log lines, and finish the thread.
    Stop,
}

/// The outside of a running core.
#[derive(Debug)]
pub struct CoreHandle {
    pub(super) commands: Sender<Command>,
    pub(super) bell: Arc<Doorbell>,
    pub(super) pulse: Arc<Pulse>,
    pub(super) thread: JoinHandle<()>,
}

impl CoreHandle {
    /// Sends an order. Orders to a core that has ended are dropped.
    pub fn send(&self, command: Command) {
        if self.commands.send(command).is_ok() {
            self.bell.ring();
        }
    }

    /// Whether it works, and since when.
    #[must_use]
    pub const fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    /// Waits for the thread; `false` if it panicked.
    #[must_use]
    pub fn join(self) -> bool {
        self.thread.join().is_ok()
    }
}
