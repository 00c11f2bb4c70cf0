//! Measures the memory in use and holds it to a budget (`headgate.limits.memory`): the cores are
//! told to accept nobody, and to close sessions.

mod cgroup;
mod usage;

use std::sync::Arc;
use std::time::Duration;

use headgate_model::Problem;
use headgate_model::settings::MemoryBudget;
use headgate_stream::Shared;
use headgate_stream::pressure::{Pressure, Turn};
use tokio_util::sync::CancellationToken;

use crate::cores::Cores;
use cgroup::Cgroup;

/// Time between two looks while there is a budget.
const LOOK: Duration = Duration::from_millis(250);
/// The same without one: a reload may bring it.
const WAIT: Duration = Duration::from_secs(2);
/// Looks between two requests to the allocator to give back what it keeps, while memory is tight.
const LOOKS: u32 = 4;

/// Puts a setting to use.
pub(crate) fn apply(setting: MemoryBudget, pressure: &Pressure) {
    let budget = match setting {
        MemoryBudget::Off => None,
        MemoryBudget::Bytes(bytes) => Some(bytes),
        MemoryBudget::Auto => {
            Cgroup::of_this_process().and_then(|cgroup| cgroup.limit()).map(|limit| limit / 10 * 9)
        }
    };
    pressure.set_budget(budget);
    tracing::debug!(?setting, budget, "memory budget");
}

/// Looks at the memory until `stop`.
pub(crate) async fn watch(shared: Arc<Shared>, cores: Arc<Cores>, stop: CancellationToken) {
    let cgroup = Cgroup::of_this_process();
    let mut looks = 0_u32;
    loop {
        let pause = if shared.pressure.budget().is_some() { LOOK } else { WAIT };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
        look(&shared, &cores, cgroup.as_ref(), looks);
        looks = looks.wrapping_add(1);
    }
}

fn look(shared: &Shared, cores: &Cores, cgroup: Option<&Cgroup>, looks: u32) {
    let pressure = &shared.pressure;
    if pressure.budget().is_none() && !pressure.is_tight() {
        return;
    }
    let Some(used) = usage::now(cgroup) else { return };
    let look = pressure.note(used);
    let sessions = shared.sessions.open();
    match look.turn {
        Some(Turn::Tight) => tracing::error!(
            used,
            budget = pressure.budget(),
            sessions,
            "memory is near its budget (headgate.limits.memory): new connections wait, no UDP flow \
             begins; at the budget sessions are closed. Raise it, or let fewer connections in \
             (headgate.limits.connections)"
        ),
        Some(Turn::Relaxed) => tracing::warn!(
            used,
            budget = pressure.budget(),
            sessions,
            "memory is below its budget again: connections are accepted"
        ),
        None => {}
    }
    // What a session held is free once its core has gone round, and back with the kernel once the
    // allocator was asked: before that the next look would close sessions in vain.
    let sheds = look.excess > 0 && looks.is_multiple_of(2);
    if pressure.is_tight() && (look.excess > 0 || looks.is_multiple_of(LOOKS)) {
        cores.shed(if sheds { look.excess } else { 0 });
        headgate_net::memory::give_back();
    }
}

/// What is to be said about it as long as it lasts.
pub(crate) fn problem(pressure: &Pressure) -> Option<Problem> {
    let budget = pressure.budget().filter(|_| pressure.is_tight())?;
    let [used, budget] = [pressure.used(), budget].map(|bytes| bytes >> 20);
    let message = format!(
        "{used} MiB of memory are in use, the budget is {budget} MiB: nobody new is accepted"
    );
    Some(Problem::warning("memory/budget", "headgate.limits.memory", message).help(
        "raise headgate.limits.memory, or let fewer connections in: headgate.limits.connections",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_budget_and_usage() {
        let pressure = Pressure::default();
        apply(MemoryBudget::Bytes(100 << 20), &pressure);
        let _ = pressure.note(80 << 20);
        assert!(problem(&pressure).is_none());
        let _ = pressure.note(96 << 20);
        let text = problem(&pressure).unwrap().to_string();
        assert!(text.contains("96 MiB") && text.contains("100 MiB"), "{text}");
        apply(MemoryBudget::Off, &pressure);
        assert!(problem(&pressure).is_none());
    }
}
