//! The relay: two connected sockets as a state machine that the event loop drives.
//!
//! Bytes move through one scratch buffer per core; only what a short write leaves is kept, in a
//! pooled buffer. A side that finishes sending is passed on as half-close (RFC 9293, section
//! 3.6), a reset as a reset. An idle relay holds no buffer.

mod direction;
mod tls;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use headgate_model::resource::upstream::OnUnhealthy;
use headgate_net::Socket;
use headgate_net::timer::TimerId;
use headgate_net::tls::Connection;
use headgate_telemetry::LogLimit;
use headgate_wire::proxy_header::begins_like_one;

use crate::core::{Core, Ending, Moment, Tag, Weight};
use crate::mirror::{self, Tap};
use crate::outcome::CloseReason;
use crate::session::{Session, Traffic};
use crate::slots::{Key, Slots};
use crate::throttle::{Way, bucket};
use direction::{Buffers, Direction, Pumped, Terms};
use tls::{Stepped, Tls};

/// How often a session that leaves an unhealthy endpoint looks at it, milliseconds.
const LOOK_AT_HEALTH: u64 = 250;
/// A session without a byte for this long is between two things, milliseconds.
const PAUSE: u64 = 1000;

static UNEXPECTED_HEADER: LogLimit = LogLimit::per_minute(10);

/// All relays of a core.
#[derive(Debug, Default)]
pub(crate) struct Relays {
    all: RefCell<Slots<Relay>>,
    buffers: RefCell<Buffers>,
    tls_buffers: RefCell<tls::Buffers>,
}

impl Relays {
    pub(crate) fn len(&self) -> usize {
        self.all.borrow().len()
    }

    /// Gives memory of ended relays back.
    pub(crate) fn shrink(&self) {
        self.all.borrow_mut().shrink();
    }
}

/// A connected pair that is ready to be relayed.
pub(crate) struct Pair {
    pub(crate) client: Socket,
    pub(crate) server: Socket,
    /// TLS with the client.
    pub(crate) client_tls: Option<Box<Connection>>,
    /// TLS with the server.
    pub(crate) server_tls: Option<Box<Connection>>,
    /// Goes to the server before anything else.
    pub(crate) first: Vec<u8>,
    /// How much of that is headgate's own, not the client's.
    pub(crate) preface: usize,
}

#[derive(Debug)]
struct Relay {
    client: Socket,
    server: Socket,
    up: Direction,
    down: Direction,
    /// With TLS on a side this moves the bytes instead of `up` and `down`.
    tls: Option<Box<Tls>>,
    session: Box<Session>,
    /// Longest time without a byte, milliseconds.
    idle_limit: u64,
    /// Longest time until the timer fires.
    look_every: u64,
    active_at: u64,
    /// The next line of the access log about it is due then.
    line_at: u64,
    timer: TimerId,
    ending: Ending,
}

/// Says so when a client begins with a PROXY header that its listener does not expect: it goes to
/// the server as payload, which is seldom what was meant.
fn note_unexpected_header(session: &mut Session) {
    session.has_unexpected_header = true;
    if let Some(suppressed) = UNEXPECTED_HEADER.check(Instant::now()) {
        tracing::warn!(
            client = %session.client_text(), listener = %session.listener, suppressed,
            "a connection begins with a PROXY protocol header that this listener does not expect; \
             it goes to the upstream as payload (proxy_protocol: true on the listener reads it)"
        );
    }
}

/// A server that ends the connection without a byte for a header that nobody announced does not
/// understand it. One that answers expects such headers, whatever the listener is told.
fn explained(reason: CloseReason, session: &Session) -> CloseReason {
    match reason {
        CloseReason::Done | CloseReason::UpstreamReset
            if session.has_unexpected_header && session.traffic.from_upstream == 0 =>
        {
            CloseReason::UnexpectedHeader
        }
        reason => reason,
    }
}

enum Step {
    Wait,
    Again,
    End(CloseReason),
}

/// Hands a connected pair to the event loop.
pub(crate) fn start(core: &Rc<Core>, pair: Pair, session: Box<Session>) {
    let Pair { client, server, client_tls, server_tls, first, preface } = pair;
    let mut session = session;
    mirror::begin(core, &mut session, first.get(preface..).unwrap_or_default());
    if let Some(throttle) = &mut session.throttle {
        // What was read before counts, too.
        throttle.lane(Way::Up).spend(session.traffic.from_client, bucket::now());
    }
    let (up, tls) = match (client_tls, server_tls) {
        (None, None) => (Direction::starting_with(first), None),
        (client, server) => (Direction::default(), Some(Box::new(Tls::new(client, server, first)))),
    };
    let idle_limit = session.idle_limit.as_millis().try_into().unwrap_or(u64::MAX / 4);
    let look_every = match session.on_unhealthy {
        OnUnhealthy::Keep => u64::MAX,
        OnUnhealthy::Drain | OnUnhealthy::Close => LOOK_AT_HEALTH,
    };
    core.note_start(&session);
    let line_every = core.line_every();
    let look_every = look_every.min(line_every);
    let line_at = core.events.now_ms().saturating_add(line_every);
    let ending = Ending::new(core.drains.ends_at(&session));
    let first_look = ending.look_in(core.events.now_ms(), idle_limit.min(look_every));
    let key = core.relays.all.borrow_mut().insert_with(|key| {
        client.drive_as(Tag::Relay(key).to_bits());
        server.drive_as(Tag::Relay(key).to_bits());
        Relay {
            client,
            server,
            up,
            down: Direction::default(),
            tls,
            session,
            idle_limit,
            look_every,
            active_at: core.events.now_ms(),
            line_at,
            timer: core.events.set_timer(first_look, Tag::RelayIdle(key).to_bits()),
            ending,
        }
    });
    // Edges that came during set-up are noted in the sockets and will not come again.
    drive(core, key);
}

