//! The side of the process that takes over.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use headgate_net::fdpass;
use headgate_stream::stats::Handed;

use super::FROM;
use super::channel::{Channel, packets};
use super::lent::{Inherited, Socket, read_place};
use super::message::{FromNew, FromOld};

/// The channel to the process that started this one, before there is a runtime.
#[derive(Debug)]
pub(crate) struct FirstWord(OwnedFd);

impl FirstWord {
    /// `None` when nobody is to be succeeded.
    pub(crate) fn find() -> Option<Self> {
        let from: i32 = std::env::var(FROM).ok()?.parse().ok()?;
        // The variable outlives its purpose: it is in the environment of whatever is started later.
        let parent = rustix::process::getppid()?;
        if parent.as_raw_nonzero().get() != from {
            return None;
        }
        io::stdin().as_fd().try_clone_to_owned().ok().map(Self)
    }

    /// Says why this process gives up.
    pub(crate) fn fail(&self, reason: &str) {
        let failed = FromNew::Failed { reason: reason.to_owned() };
        for packet in packets(&failed).unwrap_or_default() {
            let _ = fdpass::send(self.0.as_fd(), &packet, &[]);
        }
    }
}

/// What an upgrade changes for the process that takes over; nothing for one that was started alone.
#[derive(Debug)]
pub(crate) struct Succession {
    channel: Option<Channel>,
    pub(crate) inherited: Inherited,
    is_committed: bool,
}

/// What the predecessor says while both run.
#[derive(Debug)]
pub(crate) enum News {
    /// This process is the one from now on.
    Commit,
    /// What the predecessor and those before it counted.
    Counts(Box<Handed>),
    /// It has ended.
    Gone,
}

impl Succession {
    pub(crate) fn of(first: Option<FirstWord>) -> io::Result<Self> {
        let channel = first.map(|first| Channel::new(first.0)).transpose()?;
        Ok(Self { channel, inherited: Inherited::activated(), is_committed: false })
    }

    /// Whether a predecessor lives.
    pub(crate) const fn has_predecessor(&self) -> bool {
        self.channel.is_some()
    }

    /// Asks for sockets and store, and waits until the store is free.
    pub(crate) async fn take_over(&mut self) -> io::Result<()> {
        if self.channel.is_none() {
            return Ok(());
        }
        self.say(&FromNew::Want { version: env!("CARGO_PKG_VERSION").to_owned() }).await;
        loop {
            match self.hear().await? {
                Some((FromOld::Socket { transport, address }, fds)) => {
                    let mut fds = fds.into_iter();
                    let Some(place) = read_place(&transport, &address) else { continue };
                    let Some(fd) = fds.next() else { continue };
                    self.inherited.add(place, Socket { fd, predecessor: fds.next() });
                }
                Some((FromOld::Yours, _)) => {
                    tracing::info!(sockets = self.inherited.len(), "sockets were taken over");
                    return Ok(());
                }
                Some(_) => {}
                None => return Ok(()),
            }
        }
    }

    /// Says that everything is loaded and bound, and waits until it may serve.
    pub(crate) async fn may_serve(&mut self) -> io::Result<Option<Box<Handed>>> {
        self.say(&FromNew::Prepared).await;
        loop {
            match self.hear().await? {
                Some((FromOld::Go { counts }, _)) => return Ok(Some(counts)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    /// Says that everything is served.
    pub(crate) async fn serves(&mut self) {
        self.say(&FromNew::Serving).await;
    }

    /// Says that the pid file names this process.
    pub(crate) async fn committed(&mut self) {
        self.say(&FromNew::Committed).await;
    }

    /// Says why this process gives up.
    pub(crate) async fn fails(&mut self, reason: &str) {
        self.say(&FromNew::Failed { reason: reason.to_owned() }).await;
    }

    /// Waits for the next word. Never returns without a predecessor. May be cancelled.
    pub(crate) async fn news(&mut self) -> News {
        if self.channel.is_none() {
            std::future::pending::<()>().await;
        }
        loop {
            match self.hear().await {
                Ok(Some((FromOld::Commit, _))) => {
                    self.is_committed = true;
                    return News::Commit;
                }
                Ok(Some((FromOld::Counts { counts }, _))) => return News::Counts(counts),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => {
                    self.channel = None;
                    // It died, or was killed: there is nobody else to serve.
                    return if std::mem::replace(&mut self.is_committed, true) {
                        News::Gone
                    } else {
                        News::Commit
                    };
                }
            }
        }
    }

    async fn say(&mut self, message: &FromNew) {
        if let Some(channel) = &self.channel {
            let sent = tokio::time::timeout(Duration::from_secs(5), channel.send(message, &[]));
            if !matches!(sent.await, Ok(Ok(()))) {
                tracing::warn!("the old process does not listen any more");
            }
        }
    }

    /// `None` when the predecessor is gone, or never was.
    async fn hear(&mut self) -> io::Result<Option<(FromOld, Vec<OwnedFd>)>> {
        match &mut self.channel {
            Some(channel) => channel.receive().await,
            None => Ok(None),
        }
    }
}
