//! What the Admin API has acknowledged survives `kill -9` at any moment.
//!
//! `HEADGATE_KILL_ROUNDS` sets the number of rounds; `scripts/kill9.sh` runs 500.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use headgate_testkit::gateway::ADMIN_KEY;
use headgate_testkit::http;
use headgate_testkit::proof::Scenario;
use headgate_testkit::{Gateway, SOON, TcpPeer, client, wait};
use serde_json::{Value, json};

const BIN: &str = env!("CARGO_BIN_EXE_headgate");
const WRITERS: usize = 4;
/// Ids of one writer; small, so that creation, replacement and deletion alternate.
const IDS: u64 = 6;

/// The last acknowledged state of one id, and a request that was under way when the process died:
/// it may have happened or not.
#[derive(Debug, Clone, Default)]
struct Known {
    acknowledged: Option<String>,
    pending: Option<Option<String>>,
}

fn send(admin: SocketAddr, method: &str, id: &str, body: Option<&Value>) -> Option<u16> {
    let body = body.map(Value::to_string);
    http::request(
        admin,
        method,
        &format!("/apisix/admin/upstreams/{id}"),
        &[("X-API-KEY", ADMIN_KEY)],
        body.as_deref().map(str::as_bytes),
        SOON,
    )
    .ok()
    .map(|response| response.status)
}

/// Writes until a request fails, and returns what it knows then.
fn write_until_death(
    admin: SocketAddr,
    writer: usize,
    round: u32,
    mut known: BTreeMap<String, Known>,
) -> (BTreeMap<String, Known>, u64) {
    let mut count = 0;
    for step in 0_u64.. {
        let id = format!("w{writer}-{}", (step * 5 + u64::from(round)) % IDS);
        let state = known.entry(id.clone()).or_default();
        let deletes = step % 7 == 3 && state.acknowledged.is_some();
        let text = (!deletes).then(|| format!("round {round} writer {writer} step {step}"));
        state.pending = Some(text.clone());
        let status = match &text {
            Some(text) => {
                // Values of different length, some of them large.
                let filling = "x".repeat(if step % 10 == 0 { 20_000 } else { 10 });
                let body = json!({"desc": text, "nodes": {}, "labels": {"f": &filling[..10]}, "upstream_host": "h.test"});
                let body = if step % 10 == 0 {
                    let mut nodes = serde_json::Map::new();
                    for n in 0..500 {
                        nodes.insert(format!("10.0.{}.{}:{}", n / 250, n % 250, 1 + n), json!(1));
                    }
                    json!({"desc": text, "nodes": nodes})
                } else {
                    body
                };
                send(admin, "PUT", &id, Some(&body))
            }
            None => send(admin, "DELETE", &id, None),
        };
        match status {
            Some(200 | 201) => {
                state.acknowledged = text;
                state.pending = None;
                count += 1;
            }
            Some(other) => panic!("unexpected status {other} for {id}"),
            None => break,
        }
    }
    (known, count)
}

/// Compares the store with what is known, and settles what was pending.
fn verify(gateway: &Gateway, known: &mut BTreeMap<String, Known>, round: u32) {
    for (id, state) in known.iter_mut() {
        let answer = gateway.get(&format!("upstreams/{id}"));
        let found = match answer.status {
            200 => Some(answer.json()["value"]["desc"].as_str().expect("a text").to_owned()),
            404 => None,
            other => panic!("status {other} for {id}: {}", answer.body),
        };
        let allowed = found == state.acknowledged || state.pending.as_ref() == Some(&found);
        assert!(allowed, "round {round}, {id}: found {found:?}, but {state:?}");
        *state = Known { acknowledged: found, pending: None };
    }
    let list = gateway.get("upstreams").expect(200).json();
    let total = list["total"].as_u64().expect("a number");
    let expected = known.values().filter(|state| state.acknowledged.is_some()).count();
    assert_eq!(total, expected as u64, "round {round}: as many objects as are known");
}

#[test]
fn kill_9_loses_no_acknowledged_write() {
    Scenario {
        name: "kill_9_loses_no_acknowledged_write",
        fault: "kill -9 in the middle of Admin API writes",
        promise: "no acknowledged write is lost, revisions go on",
    }
    .prove(kill_again_and_again);
}

