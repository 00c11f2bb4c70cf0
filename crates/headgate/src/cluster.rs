//! What this node tells the other nodes of its store: who it is and what it serves.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use headgate_admin::Live as _;
use headgate_model::ResourceSet;
use headgate_model::resource_set::Collection;
use headgate_model::settings::Settings;
use headgate_store::Store;
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::live::Planes;

/// How often the record is looked at, and how long it outlives its node.
const PERIOD: Duration = Duration::from_secs(2);
const TTL: Duration = Duration::from_secs(15);

/// Keeps the record of this node up to date until the token is cancelled.
pub(crate) async fn report(
    id: String,
    facts: Value,
    planes: Arc<Planes>,
    store: Arc<dyn Store>,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        let record = record(&id, &facts, &planes);
        // That etcd is away is told by who follows it.
        if let Err(error) = store.publish_node(&id, record, TTL).await {
            tracing::debug!(%error, "the record of this node cannot be written");
        }
    }
}

/// What does not change while the process runs.
pub(crate) fn facts(settings: &Settings) -> Value {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "role": settings.role.name(),
        "hostname": host.trim(),
        "started": started,
    })
}

fn record(id: &str, facts: &Value, planes: &Planes) -> Value {
    let served = planes.published.served.load();
    let cores = planes.cores.as_ref();
    let listeners: Vec<_> = cores
        .map(|cores| cores.listeners())
        .unwrap_or_default()
        .iter()
        .map(ToString::to_string)
        .collect();
    let mut record = json!({
        "id": id,
        "applied": *planes.published.revision.borrow(),
        "hash": format!("{:016x}", hash(&served.resources)),
        "problems": planes.problems().len(),
        "listeners": listeners,
    });
    if let (Some(record), Some(facts)) = (record.as_object_mut(), facts.as_object()) {
        record.extend(facts.clone());
    }
    record
}

/// The same on every node that serves the same objects at the same revisions.
pub(crate) fn hash(set: &ResourceSet) -> u64 {
    fn add<T>(kind: &str, all: &Collection<T>, sum: &mut u64) {
        for entry in all.iter() {
            let mut hash = fnv(0xcbf2_9ce4_8422_2325, kind.as_bytes());
            hash = fnv(hash, entry.id.as_bytes());
            // The order does not matter: sums of hashes, not a hash of a sequence.
            *sum = sum.wrapping_add(fnv(hash, &entry.modified.to_le_bytes()));
        }
    }
    let mut sum = 0;
    add("stream_routes", &set.stream_routes, &mut sum);
    add("upstreams", &set.upstreams, &mut sum);
    add("services", &set.services, &mut sum);
    add("ssls", &set.ssls, &mut sum);
    add("plugin_metadata", &set.plugin_metadata, &mut sum);
    add("stream_listeners", &set.stream_listeners, &mut sum);
    sum
}

/// FNV-1a: the same in every version of every program, which the standard library does not promise.
fn fnv(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The id of this instance: `apisix.id`, else one that is made once and kept.
pub(crate) fn instance_id(settings: &Settings) -> String {
    if let Some(id) = settings.instance_id.as_ref().filter(|id| is_plain(id)) {
        return id.clone();
    }
    let path = settings.directory.join("instance.id");
    read_or_make(&path).unwrap_or_else(|error| {
        tracing::warn!(%error, path = %path.display(), "the id of this instance cannot be kept");
        new_id()
    })
}

fn read_or_make(path: &Path) -> std::io::Result<String> {
    if let Ok(text) = std::fs::read_to_string(path)
        && is_plain(text.trim())
    {
        return Ok(text.trim().to_owned());
    }
    let id = new_id();
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, format!("{id}\n"))?;
    Ok(id)
}

/// Fit to be the last part of a key.
fn is_plain(id: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !id.is_empty() && id.len() <= 128 && id.chars().all(plain)
}

/// A random UUID.
fn new_id() -> String {
    let random = (fastrand::u128(..) & !(0xf << 76) & !(0b11 << 62)) | (4 << 76) | (0b10 << 62);
    let hex = format!("{random:032x}");
    let part = |range: std::ops::Range<usize>| hex.get(range).unwrap_or_default().to_owned();
    [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data/instance.id");
        let id = read_or_make(&path).unwrap();
        assert_eq!(id.len(), 36);
        assert_eq!(&id[14..15], "4");
        assert_eq!(read_or_make(&path).unwrap(), id);
        assert!(is_plain(&id) && !is_plain("a/b") && !is_plain(""));
    }
}
