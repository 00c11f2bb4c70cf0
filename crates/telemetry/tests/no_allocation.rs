//! Writing a log line allocates nothing once the buffers exist.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use headgate_telemetry::access_log::{Escape, Format, Writer};
use headgate_telemetry::log;
use headgate_telemetry::time_text::{TimeText, write_msec};

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: `ptr` came from `System` with this layout.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn lines_are_written_without_allocating() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::open(dir.path().join("access.log")).unwrap();
    let mut sink = writer.sink();
    let mut time = TimeText::default();
    let text = "$addr [$time] $msec $name $unset";
    let format = Format::compile(text, Escape::Default, |name| name.chars().next()).unwrap();
    let unix = Duration::from_millis(1_795_255_200_123);
    let mut line = || {
        sink.line(|out| {
            format.write(out, |variable, out| {
                match variable {
                    'a' => out.extend_from_slice(b"10.0.0.1"),
                    't' => out.extend_from_slice(time.local(unix).as_bytes()),
                    'm' => write_msec(unix, out),
                    'n' => out.extend_from_slice(b"\"quoted\" \xc3\xa4"),
                    _ => return false,
                }
                true
            });
        });
    };
    line();
    let before = COUNT.get();
    (0..100).for_each(|_| line());
    assert_eq!(COUNT.get() - before, 0);
}

#[test]
fn lines_of_the_process_log_are_queued_without_allocating() {
    let dir = tempfile::tempdir().unwrap();
    let target = log::Target::File(dir.path().join("error.log"));
    let log = log::init(log::Options { target, ..log::Options::default() }).unwrap();
    let line = |number: u32| tracing::warn!(number, "upstream connect failed");
    line(0);
    let before = COUNT.get();
    (1..=100).for_each(line);
    assert_eq!(COUNT.get() - before, 0);
    assert!(log.flush(Duration::from_secs(30)));
}
