//! The process as the kernel sees it: the usual `process_*` metrics, and the CPU time of each core
//! thread. Nothing is measured on the cores themselves.

use std::fs;

use headgate_telemetry::{Metric, Page};

static CPU: Metric = Metric::counter(
    "process_cpu_seconds_total",
    "Total user and system CPU time spent in seconds",
    &[],
);
static RESIDENT: Metric =
    Metric::gauge("process_resident_memory_bytes", "Resident memory size in bytes", &[]);
static VIRTUAL: Metric =
    Metric::gauge("process_virtual_memory_bytes", "Virtual memory size in bytes", &[]);
static OPEN_FDS: Metric = Metric::gauge("process_open_fds", "Number of open file descriptors", &[]);
static MAX_FDS: Metric =
    Metric::gauge("process_max_fds", "Maximum number of open file descriptors", &[]);
static THREADS: Metric = Metric::gauge("process_threads", "Number of threads", &[]);
static START: Metric = Metric::gauge(
    "process_start_time_seconds",
    "Start time of the process since unix epoch in seconds",
    &[],
);
static CORE_CPU: Metric = Metric::counter(
    "headgate_core_cpu_seconds_total",
    "CPU time of each data core; a rate near 1 is a saturated core",
    &["core"],
);

static CORE_WAIT: Metric = Metric::counter(
    "headgate_core_wait_seconds_total",
    "Time in which each data core had work and no CPU, because other threads had them all",
    &["core"],
);

pub(super) static ALL: &[&Metric] =
    &[&CPU, &RESIDENT, &VIRTUAL, &OPEN_FDS, &MAX_FDS, &THREADS, &START, &CORE_CPU, &CORE_WAIT];

pub(super) fn write(page: &mut Page) {
    if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Stat::parse)
    {
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        page.value(&CPU, stat.cpu_ticks as f64 / ticks);
        page.value(&RESIDENT, stat.resident_pages * rustix::param::page_size() as u64);
        page.value(&VIRTUAL, stat.virtual_bytes);
        page.value(&THREADS, stat.threads);
        if let Some(boot) = boot_time() {
            page.value(&START, boot as f64 + stat.start_ticks as f64 / ticks);
        }
    }
    if let Some(count) = open_descriptors() {
        page.value(&OPEN_FDS, count);
    }
    if let Some(most) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        page.value(&MAX_FDS, most);
    }
    let mut family = page.family(&CORE_CPU);
    let cores = cores();
    for (core, times) in &cores {
        family.add(&[&core.to_string()], times.cpu as f64 / 1e9);
    }
    let mut family = page.family(&CORE_WAIT);
    for (core, times) in &cores {
        family.add(&[&core.to_string()], times.waited as f64 / 1e9);
    }
}

/// Fields of `/proc/self/stat` (proc(5)).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name may hold anything, blanks and brackets included.
        let (_, fields) = text.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        // The first one is field 3 of the manual.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

fn boot_time() -> Option<u64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// Linux tells the number as the size of the directory since 6.2; before that they are counted.
fn open_descriptors() -> Option<u64> {
    const PLACE: &str = "/proc/self/fd";
    let told = fs::metadata(PLACE).ok().map(|it| it.len()).filter(|count| *count > 0);
    told.or_else(|| fs::read_dir(PLACE).ok().map(|all| all.count() as u64))
}

/// Times of a thread, nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Times {
    pub(crate) cpu: u64,
    /// When it could have run, and no CPU was free.
    pub(crate) waited: u64,
}

impl Times {
    /// From `/proc/PID/task/TID/schedstat`.
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split_whitespace().map_while(|field| field.parse().ok());
        Some(Self { cpu: fields.next()?, waited: fields.next()? })
    }
}

/// Number and times of each data core.
pub(crate) fn cores() -> Vec<(usize, Times)> {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let mut cores: Vec<_> = threads
        .filter_map(|thread| {
            let name = fs::read_to_string(thread.path().join("comm")).ok()?;
            let core = name.trim_end().strip_prefix("core-")?.parse().ok()?;
            let times = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            Some((core, Times::parse(&times)?))
        })
        .collect();
    cores.sort_unstable();
    cores
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_stat() {
        let text = "42 (head) gate) S 1 42 42 0 -1 4194560 900 0 0 0 150 50 0 0 20 0 7 0 12345 \
                    67108864 2048 18446744073709551615 1 1 0 0 0 0 0 4096 17 0 0 17 1 0 0 0 0 0\n";
        let expected = Stat {
            cpu_ticks: 200,
            threads: 7,
            start_ticks: 12345,
            virtual_bytes: 67_108_864,
            resident_pages: 2048,
        };
        assert_eq!(Stat::parse(text), Some(expected));
        assert_eq!(Stat::parse("42 (x) S 1"), None);
    }

    #[test]
    fn times_of_a_thread() {
        assert_eq!(Times::parse("1666217 20 3\n"), Some(Times { cpu: 1_666_217, waited: 20 }));
        assert_eq!(Times::parse("1666217"), None);
    }

    #[test]
    fn this_process_has_numbers() {
        let mut page = Page::new("");
        write(&mut page);
        let text = page.into_text();
        for name in
            ["process_cpu_seconds_total ", "process_open_fds ", "process_start_time_seconds "]
        {
            assert!(text.contains(&format!("\n{name}")), "{name} in {text}");
        }
    }
}
