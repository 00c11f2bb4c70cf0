//! When certificates expire.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use headgate_model::resource::Ssl;
use headgate_model::{Entry, ResourceSet, expiry};
use headgate_telemetry::{Metric, Page};

use crate::secrets::Secrets;

static EXPIRY: Metric = Metric::gauge(
    "headgate_certificate_expiry_timestamp_seconds",
    "When the certificate of an ssl object expires (the earliest of several), Unix time",
    &["ssl"],
);

pub(super) static ALL: &[&Metric] = &[&EXPIRY];

/// Remembers what it read, by id, revision and generation of secrets: certificates change rarely.
#[derive(Default)]
pub(super) struct Certificates(Mutex<HashMap<String, (Version, Option<i64>)>>);

type Version = (u64, u64);

impl Certificates {
    pub(super) fn write(&self, set: &ResourceSet, secrets: &Secrets, page: &mut Page) {
        let generation = secrets.generation();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut family = page.family(&EXPIRY);
        let mut read = HashMap::with_capacity(set.ssls.len());
        for entry in set.ssls.iter() {
            let version = (entry.modified, generation);
            let before = known.get(&entry.id).filter(|(before, _)| *before == version);
            let expires = before.map_or_else(|| earliest(entry, secrets), |(_, expires)| *expires);
            read.insert(entry.id.clone(), (version, expires));
            if let Some(expires) = expires.filter(|_| entry.value.status == 1) {
                family.add(&[&entry.id], expires as f64);
            }
        }
        *known = read;
    }
}

fn earliest(entry: &Entry<Ssl>, secrets: &Secrets) -> Option<i64> {
    let Ssl { cert, certs, .. } = &entry.value;
    let read = |text: &String| match secrets.look_up(text) {
        Ok(resolved) => expiry::of_leaf(&resolved),
        Err(_) => expiry::of_leaf(text), // no reference
    };
    std::iter::once(cert).chain(certs).filter_map(read).min()
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}
