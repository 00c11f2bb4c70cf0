//! The second file: what is stored, as text, for the day when the database is damaged.
//!
//! `<dir>/store.copy` begins with all values as they were at some moment; after that comes a line for
//! every commit. Each line carries a checksum, so the file is good up to the first line that is not.
//! It is written after the database and without `fsync`: the database is what makes a write durable,
//! and the copy is read only when there is no other way.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use headgate_model::JsonText;
use serde_json::{Value, json};

use crate::Revision;
use crate::journal::{Batch, Contents, Kept, Live, Record};

/// Version of the lines below.
const FORMAT: u64 = 1;
/// Bytes of commits, beyond the size of all values, after which the file is written anew.
const ROOM: u64 = 1 << 20;
/// Pause after a failed write.
const RETRY: Duration = Duration::from_secs(30);
/// Hexadecimal digits of a line's checksum, 64 bits of its SHA-256.
const DIGITS: usize = 16;

/// The file, as the writer thread has it.
#[derive(Debug)]
pub(super) struct TextCopy {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// None while the copy could not be written.
    file: Option<File>,
    /// Bytes of the values, and of the commits after them.
    values: u64,
    commits: u64,
    failed: Option<Instant>,
}

/// What could be read from a copy.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) contents: Contents,
    /// Time, author and key of the newest change, if there is one after the values.
    pub(super) newest: Option<(u64, String, String)>,
    /// The number of the first line that is cut off or damaged.
    pub(super) ends_at: Option<usize>,
}

impl TextCopy {
    pub(super) fn beside(database: &Path) -> Self {
        Self { path: path_beside(database), state: Mutex::default() }
    }

    /// Writes the file anew: all values, and no commit yet.
    pub(super) fn rewrite(&self, contents: &Contents) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let was_failing = state.failed.is_some();
        *state = State::default();
        match write_values(&self.path, contents) {
            Ok((file, values)) => {
                *state = State { file: Some(file), values, ..State::default() };
                if was_failing {
                    tracing::info!(path = %self.path.display(), "the copy of the store is written again");
                }
            }
            Err(error) => {
                self.failed(&mut state, &error);
            }
        }
    }

    /// Adds one commit; answers whether the file should be written anew.
    pub(super) fn append(&self, batch: &Batch) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = &mut state.file else {
            return state.failed.is_none_or(|at| at.elapsed() > RETRY);
        };
        let line = line(&commit(batch));
        match file.write_all(&line) {
            Ok(()) => {
                state.commits += line.len() as u64;
                state.commits > state.values.max(ROOM)
            }
            Err(error) => {
                // A line after a gap would be a lie.
                state.file = None;
                self.failed(&mut state, &error);
                false
            }
        }
    }

    fn failed(&self, state: &mut State, error: &io::Error) {
        state.failed = Some(Instant::now());
        tracing::warn!(
            path = %self.path.display(), %error,
            "the copy of the store cannot be written; the store itself is not affected"
        );
    }
}

pub(super) fn path_beside(database: &Path) -> PathBuf {
    database.with_extension("copy")
}

fn write_values(path: &Path, contents: &Contents) -> io::Result<(File, u64)> {
    let draft = path.with_extension("copy.new");
    let mut text = line(&json!({
        "copy": FORMAT,
        "revision": contents.revision,
        "values": contents.values.len(),
    }));
    for live in &contents.values {
        text.extend(line(&value(live)));
    }
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&draft)?;
    file.write_all(&text)?;
    file.sync_data()?;
    fs::rename(&draft, path)?;
    Ok((file, text.len() as u64))
}

fn value(live: &Live) -> Value {
    json!({
        "key": live.kept.key.as_ref(),
        "created": live.kept.created,
        "modified": live.kept.modified,
        "expires": live.expires_ms,
        "value": live.kept.json.value(),
    })
}

fn commit(batch: &Batch) -> Value {
    let change = |record: &Record| {
        let mut change = record.value.as_ref().map_or_else(|| json!({"key": record.key}), value);
        change["time"] = record.time_ms.into();
        change["author"] = record.author.as_str().into();
        change
    };
    let changes: Vec<_> = batch.records.iter().map(change).collect();
    json!({"revision": batch.revision, "changes": changes})
}

fn checksum(text: &[u8]) -> String {
    let digest = digest(&SHA256, text);
    digest.as_ref().iter().take(DIGITS / 2).map(|byte| format!("{byte:02x}")).collect()
}

fn line(value: &Value) -> Vec<u8> {
    let text = value.to_string();
    format!("{} {text}\n", checksum(text.as_bytes())).into_bytes()
}

/// A whole and undamaged line.
fn parse(line: &[u8]) -> Option<Value> {
    let line = line.strip_suffix(b"\n")?;
    let (sum, text) = line.split_at_checked(DIGITS)?;
    let text = text.strip_prefix(b" ")?;
    (checksum(text).as_bytes() == sum).then(|| serde_json::from_slice(text).ok()).flatten()
}

fn number(value: &Value, name: &str) -> Option<u64> {
    value.get(name)?.as_u64()
}

