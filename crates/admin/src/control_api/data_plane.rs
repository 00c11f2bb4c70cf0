//! `/v1/listeners`, `/v1/drain` and `/v1/cores`: what the data threads are at.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};

use super::{Shared, ok};
use crate::live::{CoreState, Draining, ListenerState};

pub(super) async fn listeners(State(control): Shared) -> Response {
    let show = |it: ListenerState| {
        json!({
            "listener": it.listener,
            "source": it.source,
            "sessions": it.sessions,
            "max_connections": it.max_connections,
        })
    };
    ok(&control.live.listener_states().into_iter().map(show).collect())
}

pub(super) async fn drain(State(control): Shared) -> Response {
    let holder =
        |(client, sessions): (String, u64)| json!({"client": client, "sessions": sessions});
    let show = |it: Draining| {
        json!({
            "what": it.what,
            "route": it.route,
            "sessions": it.sessions,
            "oldest_seconds": seconds(it.oldest),
            "ends_in_seconds": it.ends_in.map(seconds),
            "holders": it.holders.into_iter().map(holder).collect::<Vec<Value>>(),
        })
    };
    ok(&control.live.draining().await.into_iter().map(show).collect())
}

pub(super) async fn cores(State(control): Shared) -> Response {
    let cores = control.live.cores();
    let open = cores.iter().map(|core| core.sessions + core.flows);
    let (sum, most) = (open.clone().sum::<u64>(), open.max().unwrap_or_default());
    let imbalance = (sum > 0).then(|| round(most as f64 * cores.len() as f64 / sum as f64));
    let show = |core: &CoreState| {
        json!({
            "core": core.core,
            "thread": core.thread,
            "sessions": core.sessions,
            "flows": core.flows,
            "tcp_accepted": core.accepted,
            "udp_flows": core.flows_begun,
            "cpu_seconds": seconds(core.cpu),
            "turns": core.turns,
            "longest_turn_seconds": core.longest_turn.as_secs_f64(),
            "busy_seconds": core.busy.map(seconds),
            "doing": core.doing,
            "stalls": core.stalls,
        })
    };
    ok(&json!({
        "cores": cores.iter().map(show).collect::<Vec<_>>(),
        "imbalance": imbalance,
    }))
}

fn seconds(time: Duration) -> f64 {
    round(time.as_secs_f64())
}

/// To three places.
fn round(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}
