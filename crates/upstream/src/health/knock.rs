//! Knocking: connecting and nothing else, the probe of `tcp` without `send` and `expect`. There may
//! be thousands in a second, so each is three system calls, `socket`, `connect` and `close`, and
//! those under way are looked at together by one `poll`, with no task and no timer of their own.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::time::Instant;

use super::grid::TICK;
use crate::Endpoint;

/// Who did not answer at once is looked at again after this time, then after twice as long, up to
/// a tick: most servers are less than a millisecond away.
const FIRST_PAUSE: Duration = Duration::from_millis(2);

/// Connections under way.
#[derive(Debug, Default)]
pub(super) struct Knocks {
    open: Vec<(Knock, OwnedFd)>,
    /// Those that have come to an end since [`Knocks::heard`] was called.
    ended: Vec<(Knock, io::Result<()>)>,
    pause: Duration,
    look: Option<Instant>,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Knock {
    /// Where the schedule has its target.
    pub(super) place: usize,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) began: Instant,
    limit: Duration,
}

impl Knocks {
    /// How many have not been told of by [`Knocks::heard`].
    pub(super) const fn len(&self) -> usize {
        self.open.len() + self.ended.len()
    }

    /// Begins to connect; more than `limit` is too long.
    pub(super) fn knock(
        &mut self,
        place: usize,
        endpoint: Arc<Endpoint>,
        address: SocketAddr,
        limit: Duration,
    ) {
        let knock = Knock { place, endpoint, began: Instant::now(), limit };
        match connect(address) {
            Ok(socket) => self.open.push((knock, socket)),
            Err(error) => self.ended.push((knock, Err(error.into()))),
        }
        (self.pause, self.look) = (Duration::ZERO, Some(Instant::now()));
    }

    /// When [`Knocks::heard`] may have more to tell, if anybody was knocked at.
    pub(super) const fn next(&self) -> Option<Instant> {
        self.look
    }

    /// Those that have come to an end, and how: connected, refused, or too late.
    pub(super) fn heard(&mut self) -> Vec<(Knock, io::Result<()>)> {
        let now = Instant::now();
        if self.look.is_some_and(|look| look <= now) {
            self.listen(now);
            self.pause = (self.pause * 2).clamp(FIRST_PAUSE, TICK);
            self.look = (!self.open.is_empty()).then(|| now + self.pause);
        }
        std::mem::take(&mut self.ended)
    }

    /// Moves those that have come to an end from `open` to `ended`.
    fn listen(&mut self, now: Instant) {
        let fds = self.open.iter().map(|(_, socket)| PollFd::new(socket, PollFlags::OUT));
        let mut fds: Vec<_> = fds.collect();
        // An error means that nothing is known; the time limits go on.
        let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        let seen: Vec<_> = fds.iter().map(PollFd::revents).collect();
        for ((knock, socket), seen) in std::mem::take(&mut self.open).into_iter().zip(seen) {
            if !seen.is_empty() {
                self.ended.push((knock, outcome(&socket, seen)));
            } else if now.duration_since(knock.began) >= knock.limit {
                self.ended.push((knock, Err(io::ErrorKind::TimedOut.into())));
            } else {
                self.open.push((knock, socket));
            }
        }
    }

    /// Forgets those under way.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

fn connect(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}

fn outcome(socket: &OwnedFd, seen: PollFlags) -> io::Result<()> {
    if !seen.intersects(PollFlags::ERR | PollFlags::HUP) {
        return Ok(());
    }
    match rustix::net::sockopt::socket_error(socket)? {
        Err(error) if !was_connected(error) => Err(error.into()),
        _ => Ok(()),
    }
}

/// Whether an error can only come after the handshake: the server has taken the connection, and
/// given it up before it was looked at. A refusal is another error (`tcp_reset` of Linux).
fn was_connected(error: Errno) -> bool {
    matches!(error, Errno::CONNRESET | Errno::PIPE)
}
