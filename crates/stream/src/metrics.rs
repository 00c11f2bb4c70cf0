//! The stream plane's part of the exposition.

use std::time::Instant;

use headgate_telemetry::{Counter, Metric, Page};

use crate::core::Shared;
use crate::mirror::Ending;
use crate::outcome::CloseReason;
use crate::stats::DropCause;
use crate::throttle::Way;

static ACTIVE: Metric = Metric::gauge(
    "stream_active_connections",
    "Number of stream sessions currently being proxied per listening address",
    &["listen_addr"],
)
.reference();
static BANDWIDTH: Metric = Metric::counter(
    "stream_bandwidth",
    "Total bandwidth in bytes proxied by the stream subsystem in APISIX",
    &["listen_addr", "type", "side"],
)
.reference();
static RECORDED: Metric = Metric::counter(
    "stream_connection_total",
    "Total number of connections handled per stream route in APISIX",
    &["route"],
)
.reference();
static STATUS: Metric = Metric::counter(
    "stream_status",
    "Stream sessions per termination status in APISIX",
    &["code", "listen_addr", "node"],
)
.reference();
static LOST: Metric = Metric::counter(
    "headgate_metric_series_lost_total",
    "Sessions that stream_connection_total or stream_status left out, because they have 20,000 series",
    &[],
);
static CONNECTIONS: Metric =
    Metric::gauge("nginx_http_current_connections", "Number of HTTP connections", &["state"])
        .reference();
static SESSIONS: Metric = Metric::counter(
    "headgate_sessions_total",
    "Sessions ended, by route (empty: none matched) and close reason",
    &["route", "reason"],
);
static ROUTE_BYTES: Metric = Metric::counter(
    "headgate_route_bytes_total",
    "Bytes read from clients (ingress) and written to them (egress), while sessions last",
    &["route", "type"],
);
static RETRIES: Metric = Metric::counter(
    "headgate_upstream_retries_total",
    "Endpoints tried after the first one of a session failed",
    &["route"],
);
static OPEN: Metric = Metric::gauge("headgate_sessions_open", "Sessions open now", &[]);
static HELD: Metric = Metric::gauge(
    "headgate_session_descriptors",
    "Descriptors that sessions hold: two for a TCP connection, one for a UDP flow, one for a copy",
    &[],
);
static LIMIT: Metric = Metric::gauge(
    "headgate_session_descriptors_limit",
    "Most descriptors that sessions may hold; UDP flows begin while three quarters are not held",
    &[],
);
static ACCEPTED: Metric =
    Metric::counter("headgate_tcp_accepted_total", "TCP connections accepted", &[]);
static PAUSES: Metric = Metric::counter(
    "headgate_accept_pauses_total",
    "Times that a listener paused because session places, descriptors, connections or memory ran out",
    &[],
);
static FLOWS: Metric = Metric::counter("headgate_udp_flows_total", "UDP flows begun", &[]);
static DATAGRAMS_DROPPED: Metric = Metric::counter(
    "headgate_udp_datagrams_dropped_total",
    "Datagrams dropped: no route or upstream, no place for a flow, over a bandwidth limit, or not sent on",
    &["cause"],
);
static THROTTLED: Metric = Metric::counter(
    "headgate_throttled_seconds_total",
    "Time in which bandwidth limits held sessions up, by direction (up: from clients)",
    &["direction"],
);
static MIRRORED: Metric = Metric::counter(
    "headgate_mirror_copies_total",
    "Copies by traffic-mirror that ended: complete, or why not (UDP flows only when unreachable)",
    &["result"],
);
static MIRROR_BYTES: Metric = Metric::counter(
    "headgate_mirror_bytes_total",
    "Bytes of clients that mirrors took (sent), and that were to be copied and were not (dropped)",
    &["result"],
);
static PANICS: Metric =
    Metric::counter("headgate_panics_total", "Faults of headgate that ended one session", &[]);
