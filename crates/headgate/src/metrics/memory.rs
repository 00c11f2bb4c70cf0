//! Memory and its budget (`headgate.limits.memory`).

use headgate_stream::pressure::Pressure;
use headgate_telemetry::{Metric, Page};

static USED: Metric = Metric::gauge(
    "headgate_memory_used_bytes",
    "Memory that counts against the budget, four times a second; 0 without a budget",
    &[],
);
static BUDGET: Metric = Metric::gauge(
    "headgate_memory_budget_bytes",
    "Most memory (headgate.limits.memory); 0: no bound",
    &[],
);
static TIGHT: Metric = Metric::gauge(
    "headgate_memory_tight",
    "1 while memory is near its budget and nobody new is accepted, else 0",
    &[],
);

pub(super) static ALL: &[&Metric] = &[&USED, &BUDGET, &TIGHT];

pub(super) fn write(pressure: &Pressure, page: &mut Page) {
    page.value(&USED, pressure.used());
    page.value(&BUDGET, pressure.budget().unwrap_or(0));
    page.value(&TIGHT, u64::from(pressure.is_tight()));
}