/// Moves what can be moved.
pub(crate) fn drive(core: &Rc<Core>, key: Key) {
    let step = {
        let mut all = core.relays.all.borrow_mut();
        let Some(relay) = all.get_mut(key) else { return };
        let step = relay.step(core);
        if relay.session.throttle.is_some() {
            relay.session.note_throttling(core, Tag::RelayResume(key));
        }
        step
    };
    match step {
        Step::Wait => {}
        Step::Again => core.go_on_later(Tag::Relay(key)),
        Step::End(reason) => end(core, key, reason),
    }
}

/// The timer of a bandwidth limit fired.
pub(crate) fn resume(core: &Rc<Core>, key: Key) {
    if let Some(relay) = core.relays.all.borrow_mut().get_mut(key)
        && let Some(throttle) = &mut relay.session.throttle
    {
        throttle.timer = None;
    }
    drive(core, key);
}

/// The idle timer fired: bytes since then only postpone it.
pub(crate) fn check_idle(core: &Rc<Core>, key: Key) {
    {
        let mut all = core.relays.all.borrow_mut();
        let Some(relay) = all.get_mut(key) else { return };
        let now = core.events.now_ms();
        if let Some(reason) = relay.ending.due(now) {
            drop(all);
            return end(core, key, reason);
        }
        if now >= relay.line_at {
            core.note_progress(&relay.session);
            relay.line_at = now.saturating_add(core.line_every());
        }
        // Whoever is held up by a bandwidth limit is not idle.
        if relay.session.throttle.as_ref().is_some_and(|throttle| throttle.is_waiting()) {
            relay.active_at = now;
        }
        let idle = now.saturating_sub(relay.active_at);
        let leaves = relay.leaves_its_node(idle);
        if idle < relay.idle_limit && !leaves {
            let rest = relay.ending.look_in(now, (relay.idle_limit - idle).min(relay.look_every));
            relay.timer = core.events.set_timer(rest, Tag::RelayIdle(key).to_bits());
            return;
        }
        if leaves {
            drop(all);
            return end(core, key, CloseReason::NodeDown);
        }
    }
    tracing::info!("connection timed out: no bytes within the idle limit");
    end(core, key, CloseReason::Idle);
}

/// Lets those that are `wanted` end at a moment; one that has to end sooner does so.
pub(crate) fn drain(
    core: &Core,
    wanted: &dyn Fn(&Session) -> bool,
    moment: Moment,
    reason: CloseReason,
) {
    let now = core.events.now_ms();
    let mut all = core.relays.all.borrow_mut();
    for key in all.keys() {
        let Some(relay) = all.get_mut(key).filter(|relay| wanted(&relay.session)) else { continue };
        if relay.ending.hasten(moment.draw(), reason) {
            core.events.cancel_timer(relay.timer);
            let idle = now.saturating_sub(relay.active_at);
            let left = relay.idle_limit.saturating_sub(idle).min(relay.look_every);
            let left = relay.ending.look_in(now, left);
            relay.timer = core.events.set_timer(left, Tag::RelayIdle(key).to_bits());
        }
    }
}

/// Shows every session that is relayed, and when it has to end.
pub(crate) fn each(core: &Core, see: &mut dyn FnMut(&Session, u64)) {
    let all = core.relays.all.borrow();
    for relay in all.keys().into_iter().filter_map(|key| all.get(key)) {
        see(&relay.session, relay.ending.at());
    }
}

/// Every relay, for the order in which they go when memory is short.
pub(crate) fn weights(core: &Core) -> Vec<Weight<Key>> {
    let all = core.relays.all.borrow();
    let weight = |key: Key| {
        let relay = all.get(key)?;
        let session = &relay.session;
        let tls = relay.tls.as_ref().map_or(0, |tls| tls.held());
        Some(Weight {
            key,
            number: session.number,
            held: (relay.up.held() + relay.down.held() + tls) as u64,
            is_over_limit: session.listener.is_over_full(),
        })
    };
    all.keys().into_iter().filter_map(weight).collect()
}

