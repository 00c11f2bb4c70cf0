//! Session tickets (RFC 8446, section 4.6.1; RFC 5077): their keys, and to whom a ticket belongs.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::server::ProducesTickets;

thread_local! {
    /// The server name in the ticket that the handshake in progress on this thread offered.
    static OFFERED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Bytes that say which certificate object a ticket belongs to.
pub type TicketContext = [u8; 32];

/// Keys of this process. They are made at random, change every six hours, and are accepted for
/// six more; a restart forgets them.
#[derive(Debug, Clone)]
pub struct TicketKeys(Arc<dyn ProducesTickets>);

impl TicketKeys {
    /// Fresh keys.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new() -> Result<Self, rustls::Error> {
        rustls::crypto::aws_lc_rs::Ticketer::new().map(Self)
    }

    /// A ticketer whose tickets are good only under the same `context`: whoever was let in
    /// without a certificate, or under another authority, is asked again.
    pub(super) fn within(&self, context: TicketContext) -> Arc<dyn ProducesTickets> {
        Arc::new(Bound { keys: Arc::clone(&self.0), context })
    }
}

/// The context that `parts` stand for.
#[must_use]
pub fn context(parts: &[&[u8]]) -> TicketContext {
    let mut digest = digest::Context::new(&digest::SHA256);
    for part in parts {
        digest.update(&(part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    let mut context = TicketContext::default();
    context.iter_mut().zip(digest.finish().as_ref()).for_each(|(to, from)| *to = *from);
    context
}

/// Takes the server name of the ticket that was offered since the last call on this thread.
pub(super) fn take_offered() -> Option<String> {
    OFFERED.with_borrow_mut(Option::take)
}

struct Bound {
    keys: Arc<dyn ProducesTickets>,
    context: TicketContext,
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bound tickets")
    }
}

impl ProducesTickets for Bound {
    fn enabled(&self) -> bool {
        self.keys.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.keys.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.keys.encrypt(&[&self.context, plain].concat())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let mut plain = self.keys.decrypt(cipher)?;
        let session = plain.get(self.context.len()..)?;
        OFFERED.set(server_name(session));
        if !plain.starts_with(&self.context) {
            return None;
        }
        plain.drain(..self.context.len());
        Some(plain)
    }
}

/// The server name that rustls wrote into a session: a flag, a length of one byte, the name. Only
/// for the log; rustls itself refuses to resume under another name.
fn server_name(session: &[u8]) -> Option<String> {
    let [1, length, rest @ ..] = session else { return None };
    let name = rest.get(..usize::from(*length))?;
    String::from_utf8(name.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_are_good_in_their_context_only() {
        let keys = TicketKeys::new().unwrap();
        let (a, b) = (keys.within([1; 32]), keys.within([2; 32]));
        let session = b"\x01\x06a.testrest";
        let ticket = a.encrypt(session).unwrap();
        assert_eq!(a.decrypt(&ticket).as_deref(), Some(&session[..]));
        assert_eq!(take_offered().as_deref(), Some("a.test"));
        assert_eq!(b.decrypt(&ticket), None);
        assert_eq!(take_offered().as_deref(), Some("a.test"));
        assert_eq!((a.decrypt(b"rubbish"), take_offered()), (None, None));
        let others = TicketKeys::new().unwrap().within([1; 32]);
        assert_eq!(others.decrypt(&ticket), None);
    }
}