static HANDSHAKE: Metric = Metric::histogram(
    "headgate_tls_handshake_seconds",
    "Time of TLS handshakes with clients that succeeded; failed ones have close reasons",
    &[],
);
static CONNECT: Metric = Metric::histogram(
    "headgate_upstream_connect_seconds",
    "Time to connect to the endpoint that serves (TCP)",
    &[],
);
static QUEUED: Metric = Metric::histogram(
    "headgate_upstream_queue_seconds",
    "Time that sessions waited in the queue of their upstream and were then connected",
    &[],
);
static FIRST_BYTE: Metric = Metric::histogram(
    "headgate_upstream_first_byte_seconds",
    "Time from connecting to the first byte of the endpoint",
    &[],
);
static LENGTH: Metric =
    Metric::histogram("headgate_session_seconds", "Length of ended sessions", &[]);

static LOG_ENTRIES: Metric = Metric::counter(
    "headgate_log_entries_total",
    "Records of logging plugins: delivered, dropped because too many waited (overflowed), or given up (failed)",
    &["plugin", "result"],
);

/// Every metric that [`write`] writes.
pub static ALL: &[&Metric] = &[
    &ACTIVE,
    &BANDWIDTH,
    &RECORDED,
    &STATUS,
    &LOST,
    &CONNECTIONS,
    &OPEN,
    &HELD,
    &LIMIT,
    &SESSIONS,
    &ROUTE_BYTES,
    &RETRIES,
    &ACCEPTED,
    &PAUSES,
    &FLOWS,
    &DATAGRAMS_DROPPED,
    &THROTTLED,
    &MIRRORED,
    &MIRROR_BYTES,
    &PANICS,
    &HANDSHAKE,
    &CONNECT,
    &QUEUED,
    &FIRST_BYTE,
    &LENGTH,
    &LOG_ENTRIES,
];

/// Writes what the plane counts.
pub fn write(shared: &Shared, page: &mut Page) {
    listeners(shared, page);
    recorded(shared, page);
    routes(shared, page);
    cores(shared, page);
    loggers(page);
}

fn listeners(shared: &Shared, page: &mut Page) {
    let all = shared.stats.listeners.all();
    let mut family = page.family(&ACTIVE);
    for (address, counts) in &all {
        family.add(&[address], counts.sum(|of| of.active.get()));
    }
    let mut family = page.family(&BANDWIDTH);
    for (address, counts) in &all {
        let mut add = |kind, side, bytes: u64| family.add(&[address, kind, side], bytes);
        add("ingress", "downstream", counts.sum(|of| of.from_client.get()));
        add("egress", "downstream", counts.sum(|of| of.to_client.get()));
        add("egress", "upstream", counts.sum(|of| of.to_upstream.get()));
        add("ingress", "upstream", counts.sum(|of| of.from_upstream.get()));
    }
}

/// What routes with the plugin `prometheus` counted.
fn recorded(shared: &Shared, page: &mut Page) {
    let recorded = &shared.stats.listeners.recorded;
    let mut family = page.family(&RECORDED);
    for (route, count) in recorded.by_route() {
        family.add(&[route], count);
    }
    let mut family = page.family(&STATUS);
    for (ending, count) in recorded.by_ending() {
        family.add(&[&ending.code.to_string(), &ending.listener, &ending.node], count);
    }
    page.value(&LOST, recorded.lost.get());
}

fn routes(shared: &Shared, page: &mut Page) {
    shared.stats.routes.sweep(Instant::now());
    let used = shared.stats.routes.used();
    let mut family = page.family(&SESSIONS);
    let unrouted = ("", &shared.stats.unrouted);
    let routed = used.iter().map(|(id, stats)| (id.as_str(), &**stats));
    for (id, stats) in std::iter::once(unrouted).chain(routed) {
        for reason in CloseReason::ALL {
            let count = stats.sum(|of| of.closed.get(reason.index()).map_or(0, Counter::get));
            if count > 0 {
                family.add(&[id, reason.code()], count);
            }
        }
    }
    let mut family = page.family(&ROUTE_BYTES);
    for (id, stats) in &used {
        family.add(&[id, "ingress"], stats.sum(|of| of.from_client.get()));
        family.add(&[id, "egress"], stats.sum(|of| of.to_client.get()));
    }
    let mut family = page.family(&RETRIES);
    for (id, stats) in &used {
        family.add(&[id], stats.sum(|of| of.retries.get()));
    }
}