/// Drops buffers that wait for their next use.
pub(crate) fn drop_spare_buffers(core: &Core) {
    core.relays.buffers.borrow_mut().drop_spare();
    core.relays.tls_buffers.borrow_mut().drop_spare();
}

/// Ends every relay (stop).
pub(crate) fn end_all(core: &Core) {
    let keys = core.relays.all.borrow().keys();
    for key in keys {
        end(core, key, CloseReason::Drain);
    }
}

/// Drops a relay whose state cannot be trusted.
pub(crate) fn discard(core: &Core, key: Key) {
    if core.relays.all.try_borrow().is_ok() {
        end(core, key, CloseReason::Internal);
    }
}

/// Ends one.
pub(crate) fn end(core: &Core, key: Key, reason: CloseReason) {
    let Some(relay) = core.relays.all.borrow_mut().remove(key) else { return };
    core.events.cancel_timer(relay.timer);
    if let Some(timer) = relay.session.throttle.as_ref().and_then(|throttle| throttle.timer) {
        core.events.cancel_timer(timer);
    }
    let Relay { client, server, up, down, tls, session, .. } = relay;
    if let Ok(mut buffers) = core.relays.buffers.try_borrow_mut() {
        up.release(&mut buffers);
        down.release(&mut buffers);
    }
    if let Some(tls) = tls
        && let Ok(mut buffers) = core.relays.tls_buffers.try_borrow_mut()
    {
        tls.release(&mut buffers);
    }
    match reason {
        CloseReason::ClientReset => server.reset(),
        CloseReason::UpstreamReset => client.reset(),
        // What waits in the kernel goes with the connection.
        CloseReason::OutOfMemory => {
            client.reset();
            server.reset();
        }
        // Whoever was in the middle of something must not take it for complete.
        CloseReason::NodeDown if session.on_unhealthy == OnUnhealthy::Close => client.reset(),
        _ => {}
    }
    core.finish(&session, explained(reason, &session));
}

impl Relay {
    /// Whether its endpoint is unhealthy and the upstream says to leave it.
    fn leaves_its_node(&self, idle: u64) -> bool {
        let may = match self.session.on_unhealthy {
            OnUnhealthy::Keep => false,
            OnUnhealthy::Drain => idle >= PAUSE,
            OnUnhealthy::Close => true,
        };
        let lease = self.session.upstream.lease.as_ref().filter(|_| may);
        lease.is_some_and(|lease| lease.endpoint().is_outdone())
    }

    fn step(&mut self, core: &Core) -> Step {
        let relays = &core.relays;
        let tap = Tap::of(core, &self.session);
        let (up_lane, down_lane) = match self.session.throttle.as_deref_mut() {
            None => (None, None),
            Some(throttle) => (Some(&mut throttle.up), Some(&mut throttle.down)),
        };
        let mut up_terms = Terms { lane: up_lane, tap };
        let mut down_terms = Terms { lane: down_lane, tap: None };
        let mut begins_with_header = false;
        let (up, down) = match &mut self.tls {
            Some(tls) => {
                let buffers = &mut relays.tls_buffers.borrow_mut();
                let terms = (&mut up_terms, &mut down_terms);
                let Stepped { up, down } = tls.step(&self.client, &self.server, buffers, terms);
                (up, down)
            }
            None => {
                let buffers = &mut relays.buffers.borrow_mut();
                let is_last = self.down.is_finished();
                let up = self.up.pump(&self.client, &self.server, buffers, is_last, &mut up_terms);
                if up.read > 0 && self.session.traffic.from_client == 0 {
                    begins_with_header = begins_like_one(buffers.last_read(up.read));
                }
                let is_last = self.up.is_finished();
                let terms = &mut down_terms;
                (up, self.down.pump(&self.server, &self.client, buffers, is_last, terms))
            }
        };
        if begins_with_header && !self.session.listener.proxy_protocol {
            note_unexpected_header(&mut self.session);
        }
        let moved = Traffic {
            from_client: up.read,
            to_upstream: up.written,
            from_upstream: down.read,
            to_client: down.written,
        };
        if moved != Traffic::default() {
            self.session.count(&moved);
            self.active_at = core.events.now_ms();
        }
        let upstream = &mut self.session.upstream;
        if down.read > 0 && upstream.first_byte_time.is_none() {
            upstream.first_byte_time = upstream.connected.map(|at: Instant| at.elapsed());
        }
        match (up.end, down.end) {
            (Pumped::SourceReset, _) | (_, Pumped::SinkReset) => {
                Step::End(CloseReason::ClientReset)
            }
            (Pumped::SinkReset, _) | (_, Pumped::SourceReset) => {
                Step::End(CloseReason::UpstreamReset)
            }
            (Pumped::Finished, Pumped::Finished) => {
                let is_cut = self.tls.as_ref().is_some_and(|tls| tls.was_truncated());
                Step::End(if is_cut { CloseReason::Truncated } else { CloseReason::Done })
            }
            (Pumped::MoreToDo, _) | (_, Pumped::MoreToDo) => Step::Again,
            _ => Step::Wait,
        }
    }
}
