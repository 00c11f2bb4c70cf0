//! Replies on their way to clients, all of one turn together.

use std::rc::Rc;

use headgate_net::udp::Replies;

use super::Listener;
use super::flow::Flow;
use super::flow_table::FlowTable;
use crate::session::Traffic;
use crate::slots::Key;
use crate::stats::{CoreStats, DropCause};

/// Replies that leave through one listener.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) replies: Replies,
    listener: Option<Rc<Listener>>,
}

impl Outbox {
    /// Whether replies of a flow of `listener` may be added. If not, send and [`Outbox::begin`].
    pub(super) fn has_room_for(&self, listener: &Rc<Listener>) -> bool {
        !self.replies.is_full()
            && self.listener.as_ref().is_some_and(|current| Rc::ptr_eq(current, listener))
    }

    /// From now on replies leave through `listener`. All others have been sent.
    pub(super) fn begin(&mut self, listener: Rc<Listener>) {
        debug_assert!(self.replies.is_empty(), "they would leave through the wrong listener");
        self.listener = Some(listener);
    }

    /// Sends them. Afterwards nothing can be added before [`Outbox::begin`].
    pub(super) fn send(&mut self, stats: &CoreStats, flows: &mut FlowTable<Flow>) {
        let Some(listener) = self.listener.take() else { return };
        self.replies.send(&listener.socket, |owner, sent| match sent {
            Some(bytes) => {
                if let Some(flow) = flows.get_mut(Key::from_bits(owner)) {
                    let to_client = bytes as u64;
                    flow.session.count(&Traffic { to_client, ..Traffic::default() });
                }
            }
            None => stats.drop_datagrams(DropCause::ToClient, 1),
        });
    }
}
