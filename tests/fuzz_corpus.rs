//! Everything that the fuzzers kept (`fuzz/corpus`), once more, without a fuzzer.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::fs;
use std::path::Path;

#[path = "../fuzz/checks/client_hello.rs"]
mod client_hello;
#[path = "../fuzz/checks/config_yaml.rs"]
mod config_yaml;
#[path = "../fuzz/checks/expr.rs"]
mod expr;
#[path = "../fuzz/checks/mqtt_connect.rs"]
mod mqtt_connect;
#[path = "../fuzz/checks/probe_replies.rs"]
mod probe_replies;
#[path = "../fuzz/checks/proxy_header.rs"]
mod proxy_header;
#[path = "../fuzz/checks/resp.rs"]
mod resp;

/// Runs `check` on every file of a target, and on prefixes of the small ones.
fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut count = 0;
    for entry in fs::read_dir(&folder).expect("a corpus") {
        let path = entry.expect("an entry").path();
        let bytes = fs::read(&path).expect("a file");
        let result = std::panic::catch_unwind(|| {
            check(&bytes);
            // The one for ClientHellos cuts them by itself.
            let prefixes = if target == "client_hello" { 0 } else { bytes.len().min(200) };
            for end in (0..prefixes).step_by(7) {
                check(&bytes[..end]);
            }
        });
        assert!(result.is_ok(), "{} fails; its message is above", path.display());
        count += 1;
    }
    assert!(count >= 5, "only {count} inputs in {}", folder.display());
}

#[test]
fn client_hello() {
    replay("client_hello", client_hello::check);
}

#[test]
fn proxy_header() {
    replay("proxy_header", proxy_header::check);
}

#[test]
fn mqtt_connect() {
    replay("mqtt_connect", mqtt_connect::check);
}

#[test]
fn resp() {
    replay("resp", resp::check);
}

#[test]
fn probe_replies() {
    replay("probe_replies", probe_replies::check);
}

#[test]
fn config_yaml() {
    replay("config_yaml", config_yaml::check);
}

#[test]
fn expr() {
    replay("expr", expr::check);
}
