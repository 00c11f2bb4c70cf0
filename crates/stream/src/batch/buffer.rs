//! When a batch is due. Time is given by the caller.

use std::time::{Duration, Instant};

use super::BatchConf;

/// Entries that wait to become a batch.
#[derive(Debug)]
pub(super) struct Buffer {
    most: usize,
    /// Without a new entry for so long the rest is due.
    inactive: Duration,
    /// The oldest entry waits no longer.
    longest: Duration,
    entries: Vec<Vec<u8>>,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Buffer {
    pub(super) fn new(conf: &BatchConf) -> Self {
        Self {
            most: conf.batch_max_size.max(1),
            inactive: Duration::from_secs(conf.inactive_timeout),
            longest: Duration::from_secs(conf.buffer_duration),
            entries: Vec::new(),
            first: None,
            last: None,
        }
    }

    pub(super) fn push(&mut self, entry: Vec<u8>, now: Instant) {
        self.entries.push(entry);
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    /// How long nothing will be due unless entries come; `None` when there are none.
    pub(super) fn next_check(&self, now: Instant) -> Option<Duration> {
        let due = (self.first? + self.longest).min(self.last? + self.inactive);
        Some(due.saturating_duration_since(now))
    }

    /// A batch that is due: full, old, or the last one for a while.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Vec<Vec<u8>>> {
        let is_full = self.entries.len() >= self.most;
        let is_late = self.next_check(now).is_some_and(|wait| wait.is_zero());
        (is_full || is_late).then(|| self.take_any())?
    }

    /// A batch, due or not; `None` when there are no entries.
    pub(super) fn take_any(&mut self) -> Option<Vec<Vec<u8>>> {
        if self.entries.is_empty() {
            return None;
        }
        let rest = self.entries.split_off(self.most.min(self.entries.len()));
        let batch = std::mem::replace(&mut self.entries, rest);
        if self.entries.is_empty() {
            (self.first, self.last) = (None, None);
        } else {
            self.first = self.last;
        }
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn buffer(most: usize) -> Buffer {
        Buffer::new(&BatchConf {
            name: "x".into(),
            max_retry_count: 0,
            retry_delay: 1,
            buffer_duration: 60,
            inactive_timeout: 5,
            batch_max_size: most,
        })
    }

    fn sizes(buffer: &mut Buffer, now: Instant) -> Vec<usize> {
        std::iter::from_fn(|| buffer.take_due(now)).map(|batch| batch.len()).collect()
    }

    #[test]
    fn full_batches_are_due_at_once() {
        let (mut buffer, now) = (buffer(3), Instant::now());
        (0..7).for_each(|number| buffer.push(vec![number], now));
        assert_eq!(sizes(&mut buffer, now), [3, 3]);
        assert_eq!(buffer.next_check(now), Some(5 * SECOND));
        assert_eq!(sizes(&mut buffer, now + 5 * SECOND), [1]);
        assert_eq!(buffer.next_check(now), None);
    }

    #[test]
    fn a_trickle_is_due_when_the_oldest_entry_is_old() {
        let (mut buffer, start) = (buffer(1000), Instant::now());
        for second in 0..60 {
            let now = start + second * SECOND;
            buffer.push(Vec::new(), now);
            assert_eq!(sizes(&mut buffer, now), [0_usize; 0], "after {second} s");
        }
        assert_eq!(sizes(&mut buffer, start + 60 * SECOND), [60]);
    }

    #[test]
    fn a_batch_of_one_is_always_due() {
        let (mut buffer, now) = (buffer(1), Instant::now());
        buffer.push(vec![1], now);
        buffer.push(vec![2], now);
        assert_eq!(sizes(&mut buffer, now), [1, 1]);
    }
}
