use std::fs;

use super::*;

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

fn say(sink: &mut Sink, text: &str) {
    sink.line(|out| {
        out.extend_from_slice(text.as_bytes());
        out.push(b'\n');
    });
}

#[test]
fn writes_what_every_sink_collected() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/er/access.log");
    let writer = Writer::open(&path).unwrap();
    let counts = writer.counts();
    thread::scope(|scope| {
        for core in 0..4 {
            let mut sink = writer.sink();
            scope.spawn(move || {
                for number in 0..2_000 {
                    say(&mut sink, &format!("core {core} line {number}"));
                }
            });
        }
    });
    drop(writer);
    let lines = lines(&path);
    assert_eq!(counts.written.get() + counts.dropped.get(), 8_000);
    assert_eq!(lines.len() as u64, counts.written.get());
    let mine: Vec<_> = lines.iter().filter(|line| line.starts_with("core 2 ")).collect();
    let numbers = mine.iter().map(|line| line.rsplit(' ').next().unwrap().parse::<u32>().unwrap());
    assert!(numbers.is_sorted(), "lines of one core stay in order");
}

#[test]
fn appends_to_an_existing_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    fs::write(&path, "earlier\n").unwrap();
    let writer = Writer::open(&path).unwrap();
    say(&mut writer.sink(), "now");
    drop(writer);
    assert_eq!(lines(&path), ["earlier", "now"]);
}

#[test]
fn rotation_keeps_every_line() {
    let dir = tempfile::tempdir().unwrap();
    let (path, rotated) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
    let writer = Writer::open(&path).unwrap();
    let mut sink = writer.sink();
    say(&mut sink, "before");
    sink.flush();
    fs::rename(&path, &rotated).unwrap();
    writer.reopen();
    // Wait for the new file to appear; the request is asynchronous.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !path.exists() && Instant::now() < deadline {
        thread::yield_now();
    }
    say(&mut sink, "after");
    drop(sink);
    drop(writer);
    assert_eq!(lines(&rotated), ["before"]);
    assert_eq!(lines(&path), ["after"]);
}

#[test]
fn a_full_disk_loses_lines_but_does_not_hang() {
    let writer = Writer::open("/dev/full").unwrap();
    let counts = writer.counts();
    let mut sink = writer.sink();
    say(&mut sink, "nobody reads this");
    drop(sink);
    drop(writer);
    assert_eq!((counts.written.get(), counts.dropped.get()), (0, 1));
    assert!(counts.errors.get() >= 1);
}

#[test]
fn lines_become_datagrams() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let server = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let to = Syslog {
        server: crate::access_log::Server::Unix(path),
        priority: 190,
        tag: "gate".into(),
        hostname: None,
    };
    let writer = Writer::to_syslog(to).unwrap();
    let mut sink = writer.sink();
    say(&mut sink, "one");
    say(&mut sink, "two");
    drop(sink);
    for end in [" gate: one", " gate: two"] {
        let mut buffer = [0; 200];
        let count = server.recv(&mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
        assert!(text.starts_with("<190>") && text.ends_with(end), "{text}");
    }
    drop(server);
    let mut sink = writer.sink();
    say(&mut sink, "nobody is there");
    drop(sink);
    let counts = writer.counts();
    drop(writer);
    assert_eq!((counts.written.get(), counts.dropped.get(), counts.errors.get()), (2, 1, 1));
}

#[test]
fn standard_streams_have_names() {
    assert!(output::open(Path::new("/dev/stdout")).is_ok());
    assert!(output::open(Path::new("/dev/stderr")).is_ok());
}

#[test]
fn a_missing_place_is_an_error() {
    assert!(Writer::open("/proc/no/such/place").is_err());
}
