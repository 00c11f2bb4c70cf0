//! Small databases in MaxMind's format, version 2.0, for tests
//! (<https://maxmind.github.io/MaxMind-DB/>).

use std::net::IpAddr;

use serde_json::{Value, json};

/// A place in the tree: nothing, another node, or a record of the data section.
#[derive(Clone, Copy)]
enum Record {
    Empty,
    Node(usize),
    Data(usize),
}

/// A database with a record for each network (`192.0.2.0/24`). Later ones lie over earlier ones.
#[must_use]
pub fn database(networks: &[(&str, Value)]) -> Vec<u8> {
    let mut nodes = vec![[Record::Empty; 2]];
    let mut data = Vec::new();
    for (network, record) in networks {
        let offset = data.len();
        encode("", record, &mut data);
        let (bits, length) = bits(network);
        insert(&mut nodes, bits, length, Record::Data(offset));
    }
    let count = nodes.len();
    let mut bytes = Vec::new();
    for record in nodes.iter().flatten() {
        let number = match record {
            Record::Empty => count,
            Record::Node(index) => *index,
            Record::Data(offset) => count + 16 + offset,
        };
        let [.., a, b, c] = number.to_be_bytes();
        bytes.extend([a, b, c]);
    }
    bytes.extend([0; 16]);
    bytes.extend(data);
    bytes.extend(b"\xab\xcd\xefMaxMind.com");
    encode(
        "",
        &json!({
            "node_count": count,
            "record_size": 24,
            "ip_version": 6,
            "database_type": "headgate-test",
            "languages": ["en"],
            "binary_format_major_version": 2,
            "binary_format_minor_version": 0,
            "build_epoch": 1_700_000_000,
            "description": {"en": "made by a test"},
        }),
        &mut bytes,
    );
    bytes
}

/// The bits of a network in a tree of IPv6 addresses, where IPv4 has `::/96`.
fn bits(network: &str) -> (u128, u8) {
    let (ip, length) = network.split_once('/').expect("a network");
    let length: u8 = length.parse().expect("a length");
    match ip.parse().expect("an address") {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)), length + 96),
        IpAddr::V6(ip) => (ip.into(), length),
    }
}

fn insert(nodes: &mut Vec<[Record; 2]>, bits: u128, length: u8, record: Record) {
    let mut at = 0;
    for depth in 0..length {
        let side = usize::from(bits >> (127 - depth) & 1 == 1);
        if depth + 1 == length {
            nodes[at][side] = record;
            return;
        }
        at = match nodes[at][side] {
            Record::Node(next) => next,
            // What lay here lies on both sides below.
            known => {
                nodes.push([known; 2]);
                nodes[at][side] = Record::Node(nodes.len() - 1);
                nodes.len() - 1
            }
        };
    }
}

/// Appends a value: maps, arrays, texts, and whole numbers, which have 32 bits unless the member
/// of that `name` has others.
fn encode(name: &str, value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(members) => {
            control(7, members.len(), out);
            for (name, member) in members {
                encode("", &json!(name), out);
                encode(name, member, out);
            }
        }
        Value::Array(items) => {
            control(11, items.len(), out);
            items.iter().for_each(|item| encode("", item, out));
        }
        Value::String(text) => {
            control(2, text.len(), out);
            out.extend(text.bytes());
        }
        other => {
            let number = other.as_u64().expect("a whole number");
            let bytes = number.to_be_bytes();
            let used = bytes.iter().skip_while(|byte| **byte == 0).copied().collect::<Vec<_>>();
            let kind = match name {
                "record_size" | "ip_version" => 5,
                "build_epoch" => 9,
                name if name.starts_with("binary_format") => 5,
                _ => 6,
            };
            control(kind, used.len(), out);
            out.extend(used);
        }
    }
}

fn control(kind: u8, size: usize, out: &mut Vec<u8>) {
    assert!(size < 285, "longer values are not needed");
    let (short, long) = if size < 29 { (size as u8, None) } else { (29, Some((size - 29) as u8)) };
    if kind < 8 {
        out.push(kind << 5 | short);
    } else {
        out.extend([short, kind - 7]);
    }
    out.extend(long);
}
