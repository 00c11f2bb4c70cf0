//! The table of UDP flows: `cargo bench -p headgate-stream --bench flow_table`.
#![allow(clippy::expect_used, reason = "a bench reports a failed step by a panic")]

use std::convert::Infallible;

use divan::{Bencher, black_box};

// The table is private to the crate and needs nothing else of it.
#[allow(dead_code, unused_imports, reason = "the bench needs a part, and no tests")]
#[path = "../src/udp/flow_table.rs"]
mod flow_table;
#[allow(dead_code, unused_imports, reason = "the bench needs a part, and no tests")]
#[path = "../src/slots.rs"]
mod slots;

use flow_table::{FlowId, FlowTable};

const COUNTS: [usize; 3] = [100, 10_000, 60_000];

fn main() {
    divan::main();
}

fn id(number: usize) -> FlowId {
    let [_, _, a, b] = (number as u32 / 60_000).to_be_bytes();
    let port = (1 + number % 60_000) as u16;
    let local = Some([127, 0, 0, 1].into());
    FlowId { listener: 1, client: ([10, 0, a, b], port).into(), local }
}

fn filled(count: usize) -> FlowTable<[u64; 48]> {
    let mut table = FlowTable::default();
    for number in 0..count {
        table
            .insert_with(id(number), number as u64, |_| Ok::<_, Infallible>([0; 48]))
            .expect("never fails");
    }
    table
}

/// A datagram of one of so many flows.
#[divan::bench(args = COUNTS)]
fn touch(bencher: Bencher<'_, '_>, count: usize) {
    let mut table = filled(count);
    let mut number = 0;
    bencher.bench_local(|| {
        number = (number + 7_919) % count;
        table.touch(black_box(&id(number)), 1_000_000).expect("is there")
    });
}

/// A new flow where so many are the most: the one idle longest makes room.
#[divan::bench(args = COUNTS)]
fn replace_the_oldest(bencher: Bencher<'_, '_>, count: usize) {
    let mut table = filled(count);
    let mut number = count;
    bencher.bench_local(|| {
        number += 1;
        let oldest = table.oldest().expect("is full");
        table.remove(oldest);
        table
            .insert_with(id(number), 1_000_000, |_| Ok::<_, Infallible>([0; 48]))
            .expect("never fails")
    });
}
