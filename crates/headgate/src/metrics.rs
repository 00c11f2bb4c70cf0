//! What is exposed to Prometheus: the planes' numbers and those of the program.

mod certificates;
mod cores;
mod memory;
pub(crate) mod process;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use headgate_admin::Live as _;
use headgate_model::settings::StoreSettings;
use headgate_telemetry::access_log::Counts;
use headgate_telemetry::{Metric, Page, Registry, log};
use headgate_upstream::Address;

use crate::gateway::Gateway;
use crate::live::{Planes, unix_now};

static NODE: Metric =
    Metric::gauge("node_info", "Info of APISIX node", &["hostname", "version"]).reference();
static INDEXES: Metric =
    Metric::gauge("etcd_modify_indexes", "Etcd modify index for APISIX keys", &["key"]).reference();
static REACHABLE: Metric = Metric::gauge(
    "etcd_reachable",
    "Config server etcd reachable from APISIX, 0 is unreachable",
    &[],
)
.reference();
static UPSTREAM: Metric =
    Metric::gauge("upstream_status", "Upstream status from health check", &["name", "ip", "port"])
        .reference();
static STALE: Metric = Metric::gauge(
    "headgate_config_stale",
    "1 while what is served may be older than its source (etcd, a file), else 0",
    &[],
);
static AGE: Metric = Metric::gauge(
    "headgate_config_age_seconds",
    "Seconds since what is served was last known to be what its source has; 0 when it is the source",
    &[],
);
static DISK: Metric = Metric::gauge(
    "headgate_store_disk_failing",
    "1 while the local disk does not take what is stored or applied, else 0",
    &[],
);
static RESYNCS: Metric = Metric::counter(
    "headgate_config_resyncs_total",
    "Times that everything was read anew because the source had gone on without headgate",
    &[],
);
static DRIFTS: Metric = Metric::counter(
    "headgate_config_drifts_total",
    "Times that what is served differed from its source, and was repaired",
    &[],
);
static BUILD: Metric =
    Metric::gauge("headgate_build_info", "Always 1; the labels say what runs", &["version"]);
static READY: Metric =
    Metric::gauge("headgate_ready", "1 while the process wants traffic, else 0", &[]);
static REVISION: Metric = Metric::gauge(
    "headgate_config_revision",
    "Revision of the configuration that new sessions see",
    &[],
);
static APPLIED: Metric = Metric::gauge(
    "headgate_config_applied_timestamp_seconds",
    "When that configuration was put to use, Unix time",
    &[],
);
static PROBLEMS: Metric = Metric::gauge(
    "headgate_config_problems",
    "Resources that could not be put to use (/v1/problems of the control API)",
    &[],
);
static RESOURCES: Metric =
    Metric::gauge("headgate_config_resources", "Resources in use, by kind", &["kind"]);
static IP_SETS: Metric = Metric::gauge(
    "headgate_ip_set_entries",
    "Networks in each IP set, in its list and added one by one; sets beyond the first 1,000 are left out",
    &["set"],
);
static SECRETS: Metric = Metric::gauge(
    "headgate_secret_references",
    "References to secret managers in use: known, old (the last attempt failed, and the value before \
     is used), failed",
    &["state"],
);
static ACCESS_LINES: Metric = Metric::counter(
    "headgate_access_log_lines_total",
    "Lines of the access log that were written, and those dropped because it fell behind",
    &["result"],
);
static ACCESS_ERRORS: Metric = Metric::counter(
    "headgate_access_log_errors_total",
    "Failed attempts to write or open the access log",
    &[],
);
static LOG_DROPPED: Metric = Metric::counter(
    "headgate_process_log_dropped_total",
    "Lines of the process log dropped because it fell behind",
    &[],
);

static OWN: &[&Metric] = &[
    &NODE,
    &INDEXES,
    &REACHABLE,
    &UPSTREAM,
    &BUILD,
    &READY,
    &REVISION,
    &APPLIED,
    &PROBLEMS,
    &RESOURCES,
    &IP_SETS,
    &SECRETS,
    &STALE,
    &AGE,
    &DISK,
    &RESYNCS,
    &DRIFTS,
    &ACCESS_LINES,
    &ACCESS_ERRORS,
    &LOG_DROPPED,
];

/// Most IP sets that have a series.
const MOST_IP_SETS: usize = 1000;

/// Every metric that a gateway exposes, in the order of the exposition (`docs/reference/metrics.md`).
pub fn all() -> impl Iterator<Item = &'static Metric> {
    let own = [OWN, headgate_stream::metrics::ALL, certificates::ALL, cores::ALL];
    let parts = own.into_iter().chain([memory::ALL, process::ALL]);
    parts.flatten().copied()
}

/// The exposition of a gateway.
pub(crate) fn registry(gateway: &Gateway, prefix: &str) -> Registry {
    let (planes, shared) = (Arc::clone(&gateway.planes), Arc::clone(&gateway.shared));
    let access = gateway.stream.as_ref().and_then(|stream| stream.access.as_ref());
    let (access, log) = (access.map(|writer| writer.counts()), gateway.log.clone());
    let certificates = certificates::Certificates::default();
    let resources = Arc::clone(&gateway.planes);
    let is_etcd = matches!(gateway.settings.store, StoreSettings::Etcd(_));
    Registry::new(prefix)
        .with(move |page| {
            program(page);
            configuration(&planes, page);
            source(&planes, is_etcd, page);
            nodes(&planes, page);
            logs(access.as_deref(), &log, page);
            cores::write(&planes, page);
            memory::write(&planes.shared.pressure, page);
        })
        .with(move |page| headgate_stream::metrics::write(&shared, page))
        .with(move |page| {
            let secrets = &resources.published.secrets;
            certificates.write(&resources.resources(), secrets, page);
        })
        .with(process::write)
}

