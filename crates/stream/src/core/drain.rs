//! Sessions that have to end: when they do, and who is left meanwhile.

mod ending;
#[cfg(test)]
mod simulation;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use headgate_model::listen::{ListenAddr, ListenerSpec, Transport};
use headgate_upstream::Removal;

pub(crate) use self::ending::{Ending, Moment};
use super::Core;
use crate::outcome::CloseReason;
use crate::relay;
use crate::session::Session;

/// Which sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All of them.
    All,
    /// Those of a listener that was closed.
    Listener(ListenerSpec),
    /// Those of nodes that are no longer part of their upstream.
    RemovedNodes,
}

/// An order to end sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainOrder {
    /// Which.
    pub scope: Scope,
    /// When the first may end; `None`: they go on as long as they want to, and are only shown.
    pub after: Option<Duration>,
    /// Each ends at a random moment of so long a time from then on.
    pub spread: Duration,
}

/// Which sessions an order is about.
type Wanted = Box<dyn Fn(&Session) -> bool>;

/// What is left to drain of one thing on one core.
#[derive(Debug)]
pub struct Remaining {
    /// `stop`, `listener tcp://...` or `node 10.0.0.1:80`.
    pub what: String,
    /// Id of the route.
    pub route: Option<String>,
    /// Sessions that are left.
    pub sessions: u64,
    /// When the oldest of them began.
    pub oldest: Instant,
    /// When the last of them ends; `None`: when it wants to.
    pub ends: Option<Instant>,
    /// Sessions by address of the client.
    pub holders: HashMap<String, u64>,
}

#[derive(Debug)]
struct Closed {
    transport: Transport,
    addr: ListenAddr,
    at: Instant,
    moment: Moment,
}

/// What drains on a core.
#[derive(Debug, Default)]
pub(crate) struct Drains {
    all: Cell<Option<Moment>>,
    listeners: RefCell<Vec<Closed>>,
}

impl Drains {
    /// When a session that was set up just now has to end; the maximum if it has not.
    pub(crate) fn ends_at(&self, session: &Session) -> u64 {
        if let Some(moment) = self.all.get() {
            return moment.draw();
        }
        let listeners = self.listeners.borrow();
        let closed = listeners.iter().find(|closed| closed.is_of(session));
        closed.map_or(u64::MAX, |closed| closed.moment.draw())
    }

    /// The same for a new flow. A listener that was closed takes none.
    pub(crate) fn ends_at_of_a_flow(&self) -> u64 {
        self.all.get().map_or(u64::MAX, Moment::draw)
    }

    /// The address is listened on again: sessions that come now do not drain.
    pub(super) fn reopened(&self, spec: &ListenerSpec) {
        let is_it = |it: &Closed| it.transport == spec.transport && it.addr == spec.addr;
        self.listeners.borrow_mut().retain(|closed| !is_it(closed));
    }

    /// What a session is a rest of.
    fn label(&self, session: &Session) -> Option<String> {
        if self.all.get().is_some() {
            return Some("stop".to_owned());
        }
        if self.listeners.borrow().iter().any(|closed| closed.is_of(session)) {
            return Some(format!("listener {}", session.listener));
        }
        is_of_a_removed_node(session).then(|| {
            let endpoint = session.upstream.lease.as_ref().map(|lease| &lease.endpoint().address);
            endpoint.map_or_else(|| "node".to_owned(), |address| format!("node {address}"))
        })
    }
}

impl Closed {
    fn is_of(&self, session: &Session) -> bool {
        let listener = &session.listener;
        listener.transport == self.transport
            && listener.addr == self.addr
            // Whoever was in the queue is accepted a moment after.
            && session.started <= self.at + Duration::from_secs(1)
    }
}

fn is_of_a_removed_node(session: &Session) -> bool {
    let lease = session.upstream.lease.as_ref();
    lease.is_some_and(|lease| lease.endpoint().removal() == Some(Removal::Configured))
}

impl Core {
    /// Carries out an order.
    pub(super) fn drain(self: &Rc<Self>, order: &DrainOrder) {
        let now = self.events.now_ms();
        let moment = Moment::of(order, now);
        let (wanted, reason): (Wanted, _) = match &order.scope {
            Scope::All => {
                self.drains.all.set(Some(moment));
                (Box::new(|_| true), CloseReason::Drain)
            }
            Scope::Listener(spec) => {
                let mut listeners = self.drains.listeners.borrow_mut();
                listeners.retain(|closed| closed.moment.last() > now);
                let (transport, addr) = (spec.transport, spec.addr.clone());
                listeners.push(Closed { transport, addr, at: Instant::now(), moment });
                let (transport, addr) = (spec.transport, spec.addr.clone());
                let is_of = move |session: &Session| {
                    session.listener.transport == transport && session.listener.addr == addr
                };
                (Box::new(is_of), CloseReason::Drain)
            }
            Scope::RemovedNodes => (Box::new(is_of_a_removed_node), CloseReason::NodeDown),
        };
        if order.after.is_some() {
            relay::drain(self, &*wanted, moment, reason);
            self.udp.drain(self, &*wanted, moment, reason);
        }
    }

    /// What is left of everything that drains.
    pub(super) fn remaining(&self) -> Vec<Remaining> {
        let now = Instant::now();
        let now_ms = self.events.now_ms();
        let mut all: HashMap<(String, Option<String>), Remaining> = HashMap::new();
        let mut add = |session: &Session, ends_at: u64| {
            let Some(what) = self.drains.label(session) else { return };
            let route = session.route.as_ref().map(|route| route.id.to_string());
            let ends = (ends_at < u64::MAX)
                .then(|| now + Duration::from_millis(ends_at.saturating_sub(now_ms)));
            let client =
                session.client.map_or_else(|| "unix:".to_owned(), |it| it.ip().to_string());
            let rest = all.entry((what.clone(), route.clone())).or_insert_with(|| Remaining {
                what,
                route,
                sessions: 0,
                oldest: session.started,
                ends,
                holders: HashMap::new(),
            });
            rest.sessions += 1;
            rest.oldest = rest.oldest.min(session.started);
            rest.ends = rest.ends.max(ends);
            *rest.holders.entry(client).or_default() += 1;
        };
        relay::each(self, &mut add);
        self.udp.each(&mut add);
        all.into_values().collect()
    }
}
