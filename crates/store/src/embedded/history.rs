//! Forgetting old changes, a bounded number with every commit.

use redb::{ReadableTable, ReadableTableMetadata as _, WriteTransaction};

use super::tables::{HISTORY, META, META_COMPACTED, failed};
use crate::StoreError;
use crate::journal::{Batch, Retention};

/// Changes removed by one commit beyond as many as it adds.
const PRUNE: usize = 512;

/// Removes what the limits no longer allow. Answers with the time of the oldest change kept.
pub(super) fn prune(
    write: &WriteTransaction,
    batch: &Batch,
    retention: Retention,
) -> Result<Option<u64>, StoreError> {
    let mut history = write.open_table(HISTORY).map_err(failed)?;
    let oldest_allowed = batch.now_ms.saturating_sub(retention.age_ms);
    let mut length = history.len().map_err(failed)?;
    let mut compacted = None;
    for _ in 0..PRUNE + batch.records.len() {
        let Some((revision, time_ms)) = oldest(&history)? else { break };
        if length <= retention.revisions && time_ms >= oldest_allowed {
            break;
        }
        history.remove(revision).map_err(failed)?;
        length -= 1;
        compacted = Some(revision);
    }
    if let Some(revision) = compacted {
        let mut meta = write.open_table(META).map_err(failed)?;
        meta.insert(META_COMPACTED, revision).map_err(failed)?;
    }
    Ok(oldest(&history)?.map(|(_, time_ms)| time_ms))
}

/// Revision and time of the oldest change.
pub(super) fn oldest(
    history: &impl ReadableTable<u64, super::tables::HistoryRow<'static>>,
) -> Result<Option<(u64, u64)>, StoreError> {
    let first = history.first().map_err(failed)?;
    Ok(first.map(|(revision, row)| (revision.value(), row.value().0)))
}