fn kill_again_and_again() -> String {
    let rounds: u32 =
        std::env::var("HEADGATE_KILL_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(15);
    let mut gateway = Gateway::builder(BIN).tcp(1).no_access_log().prepare();
    gateway.launch();
    let mut known: Vec<BTreeMap<String, Known>> = vec![BTreeMap::new(); WRITERS];
    let mut revision = 0;
    let mut writes = 0;
    for round in 0..rounds {
        let admin = gateway.admin();
        let writers: Vec<_> = known
            .drain(..)
            .enumerate()
            .map(|(writer, known)| {
                std::thread::spawn(move || write_until_death(admin, writer, round, known))
            })
            .collect();
        // At another moment in every round, from almost at once to some hundred writes.
        let wait = Duration::from_millis(5 + u64::from(round * 37 % 190));
        let began = Instant::now();
        while began.elapsed() < wait {
            std::thread::yield_now();
            std::thread::sleep(Duration::from_millis(1));
        }
        gateway.kill();
        for writer in writers {
            let (state, count) = writer.join().expect("no writer saw an unexpected answer");
            known.push(state);
            writes += count;
        }
        gateway.launch();
        let mut all: BTreeMap<String, Known> =
            known.iter().flatten().map(|(id, state)| (id.clone(), state.clone())).collect();
        verify(&gateway, &mut all, round);
        for (id, state) in all {
            for mine in &mut known {
                if let Some(entry) = mine.get_mut(&id) {
                    *entry = state.clone();
                }
            }
        }
        // Revisions go on from where they were.
        gateway.put("upstreams/marker", &json!({"nodes": {}})).ok();
        let now =
            gateway.get("upstreams/marker").json()["modifiedIndex"].as_u64().expect("a number");
        assert!(now > revision, "round {round}: revision {now} after {revision}");
        revision = now;
        gateway.delete("upstreams/marker").expect(200);
    }
    assert!(writes > u64::from(rounds), "the writers hardly wrote: {writes}");
    format!("{rounds} rounds of kill -9, {writes} acknowledged writes, none lost")
}

#[test]
fn everything_survives_a_proper_restart() {
    let mut gateway = Gateway::builder(BIN).tcp(1).start();
    let node = TcpPeer::named("a");
    gateway.put("upstreams/u", &json!({"nodes": {node.node(): 1}})).expect(201);
    gateway.put("services/s", &json!({"upstream_id": "u", "name": "déjà vu ✓"})).expect(201);
    gateway.put("stream_routes/r", &json!({"service_id": "s"})).expect(201);
    gateway.put("consumers", &json!({"username": "jo"})).expect(201);
    let paths = ["upstreams/u", "services/s", "stream_routes/r", "consumers/jo", "stream_routes"];
    let before: Vec<Value> = paths.map(|path| gateway.get(path).expect(200).json()).into();
    for _ in 0..2 {
        gateway.restart();
        let after: Vec<Value> = paths.map(|path| gateway.get(path).expect(200).json()).into();
        assert_eq!(after, before);
        assert_eq!(client::reach(gateway.tcp(0)).as_deref(), Some("a"));
    }
}

#[test]
fn the_store_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let gateway = Gateway::builder(BIN).tcp(1).start();
    let mut files = 0;
    for entry in fs::read_dir(gateway.data()).expect("the data folder") {
        let entry = entry.expect("an entry");
        let mode = entry.metadata().expect("metadata").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", entry.path().display());
        files += 1;
    }
    assert!(files > 0, "nothing is stored in {}", gateway.data().display());
}

#[test]
fn a_second_process_on_the_same_store_is_refused() {
    let gateway = Gateway::builder(BIN).tcp(1).start();
    let other = Gateway::builder(BIN).tcp(1).prepare();
    let own = other.data().display().to_string();
    other.write_config(&other.config().replace(&own, &gateway.data().display().to_string()));
    let mut other = other;
    other.spawn();
    let done = other.finished(SOON);
    assert!(!done.status.success());
    assert!(
        done.stderr.contains(&gateway.data().display().to_string()),
        "no word of the store in:\n{}",
        done.stderr
    );
    gateway.put("upstreams/1", &json!({"nodes": {}})).expect(201);
}

#[test]
fn a_damaged_store_without_a_copy_is_reported_and_not_overwritten() {
    let mut gateway = Gateway::builder(BIN).tcp(1).start();
    gateway.put("upstreams/1", &json!({"nodes": {}})).expect(201);
    gateway.stop();
    let file = gateway.data().join("store.redb");
    let garbage = b"this is not a store ".repeat(2_000);
    fs::write(&file, &garbage).expect("written");
    fs::remove_file(gateway.data().join("store.copy")).expect("removed");
    gateway.spawn();
    let done = gateway.finished(SOON);
    assert!(!done.status.success());
    for part in ["store.redb", "no usable copy", "store.copy"] {
        assert!(done.stderr.contains(part), "no `{part}` in:\n{}", done.stderr);
    }
    assert_eq!(fs::read(&file).expect("still there"), garbage);
}

#[test]
fn concurrent_writes_of_one_object_are_all_applied_in_some_order() {
    let gateway = Gateway::builder(BIN).tcp(1).no_access_log().start();
    let admin = gateway.admin();
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            std::thread::spawn(move || {
                for step in 0..20 {
                    let body = json!({"desc": format!("{writer}-{step}"), "nodes": {}});
                    let status = send(admin, "PUT", "shared", Some(&body));
                    assert!(matches!(status, Some(200 | 201)), "{status:?}");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().expect("every write was accepted");
    }
    let value = gateway.get("upstreams/shared").expect(200).json();
    let text = value["value"]["desc"].as_str().expect("a text");
    assert!(text.ends_with("-19"), "the last write of some writer: {text}");
    let first = value["createdIndex"].as_u64().expect("a number");
    let last = value["modifiedIndex"].as_u64().expect("a number");
    assert!(last >= first + 159, "{first} to {last}: 160 writes");
    wait::until_true("still serving", SOON, || gateway.get("upstreams").status == 200);
}
