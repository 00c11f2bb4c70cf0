//! Resolves the host names of live upstreams, again and again, on the control side.
//!
//! The system resolver is used (`/etc/hosts`, search domains, resolv.conf), which does not tell
//! the time to live of answers; `dns_resolver_valid` sets the interval.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headgate_model::settings::ResolverSettings;
use headgate_upstream::{Names, Upstream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Time between two queries for a name when `dns_resolver_valid` is not set.
const INTERVAL: Duration = Duration::from_secs(10);
/// How long a change of resources waits for names that were never resolved.
const FIRST_ANSWER: Duration = Duration::from_millis(200);

/// Keeps [`Names`] fresh.
#[derive(Debug)]
pub(crate) struct Resolver {
    names: Arc<Names>,
    settings: ResolverSettings,
    /// Names that a change of resources has waited for.
    asked: Mutex<BTreeSet<String>>,
}

impl Resolver {
    pub(crate) const fn new(names: Arc<Names>, settings: ResolverSettings) -> Self {
        Self { names, settings, asked: Mutex::new(BTreeSet::new()) }
    }

    /// Asks for names that are not known yet, for a moment; slow ones arrive later by
    /// [`Resolver::keep_fresh`].
    pub(crate) async fn first_answers(&self, upstreams: &[Arc<Upstream>]) {
        let mut names = used(upstreams);
        {
            // A name is waited for once: one that does not resolve must not slow every change.
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.retain(|name| names.contains(name));
            names.retain(|name| asked.insert(name.clone()) && !self.names.is_known(name));
        }
        if !names.is_empty() {
            let _ = tokio::time::timeout(FIRST_ANSWER, self.resolve(names)).await;
        }
        // Also without new names: an answer may have come since the upstreams were compiled.
        upstreams.iter().for_each(|upstream| upstream.refresh(&self.names));
    }

    /// Resolves the names of the upstreams in `live`, at every change and at every interval.
    pub(crate) async fn keep_fresh(self: Arc<Self>, mut live: watch::Receiver<Vec<Arc<Upstream>>>) {
        let interval = self.settings.valid.unwrap_or(INTERVAL).max(Duration::from_secs(1));
        loop {
            let upstreams = live.borrow_and_update().clone();
            let names = used(&upstreams);
            self.names.keep(|name| names.contains(name));
            self.resolve(names).await;
            // The list may have changed during the queries.
            let upstreams = live.borrow().clone();
            upstreams.iter().for_each(|upstream| upstream.refresh(&self.names));
            drop(upstreams);
            tokio::select! {
                changed = live.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(interval) => {}
            }
        }
    }

    /// Asks for all names at once.
    async fn resolve(&self, names: BTreeSet<String>) {
        let mut queries = JoinSet::new();
        for name in names {
            let limit = self.settings.timeout;
            let ipv6 = self.settings.ipv6;
            queries.spawn(async move {
                let answer = tokio::time::timeout(limit, look_up(&name, ipv6)).await;
                let answer = answer.unwrap_or_else(|_| Err("the query timed out".to_owned()));
                (name, answer)
            });
        }
        while let Some(Ok((name, answer))) = queries.join_next().await {
            match answer {
                Ok(addresses) => drop(self.names.set(&name, addresses)),
                Err(error) => {
                    let kept = self.names.is_known(&name);
                    tracing::error!(
                        kept_last_answer = kept,
                        "dns resolver domain: {name} error: {error}"
                    );
                }
            }
        }
    }
}

fn used(upstreams: &[Arc<Upstream>]) -> BTreeSet<String> {
    upstreams.iter().flat_map(|upstream| upstream.names().map(str::to_owned)).collect()
}

async fn look_up(name: &str, ipv6: bool) -> Result<Vec<IpAddr>, String> {
    let found = tokio::net::lookup_host((name, 0)).await.map_err(|error| error.to_string())?;
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) =
        found.map(|address| address.ip()).partition(IpAddr::is_ipv4);
    // IPv4 is preferred, as the reference does; IPv6 only stands in where there is no IPv4.
    let addresses = if v4.is_empty() && ipv6 { v6 } else { v4 };
    if addresses.is_empty() { Err("no usable address".to_owned()) } else { Ok(addresses) }
}
