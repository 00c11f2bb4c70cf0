//! Time goes wrong: the process is stopped, and the clock of the machine jumps.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use headgate_testkit::process::report;
use headgate_testkit::proof::{Scenario, scale};
use headgate_testkit::wait;
use serde_json::json;

use crate::load::{Load, Site};

#[test]
fn stopped_and_continued() {
    let time = Duration::from_secs(scale(3, 30));
    Scenario {
        name: "stopped_and_continued",
        fault: "SIGSTOP under load, SIGCONT after a while",
        promise: "no connection notices more than the pause",
    }
    .prove(|| {
        let site = Site::start();
        let load = Load::start(&site);
        site.gateway.signal("STOP");
        let began = Instant::now();
        let is_still = wait::try_until(time, || None::<()>).is_none();
        assert!(is_still);
        site.gateway.signal("CONT");
        load.wait_for_work(2);
        let back = began.elapsed().saturating_sub(time);
        site.change(1);
        format!("stopped for {time:?}, all traffic back {back:.1?} later: {}", load.finish())
    });
}

/// The library of Debian's package faketime.
fn faketime() -> Option<PathBuf> {
    let entries = std::fs::read_dir("/usr/lib").ok()?.flatten();
    let mut found = entries.map(|entry| entry.path().join("faketime/libfaketime.so.1"));
    let library = found.find(|path| path.is_file());
    if library.is_none() {
        let may_skip = std::env::var_os("HEADGATE_SKIP_MISSING").is_some_and(|value| value == "1");
        assert!(may_skip, "faketime is not installed: apt-get install faketime");
        report("SKIPPED: faketime is not installed");
    }
    library
}

#[test]
fn the_clock_jumps() {
    let rounds = scale(1, 20);
    Scenario {
        name: "the_clock_jumps",
        fault: "the wall clock jumps by a day, an hour back, a minute, half a year, under load",
        promise: "no connection notices; changes go on",
    }
    .prove(|| {
        let Some(library) = faketime() else {
            return "not measured: faketime is not installed".to_owned();
        };
        let folder = tempfile::tempdir().expect("a folder");
        let offset = folder.path().join("offset");
        std::fs::write(&offset, "+0").expect("written");
        let site = Site::with(|builder| {
            builder
                .env("LD_PRELOAD", &library.to_string_lossy())
                .env("FAKETIME_TIMESTAMP_FILE", &offset.to_string_lossy())
                .env("FAKETIME_NO_CACHE", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        });
        let load = Load::start(&site);
        let mut jumps = 0;
        for _ in 0..rounds {
            for jump in ["+1d", "+23h", "+60", "+180d", "-1d", "+0"] {
                // In one step, so that nobody reads half of it.
                let draft = folder.path().join("new");
                std::fs::write(&draft, jump).expect("written");
                std::fs::rename(&draft, &offset).expect("in its place");
                load.wait_for_work(2);
                site.change(jumps);
                jumps += 1;
            }
        }
        // The clock that is faked is the one that it goes by.
        std::fs::write(&offset, "+400d").expect("written");
        site.gateway.put("upstreams/late", &json!({"nodes": {}})).expect(201);
        let late = site.gateway.get("upstreams/late").expect(200).json();
        let made = late["value"]["create_time"].as_u64().expect("a time");
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock").as_secs();
        assert!(made > now + 300 * 24 * 3600, "{made}: the clock was not faked");
        format!("{jumps} jumps: {}", load.finish())
    });
}
