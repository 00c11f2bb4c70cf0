//! The state machine, and a plain model of it.

use proptest::prelude::*;

use super::*;

/// Runs events with these limits: successes, tcp, http, timeouts.
fn run(limits: [u8; 4], events: &str) -> Record {
    events.chars().fold(Record::default(), |record, letter| {
        let (event, limit) = match letter {
            's' => (Event::Success, limits[0]),
            't' => (Event::TcpFailure, limits[1]),
            'h' => (Event::HttpFailure, limits[2]),
            'o' => (Event::Timeout, limits[3]),
            _ => panic!("{letter}"),
        };
        record.after(event, limit).unwrap_or(record)
    })
}

#[test]
fn every_rule_of_the_table() {
    use Status::{Healthy, MostlyHealthy, MostlyUnhealthy, Unhealthy};
    let record = |status, success, tcp_failure, http_failure, timeout_failure| Record {
        status,
        success,
        tcp_failure,
        http_failure,
        timeout_failure,
    };
    for (events, expected) in [
        ("", record(Healthy, 0, 0, 0, 0)),
        ("ssss", record(Healthy, 0, 0, 0, 0)),      // ignored
        ("t", record(MostlyHealthy, 0, 1, 0, 0)),   // below the limit
        ("tt", record(Unhealthy, 0, 2, 0, 0)),      // the limit, and the counter stays
        ("ttt", record(Unhealthy, 0, 2, 0, 0)),     // ignored
        ("ts", record(MostlyHealthy, 1, 0, 0, 0)),  // a success wipes failures
        ("tss", record(Healthy, 2, 0, 0, 0)),       // in a row
        ("tst", record(MostlyHealthy, 0, 1, 0, 0)), // a failure wipes successes
        ("thohhoh", record(MostlyHealthy, 0, 1, 4, 2)), // kinds do not add up
        ("hhhhh", record(Unhealthy, 0, 0, 5, 0)),
        ("ooo", record(Unhealthy, 0, 0, 0, 3)),
        ("tts", record(MostlyUnhealthy, 1, 0, 0, 0)),
        ("ttss", record(Healthy, 2, 0, 0, 0)),
        ("ttst", record(MostlyUnhealthy, 0, 1, 0, 0)), // one failure leaves the state
        ("ttsts", record(MostlyUnhealthy, 1, 0, 0, 0)),
        ("ttstt", record(Unhealthy, 0, 2, 0, 0)),
        ("ttsst", record(MostlyHealthy, 0, 1, 0, 0)),
    ] {
        assert_eq!(run([2, 2, 5, 3], events), expected, "{events}");
    }
    assert_eq!(run([1, 1, 1, 1], "t").status, Unhealthy, "limit 1 jumps");
    assert_eq!(run([1, 1, 1, 1], "ts").status, Healthy);
    assert_eq!(run([0, 0, 0, 0], "tttthhhhhhooooo"), Record::default(), "limit 0 is off");
    assert_eq!(run([254, 254, 254, 254], &"t".repeat(253)).status, MostlyHealthy);
    assert_eq!(run([254, 254, 254, 254], &"t".repeat(254)).status, Unhealthy);
}

#[test]
fn only_two_statuses_are_usable() {
    let usable = Status::ALL.map(|status| (status.name(), status.is_usable()));
    assert_eq!(
        usable,
        [
            ("healthy", true),
            ("mostly_healthy", true),
            ("mostly_unhealthy", false),
            ("unhealthy", false)
        ]
    );
}

proptest! {
    #[test]
    fn like_the_rules_in_words(limits in any::<[u8; 4]>(), events in "[stho]{0,60}") {
        let limits = limits.map(|limit| limit % 5);
        let record = run(limits, &events);
        // A word holds all of it.
        prop_assert_eq!(Record::from_word(record.to_word()), record);
        // Failures and successes never stand together.
        let failures = [record.tcp_failure, record.http_failure, record.timeout_failure];
        prop_assert!(record.success == 0 || failures == [0, 0, 0]);
        // Never beyond the limit that decides.
        for (count, limit) in [record.success].into_iter().chain(failures).zip(limits) {
            prop_assert!(count <= limit);
        }
        // Usability only changes by reaching a limit.
        match record.status {
            Status::Unhealthy => prop_assert!(
                failures.iter().zip(&limits[1..]).any(|(count, limit)| count >= limit && *limit > 0)
            ),
            Status::MostlyHealthy => prop_assert!(
                failures.iter().zip(&limits[1..]).all(|(count, limit)| count < limit || *limit == 0)
            ),
            _ => {}
        }
    }

    #[test]
    fn a_row_of_one_kind_always_decides(limits in any::<[u8; 4]>(), before in "[stho]{0,30}") {
        let limits = limits.map(|limit| limit % 5 + 1);
        let many = |letter: &str| before.clone() + &letter.repeat(5);
        prop_assert_eq!(run(limits, &many("s")).status, Status::Healthy);
        for letter in ["t", "h", "o"] {
            prop_assert_eq!(run(limits, &many(letter)).status, Status::Unhealthy);
        }
    }

    #[test]
    fn the_atomic_word_counts_like_the_record(events in "[st]{0,40}") {
        let health = Health::default();
        let mut record = Record::default();
        for letter in events.chars() {
            let event = if letter == 's' { Event::Success } else { Event::TcpFailure };
            let noted = health.note(event, 3);
            let after = record.after(event, 3);
            prop_assert_eq!(noted, after.map(|after| (record, after)));
            record = after.unwrap_or(record);
            prop_assert_eq!(health.record(), record);
        }
    }
}
