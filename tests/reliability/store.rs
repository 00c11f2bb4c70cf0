//! The store on disk is damaged.

use std::fs;
use std::path::Path;

use headgate_store::{Embedded, Loaded, Options, Store as _, WriteOptions};
use headgate_testkit::client::reach;
use headgate_testkit::proof::{Scenario, scale};
use headgate_testkit::{Gateway, TcpPeer};
use serde_json::json;

use crate::binary;

fn load(store: &Embedded) -> Loaded {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(store.load()).expect("loaded")
}

/// A store with some history; answers with what it holds.
fn fill(folder: &Path) -> Loaded {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let store = Embedded::open(folder, Options::default()).expect("a store");
    runtime.block_on(async {
        for n in 0..120 {
            let value = json!({"desc": "x".repeat(n * 7 % 900), "n": n});
            let key = format!("/apisix/upstreams/{}", n % 60);
            store.put(&key, value, WriteOptions::default()).await.expect("written");
        }
        store.delete("/apisix/upstreams/7", WriteOptions::default()).await.expect("deleted");
    });
    load(&store)
}

/// Damages copies of one store in every way and opens each.
fn damage(count: usize, make: impl Fn(&[u8], usize, &mut fastrand::Rng) -> Vec<u8>) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let good = fill(folder.path());
    let names = ["store.redb", "store.copy"];
    let whole = names.map(|name| fs::read(folder.path().join(name)).expect("a file"));
    let mut random = fastrand::Rng::with_seed(1);
    let (mut rebuilt, mut untouched) = (0, 0);
    for n in 0..count {
        for entry in fs::read_dir(folder.path()).expect("a folder").flatten() {
            fs::remove_file(entry.path()).expect("removed");
        }
        fs::write(folder.path().join(names[0]), make(&whole[0], n, &mut random)).expect("written");
        fs::write(folder.path().join(names[1]), &whole[1]).expect("written");
        let store = Embedded::open(folder.path(), Options::default())
            .unwrap_or_else(|error| panic!("damage {n}: {error}"));
        let found = load(&store);
        assert_eq!(found.revision, good.revision, "damage {n}");
        assert!(found.values == good.values, "damage {n}: other values");
        match folder.path().join("store.redb.damaged.1").exists() {
            true => rebuilt += 1,
            false => untouched += 1,
        }
    }
    format!("{count} damaged stores: {rebuilt} rebuilt from the copy, {untouched} not affected")
}

#[test]
fn store_cut_off() {
    let count = scale(30, 200);
    Scenario {
        name: "store_cut_off",
        fault: "the store file ends at any of many offsets",
        promise: "starts at the last acknowledged revision, with every value",
    }
    .prove(|| damage(count, |whole, n, _| whole[..whole.len() * n / count].to_vec()));
}

#[test]
fn store_with_flipped_bits() {
    let count = scale(100, 1_000);
    Scenario {
        name: "store_with_flipped_bits",
        fault: "one bit of the store file is flipped",
        promise: "starts at the last acknowledged revision, with every value",
    }
    .prove(|| {
        damage(count, |whole, _, random| {
            let mut damaged = whole.to_vec();
            damaged[random.usize(..whole.len())] ^= 1 << random.u8(0..8);
            damaged
        })
    });
}

#[test]
fn a_damaged_store_in_service() {
    Scenario {
        name: "a_damaged_store_in_service",
        fault: "the gateway is started on a store file full of garbage",
        promise: "serves the last acknowledged configuration, says so, and keeps the damaged file",
    }
    .prove(|| {
        let mut gateway = Gateway::builder(binary()).tcp(1).start();
        let node = TcpPeer::named("a");
        let route = json!({"upstream": {"nodes": {node.node(): 1}}});
        gateway.put("stream_routes/1", &route).expect(201);
        gateway.stop();
        let file = gateway.data().join("store.redb");
        let garbage = b"this is not a store ".repeat(2_000);
        fs::write(&file, &garbage).expect("written");
        gateway.launch();
        assert_eq!(reach(gateway.tcp(0)).as_deref(), Some("a"));
        let said = gateway.wait_for_log("rebuilt from its copy", headgate_testkit::SOON);
        assert!(said.contains("ERROR") && said.contains("store.redb.damaged.1"), "{said}");
        let kept = gateway.data().join("store.redb.damaged.1");
        assert_eq!(fs::read(kept).expect("kept"), garbage);
        gateway.get("stream_routes/1").expect(200);
        gateway.put("stream_routes/2", &route).expect(201);
        "served from the copy after one start".to_owned()
    });
}
