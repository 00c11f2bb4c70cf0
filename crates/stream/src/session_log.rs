//! What the plugins that record sessions share: a format for the records, and batches of them on
//! their way to somewhere.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::batch::{BatchConf, Batches, Bounds, Counts, MAX_PENDING, Target};
use crate::log_format::LogFormat;
use crate::outcome::End;
use crate::plugin::Build;
use crate::session::Session;

/// The schema of these plugins' metadata.
pub(crate) const METADATA_SCHEMA: &str = r#"{
    "type": "object",
    "properties": {
        "log_format": { "type": "object" },
        "max_pending_entries": { "type": "integer", "minimum": 1, "default": 8192 }
    }
}"#;

/// The metadata.
#[derive(Debug, Deserialize)]
struct Metadata {
    log_format: Option<Map<String, Value>>,
    max_pending_entries: usize,
}

/// Variables of a record when nobody wrote a format; `route_id` and `service_id` are added.
const USUAL: &[&str] = &[
    "time_iso8601",
    "protocol",
    "remote_addr",
    "remote_port",
    "stream_listen_addr",
    "status",
    "close_reason",
    "bytes_received",
    "bytes_sent",
    "session_time",
    "upstream_addr",
    "upstream_attempts",
    "upstream_connect_time",
    "upstream_first_byte_time",
];

/// Where the records of a configuration go.
pub(crate) struct Destination<T> {
    /// Tells it from others: configurations with the same one share batches.
    pub(crate) key: String,
    pub(crate) target: T,
    pub(crate) batch: BatchConf,
    /// Bytes that may wait.
    pub(crate) bytes: usize,
    pub(crate) counts: &'static Counts,
}

/// Format and batches of one configuration.
#[derive(Debug)]
pub(crate) struct SessionLog {
    format: Option<LogFormat>,
    batches: Arc<Batches>,
}

impl SessionLog {
    /// The format is the configuration's own, else that of the metadata, else the usual one if
    /// `has_usual`, else there is none and nothing is recorded.
    ///
    /// # Errors
    /// The metadata cannot be used.
    pub(crate) fn new<T: Target>(
        own: Option<&Map<String, Value>>,
        has_usual: bool,
        to: Destination<T>,
        build: &mut Build<'_>,
    ) -> Result<Self, String> {
        let metadata = build.metadata().map(Metadata::deserialize).transpose();
        let metadata = metadata.map_err(|error| format!("plugin_metadata: {error}"))?;
        let lent = metadata.as_ref().and_then(|metadata| metadata.log_format.as_ref());
        let usual = || USUAL.iter().map(|name| ((*name).into(), format!("${name}").into()));
        let usual = has_usual.then(|| usual().collect());
        let format = own.or(lent).or(usual.as_ref());
        let format = format.map(|format| LogFormat::compile(format, build));
        let entries = metadata.as_ref().map_or(MAX_PENDING, |it| it.max_pending_entries);
        let Destination { key, target, batch, bytes, counts } = to;
        let bounds = Bounds { entries, bytes };
        let background = build.background();
        let batches = build.shared(&format!("{key} {bounds:?} {batch:?}"), || {
            Batches::start(batch, bounds, counts, target, &background)
        });
        Ok(Self { format, batches })
    }

    /// The record of a session, as JSON; `None` when there is no format.
    pub(crate) fn record(&self, session: &Session, end: &End<'_>) -> Option<Vec<u8>> {
        let format = self.format.as_ref()?;
        let mut record = Vec::with_capacity(512);
        format.write(session, end, &mut record);
        Some(record)
    }

    /// Sends it on its way. Never waits.
    pub(crate) fn push(&self, record: Vec<u8>) {
        self.batches.push(record);
    }
}
