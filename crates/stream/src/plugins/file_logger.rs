//! `file-logger`: appends a record of every session to a file (extension; in the reference it is a
//! plugin of the HTTP plane).

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use headgate_model::plugin::{Phases, PluginMeta};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::batch::{BatchConf, Counts, Failed, Target};
use crate::outcome::End;
use crate::plugin::{Build, Plugin, PluginDef};
use crate::session::Session;
use crate::session_log::{Destination, METADATA_SCHEMA, SessionLog};

pub(super) static DEF: PluginDef = PluginDef::of::<FileLogger>(PluginMeta {
    metadata_schema: Some(METADATA_SCHEMA),
    good: &[
        r#"{"path":"/var/log/sessions.log"}"#,
        r#"{"path":"logs/a.log","log_format":{"client":"$remote_addr"},"batch_max_size":1}"#,
    ],
    bad: &[r#"{}"#, r#"{"path":1}"#, r#"{"path":""}"#, r#"{"path":"/a","inactive_timeout":0}"#],
    ..PluginMeta::new(
        "file-logger",
        399,
        r#"{
            "type": "object",
            "properties": {
                "path": { "type": "string", "minLength": 1 },
                "log_format": { "type": "object" },
                "name": { "type": "string", "default": "file logger" },
                "max_retry_count": { "type": "integer", "minimum": 0, "default": 0 },
                "retry_delay": { "type": "integer", "minimum": 0, "default": 1 },
                "buffer_duration": { "type": "integer", "minimum": 1, "default": 60 },
                "inactive_timeout": { "type": "integer", "minimum": 1, "default": 1 },
                "batch_max_size": { "type": "integer", "minimum": 1, "default": 1000 }
            },
            "required": ["path"]
        }"#,
        Phases::Log,
    )
});

/// What became of its records.
pub(crate) static COUNTS: Counts = Counts::new();

/// Bytes that may wait.
const WAITING: usize = 16 << 20;

/// The configuration.
#[derive(Debug, Deserialize)]
pub(crate) struct Config {
    path: PathBuf,
    log_format: Option<Map<String, Value>>,
    #[serde(flatten)]
    batch: BatchConf,
}

#[derive(Debug)]
struct FileLogger(SessionLog);

impl Plugin for FileLogger {
    type Config = Config;

    fn new(config: Config, build: &mut Build<'_>) -> Result<Self, String> {
        let Config { path, log_format, batch } = config;
        let to = Destination {
            key: format!("file-logger {path:?}"),
            target: Appender(path),
            batch,
            bytes: WAITING,
            counts: &COUNTS,
        };
        SessionLog::new(log_format.as_ref(), true, to, build).map(Self)
    }

    fn log(&self, session: &Session, end: &End<'_>) {
        if let Some(mut record) = self.0.record(session, end) {
            record.push(b'\n');
            self.0.push(record);
        }
    }
}

/// Opens the file for each batch, so that it can be renamed at any time.
struct Appender(PathBuf);

impl Target for Appender {
    async fn deliver(&mut self, lines: &[Vec<u8>]) -> Result<(), Failed> {
        let (path, text) = (self.0.clone(), lines.concat());
        let written = tokio::task::spawn_blocking(move || append(&path, &text)).await;
        let error = match written {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        let error = format!("failed to write {}: {error}", self.0.display());
        Err(Failed { error, delivered: 0 })
    }
}

/// Appends all of it, or nothing that stays: half a record would spoil the next one.
fn append(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file: File = OpenOptions::new().create(true).append(true).open(path)?;
    let before = file.metadata()?.len();
    file.write_all(text).inspect_err(|_| drop(file.set_len(before)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_an_error() {
        assert!(append(Path::new("/dev/full"), b"x").is_err());
        assert!(append(Path::new("/no/such/folder/x"), b"x").is_err());
    }
}
