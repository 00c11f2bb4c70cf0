//! When certificates expire.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use headgate_model::resource::Ssl;
use headgate_model::{Entry, ResourceSet, expiry};
use headgate_telemetry::{Metric, Page};
use serde_json::Value;

static EXPIRY: Metric = Metric::gauge(
    "headgate_certificate_expiry_timestamp_seconds",
    "When the certificate of an ssl object expires (the earliest of several), Unix time",
    &["ssl"],
);

pub(super) static ALL: &[&Metric] = &[&EXPIRY];

/// Remembers what it read, by id and revision: certificates change rarely.
#[derive(Default)]
pub(super) struct Certificates(Mutex<HashMap<String, (u64, Option<i64>)>>);

impl Certificates {
    pub(super) fn write(&self, set: &ResourceSet, page: &mut Page) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut family = page.family(&EXPIRY);
        let mut read = HashMap::with_capacity(set.ssls.len());
        for entry in set.ssls.iter() {
            let before = known.get(&entry.id).filter(|(modified, _)| *modified == entry.modified);
            let expires = before.map_or_else(|| earliest(entry), |(_, expires)| *expires);
            read.insert(entry.id.clone(), (entry.modified, expires));
            if let Some(expires) = expires.filter(|_| entry.value.status == 1) {
                family.add(&[&entry.id], expires as f64);
            }
        }
        *known = read;
    }
}

fn earliest(entry: &Entry<Ssl>) -> Option<i64> {
    let certs = entry.document.get("certs").and_then(Value::as_array);
    let all = entry.document.get("cert").into_iter().chain(certs.into_iter().flatten());
    all.filter_map(Value::as_str).filter_map(expiry::of_leaf).min()
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}