fn program(page: &mut Page) {
    let version = env!("CARGO_PKG_VERSION");
    page.family(&NODE).add(&[headgate_stream::vars::hostname(), version], 1_u64);
    page.family(&BUILD).add(&[version], 1_u64);
}

fn configuration(planes: &Planes, page: &mut Page) {
    let served = planes.published.served.load();
    let set = &served.resources;
    let newest = |modified: &mut dyn Iterator<Item = u64>| modified.max().unwrap_or_default();
    let mut family = page.family(&INDEXES);
    family.add(&["max_modify_index"], set.revision);
    family.add(&["services"], newest(&mut set.services.iter().map(|it| it.modified)));
    family.add(&["ssls"], newest(&mut set.ssls.iter().map(|it| it.modified)));
    family.add(&["stream_routes"], newest(&mut set.stream_routes.iter().map(|it| it.modified)));
    family.add(&["upstreams"], newest(&mut set.upstreams.iter().map(|it| it.modified)));
    page.value(&READY, planes.ready().is_ok());
    page.value(&REVISION, *planes.published.revision.borrow());
    page.value(&APPLIED, unix(served.at));
    page.value(&PROBLEMS, served.problems.len());
    let mut family = page.family(&RESOURCES);
    family.add(&["ip_sets"], set.ip_sets.len());
    family.add(&["secrets"], set.secrets.len());
    family.add(&["services"], set.services.len());
    family.add(&["ssls"], set.ssls.len());
    family.add(&["stream_routes"], set.stream_routes.len());
    family.add(&["upstreams"], set.upstreams.len());
    let mut family = page.family(&IP_SETS);
    for (id, set) in planes.published.ip_sets.load().iter().take(MOST_IP_SETS) {
        family.add(&[id], set.written());
    }
    let [known, old, failed] = planes.published.secrets.counts();
    let mut family = page.family(&SECRETS);
    family.add(&["known"], known);
    family.add(&["old"], old);
    family.add(&["failed"], failed);
}

/// How fresh the configuration is.
fn source(planes: &Planes, is_etcd: bool, page: &mut Page) {
    let health = planes.health();
    if is_etcd {
        page.value(&REACHABLE, health.stale.is_none());
    }
    page.value(&STALE, health.stale.is_some());
    page.value(&AGE, health.age(unix_now()));
    page.value(&DISK, health.disk.is_some());
    page.value(&RESYNCS, health.resyncs);
    page.value(&DRIFTS, health.drifts);
}

/// Nodes with health checks.
fn nodes(planes: &Planes, page: &mut Page) {
    let watched = planes.published.watched.borrow().clone();
    let mut family = page.family(&UPSTREAM);
    for upstream in watched.iter().filter(|upstream| upstream.is_checked()) {
        let name = format!("/apisix/{}", upstream.key());
        // Two names may resolve to one address; a series may only be there once.
        let mut seen = HashSet::new();
        for endpoint in upstream.endpoints().endpoints() {
            let (ip, port) = match &endpoint.address {
                Address::Ip(address) => (address.ip().to_string(), address.port()),
                Address::Unix(path) => (format!("unix:{}", path.display()), 0),
            };
            if seen.insert((ip.clone(), port)) {
                let is_usable = endpoint.health().status.is_usable();
                family.add(&[&name, &ip, &port.to_string()], is_usable);
            }
        }
    }
}

fn logs(access: Option<&Counts>, log: &log::Handle, page: &mut Page) {
    if let Some(counts) = access {
        let mut family = page.family(&ACCESS_LINES);
        family.add(&["written"], counts.written.get());
        family.add(&["dropped"], counts.dropped.get());
        page.value(&ACCESS_ERRORS, counts.errors.get());
    }
    page.value(&LOG_DROPPED, log.dropped());
}

fn unix(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_have_help() {
        let mut seen = HashSet::new();
        for metric in all() {
            assert!(seen.insert(metric.name), "{}", metric.name);
            assert!(!metric.help.is_empty() && !metric.help.ends_with('.'), "{}", metric.name);
        }
    }

    #[test]
    fn the_reference_page_is_current() {
        let mut page = String::from(
            "# Metrics\n\nServed at `http://127.0.0.1:9091/apisix/prometheus/metrics`; \
             [Watching headgate](../guide/watching.md) tells how to set that up and what to look \
             at. Values are collected at every scrape. A metric without anything to show is left \
             out.\n\n",
        );
        let parts = [
            (
                true,
                "## Those of the reference\n\nThe same names, types, labels and help texts. \
                 `plugin_attr.prometheus.metric_prefix` replaces `apisix_`.\n\n",
            ),
            (false, "\n## Those of headgate\n\n"),
        ];
        for (prefixed, intro) in parts {
            page.push_str(intro);
            page.push_str("| name | type | labels | meaning |\n|---|---|---|---|\n");
            for metric in all().filter(|metric| metric.prefixed == prefixed) {
                page.push_str(&metric.row("apisix_"));
                page.push('\n');
            }
        }
        page.push_str(NOTES);
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/metrics.md");
        if std::env::var_os("HEADGATE_BLESS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let current = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(current, page, "run the test with HEADGATE_BLESS=1");
    }

    const NOTES: &str = "\n## How many series\n\n\
        Labels have few values: routes, listening addresses, close reasons, cores, certificates, IP sets. \
        Clients, ports of clients and server names never become labels. A route appears with its \
        first session; a deleted one disappears after 15 minutes. Listening addresses stay until \
        the process ends.\n\n\
        Buckets of histograms are powers of two: of a microsecond from 0.000256 s to 67 s for \
        connecting and the first byte, of a millisecond from 1 ms to 9 h for sessions.\n";
}
