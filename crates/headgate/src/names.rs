//! Resolves the host names of live upstreams, again and again, on the control side: each name when
//! its answer runs out. The last good answer stays while queries fail, and no session ever waits.

mod query;
mod resolv_conf;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headgate_model::settings::ResolverSettings;
use headgate_upstream::names::Resolved;
use headgate_upstream::{Names, Upstream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use query::Dns;

/// How long a change of resources waits for names that were never resolved.
const FIRST_ANSWER: Duration = Duration::from_millis(200);
/// A name is not asked for more often than this, however short its time to live.
const SHORTEST: Duration = Duration::from_secs(1);
/// Nor more rarely.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Most time between two attempts for a name that does not resolve.
const RETRY_AT_MOST: Duration = Duration::from_secs(10);
/// Names that are asked for at the same time.
const AT_ONCE: usize = 64;
/// Most addresses that a name stands for; an answer may have thousands.
const MOST_ADDRESSES: usize = 1024;

/// What DNS says of a name, and for how long.
#[derive(Debug, PartialEq)]
struct Answer {
    addresses: Vec<Resolved>,
    valid: Duration,
}

/// Keeps [`Names`] fresh.
#[derive(Debug)]
pub(crate) struct Resolver {
    names: Arc<Names>,
    settings: ResolverSettings,
    dns: Arc<Dns>,
    times: Mutex<Times>,
}

/// When each name in use is asked for next, and how often in a row it has failed. A name that is
/// not here has never been asked for.
type Times = HashMap<String, (Instant, u32)>;

impl Resolver {
    pub(crate) fn new(names: Arc<Names>, settings: ResolverSettings) -> Self {
        let dns = Arc::new(Dns::new(&settings));
        Self { names, settings, dns, times: Mutex::default() }
    }

    /// Asks for names that were never asked for, for a moment; slow answers arrive later by
    /// [`Resolver::keep_fresh`]. Forgets names that `upstreams`, all that are live, do not have.
    pub(crate) async fn first_answers(&self, upstreams: &[Arc<Upstream>]) {
        let mut names = used(upstreams);
        {
            // A name is waited for once: one that does not resolve must not slow every change.
            let mut times = self.times();
            times.retain(|name, _| names.contains(name));
            self.names.keep(|name| names.contains(name));
            names.retain(|name| {
                let is_new = !times.contains_key(name);
                if is_new {
                    times.insert(name.clone(), (Instant::now() + FIRST_ANSWER, 0));
                }
                is_new && !self.names.is_known(name)
            });
        }
        if !names.is_empty() {
            let mut queries = JoinSet::new();
            let mut waiting = names.into_iter();
            let first = async {
                loop {
                    while queries.len() < AT_ONCE
                        && let Some(name) = waiting.next()
                    {
                        queries.spawn(ask(Arc::clone(&self.dns), name));
                    }
                    let Some(done) = queries.join_next().await else { break };
                    if let Ok((name, answer)) = done {
                        self.note(&name, answer);
                    }
                }
            };
            let _ = tokio::time::timeout(FIRST_ANSWER, first).await;
        }
        // Also without new names: an answer may have come since the upstreams were compiled.
        upstreams.iter().for_each(|upstream| upstream.refresh(&self.names));
    }

    /// Resolves the names of the upstreams in `live`, each when its time has come.
    pub(crate) async fn keep_fresh(self: Arc<Self>, mut live: watch::Receiver<Vec<Arc<Upstream>>>) {
        let mut under_way = BTreeSet::new();
        let mut queries: JoinSet<(String, Result<Answer, String>)> = JoinSet::new();
        let mut users = self.users(&live.borrow_and_update());
        loop {
            for name in self.due(&users, &under_way, AT_ONCE.saturating_sub(queries.len())) {
                under_way.insert(name.clone());
                queries.spawn(ask(Arc::clone(&self.dns), name));
            }
            let wake = self.next(&users, &under_way);
            tokio::select! {
                changed = live.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let upstreams = live.borrow_and_update().clone();
                    users = self.users(&upstreams);
                    // An answer may have come after they were compiled.
                    upstreams.iter().for_each(|upstream| upstream.refresh(&self.names));
                }
                Some(done) = queries.join_next(), if !queries.is_empty() => match done {
                    Ok((name, answer)) => {
                        under_way.remove(&name);
                        if users.contains_key(&name) && self.note(&name, answer) {
                            let of_name = users.get(&name).into_iter().flatten();
                            of_name.for_each(|upstream| upstream.refresh(&self.names));
                        }
                    }
                    // Not known which one it was: all may be asked for again.
                    Err(_) => under_way.clear(),
                },
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Who uses which name.
    fn users(&self, upstreams: &[Arc<Upstream>]) -> HashMap<String, Vec<Arc<Upstream>>> {
        let mut users: HashMap<String, Vec<Arc<Upstream>>> = HashMap::new();
        for upstream in upstreams {
            for name in upstream.names() {
                users.entry(name.to_owned()).or_default().push(Arc::clone(upstream));
            }
        }
        users
    }

    /// Names whose time has come, at most `most`.
    fn due(
        &self,
        users: &HashMap<String, Vec<Arc<Upstream>>>,
        under_way: &BTreeSet<String>,
        most: usize,
    ) -> Vec<String> {
        let (now, times) = (Instant::now(), self.times());
        let is_due = |name: &&String| {
            !under_way.contains(*name) && times.get(*name).is_none_or(|(at, _)| *at <= now)
        };
        users.keys().filter(is_due).take(most).cloned().collect()
    }

    /// When the next name's time comes.
    fn next(
        &self,
        users: &HashMap<String, Vec<Arc<Upstream>>>,
        under_way: &BTreeSet<String>,
    ) -> Instant {
        let times = self.times();
        let waiting = users.keys().filter(|name| !under_way.contains(*name));
        let next = waiting.filter_map(|name| times.get(name)).map(|(at, _)| *at).min();
        // Names that are due and cannot start are woken for by an answer.
        let soonest = Instant::now() + Duration::from_millis(10);
        next.unwrap_or_else(|| Instant::now() + LONGEST).max(soonest)
    }

    /// Takes an answer over; `true` if it differs from the last one.
    fn note(&self, name: &str, answer: Result<Answer, String>) -> bool {
        let failures = self.times().get(name).map_or(0, |(_, failures)| *failures);
        let (changed, next, failures) = match answer {
            Ok(Answer { mut addresses, valid }) => {
                addresses.sort_unstable();
                addresses.dedup();
                if addresses.len() > MOST_ADDRESSES {
                    let (all, used) = (addresses.len(), MOST_ADDRESSES);
                    tracing::warn!(name, all, used, "a name has more addresses than are used");
                    addresses.truncate(MOST_ADDRESSES);
                }
                let valid = self.settings.valid.unwrap_or(valid).clamp(SHORTEST, LONGEST);
                let count = addresses.len();
                let changed = self.names.set_services(name, addresses);
                if changed {
                    tracing::debug!(name, addresses = count, ?valid, "a name resolved");
                }
                (changed, valid, 0)
            }
            Err(error) => {
                let kept = self.names.is_known(name);
                tracing::error!(
                    kept_last_answer = kept,
                    "dns resolver domain: {name} error: {error}"
                );
                let pause = SHORTEST * 2_u32.saturating_pow(failures.min(8));
                (false, pause.min(RETRY_AT_MOST), failures.saturating_add(1))
            }
        };
        self.times().insert(name.to_owned(), (Instant::now() + next, failures));
        changed
    }

    fn times(&self) -> std::sync::MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask(dns: Arc<Dns>, name: String) -> (String, Result<Answer, String>) {
    let answer = dns.look_up(&name).await;
    (name, answer)
}

fn used(upstreams: &[Arc<Upstream>]) -> BTreeSet<String> {
    upstreams.iter().flat_map(|upstream| upstream.names().map(str::to_owned)).collect()
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

    fn plain(last: u8) -> Resolved {
        Resolved { ip: [10, 0, 0, last].into(), service: None }
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
        let asked = || resolver.times().keys().cloned().collect::<Vec<_>>();
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

    #[tokio::test(start_paused = true)]
    async fn answers_last_as_long_as_they_say_within_bounds() {
        let names = Arc::<Names>::default();
        let mut resolver = resolver(&names);
        let left = |resolver: &Resolver| {
            let (at, _) = resolver.times()["a"];
            at.duration_since(Instant::now()).as_secs()
        };
        let answer = |last, seconds| {
            Ok(Answer { addresses: vec![plain(last)], valid: Duration::from_secs(seconds) })
        };
        for (ttl, expected) in [(0, 1), (30, 30), (1 << 31, 24 * 3600)] {
            resolver.note("a", answer(1, ttl));
            assert_eq!(left(&resolver), expected, "time to live {ttl}");
        }
        assert!(!resolver.note("a", answer(1, 30)), "the same answer changes nothing");
        assert!(resolver.note("a", answer(2, 30)));
        resolver.settings.valid = Some(Duration::from_secs(7));
        resolver.note("a", answer(2, 30));
        assert_eq!(left(&resolver), 7, "dns_resolver_valid");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_keeps_the_last_answer_and_is_tried_again_soon() {
        let names = Arc::<Names>::default();
        let resolver = resolver(&names);
        let answer = Answer { addresses: vec![plain(1), plain(2)], valid: Duration::from_secs(9) };
        assert!(resolver.note("a", Ok(answer)));
        let mut pauses = Vec::new();
        for _ in 0..6 {
            assert!(!resolver.note("a", Err("no answer".to_owned())));
            pauses.push(resolver.times()["a"].0.duration_since(Instant::now()).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 10, 10]);
        assert_eq!(names.addresses("a").unwrap().len(), 2);
    }

    #[tokio::test]
    async fn huge_answers_are_cut() {
        let names = Arc::<Names>::default();
        let resolver = resolver(&names);
        let addresses = (0..5000_u32)
            .map(|number| Resolved { ip: std::net::Ipv4Addr::from(number).into(), service: None })
            .collect();
        resolver.note("a", Ok(Answer { addresses, valid: SHORTEST }));
        assert_eq!(names.addresses("a").unwrap().len(), MOST_ADDRESSES);
    }
}
