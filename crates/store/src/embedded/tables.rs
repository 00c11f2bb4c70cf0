//! What is in the file: three tables and their rows.
//!
//! Changing a type here needs a new [`FORMAT`].

use std::sync::Arc;

use headgate_model::JsonText;
use redb::{Database, ReadableTable, TableDefinition, WriteTransaction};
use serde_json::Value;

use crate::journal::{Contents, Damaged, Kept, Live, Record};
use crate::{Change, HistoryEntry, Revision, StoreError, Stored};

/// Version of the layout below.
pub(super) const FORMAT: u64 = 1;

/// Numbers about the store: [`META_FORMAT`] and the others below.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Key -> value and its place in history.
pub(super) const VALUES: TableDefinition<'_, &str, ValueRow<'_>> = TableDefinition::new("values");
/// Revision -> change.
pub(super) const HISTORY: TableDefinition<'_, u64, HistoryRow<'_>> =
    TableDefinition::new("history");

/// Version of the layout.
pub(super) const META_FORMAT: &str = "format";
/// Newest revision given out.
pub(super) const META_REVISION: &str = "revision";
/// Newest revision removed from the history.
pub(super) const META_COMPACTED: &str = "compacted";

/// Revision of creation, revision of last write, expiry (unix ms), JSON.
pub(super) type ValueRow<'a> = (u64, u64, Option<u64>, &'a [u8]);
/// Time (unix ms), author, key, revision of creation, JSON (none for a delete).
pub(super) type HistoryRow<'a> = (u64, &'a str, &'a str, u64, Option<&'a [u8]>);

/// Makes an empty database a store.
pub(super) fn initialize(database: &Database) -> Result<(), StoreError> {
    let write = database.begin_write().map_err(failed)?;
    {
        let mut meta = write.open_table(META).map_err(failed)?;
        for (name, number) in [(META_FORMAT, FORMAT), (META_REVISION, 0), (META_COMPACTED, 0)] {
            meta.insert(name, number).map_err(failed)?;
        }
        write.open_table(VALUES).map_err(failed)?;
        write.open_table(HISTORY).map_err(failed)?;
    }
    write.commit().map_err(failed)
}

/// Writes one change: the value and its line of history.
pub(super) fn write_record(write: &WriteTransaction, record: &Record) -> Result<(), StoreError> {
    let mut values = write.open_table(VALUES).map_err(failed)?;
    let mut history = write.open_table(HISTORY).map_err(failed)?;
    let key = record.key.as_str();
    let mut created = 0;
    let mut json = None;
    if let Some(live) = &record.value {
        let text = json.insert(live.kept.json.as_str().as_bytes());
        created = live.kept.created;
        let row = (created, live.kept.modified, live.expires_ms, *text);
        values.insert(key, row).map_err(failed)?;
    } else {
        values.remove(key).map_err(failed)?;
    }
    let row = (record.time_ms, record.author.as_str(), key, created, json);
    history.insert(record.revision, row).map_err(failed)?;
    Ok(())
}

/// Writes all values and the revision, without history.
pub(super) fn write_contents(
    write: &WriteTransaction,
    contents: &Contents,
) -> Result<(), StoreError> {
    let mut values = write.open_table(VALUES).map_err(failed)?;
    for live in &contents.values {
        let (kept, expires) = (&live.kept, live.expires_ms);
        let row = (kept.created, kept.modified, expires, kept.json.as_str().as_bytes());
        values.insert(kept.key.as_ref(), row).map_err(failed)?;
    }
    let mut meta = write.open_table(META).map_err(failed)?;
    for name in [META_REVISION, META_COMPACTED] {
        meta.insert(name, contents.revision).map_err(failed)?;
    }
    Ok(())
}

/// Reads all values. One that does not parse is set aside, not lost.
pub(super) fn read_contents(
    meta: &impl ReadableTable<&'static str, u64>,
    values: &impl ReadableTable<&'static str, ValueRow<'static>>,
) -> Result<Contents, StoreError> {
    let mut contents = Contents { revision: number(meta, META_REVISION)?, ..Contents::default() };
    for entry in values.iter().map_err(failed)? {
        let (key, row) = entry.map_err(failed)?;
        let (created, modified, expires_ms, json) = row.value();
        let key = key.value().to_owned();
        match JsonText::parse(json) {
            Ok(json) => {
                let kept = Arc::new(Kept { key: key.into(), json, created, modified });
                contents.values.push(Live { kept, expires_ms });
            }
            Err(error) => {
                let reason = error.to_string();
                contents.damaged.push((key, Damaged { created, modified, reason }));
            }
        }
    }
    Ok(contents)
}

/// A number of the meta table; a missing one is damage.
pub(super) fn number(
    meta: &impl ReadableTable<&'static str, u64>,
    name: &str,
) -> Result<u64, StoreError> {
    let found = meta.get(name).map_err(failed)?;
    let found = found.ok_or_else(|| StoreError::Corrupt(format!("store has no {name} record")))?;
    Ok(found.value())
}

pub(super) fn change(revision: Revision, row: HistoryRow<'_>) -> Change {
    let (_, _, key, created, json) = row;
    let key = key.to_owned();
    match json {
        Some(json) => Change::Put(Stored { key, value: parse(json), created, modified: revision }),
        None => Change::Delete { key, revision },
    }
}

pub(super) fn entry(revision: Revision, row: HistoryRow<'_>) -> HistoryEntry {
    let (time_ms, author, key, _, json) = row;
    HistoryEntry {
        revision,
        time_ms,
        author: author.to_owned(),
        key: key.to_owned(),
        value: json.map(parse),
    }
}

/// A past value; null when it does not parse, which no reader takes for a resource.
fn parse(json: &[u8]) -> Value {
    serde_json::from_slice(json).unwrap_or(Value::Null)
}

/// Any failure below the store, without its type.
pub(super) fn failed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable(error.to_string())
}
