//! Everything together for a long time: what grows?

use std::time::{Duration, Instant};

use headgate_testkit::proof::{Scenario, sized};
use headgate_testkit::{proc, wait};

use crate::load::{Load, Site};

/// Median of the values in one part of the run.
fn median(values: &[u64]) -> u64 {
    let mut values = values.to_vec();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

fn threads(id: u32) -> usize {
    std::fs::read_dir(format!("/proc/{id}/task")).map_or(0, Iterator::count)
}

#[test]
fn mixed_soak() {
    let time = Duration::from_secs(sized("HEADGATE_SOAK_SECONDS", 18, 1_800));
    Scenario {
        name: "mixed_soak",
        fault: "all of the load, with API writes, reloads, resets and silent clients all the time",
        promise: "no slope: memory, descriptors and threads at the end as in the middle; nothing lost",
    }
    .prove(|| {
        let site = Site::start();
        let id = site.gateway.id();
        let load = Load::start(&site);
        let (mut memory, mut files, mut tasks) = (Vec::new(), Vec::new(), Vec::new());
        let (began, mut n) = (Instant::now(), 0);
        while began.elapsed() < time {
            site.change(n);
            n += 1;
            if n % 10 == 0 {
                let mark = site.gateway.mark();
                site.gateway.signal("HUP");
                site.gateway.wait_for_log_after(mark, "reloaded config.yaml");
            }
            for at in [0, 1] {
                let stream = headgate_testkit::client::connect(site.gateway.tcp(at));
                headgate_testkit::client::reset(stream);
            }
            memory.push(proc::private(id));
            files.push(proc::descriptors(id) as u64);
            tasks.push(threads(id) as u64);
            let _ = wait::try_until(Duration::from_millis(100), || None::<()>);
        }
        let figure = load.finish();
        let third = memory.len() / 3;
        let halves = |values: &[u64]| (median(&values[third..2 * third]), median(&values[2 * third..]));
        let (memory, files, tasks) = (halves(&memory), halves(&files), halves(&tasks));
        // Room for one more arena of the allocator, which comes in steps.
        assert!(memory.1 < memory.0 + memory.0 / 10 + (4 << 20), "memory {memory:?}");
        assert!(files.1.abs_diff(files.0) < 20, "descriptors {files:?}");
        assert_eq!(tasks.0, tasks.1, "threads");
        format!(
            "{} s, {n} changes: {:.1} -> {:.1} MiB, {} -> {} descriptors, {} threads; {figure}",
            time.as_secs(),
            memory.0 as f64 / (1 << 20) as f64,
            memory.1 as f64 / (1 << 20) as f64,
            files.0,
            files.1,
            tasks.1
        )
    });
}
