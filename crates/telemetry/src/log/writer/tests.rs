use tracing_subscriber::Registry;
use tracing_subscriber::layer::SubscriberExt as _;

use super::*;
use crate::log::Style;

const PLAIN: Look = Look { style: Style::Text, is_coloured: false };
/// Long enough for any machine; never waited for when the code is right.
const LONG: Duration = Duration::from_secs(30);

/// An output that a test can look into, block and break.
#[derive(Clone, Default)]
struct Double(Arc<(Mutex<Inner>, Condvar)>);

#[derive(Default)]
struct Inner {
    text: Vec<u8>,
    calls: usize,
    is_blocked: bool,
    /// Bytes it still takes before it fails.
    room: Option<usize>,
}

impl Double {
    fn blocked() -> Self {
        let double = Self::default();
        double.inner().is_blocked = true;
        double
    }

    fn with_room(room: usize) -> Self {
        let double = Self::default();
        double.inner().room = Some(room);
        double
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.0.lock().unwrap()
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.inner());
        self.0.1.notify_all();
    }

    /// Waits for the writer thread to have called `write` this often.
    fn wait_for_calls(&self, calls: usize) {
        let waited =
            self.0.1.wait_timeout_while(self.inner(), LONG, |inner| inner.calls < calls).unwrap();
        assert!(!waited.1.timed_out(), "the thread did not write");
    }

    fn text(&self) -> String {
        String::from_utf8(self.inner().text.clone()).unwrap()
    }

    fn output(&self) -> Output {
        Box::new(self.clone())
    }
}

