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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn resolver(names: &Arc<Names>) -> Resolver {
        let settings = ResolverSettings {
            servers: Vec::new(),
            valid: None,
            timeout: Duration::from_secs(1),
            search: false,
            ipv6: true,
        };
        Resolver::new(Arc::clone(names), settings)
    }

    fn upstream(names: &Names, host: &str) -> Arc<Upstream> {
        let resource = json!({"nodes": [{"host": host, "port": 80, "weight": 1}]});
        let resource = serde_json::from_value(resource).unwrap();
        Upstream::new(host.to_owned(), 1, &resource, names, |_| None, None, None).unwrap()
    }

    // No name here needs a query: the label of 64 bytes cannot be put into one.

    #[tokio::test]
    async fn an_answer_that_came_while_upstreams_were_compiled_is_taken_over() {
        let names = Arc::<Names>::default();
        let one = upstream(&names, "db.example");
        assert!(one.endpoints().is_empty());
        names.set("db.example", vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()]);
        // Nothing is unknown any more; still it must be told.
        resolver(&names).first_answers(std::slice::from_ref(&one)).await;
        assert_eq!(one.endpoints().len(), 2);
    }

    #[tokio::test]
    async fn a_name_is_waited_for_once_and_again_after_nobody_used_it() {
        let names = Arc::<Names>::default();
        let resolver = resolver(&names);
        let bad = "x".repeat(64);
        let (one, other) = (upstream(&names, &bad), upstream(&names, "10.0.0.1"));
        let asked = || resolver.asked.lock().unwrap().iter().cloned().collect::<Vec<_>>();
        resolver.first_answers(&[Arc::clone(&one), Arc::clone(&other)]).await;
        assert_eq!(asked(), [bad.as_str()]);
        assert!(!names.is_known(&bad) && one.endpoints().is_empty());
        assert_eq!(other.endpoints().len(), 1);
        resolver.first_answers(&[other]).await;
        assert!(asked().is_empty());
    }

    #[tokio::test]
    async fn upstreams_are_kept_fresh_whenever_the_list_changes() {
        let names = Arc::<Names>::default();
        let (publish, live) = watch::channel(Vec::new());
        let keeper = tokio::spawn(Arc::new(resolver(&names)).keep_fresh(live));
        let bad = format!("{}.example", "x".repeat(64));
        let one = upstream(&names, &bad);
        publish.send_replace(vec![Arc::clone(&one)]);
        // It may look before or after this answer; either way the next change brings it.
        names.set(&bad, vec![[10, 0, 0, 1].into()]);
        let fresh = async {
            while one.endpoints().is_empty() {
                publish.send_replace(vec![Arc::clone(&one)]);
                names.set(&bad, vec![[10, 0, 0, 1].into()]);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), fresh).await.unwrap();
        drop(publish);
        tokio::time::timeout(Duration::from_secs(5), keeper).await.unwrap().unwrap();
    }
}
