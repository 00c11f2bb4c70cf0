//! A store that is killed at any moment loses nothing it has acknowledged.
//!
//! The test runs itself as a child process. The child opens the store, writes and prints the
//! revision of every acknowledged write. The parent kills it (SIGKILL) at a random moment, opens
//! the store and looks for every line it has read. `HEADGATE_KILL_ROUNDS` sets the number of
//! rounds.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use headgate_store::{Embedded, Options, Store, WriteOptions};
use serde_json::json;

/// Set for the child: where its store is.
const CHILD_DIR: &str = "HEADGATE_KILL_CHILD_DIR";
/// Tasks of the child that write at the same time, so that commits carry several writes.
const WRITERS: usize = 8;
/// Short, so that pruning happens during every round.
const OPTIONS: Options =
    Options { history_revisions: 300, history_age: Duration::from_secs(24 * 3600) };

#[test]
fn acknowledged_writes_survive_sigkill() {
    if let Ok(dir) = env::var(CHILD_DIR) {
        write_until_killed(Path::new(&dir));
    }
    let rounds = env::var("HEADGATE_KILL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let dir = tempfile::tempdir().unwrap();
    let mut expected = Expected::default();
    let mut acknowledged = 0;
    for round in 0..rounds {
        // Every fourth round makes a new store and is killed early, to hit the creation. In the
        // others early kills hit opening and repair, late ones hit commits.
        let is_new = round % 4 == 0;
        let place = dir.path().join(format!("store-{}", round / 4));
        let longest_us = if is_new { 10_000 } else { 60_000 };
        let patience = Duration::from_micros(u64::from(random()) % longest_us);
        if is_new {
            expected = Expected::default();
        }
        let child = spawn(&place);
        acknowledged += kill_after(child, patience, &mut expected);
        expected.check(&place, round);
    }
    assert!(rounds == 0 || acknowledged > 0, "no write was ever acknowledged");
}

/// What must be there after a kill.
#[derive(Default)]
struct Expected {
    /// Newest revision known to be durable.
    revision: u64,
    /// Per key: revision and number of the newest acknowledged write.
    values: BTreeMap<String, (u64, u64)>,
}

impl Expected {
    /// Takes an acknowledgement: `revision key number`.
    fn acknowledge(&mut self, line: &str) {
        let mut words = line.split(' ');
        let mut word = || words.next().expect("three words");
        let (revision, key, number) = (word().parse().unwrap(), word(), word().parse().unwrap());
        self.revision = self.revision.max(revision);
        self.values.insert(key.to_owned(), (revision, number));
    }

    fn check(&mut self, dir: &Path, round: u32) {
        let store = Embedded::open(dir, OPTIONS).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let loaded = runtime.block_on(store.load()).unwrap();
        assert!(loaded.unreadable.is_empty(), "round {round}: {:?}", loaded.unreadable);
        assert!(
            loaded.revision >= self.revision,
            "round {round}: revision went back from {} to {}",
            self.revision,
            loaded.revision
        );
        for (key, (revision, number)) in &self.values {
            let stored = loaded.values.iter().find(|stored| stored.key == *key);
            let stored = stored.unwrap_or_else(|| panic!("round {round}: {key} is lost"));
            // A later write may be durable without its acknowledgement having been read.
            assert!(
                stored.modified >= *revision && stored.value["number"].as_u64() >= Some(*number),
                "round {round}: {key} is older than acknowledged: {stored:?}"
            );
            assert!(stored.modified <= loaded.revision, "round {round}: {stored:?}");
            self.revision = self.revision.max(stored.modified);
        }
        let history = runtime.block_on(store.history(None, usize::MAX)).unwrap();
        for entry in history {
            let current = loaded.values.iter().find(|stored| stored.key == entry.key);
            let current = current.unwrap_or_else(|| panic!("round {round}: {entry:?}"));
            assert!(current.modified >= entry.revision, "round {round}: half a commit: {entry:?}");
            if current.modified == entry.revision {
                assert_eq!(Some(&current.value), entry.value.as_ref(), "round {round}");
            }
        }
        self.revision = self.revision.max(loaded.revision);
    }
}

fn spawn(dir: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "acknowledged_writes_survive_sigkill", "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// Kills the child after a while and takes down everything it had acknowledged by then.
fn kill_after(mut child: Child, patience: Duration, expected: &mut Expected) -> usize {
    let stdout = child.stdout.take().unwrap();
    let killer = thread::spawn(move || {
        thread::park_timeout(patience);
        child.kill().unwrap();
        child.wait().unwrap();
    });
    let mut count = 0;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = String::from_utf8(line.unwrap()).unwrap();
        // The last line may be cut; the end mark tells. The test harness prints other lines.
        if let Some(line) = line.strip_prefix("ack ").and_then(|line| line.strip_suffix(" end")) {
            expected.acknowledge(line);
            count += 1;
        }
    }
    killer.join().unwrap();
    count
}

/// The child: every writer has a key of its own and counts upwards, across restarts as well.
fn write_until_killed(dir: &Path) -> ! {
    let store = Arc::new(Embedded::open(dir, OPTIONS).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let store = Arc::clone(&store);
                async move {
                    let key = format!("/stream_routes/{writer}");
                    let start = store.get(&key).await.unwrap();
                    let start = start.and_then(|stored| stored.value["number"].as_u64());
                    for number in start.unwrap_or(0) + 1.. {
                        let padding = "x".repeat(usize::from(random() as u8) * 20);
                        let value = json!({ "number": number, "padding": padding });
                        let options = WriteOptions { author: "child".into(), ..Default::default() };
                        let written = store.put(&key, value, options).await.unwrap();
                        let line = format!("ack {} {key} {number} end\n", written.revision);
                        std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
                    }
                }
            })
            .collect();
        let local = tokio::task::LocalSet::new();
        for writer in writers {
            local.spawn_local(writer);
        }
        local.await;
    });
    unreachable!("writers never stop")
}

/// Random enough for moments and sizes, without a crate for it.
fn random() -> u32 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish() as u32
}
