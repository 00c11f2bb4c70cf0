//! Memory is over its budget: which sessions end for it, and in which order.
//!
//! 1. connections that are still being set up, the newest first: nothing was promised to them yet;
//! 2. connections of listeners that have more than their `max_connections` (it was lowered), the
//!    newest first;
//! 3. connections with bytes that their receiver does not take, those with most first;
//! 4. UDP flows, the newest first: the next datagram begins another one when there is room;
//! 5. all other connections, the newest first.
//!
//! Each core does this for its own, a few at a time: the control side measures again before more
//! have to go.

use std::rc::Rc;
use std::time::Instant;

use headgate_telemetry::LogLimit;

use super::Core;
use crate::outcome::CloseReason;
use crate::relay;

/// What a session is taken to give back besides the bytes that wait in it.
const SESSION: u64 = 4 * 1024;
/// The same for a connection that is being set up, with TLS for the most part.
const SET_UP: u64 = 8 * 1024;
/// Sessions that end in one go, at least; otherwise one in [`PART`].
const FEW: usize = 16;
const PART: usize = 8;

static SHED: LogLimit = LogLimit::per_minute(12);

/// A session as the order sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Weight<K> {
    pub(crate) key: K,
    /// Number of the session: the newest has the highest.
    pub(crate) number: u64,
    /// Bytes on their way that it holds.
    pub(crate) held: u64,
    /// Its listener has more sessions than it may.
    pub(crate) is_over_limit: bool,
}

impl<K> Weight<K> {
    /// The first to go has the greatest.
    const fn rank(&self) -> (bool, u64, u64) {
        (self.is_over_limit, if self.is_over_limit { 0 } else { self.held }, self.number)
    }

    const fn is_idle(&self) -> bool {
        !self.is_over_limit && self.held == 0
    }
}

/// What is still to be given back.
#[derive(Debug)]
struct Account {
    bytes: u64,
    sessions: usize,
    shed: usize,
}

impl Account {
    fn is_settled(&self) -> bool {
        self.bytes == 0 || self.sessions == 0
    }

    fn pay(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.sessions = self.sessions.saturating_sub(1);
        self.shed += 1;
    }
}

impl Core {
    /// Ends sessions that hold `bytes` together, or as many as may end in one go; with 0 it only
    /// gives back what the allocator keeps.
    pub(super) fn shed(self: &Rc<Self>, bytes: u64) {
        if bytes > 0 {
            self.end_some(bytes);
        }
        relay::drop_spare_buffers(self);
        self.give_memory_back();
    }

    fn end_some(self: &Rc<Self>, bytes: u64) {
        let mut relays = relay::weights(self);
        let mut flows = self.udp.weights();
        let all = self.handshakes.len() + relays.len() + flows.len();
        let mut account = Account { bytes, sessions: (all / PART).max(FEW), shed: 0 };
        while !account.is_settled() && self.handshakes.cut_newest() {
            account.pay(SET_UP);
        }
        let set_ups = account.shed;
        relays.sort_unstable_by_key(|it| std::cmp::Reverse(it.rank()));
        flows.sort_unstable_by_key(|it| std::cmp::Reverse(it.number));
        let idle = relays.partition_point(|it| !it.is_idle());
        let (first, last) = relays.split_at(idle);
        self.end_relays(first, &mut account);
        for flow in flows {
            if account.is_settled() {
                break;
            }
            self.udp.shed(self, flow.key);
            account.pay(SESSION);
        }
        self.end_relays(last, &mut account);
        if account.shed > 0
            && let Some(suppressed) = SHED.check(Instant::now())
        {
            tracing::error!(
                core = self.number,
                sessions = account.shed,
                set_ups,
                of = all,
                suppressed,
                "memory is over its budget (headgate.limits.memory): sessions are closed (OM)"
            );
        }
    }

    fn end_relays(&self, relays: &[Weight<crate::slots::Key>], account: &mut Account) {
        for relay in relays {
            if account.is_settled() {
                return;
            }
            relay::end(self, relay.key, CloseReason::OutOfMemory);
            account.pay(SESSION + relay.held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_limit_first_then_most_held_then_newest() {
        let weight = |number, held, is_over_limit| Weight { key: (), number, held, is_over_limit };
        let mut all = [
            weight(1, 0, false),
            weight(2, 500, false),
            weight(3, 0, true),
            weight(4, 0, false),
            weight(5, 500, false),
            weight(6, 900, true),
            weight(7, 70_000, false),
        ];
        all.sort_unstable_by_key(|it| std::cmp::Reverse(it.rank()));
        assert_eq!(all.map(|it| it.number), [6, 3, 7, 5, 2, 4, 1]);
        assert_eq!(all.partition_point(|it| !it.is_idle()), 5);
    }

    #[test]
    fn an_account_is_settled_by_bytes_or_by_sessions() {
        let mut account = Account { bytes: 10_000, sessions: 2, shed: 0 };
        account.pay(SESSION);
        assert!(!account.is_settled());
        account.pay(SESSION);
        assert!(account.is_settled() && account.bytes > 0);
        let mut account = Account { bytes: 10_000, sessions: 9, shed: 0 };
        account.pay(SESSION + 65_536);
        assert!(account.is_settled() && account.sessions == 8);
    }
}
