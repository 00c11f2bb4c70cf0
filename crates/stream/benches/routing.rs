//! Finding a route, and compiling routes: `cargo bench -p headgate-stream`.
#![allow(clippy::expect_used, reason = "a bench reports a failed step by a panic")]

use std::sync::Arc;

use divan::{Bencher, black_box};
use headgate_model::resource::StreamRoute;
use headgate_model::{Entry, ResourceSet};
use headgate_stream::Compiler;
use headgate_stream::router::{Facts, Predicates, Router};
use serde_json::{Value, json};

const COUNTS: [usize; 3] = [1, 100, 10_000];

fn main() {
    divan::main();
}

fn plain(number: usize) -> Value {
    let (port, [_, a, b, c]) = (1 + number % 60_000, (number as u32).to_be_bytes());
    json!({"server_port": port, "remote_addr": format!("10.{a}.{b}.{c}"),
           "upstream": {"nodes": {"127.0.0.1:1": 1}}})
}

fn read(route: Value) -> StreamRoute {
    serde_json::from_value(route).expect("a route")
}

fn router(count: usize, names: bool) -> Router<usize> {
    let routes = (0..count).map(|number| {
        let predicates = Predicates::of(&read(plain(number))).expect("addresses");
        let names = if names { vec![format!("s{number}.example.org")] } else { Vec::new() };
        (predicates, names, number)
    });
    Router::new(routes.collect())
}

/// The last of so many routes, by client address and port.
#[divan::bench(args = COUNTS)]
fn find_by_address(bencher: Bencher<'_, '_>, count: usize) {
    let router = router(count, false);
    let [_, a, b, c] = (count as u32 - 1).to_be_bytes();
    let facts = Facts {
        client: Some([10, a, b, c].into()),
        server: Some(([127, 0, 0, 1], 1 + (count as u16 - 1)).into()),
        ..Facts::default()
    };
    assert_eq!(router.find(&facts), Some(&(count - 1)));
    bencher.bench_local(|| router.find(black_box(&facts)));
}

/// The last of so many routes, by server name too.
#[divan::bench(args = COUNTS)]
fn find_by_name(bencher: Bencher<'_, '_>, count: usize) {
    let router = router(count, true);
    let ([_, a, b, c], name) =
        ((count as u32 - 1).to_be_bytes(), format!("s{}.example.org", count - 1));
    let facts = Facts {
        client: Some([10, a, b, c].into()),
        server: Some(([127, 0, 0, 1], 1 + (count as u16 - 1)).into()),
        sni: Some(&name),
        ..Facts::default()
    };
    assert_eq!(router.find(&facts), Some(&(count - 1)));
    bencher.bench_local(|| router.find(black_box(&facts)));
}

fn set(count: usize) -> ResourceSet {
    let mut set = ResourceSet::default();
    for number in 0..count {
        let document = plain(number);
        let revision = number as u64 + 1;
        set.stream_routes.insert(Arc::new(Entry {
            id: number.to_string(),
            value: read(document.clone()),
            document: document.into(),
            created: revision,
            modified: revision,
        }));
    }
    set
}

/// Everything from nothing, as at start.
#[divan::bench(args = COUNTS, sample_count = 10)]
fn compile_all(bencher: Bencher<'_, '_>, count: usize) {
    let set = set(count);
    let compiler = || Compiler::new(Arc::default(), Arc::default());
    bencher.with_inputs(compiler).bench_local_values(|mut compiler| compiler.compile(&set));
}

/// After a change of one route among so many.
#[divan::bench(args = COUNTS, sample_count = 20)]
fn compile_one_change(bencher: Bencher<'_, '_>, count: usize) {
    let mut set = set(count);
    let mut compiler = Compiler::new(Arc::default(), Arc::default());
    compiler.compile(&set);
    let mut revision = count as u64;
    bencher.bench_local(|| {
        revision += 1;
        let entry = set.stream_routes.get("0").expect("a route");
        let changed = Entry {
            id: "0".to_owned(),
            value: entry.value.clone(),
            document: entry.document.clone(),
            created: entry.created,
            modified: revision,
        };
        set.stream_routes.insert(Arc::new(changed));
        compiler.compile(&set)
    });
}