fn text(value: &Value, name: &str) -> Option<String> {
    Some(value.get(name)?.as_str()?.to_owned())
}

fn live(found: &Value) -> Option<Live> {
    let (key, json) = (text(found, "key")?.into(), JsonText::new(found.get("value")?));
    let (created, modified) = (number(found, "created")?, number(found, "modified")?);
    let kept = Arc::new(Kept { key, json, created, modified });
    Some(Live { kept, expires_ms: number(found, "expires") })
}

/// Reads a copy as far as it is good; `None` when that is not even all of its values.
pub(super) fn read(path: &Path) -> Option<Found> {
    let bytes = fs::read(path).ok()?;
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let head = parse(lines.next()?)?;
    if number(&head, "copy")? != FORMAT {
        return None;
    }
    let mut revision: Revision = number(&head, "revision")?;
    let count = number(&head, "values")?;
    let mut values = BTreeMap::new();
    for _ in 0..count {
        let live = live(&parse(lines.next()?)?)?;
        values.insert(live.kept.key.as_ref().to_owned(), live);
    }
    let mut newest = None;
    let mut ends_at = None;
    for (at, line) in lines.enumerate() {
        let Some(commit) = parse(line).filter(|commit| apply(commit, &mut values, &mut newest))
        else {
            ends_at = usize::try_from(count).ok().map(|count| 2 + count + at);
            break;
        };
        revision = number(&commit, "revision").unwrap_or(revision);
    }
    let values = values.into_values().collect();
    Some(Found { contents: Contents { revision, values, ..Contents::default() }, newest, ends_at })
}

/// Puts one commit into effect; `false` when it is not one.
fn apply(
    commit: &Value,
    values: &mut BTreeMap<String, Live>,
    newest: &mut Option<(u64, String, String)>,
) -> bool {
    let Some(changes) = commit.get("changes").and_then(Value::as_array) else { return false };
    for change in changes {
        let Some(key) = text(change, "key") else { return false };
        match live(change) {
            Some(live) => drop(values.insert(key.clone(), live)),
            None => drop(values.remove(&key)),
        }
        let author = text(change, "author").unwrap_or_default();
        *newest = Some((number(change, "time").unwrap_or(0), author, key));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(key: &str, revision: Revision, value: Value) -> Live {
        let json = JsonText::from(value);
        let kept = Kept { key: key.into(), json, created: 1, modified: revision };
        Live { kept: Arc::new(kept), expires_ms: None }
    }

    fn change(key: &str, revision: Revision, value: Option<Value>) -> Batch {
        let value = value.map(|value| stored(key, revision, value));
        let (key, author) = (key.to_owned(), "me".to_owned());
        let record = Record { revision, time_ms: 5, author, key, value };
        Batch { records: vec![record], revision, now_ms: 5 }
    }

    /// A copy of `/a`, with three commits: `/b` comes, `/a` changes, `/b` goes.
    fn copy(folder: &Path) -> PathBuf {
        let copy = TextCopy::beside(&folder.join("store.redb"));
        let values = vec![stored("/a", 3, json!({"n": 1}))];
        copy.rewrite(&Contents { revision: 3, values, ..Contents::default() });
        for batch in [
            change("/b", 4, Some(json!("b"))),
            change("/a", 5, Some(json!({"n": 2}))),
            change("/b", 6, None),
        ] {
            assert!(!copy.append(&batch));
        }
        copy.path
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let found = read(&copy(folder.path())).unwrap();
        assert_eq!((found.contents.revision, found.ends_at), (6, None));
        assert_eq!(found.newest, Some((5, "me".into(), "/b".into())));
        let [live] = &found.contents.values[..] else { panic!("{found:?}") };
        assert_eq!((live.kept.json.value(), live.kept.modified), (json!({"n": 2}), 5));
    }

    #[test]
    fn it_is_good_up_to_the_first_damage() {
        let folder = tempfile::tempdir().unwrap();
        let path = copy(folder.path());
        let whole = fs::read(&path).unwrap();
        let values = whole.split_inclusive(|byte| *byte == b'\n').take(2).map(<[u8]>::len).sum();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 4;
            for damaged in [&flipped, &whole[..at]] {
                fs::write(&path, damaged).unwrap();
                let found = read(&path);
                assert_eq!(found.is_some(), at >= values, "byte {at}");
                let Some(found) = found else { continue };
                assert!((3..6).contains(&found.contents.revision), "byte {at}");
                let at_line_end = damaged.last() == Some(&b'\n') && damaged.len() < whole.len();
                assert_eq!(found.ends_at.is_none(), at_line_end, "byte {at}");
            }
        }
    }

    #[test]
    fn many_commits_ask_for_a_new_file() {
        let folder = tempfile::tempdir().unwrap();
        let copy = TextCopy::beside(&folder.path().join("store.redb"));
        copy.rewrite(&Contents::default());
        let large = json!("x".repeat(300_000));
        let asked: Vec<_> =
            (1..=4).map(|n| copy.append(&change("/a", n, Some(large.clone())))).collect();
        assert_eq!(asked, [false, false, false, true]);
    }
}
