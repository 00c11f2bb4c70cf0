//! How sessions end that have to: at a stop, with their listener, with their node.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use headgate_admin::live::Draining;
use headgate_model::settings::{DrainMode, DrainPolicy};
use headgate_stream::core::{DrainOrder, Remaining, Scope};

/// Most clients that are named.
const HOLDERS: usize = 10;
/// Room for the last ones to go, beyond the time in which they have to.
const GRACE: Duration = Duration::from_secs(1);

/// The order to the cores.
pub(crate) fn order(policy: &DrainPolicy, scope: Scope) -> DrainOrder {
    let (after, spread) = match policy.mode {
        DrainMode::Immediate => (Some(Duration::ZERO), Duration::ZERO),
        DrainMode::Graceful => (policy.timeout, Duration::ZERO),
        DrainMode::Gradual => (Some(Duration::ZERO), policy.period),
    };
    DrainOrder { scope, after, spread }
}

/// How long to wait for sessions that drain; `None`: as long as there are any.
pub(crate) fn longest(policy: &DrainPolicy) -> Option<Duration> {
    match policy.mode {
        DrainMode::Immediate => Some(GRACE),
        DrainMode::Graceful => policy.timeout,
        DrainMode::Gradual => Some(policy.period.saturating_add(GRACE)),
    }
}

/// What the cores answered as one, the largest first.
pub(crate) fn merge(parts: Vec<Remaining>) -> Vec<Draining> {
    let mut all: HashMap<(String, Option<String>), Remaining> = HashMap::new();
    for part in parts {
        let key = (part.what.clone(), part.route.clone());
        let Some(sum) = all.get_mut(&key) else {
            all.insert(key, part);
            continue;
        };
        sum.sessions += part.sessions;
        sum.oldest = sum.oldest.min(part.oldest);
        sum.ends = sum.ends.max(part.ends);
        for (client, count) in part.holders {
            *sum.holders.entry(client).or_default() += count;
        }
    }
    let now = Instant::now();
    let mut all: Vec<_> = all
        .into_values()
        .map(|sum| {
            let mut holders: Vec<_> = sum.holders.into_iter().collect();
            holders.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            holders.truncate(HOLDERS);
            Draining {
                what: sum.what,
                route: sum.route,
                sessions: sum.sessions,
                oldest: now.saturating_duration_since(sum.oldest),
                ends_in: sum.ends.map(|ends| ends.saturating_duration_since(now)),
                holders,
            }
        })
        .collect();
    all.sort_by(|a, b| b.sessions.cmp(&a.sessions).then_with(|| a.what.cmp(&b.what)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_become_orders() {
        let policy = |mode| DrainPolicy {
            mode,
            timeout: Some(Duration::from_secs(7)),
            period: Duration::from_secs(3),
        };
        let times = |mode| {
            let order = order(&policy(mode), Scope::All);
            (order.after, order.spread, longest(&policy(mode)))
        };
        let seconds = Duration::from_secs;
        assert_eq!(times(DrainMode::Immediate), (Some(seconds(0)), seconds(0), Some(GRACE)));
        assert_eq!(times(DrainMode::Graceful), (Some(seconds(7)), seconds(0), Some(seconds(7))));
        assert_eq!(times(DrainMode::Gradual), (Some(seconds(0)), seconds(3), Some(seconds(4))));
    }

    #[test]
    fn parts_of_cores_are_one() {
        let now = Instant::now();
        let part = |sessions, client: &str, ends| Remaining {
            what: "stop".to_owned(),
            route: None,
            sessions,
            oldest: now,
            ends,
            holders: HashMap::from([(client.to_owned(), sessions)]),
        };
        let all = merge(vec![part(1, "a", None), part(2, "b", Some(now)), part(1, "a", None)]);
        let [one] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!((one.sessions, one.ends_in.is_some()), (4, true));
        assert_eq!(one.holders, [("a".to_owned(), 2), ("b".to_owned(), 2)]);
    }
}