fn loggers(page: &mut Page) {
    let mut family = page.family(&LOG_ENTRIES);
    for (plugin, counts) in crate::plugins::LOGGERS {
        family.add(&[plugin, "delivered"], counts.delivered.get());
        family.add(&[plugin, "overflowed"], counts.overflowed.get());
        family.add(&[plugin, "failed"], counts.failed.get());
    }
}

fn cores(shared: &Shared, page: &mut Page) {
    let stats = &shared.stats;
    let open = shared.sessions.open();
    let accepted = stats.sum(|core| core.accepted.get());
    let mut family = page.family(&CONNECTIONS);
    family.add(&["accepted"], accepted);
    family.add(&["active"], open);
    family.add(&["handled"], accepted);
    page.value(&OPEN, open);
    page.value(&HELD, shared.sessions.held());
    page.value(&LIMIT, shared.sessions.bound());
    page.value(&ACCEPTED, accepted);
    page.value(&PAUSES, stats.sum(|core| core.accept_paused.get()));
    page.value(&FLOWS, stats.sum(|core| core.flows.get()));
    let mut family = page.family(&DATAGRAMS_DROPPED);
    for cause in DropCause::ALL {
        family.add(&[cause.name()], stats.dropped(cause));
    }
    let mut family = page.family(&THROTTLED);
    for way in Way::ALL {
        let micros = stats.sum(|core| core.throttled.get(way as usize).map_or(0, Counter::get));
        family.add(&[way.name()], micros as f64 / 1e6);
    }
    let mut family = page.family(&MIRRORED);
    for ending in Ending::ALL {
        let count = stats.sum(|core| core.mirrors.get(ending as usize).map_or(0, Counter::get));
        family.add(&[ending.name()], count);
    }
    let mut family = page.family(&MIRROR_BYTES);
    family.add(&["sent"], stats.sum(|core| core.mirror_sent.get()));
    family.add(&["dropped"], stats.sum(|core| core.mirror_dropped.get()));
    page.value(&PANICS, stats.sum(|core| core.panics.get()));
    page.family(&HANDSHAKE).histogram(&[], &stats.totals(|core| &core.handshake_time), 1e6);
    page.family(&CONNECT).histogram(&[], &stats.totals(|core| &core.connect_time), 1e6);
    page.family(&QUEUED).histogram(&[], &stats.totals(|core| &core.queue_time), 1e6);
    page.family(&FIRST_BYTE).histogram(&[], &stats.totals(|core| &core.first_byte_time), 1e6);
    page.family(&LENGTH).histogram(&[], &stats.totals(|core| &core.session_time), 1e3);
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::session::Traffic;

    /// `cargo test --release -p headgate-stream ten_thousand -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement"]
    fn ten_thousand_routes() {
        let shared = Shared::new(2, 1000, 1000);
        let routes: Vec<_> =
            (0..10_000).map(|number| shared.stats.routes.of(&format!("route-{number}"))).collect();
        let bytes = Traffic { from_client: 1_000_000, to_client: 1, ..Traffic::default() };
        for (core, route) in routes.iter().flat_map(|route| [(0, route), (1, route)]) {
            route.closed(core, CloseReason::Done, 0);
            route.closed(core, CloseReason::ConnectFailed, 1);
            route.count(core, &bytes);
        }
        let mut times: Vec<_> = (0..20)
            .map(|_| {
                let begin = Instant::now();
                let mut page = Page::new("apisix_");
                write(&shared, &mut page);
                (begin.elapsed(), page.into_text().len())
            })
            .collect();
        times.sort_unstable();
        eprintln!("10,000 routes on 2 cores: median {:?} (time, bytes)", times[times.len() / 2]);
    }
}