impl Write for Double {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.change(|inner| inner.calls += 1);
        let mut inner = self.0.1.wait_while(self.inner(), |inner| inner.is_blocked).unwrap();
        let taken = inner.room.map_or(bytes.len(), |room| room.min(bytes.len()));
        if taken == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        inner.room = inner.room.map(|room| room - taken);
        inner.text.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn say(mut sink: &Sink, line: &str) {
    sink.write_all(line.as_bytes()).unwrap();
}

#[test]
fn every_line_arrives_in_order() {
    let double = Double::default();
    let sink = Sink::start(double.output(), PLAIN, QUEUE).unwrap();
    thread::scope(|scope| {
        for name in ["a", "b", "c"] {
            let sink = &sink;
            scope.spawn(move || (0..2000).for_each(|n| say(sink, &format!("{name} {n}\n"))));
        }
    });
    assert!(sink.flush(LONG));
    let text = double.text();
    assert_eq!(text.lines().count(), 6000);
    for name in ["a ", "b ", "c "] {
        let numbers = text.lines().filter_map(|line| line.strip_prefix(name)?.parse::<u32>().ok());
        assert!(numbers.eq(0..2000), "lines of thread {name}");
    }
}

#[test]
fn lines_are_written_without_a_flush_and_batched_when_late() {
    let double = Double::blocked();
    let sink = Sink::start(double.output(), PLAIN, QUEUE).unwrap();
    say(&sink, "first\n");
    double.wait_for_calls(1);
    (0..100).for_each(|_| say(&sink, "more\n"));
    double.change(|inner| inner.is_blocked = false);
    double.wait_for_calls(2);
    assert!(sink.flush(LONG));
    assert_eq!(double.text(), format!("first\n{}", "more\n".repeat(100)));
    assert_eq!(double.inner().calls, 2);
}

#[test]
fn a_full_queue_drops_counts_and_reports() {
    let double = Double::blocked();
    let sink = Sink::start(double.output(), PLAIN, 14).unwrap();
    say(&sink, "first\n");
    double.wait_for_calls(1);
    say(&sink, "second\n");
    say(&sink, "does not fit\n");
    say(&sink, "small\n");
    assert!(!sink.flush(Duration::ZERO), "nothing is written yet");
    double.change(|inner| inner.is_blocked = false);
    assert!(sink.flush(LONG));
    say(&sink, "later\n");
    assert!(sink.flush(LONG));
    let text = double.text();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((lines[0], lines[1], lines[3]), ("first", "second", "later"));
    let report = "  WARN headgate_telemetry::log: 2 log lines were dropped because the log could not be written fast enough";
    assert_eq!(&lines[2][24..], report);
    assert_eq!(lines.len(), 4, "{text}");
}

#[test]
fn a_line_larger_than_the_queue_is_reported_too() {
    let double = Double::default();
    let sink = Sink::start(double.output(), PLAIN, 4).unwrap();
    say(&sink, "does not fit\n");
    assert!(sink.flush(LONG));
    assert!(double.text().contains(": 1 log lines were dropped"), "{}", double.text());
}

#[test]
fn the_report_looks_like_any_other_line() {
    let looks = [(Style::Text, false), (Style::Text, true), (Style::Json, false)];
    for (style, is_coloured) in looks {
        let look = Look { style, is_coloured };
        let double = Double::default();
        let sink = Sink::start(double.output(), look, QUEUE).unwrap();
        let subscriber = Registry::default().with(look.layer(sink.clone()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(
                target: "headgate_telemetry::log",
                "{} log lines were dropped because the log could not be written fast enough", 7
            );
        });
        assert!(sink.flush(LONG));
        assert_eq!(without_time(&look.dropped(7)), without_time(&double.text()));
    }
}

/// Replaces the 24 characters of the time.
fn without_time(line: &str) -> String {
    let start = line.find("20").unwrap();
    let (time, rest) = line[start..].split_at(24);
    assert!(time.parse::<jiff::Timestamp>().is_ok(), "{line}");
    format!("{}TIME{rest}", &line[..start])
}

#[test]
fn a_flush_waits_for_what_was_queued_before() {
    let double = Double::blocked();
    let sink = Sink::start(double.output(), PLAIN, QUEUE).unwrap();
    assert!(sink.flush(Duration::ZERO), "nothing to wait for");
    say(&sink, "one\n");
    assert!(!sink.flush(Duration::ZERO));
    thread::scope(|scope| {
        let flush = scope.spawn(|| sink.flush(LONG));
        double.wait_for_calls(1);
        double.change(|inner| inner.is_blocked = false);
        assert!(flush.join().unwrap());
    });
    assert_eq!(double.text(), "one\n");
}

#[test]
fn a_new_output_takes_over_between_two_lines() {
    let (old, lost, new) = (Double::blocked(), Double::default(), Double::default());
    let sink = Sink::start(old.output(), PLAIN, QUEUE).unwrap();
    say(&sink, "one\n");
    old.wait_for_calls(1);
    say(&sink, "two\n");
    sink.replace(lost.output());
    say(&sink, "three\n");
    sink.replace(new.output());
    say(&sink, "four\n");
    old.change(|inner| inner.is_blocked = false);
    assert!(sink.flush(LONG));
    assert_eq!((old.text().as_str(), lost.text().as_str()), ("one\ntwo\n", ""));
    assert_eq!(new.text(), "three\nfour\n");
}

#[test]
fn a_new_output_gets_what_a_full_disk_did_not_take() {
    let (full, new) = (Double::with_room(6), Double::default());
    let sink = Sink::start(full.output(), PLAIN, QUEUE).unwrap();
    say(&sink, "one\n");
    assert!(sink.flush(LONG));
    say(&sink, "two\n");
    full.wait_for_calls(3);
    sink.replace(new.output());
    assert!(sink.flush(LONG));
    assert_eq!((full.text().as_str(), new.text().as_str()), ("one\ntw", "two\n"));
}

#[test]
fn the_thread_ends_with_the_last_sink() {
    for double in [Double::default(), Double::with_room(2)] {
        let sink = Sink::start(double.output(), PLAIN, QUEUE).unwrap();
        say(&sink, "one\n");
        let queue = Arc::downgrade(&sink.0.0);
        drop(sink);
        while queue.strong_count() > 0 {
            thread::yield_now();
        }
        assert!("one\n".starts_with(&double.text()) && !double.text().is_empty());
    }
}
