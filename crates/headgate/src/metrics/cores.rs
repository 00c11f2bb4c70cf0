//! The data threads.

use headgate_admin::Live as _;
use headgate_telemetry::{Metric, Page};

use crate::live::Planes;

static SESSIONS: Metric = Metric::gauge(
    "headgate_core_sessions",
    "Sessions open now on each data core, TCP and UDP; they should be near each other",
    &["core"],
);
static ACCEPTED: Metric = Metric::counter(
    "headgate_core_tcp_accepted_total",
    "TCP connections accepted by each data core",
    &["core"],
);
static LONGEST: Metric = Metric::gauge(
    "headgate_core_longest_turn_seconds",
    "Longest turn of the event loop of each data core within a minute: how long sessions had to wait",
    &["core"],
);
static TURNS: Metric = Metric::histogram(
    "headgate_core_turn_seconds",
    "Length of the turns of the event loop of each data core: how long work that comes has to wait",
    &["core"],
);
static STALLS: Metric = Metric::counter(
    "headgate_core_stalls_total",
    "Turns that lasted longer than headgate.watchdog.threshold",
    &["core"],
);

pub(super) static ALL: &[&Metric] = &[&SESSIONS, &ACCEPTED, &LONGEST, &TURNS, &STALLS];

pub(super) fn write(planes: &Planes, page: &mut Page) {
    let cores = planes.cores();
    let mut family = page.family(&SESSIONS);
    for core in &cores {
        family.add(&[&core.core.to_string()], core.sessions + core.flows);
    }
    let mut family = page.family(&ACCEPTED);
    for core in &cores {
        family.add(&[&core.core.to_string()], core.accepted);
    }
    let mut family = page.family(&LONGEST);
    for core in &cores {
        family.add(&[&core.core.to_string()], core.longest_turn.as_secs_f64());
    }
    let mut family = page.family(&TURNS);
    let pulses = planes.cores.iter().flat_map(|cores| cores.pulses());
    for (core, pulse) in pulses.enumerate() {
        family.histogram(&[&core.to_string()], &pulse.lasted(), 1e6);
    }
    let mut family = page.family(&STALLS);
    for core in &cores {
        family.add(&[&core.core.to_string()], core.stalls);
    }
}
