//! The addresses that servers are connected to from (`source_addresses`).

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use headgate_net::origin;

/// Local addresses that take turns; all workers share the round.
#[derive(Debug)]
pub struct Sources {
    v4: Family,
    v6: Family,
}

/// Each family has a round of its own: one for both would give nodes of alternating families the
/// same addresses again and again.
#[derive(Debug)]
struct Family {
    all: Vec<IpAddr>,
    next: AtomicUsize,
}

impl Sources {
    /// `None` when there are none: the kernel chooses then. References (`$env://`) are not
    /// resolved here; what is no address is passed over.
    pub(crate) fn new(upstream: &str, addresses: &[String]) -> Option<Self> {
        let parse = |text: &String| {
            let address = text.parse::<IpAddr>().ok();
            if address.is_none() {
                tracing::warn!(
                    upstream,
                    "source_addresses: {text} is no IP address; connections leave from the others"
                );
            }
            address
        };
        let (v4, v6) = addresses.iter().filter_map(parse).partition(IpAddr::is_ipv4);
        let family = |all| Family { all, next: AtomicUsize::new(0) };
        (!addresses.is_empty()).then(|| Self { v4: family(v4), v6: family(v6) })
    }

    /// Begins to open something towards `to`: from each address of its family at most once,
    /// first from the one whose turn it is.
    pub fn attempts(&self, to: IpAddr) -> Attempts<'_> {
        let Family { all, next } = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        let next = next.fetch_add(1, Ordering::Relaxed) % all.len().max(1);
        Attempts { all, next, left: all.len(), to, failed: None }
    }

    /// Opens something from one address after the other, until one has a port for it.
    ///
    /// # Errors
    /// See [`Attempts::failed`].
    pub fn open<T>(
        &self,
        to: IpAddr,
        mut open: impl FnMut(IpAddr) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut attempts = self.attempts(to);
        while let Some(from) = attempts.next_source() {
            if let Some(result) = attempts.judge(open(from)) {
                return result;
            }
        }
        Err(attempts.failed())
    }
}

/// Addresses that are tried one after the other.
#[derive(Debug)]
pub struct Attempts<'a> {
    all: &'a [IpAddr],
    next: usize,
    left: usize,
    to: IpAddr,
    failed: Option<io::Error>,
}

impl Attempts<'_> {
    /// The address for the next attempt.
    pub fn next_source(&mut self) -> Option<IpAddr> {
        self.left = self.left.checked_sub(1)?;
        let source = self.all.get(self.next).copied();
        self.next = (self.next + 1) % self.all.len().max(1);
        source
    }

    /// What came of an attempt; `None`: another address may do better.
    pub fn judge<T>(&mut self, result: io::Result<T>) -> Option<io::Result<T>> {
        match result {
            Err(error) if origin::is_out_of_ports(&error) => self.failed = Some(error),
            Err(error) if origin::is_not_here(&error) => {
                self.failed = self.failed.take().or(Some(error));
            }
            result => return Some(result),
        }
        None
    }

    /// Why none did; a lack of ports comes first. There may be no address of that family.
    #[must_use]
    pub fn failed(self) -> io::Error {
        self.failed.unwrap_or_else(|| NoneOfTheFamily::error(self.to))
    }
}

/// The addresses are all of the other family.
#[derive(Debug, thiserror::Error)]
#[error("source_addresses of the upstream has no {family} address to reach {to} from")]
struct NoneOfTheFamily {
    family: &'static str,
    to: IpAddr,
}

impl NoneOfTheFamily {
    fn error(to: IpAddr) -> io::Error {
        let family = if to.is_ipv4() { "IPv4" } else { "IPv6" };
        io::Error::new(io::ErrorKind::Unsupported, Self { family, to })
    }
}

/// Whether the source addresses of the upstream are to blame, not its server.
#[must_use]
pub fn is_to_blame(error: &io::Error) -> bool {
    origin::is_not_here(error) || error.get_ref().is_some_and(|inner| inner.is::<NoneOfTheFamily>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> Sources {
        let all = ["10.0.0.1", "::1", "10.0.0.2", "10.0.0.3"].map(str::to_owned);
        Sources::new("u", &all).unwrap()
    }

    const TO: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn they_take_turns_within_a_family() {
        let sources = sources();
        let round = || {
            let mut attempts = sources.attempts(TO);
            std::iter::from_fn(|| attempts.next_source())
                .map(|it| it.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(round(), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        assert_eq!(round(), ["10.0.0.2", "10.0.0.3", "10.0.0.1"]);
        assert_eq!(round(), ["10.0.0.3", "10.0.0.1", "10.0.0.2"]);
        assert!(Sources::new("u", &[]).is_none());
    }

    #[test]
    fn the_next_one_is_tried_only_when_it_can_help() {
        let sources = sources();
        let mut tried = Vec::new();
        let no_port = || io::Error::from_raw_os_error(99);
        let opened = sources.open(TO, |from| {
            tried.push(from.to_string());
            if tried.len() < 3 { Err(no_port()) } else { Ok(from) }
        });
        assert_eq!(opened.unwrap().to_string(), "10.0.0.3");
        let mut count = 0;
        let refused = sources.open::<()>(TO, |_| {
            count += 1;
            Err(io::ErrorKind::ConnectionRefused.into())
        });
        assert_eq!((refused.unwrap_err().kind(), count), (io::ErrorKind::ConnectionRefused, 1));
        let mut count = 0;
        let none = sources.open::<()>(TO, |from| {
            count += 1;
            Err(if count == 2 {
                no_port()
            } else {
                io::Error::other(headgate_net::origin::NotHere(from))
            })
        });
        assert!(origin::is_out_of_ports(&none.unwrap_err()), "what is worth waiting for");
    }

    #[test]
    fn the_other_family_is_named() {
        let sources = Sources::new("u", &["::1".to_owned(), "$env://X".to_owned()]).unwrap();
        let error = sources.open::<()>(TO, |_| unreachable!()).unwrap_err();
        assert!(is_to_blame(&error));
        assert!(error.to_string().contains("no IPv4 address"), "{error}");
    }
}
