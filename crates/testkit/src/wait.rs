//! Waiting on a condition with a deadline, instead of sleeping and hoping.

use std::time::{Duration, Instant};

/// Asks again and again until `probe` has an answer; panics with `what` when `limit` passes.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, probe: impl FnMut() -> Option<T>) -> T {
    try_until(limit, probe).unwrap_or_else(|| panic!("waited {limit:?} in vain: {what}"))
}

/// Like [`until`], for a plain condition.
#[track_caller]
pub fn until_true(what: &str, limit: Duration, mut probe: impl FnMut() -> bool) {
    until(what, limit, || probe().then_some(()));
}

/// Asks again and again until `probe` has an answer; `None` when `limit` passes first.
pub fn try_until<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(answer) = probe() {
            return Some(answer);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Holds a condition under watch: panics with `what` as soon as it is false within `time`.
/// For "nothing happens" tests, where only time can show it.
#[track_caller]
pub fn stays_true(what: &str, time: Duration, mut probe: impl FnMut() -> bool) {
    let deadline = Instant::now() + time;
    while Instant::now() < deadline {
        assert!(probe(), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_as_soon_as_the_probe_does() {
        let mut asked = 0;
        let answer = until("the third try", Duration::from_secs(5), || {
            asked += 1;
            (asked == 3).then_some("yes")
        });
        assert_eq!((answer, asked), ("yes", 3));
    }

    #[test]
    fn gives_up_at_the_deadline() {
        let began = Instant::now();
        assert_eq!(try_until(Duration::from_millis(30), || None::<()>), None);
        assert!(began.elapsed() < Duration::from_secs(2));
    }
}
